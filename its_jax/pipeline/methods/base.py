"""The protocol of a method: how a batch of settings becomes spectrograms and images.

A method is a class in a file of its own, with an entry in `its_jax.settings.methods.METHODS`.
"""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
from jax import Array

from its_jax.checkpoints.model import Model
from its_jax.pipeline.components import Components, Requirements
from its_jax.pipeline.placement import DataParallel
from its_jax.pipeline.progress import OnProgress
from its_jax.settings.methods import METHODS
from its_jax.settings.schema import SampleSettings


class Generated(NamedTuple):
    """The result of `Method.generate`.

    Attributes:
      latents: a pytree of arrays that begin with the batch axis; `Method.render` takes it, and samples keep it.
      failed_at: int32 `[b]`, the first step with a non-finite result, or -1.
      seconds_before: time that earlier, interrupted processes spent on this batch.
      state_folder: a folder with the state of the batch, to be removed once its samples are written.
    """

    latents: Any
    failed_at: Array
    seconds_before: float = 0.0
    state_folder: Path | None = None


class Method(Protocol):
    """Programs that generate a batch, compiled for one set of shapes and one batch size.

    Args of the constructor:
      settings: of one sample; others of the batch agree with it in `program_key`.
      components: the models, loaded and placed.
      texts: by term, the shapes of the batch's texts, leaves `[b, prompts, ...]`.
      workdir: where a method that takes long keeps its state, or None.

    Attributes:
      requirements: what the method requires of models.
      spectrogram: the shape of a batch's spectrograms `[b, H, W]`.
      programs: the compiled programs that need memory, by stage.
    """

    requirements: ClassVar[Requirements]
    spectrogram: jax.ShapeDtypeStruct
    programs: Mapping[str, jax.stages.Compiled]

    def __init__(
        self,
        settings: SampleSettings,
        components: Components,
        texts: Mapping[str, Any],
        batch_size: int,
        workdir: Path | None = None,
    ): ...

    @staticmethod
    def check(models: Mapping[str, Model], placement: DataParallel) -> None:
        """Raises `UserError` for models that the method cannot use; called before their weights are loaded."""
        ...

    def generate(self, batch: Sequence[SampleSettings], texts: Mapping[str, Any], on_progress: OnProgress) -> Generated:
        """Generates the latents of a batch from its encoded prompts."""
        ...

    def render(self, batch: Sequence[SampleSettings], latents: Any) -> tuple[Array, tuple[Array, ...]]:
        """Decodes latents.

        Returns:
          spectrograms `[b, H, W]` in [0, 1] with 256 levels, and the images of `image_terms`, each `[b, H, W, 3]` in
          [0, 1].
        """
        ...


def method_class(name: str) -> type[Method]:
    """Returns the class that implements a method."""
    module, _, attribute = METHODS[name].implementation.partition(":")
    return getattr(importlib.import_module(module), attribute)
