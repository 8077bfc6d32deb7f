"""Loads a model from its source: a hub id, a folder, a single file with LoRAs, or a name such as 'tiny/image'."""

import dataclasses
import importlib.util
import pathlib
import threading
from collections.abc import Sequence

import jax

from convert import cache
from its_jax.checkpoints.load import (
    Model,
    _abstract,
    _check_dual,
    _check_fit,
    _checked_metadata,
    _features,
    _schedules,
    _vocabulary,
    restore_weights,
)
from its_jax.checkpoints.reader import AHEAD, checkpoint_paths, read_ahead
from its_jax.checkpoints.tokenizers import load_tokenizer
from its_jax.errors import UserError
from its_jax.models import registry

# Models that come with the package, by the name that configs give them.
EMBEDDED = ("tiny/image", "tiny/audio", "tiny/clip", "tiny/clap", "tiny/color")


def load_model(
    source: str,
    *,
    parts: Sequence[str] = registry.DIFFUSION_COMPONENTS,
    dtype,
    sharding: jax.sharding.Sharding | None = None,
    share: Sequence[Model] = (),
) -> Model:
    """Loads the parts of a model: `outline`, then `fill`, whose arguments these are."""
    return restore_weights(abstract_model(source, parts=parts, dtype=dtype), sharding=sharding, share=share)


def abstract_model(source: str, *, parts: Sequence[str], dtype) -> Model:
    """A model with shapes in place of its weights: what is wrong with it is said before gigabytes are read.

    Args:
      source: a converted folder; a folder in diffusers' layout, a hub id or a single file of Stable Diffusion
        1.x, each with `+LORA@SCALE` after it for LoRAs, or of a CLIP or CLAP in transformers' layout, converted once
        into the cache folder; or one that comes with the package, such as 'tiny/image'.
      parts: of `text_encoder`, `unet`, `vae`, `vocoder`; or `dual_encoder`.
      dtype: of weights and activations.

    Raises:
      UserError: no such source, no model folder, or a part or file is missing, damaged or misfit.
    """
    check_components(source, parts)
    folder = cache.converted(_place(source))
    metadata = _checked_metadata(folder, source)
    first = [path for part in parts for path in checkpoint_paths(folder / part)[:AHEAD]]
    threading.Thread(target=read_ahead, args=first, daemon=True).start()  # while Python outlines the modules
    model = Model(
        source=source,
        folder=folder,
        identity=metadata["identity"],
        hashes={part: about["sha256"] for part, about in metadata["parts"].items()},
        vocabulary=_vocabulary(folder),
        **{part: _abstract(folder, part, dtype, source) for part in parts},
    )
    if model.unet:
        model = dataclasses.replace(model, **_schedules(model))
    if model.text_encoder or model.dual_encoder:
        model = dataclasses.replace(model, tokenizer=load_tokenizer(model))
    if model.dual_encoder:
        model = dataclasses.replace(model, features=_features(model))
    _check_dual(model) if model.dual_encoder else _check_fit(model)
    return model


def check_components(source: str, parts: Sequence[str]) -> None:
    """Raises `UserError` if a model or one of these parts of it is not there; one on the hub is downloaded."""
    there = cache.parts_of(_place(source))
    for part in parts:
        if part not in there:
            raise UserError(f"{source}: has no {part}; the parts of this model are {', '.join(there)}")


def _place(source):
    if source not in EMBEDDED:
        if source.startswith("tiny/") and not pathlib.Path(source).exists():
            raise UserError(
                f"{source}: no such model in the package; it has {', '.join(EMBEDDED)}; a LoRA is merged into a "
                "model that is given as a folder, a file or a hub id"
            )
        return source
    return str(importlib.resources.files("its_jax").joinpath("tiny", "weights", source.removeprefix("tiny/")))
