"""Loads a model from its source: a hub id, a folder, a single file, one of them with LoRAs, or an embedded model."""

import importlib.resources
import pathlib
from collections.abc import Mapping, Sequence

import jax
from jax.typing import DTypeLike

from convert import cache
from its_jax.checkpoints import load
from its_jax.checkpoints.load import restore_weights
from its_jax.checkpoints.model import Model
from its_jax.errors import UserError
from its_jax.models.registry import DIFFUSION_COMPONENTS

# Models that come with the package, by the names that configs use.
EMBEDDED = ("tiny/image", "tiny/audio", "tiny/clip", "tiny/clap", "tiny/color")


def load_model(
    source: str,
    *,
    components: Sequence[str] = DIFFUSION_COMPONENTS,
    dtype: DTypeLike,
    sharding: jax.sharding.Sharding | Mapping[str, jax.sharding.Sharding] | None = None,
    share: Sequence[Model] = (),
) -> Model:
    """Loads components of a model, with their weights.

    Args:
      source, components, dtype: see `abstract_model`.
      sharding, share: see `its_jax.checkpoints.load.restore_weights`.

    Raises:
      UserError: as `abstract_model`, or a tensor is missing, damaged or has another shape.
    """
    model = abstract_model(source, components=components, dtype=dtype)
    return restore_weights(model, sharding=sharding, share=share)


def abstract_model(source: str, *, components: Sequence[str], dtype: DTypeLike) -> Model:
    """Builds a model with shapes in place of weights, so that errors appear before gigabytes are read.

    Args:
      source: a converted folder; a folder in the layout of diffusers, a hub id or a single file of Stable Diffusion
        1.x, each followed by `+LORA@SCALE` for every LoRA; a CLIP or CLAP in the layout of transformers; or an embedded
        model, such as 'tiny/image'. Models that are not converted yet are converted once, into the cache folder.
      components: among `text_encoder`, `unet`, `vae` and `vocoder`; or `dual_encoder`, for a CLIP or CLAP.
      dtype: of weights and activations.

    Raises:
      UserError: the source does not exist or is not a model, or a component or file is missing, damaged or does not
        fit the others.
    """
    check_components(source, components)
    return load.abstract_model(cache.converted(_locate(source)), source, components=components, dtype=dtype)


def check_components(source: str, components: Sequence[str]) -> None:
    """Raises `UserError` if a model or one of these components does not exist; models on the hub are downloaded."""
    available = cache.list_components(_locate(source))
    for component in components:
        if component not in available:
            raise UserError(f"{source}: has no {component}; the components of this model are {', '.join(available)}")


def _locate(source):
    """Returns the folder of an embedded model, and any other source unchanged."""
    if source in EMBEDDED:
        return str(importlib.resources.files("its_jax").joinpath("tiny", "weights", source.removeprefix("tiny/")))
    if source.startswith("tiny/") and not pathlib.Path(source).exists():
        raise UserError(
            f"{source}: not an embedded model; choose one of {', '.join(EMBEDDED)}; LoRAs are merged into models that "
            "are given as a folder, a file or a hub id"
        )
    return source
