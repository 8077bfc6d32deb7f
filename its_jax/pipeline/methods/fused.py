"""The paper's method and those that differ from it in the weights of a step only: one program serves all of them.

fused         at each step the weighted average of all models' noise
image_only    the image model alone
audio_only    the audio model alone
alternating   one model per step, in turn
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax import Array
from jax.sharding import PartitionSpec as P

from its_jax.checkpoints.model import Model
from its_jax.pipeline import decoding
from its_jax.pipeline.components import Components, Requirements
from its_jax.pipeline.denoiser import Denoiser
from its_jax.pipeline.methods.base import Generated
from its_jax.pipeline.placement import DataParallel
from its_jax.pipeline.progress import OnProgress
from its_jax.settings.schema import SampleSettings


class Fused:
    """Denoises one latent per sample with all models, and decodes it. See `base.Method`."""

    requirements = Requirements()

    def __init__(
        self,
        settings: SampleSettings,
        components: Components,
        texts: Mapping[str, Any],
        batch_size: int,
        workdir: Path | None = None,
    ):
        self._vaes, self._init_latents = components.vaes, components.init_latents
        from_files = bool(settings.init_image or settings.init_audio)
        self._denoiser = Denoiser(settings, components, texts, batch_size, from_files)
        decode = functools.partial(
            decoding.decode,
            frames=components.frames(settings),
            cutoff=settings.cutoff_latent,
            wrap=settings.wrap,
        )
        place = components.placement
        lowered = place.jit_per_device(decode, (P("data"), P())).lower(self._denoiser.latents, self._vaes)
        self._decode = lowered.compile()
        self.spectrogram = place.abstract(lowered.out_info[0].shape)
        self.programs = {"denoise": self._denoiser.program, "decode": self._decode}

    @staticmethod
    def check(models: Mapping[str, Model], placement: DataParallel) -> None:
        pass

    def generate(self, batch: Sequence[SampleSettings], texts: Mapping[str, Any], on_progress: OnProgress) -> Generated:
        torch = batch[0].noise == "torch"
        noise = self._denoiser.torch_noise(batch) if torch else self._denoiser.noise(batch)
        init = self._init_latents.of_batch(batch)
        return Generated(*self._denoiser(batch, texts, noise, on_progress, self._preview, init=init))

    def render(self, batch: Sequence[SampleSettings], latents: Array) -> tuple[Array, tuple[Array, ...]]:
        return self._decode(latents, self._vaes)

    def _preview(self, latents):
        _, images = self._decode(latents, self._vaes)
        return list(np.asarray(images[0]))
