"""Colorizes with a pixel model in one or two stages, see `its_jax.colorize.factorized`."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from its_jax import pretrained
from its_jax.checkpoints import load
from its_jax.colorize import factorized
from its_jax.colorize.colorizer import SPLIT, WHOLE, Batch, Colorizer
from its_jax.colorize.settings import ColorSettings
from its_jax.diffusion import ddpm
from its_jax.errors import UserError
from its_jax.models import backends
from its_jax.models.if_unet import PixelUNet
from its_jax.pipeline import prompts as pipeline_prompts
from its_jax.pipeline import t5_embeddings
from its_jax.pipeline.placement import DataParallel


class FactorizedColorizer(Colorizer):
    """Colorizes with the models `stage_1` and, if it is set, `stage_2`.

    Args of the constructor:
      prompts: all prompts that it will be called with. They are embedded at once, so that the text encoder, which may
        fill a device, is not in memory afterwards.

    Raises:
      UserError: a model is not available or of the wrong kind, or does not fit the settings.
    """

    def __init__(self, settings: ColorSettings, prompts: Sequence[str], placement: DataParallel | None = None):
        super().__init__(settings, placement)
        models = {name: _abstract_model(settings, name) for name in ("stage_1", "stage_2") if getattr(settings, name)}
        first = models["stage_1"]
        for name, model in models.items():
            _check(settings, name, model, first)
        reductions = {"stage_1": settings.reduction, "stage_2": 1}
        self.multiple = math.lcm(*(model.unet.config.multiple * reductions[name] for name, model in models.items()))
        self._check_window()
        self.num_steps = settings.num_steps * len(models) - settings.start_step
        requested = list(dict.fromkeys([settings.negative_prompt, *prompts]))
        pipeline_prompts.warn_about_prompts(first.tokenizer, requested, vocabulary=first.vocabulary)
        self._embeddings = t5_embeddings.embed(first, requested)
        self._models = {name: self._load(model) for name, model in models.items()}
        self.identities = {name: model.identity for name, model in self._models.items()}

    def _load(self, model):
        """Loads a model without its text encoder, which is not needed any more."""
        loaded: Any = load.restore_weights(
            dataclasses.replace(model, text_encoder=None), sharding=self._placement.replicated
        )
        backends.specialize(loaded.unet, self._placement.device, prepare=True)
        return loaded

    def encode(self, prompts: Sequence[str]) -> Array:
        """Returns the embeddings of the negative prompt and each of the prompts, `[b 2 n d]`."""
        negative = self._embeddings[self._settings.negative_prompt]
        pairs = [[negative, self._embeddings[prompt]] for prompt in prompts]
        return self._placement.put(np.array(pairs), sharded=True)

    def generate(self, batch: Batch) -> Array:
        """Generates images `[b H W 3]`, about [0, 1]."""
        reduction = self._settings.reduction
        gray = batch.gray * 2 - 1
        small_gray = self._program(factorized.downsample, (SPLIT,), reduction=reduction)(gray)
        x = self._run_stage(1, batch, small_gray)
        x = self._program(factorized.upsample, (SPLIT,), factor=reduction)(x) if reduction > 1 else x
        if "stage_2" in self._models:
            x = self._run_stage(2, batch, gray, small=x)
        return x / 2 + 0.5

    def _run_stage(self, stage, batch, gray, small=None):
        """Runs one stage on `gray` `[b h w 1]` in [-1, 1]; `small` is the upsampled image of the first stage."""
        settings, model = self._settings, self._models[f"stage_{stage}"]
        first, level = (settings.start_step, None) if stage == 1 else (0, settings.noise_level)
        table = self._placement.put(ddpm.ddpm_table(model.schedule, settings.num_steps))
        row = jax.tree.map(lambda column: column[first], table) if stage == 1 else None
        x = self._program(factorized.initial_latent, (WHOLE, SPLIT, SPLIT), stage=stage)(row, gray, batch.seeds)
        if small is not None:
            noise = dict(schedule=model.noising_schedule, level=level, stage=stage)
            small = self._program(factorized.add_noise, (SPLIT, SPLIT), **noise)(small, batch.seeds)
        denoise = self._program(
            factorized.denoise,
            (WHOLE, WHOLE, *[SPLIT] * 6, WHOLE, WHOLE),
            schedule=model.schedule,
            stage=stage,
            level=level,
            windows=self._windows(gray.shape[2], settings.reduction if stage == 1 else 1, batch.wrap),
        )

        def program(x, first, last):
            conditions = gray, batch.texts, batch.guidance_scale, batch.seeds, small
            return denoise(model.unet, table, x, *conditions, first, last)

        return self._run_steps(program, x, first, settings.num_steps, batch.on_steps)


def _abstract_model(settings, name):
    text_encoder = ("text_encoder",) if name == "stage_1" else ()
    source = getattr(settings, name)
    return pretrained.abstract_model(source, components=(*text_encoder, "unet"), dtype=settings.dtype)


def _check(settings: ColorSettings, name: str, model: Any, first: Any) -> None:
    """Raises `UserError` if a model cannot serve as this stage, with the text encoder of the first stage."""
    source, unet = getattr(settings, name), model.unet
    if not isinstance(unet, PixelUNet):
        raise UserError(
            f"colorize.{name}={source}: is a latent model, not a pixel model; with colorize.method=latent, give it as "
            "colorize.latent_model"
        )
    if unet.enlarges != (name == "stage_2"):
        ordinal, other = ("second", "stage_2") if unet.enlarges else ("first", "stage_1")
        raise UserError(f"colorize.{name}={source}: is a model of the {ordinal} stage; give it as colorize.{other}")
    width = first.text_encoder.config.hidden_size
    if unet.config.encoder_hid_dim != width:
        raise UserError(
            f"colorize.{name}={source}: takes text features of width {unet.config.encoder_hid_dim}; the text encoder "
            f"of {settings.stage_1} returns {width}"
        )
    model.schedule.timesteps(settings.num_steps)
    if unet.enlarges and settings.noise_level >= model.noising_schedule.num_train_timesteps:
        last = model.noising_schedule.num_train_timesteps - 1
        raise UserError(f"colorize.noise_level={settings.noise_level}: must be 0 to {last}, a timestep of {source}")
