"""Grey pictures and prompts -> coloured pictures, by models that are loaded once, on all devices at once."""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec as P

from its_jax import pretrained
from its_jax.checkpoints import load
from its_jax.colorize import factorized, latent, luminance
from its_jax.colorize.settings import Settings
from its_jax.diffusion import ddpm, denoise
from its_jax.diffusion.solvers import solver_table
from its_jax.diffusion.views import VIEWS
from its_jax.diffusion.windows import Windows
from its_jax.errors import UserError
from its_jax.models import backends
from its_jax.models.if_unet import PixelUNet
from its_jax.pipeline import prompts as pipeline_prompts
from its_jax.pipeline import t5_embeddings
from its_jax.pipeline.placement import DataParallel
from its_jax.pipeline.progress import split_range

_CALLS = 10  # the steps of a batch are made in so many calls, between which progress is shown
_WHOLE, _SPLIT = P(), P("data")


class Batch(NamedTuple):
    """What is painted at once."""

    grey: Array  # [b H W 1] in [0, 1]
    texts: Any  # of negative and positive prompts, leaves [b 2 ...]
    guidance_scale: Array  # [b]
    seeds: Array  # [b] uint32
    wrap: bool  # the last column leads into the first
    on_steps: Callable[[int], None]  # called with the number of steps made since the last call, for each picture


class Colorizer(abc.ABC):
    """What both methods share.

    Attributes:
      identities: name of a setting -> the identity of the model that it names.
      at_once: how many pictures the devices take at once; a batch is a multiple of it.
      unit: pixels, of which height and width are multiples within; pictures of any size are filled up.
      steps: that are made for a picture.
    """

    unit: int
    steps: int

    def __init__(self, how: Settings):
        self._how, self._layout = how, DataParallel()
        self._device = self._layout.mesh.devices.flat[0]  # all are of one kind
        self.at_once = self._layout.at_once
        self.identities: dict[str, str] = {}
        self._programs: dict[Any, Callable] = {}
        self._finish = self._layout.each(luminance.clip_to_gamut, (_SPLIT, _SPLIT))

    @abc.abstractmethod
    def _texts(self, prompts: Sequence[str]) -> Any:
        """What the model takes from negative and positive prompts, leaves `[b 2 ...]`."""

    @abc.abstractmethod
    def _paint(self, batch: Batch) -> Array:
        """The picture `[b H W 3]`, about [0, 1]; only its colours count."""

    def _check_window(self):
        if self._how.window % self.unit:
            raise UserError(
                f"colorize.window={self._how.window}: must be a multiple of {self.unit}, as these models need it"
            )

    def __call__(
        self,
        greys: np.ndarray,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        view: str = "identity",
        wrap: bool = False,
        on_steps: Callable[[int], None] = lambda steps: None,
    ) -> np.ndarray:
        """Colours pictures.

        Args:
          greys: `[b H W]` in [0, 1]; b is a multiple of `at_once`. prompts, seeds: of each.
          view: a key of `VIEWS`, through which they show what they show. wrap, on_steps: see `Batch`.

        Returns:
          float32 `[b H W 3]` in [0, 1], the mean of whose channels is `greys`. Not finite: what the model gave is not.
        """
        seen = np.asarray(VIEWS[view].apply(greys[..., None].astype(np.float32)))
        height, width = seen.shape[1:3]
        missing = (-height % self.unit, -width % self.unit)
        filled = np.pad(seen, ((0, 0), *((0, n) for n in missing), (0, 0)), mode="edge")
        grey, seeds = self._put((filled, np.array(seeds, np.uint32)))
        scale = self._put(np.full(len(greys), self._how.guidance_scale, np.float32))
        wrap = wrap and view == "identity" and not missing[1]
        batch = Batch(grey, self._texts(prompts), scale, seeds, wrap, on_steps)
        picture = np.asarray(self._finish(grey, self._paint(batch)))[:, :height, :width]
        return np.asarray(VIEWS[view].invert(picture))

    def _put(self, tree, sharded=True):
        return jax.device_put(tree, self._layout.sharded if sharded else self._layout.replicated)

    def _windows(self, columns, scale, wrap):
        """On a canvas of so many columns, of `scale` pixels each."""
        if not (self._how.window or wrap):
            return None
        return Windows.cover(columns, self._how.window // scale or columns, wrap)

    def _program(self, function, specs, **static):
        """`function` on each device's own pictures; one program for the same static arguments."""
        key = (function, *static.items())
        if key not in self._programs:
            self._programs[key] = self._layout.each(functools.partial(function, **static), specs)
        return self._programs[key]

    def _in_calls(self, program, x, first, last, on_steps):
        """`program(x, first, last)` in several calls."""
        bounds = split_range(first, last, _CALLS)
        for begin, end in zip(bounds, bounds[1:], strict=False):
            x = jax.block_until_ready(program(x, *self._put((np.int32(begin), np.int32(end)), sharded=False)))
            on_steps(end - begin)
        return x


class FactorizedColorizer(Colorizer):
    """By a model of pixels in one or two stages, see `factorized.py`.

    Raises:
      UserError: a model that cannot be had or is of the wrong kind, or settings that do not fit it.
    """

    def __init__(self, how: Settings, prompts: Sequence[str]):
        super().__init__(how)
        outlines = {name: _outline(how, name) for name in ("stage_1", "stage_2") if getattr(how, name)}
        small, *_ = outlines.values()
        for name, outline in outlines.items():
            self._check(name, outline, small)
        self.unit = math.lcm(*(self._multiple(name, outline) for name, outline in outlines.items()))
        self._check_window()
        self.steps = (how.num_steps - how.start_step) + how.num_steps * (len(outlines) - 1)
        asked = dict.fromkeys([how.negative_prompt, *prompts])
        pipeline_prompts.warn_about_prompts(small.tokenizer, asked, vocabulary=small.vocabulary)
        self._embedded = t5_embeddings.embed(small, list(asked))
        self._models = {name: self._filled(outline) for name, outline in outlines.items()}
        self.identities = {name: model.identity for name, model in self._models.items()}

    def _multiple(self, name, outline):
        return outline.unet.config.multiple * (self._how.reduction if name == "stage_1" else 1)

    def _check(self, name, outline, small):
        how, unet = self._how, outline.unet
        enlarges, source = name == "stage_2", getattr(how, name)
        if not isinstance(unet, PixelUNet):
            raise UserError(
                f"colorize.{name}={source}: is a model of latents, not of pixels; with colorize.method=latent it is "
                "given as colorize.latent_model"
            )
        if unet.is_upscaler != enlarges:
            is_, other = ("second", "stage_2") if unet.is_upscaler else ("first", "stage_1")
            raise UserError(f"colorize.{name}={source}: is a model of the {is_} stage; give it as colorize.{other}")
        if unet.config.encoder_hid_dim != small.text_encoder.config.hidden_size:
            raise UserError(
                f"colorize.{name}={source}: takes texts of width {unet.config.encoder_hid_dim}; the text encoder of "
                f"{how.stage_1} gives {small.text_encoder.config.hidden_size}"
            )
        outline.schedule.timesteps(how.num_steps)
        if enlarges and how.noise_level >= outline.noising_schedule.num_train_timesteps:
            last = outline.noising_schedule.num_train_timesteps - 1
            raise UserError(f"colorize.noise_level={how.noise_level}: must be 0 to {last}, a timestep of {source}")

    def _filled(self, outline):
        """Without its text encoder: that has done its work."""
        model = load.restore_weights(dataclasses.replace(outline, text_encoder=None), sharding=self._layout.replicated)
        backends.specialize(model.unet, self._device, prepare=True)
        return model

    def _texts(self, prompts):
        pairs = [[self._embedded[self._how.negative_prompt], self._embedded[prompt]] for prompt in prompts]
        return self._put(np.array(pairs))

    def _paint(self, batch):
        how, reduction = self._how, self._how.reduction
        signed = batch.grey * 2 - 1
        reduced = self._program(factorized.downsample, (_SPLIT,), reduction=reduction)(signed)
        x = self._stage(1, batch, reduced, how.start_step)
        x = self._program(factorized.upsample, (_SPLIT,), reduction=reduction)(x) if reduction > 1 else x
        if "stage_2" in self._models:
            x = self._stage(2, batch, signed, 0, small=x)
        return x / 2 + 0.5

    def _stage(self, number, batch, grey, first, small=None):
        """Steps first, ... of one stage; grey: `[b h w 1]` in [-1, 1]. small: of the first stage, enlarged."""
        model, steps = self._models[f"stage_{number}"], self._how.num_steps
        level = None if small is None else self._how.noise_level
        rows = self._put(ddpm.ddpm_table(model.schedule, steps), sharded=False)
        row = jax.tree.map(lambda column: column[first], rows) if small is None else None
        x = self._program(factorized.initial_latent, (_WHOLE, _SPLIT, _SPLIT), stage=number)(row, grey, batch.seeds)
        if small is not None:
            noise = dict(schedule=model.noising_schedule, level=level, stage=number)
            small = self._program(factorized.add_noise, (_SPLIT, _SPLIT), **noise)(small, batch.seeds)
        program = self._program(
            factorized.denoise,
            (_WHOLE, _WHOLE, *[_SPLIT] * 6, _WHOLE, _WHOLE),
            schedule=model.schedule,
            stage=number,
            level=level,
            windows=self._windows(grey.shape[2], self._how.reduction if number == 1 else 1, batch.wrap),
        )

        def call(x, first, last):
            what = grey, batch.texts, batch.guidance_scale, batch.seeds, small
            return program(model.unet, rows, x, *what, first, last)

        return self._in_calls(call, x, first, steps, batch.on_steps)


class LatentColorizer(Colorizer):
    """By a model of latents, see `latent.py`.

    Raises:
      UserError: as `PixelPainter`.
    """

    def __init__(self, how: Settings, source: str, prompts: Sequence[str]):
        super().__init__(how)
        if isinstance(pretrained.abstract_model(source, components=("unet",), dtype=how.dtype).unet, PixelUNet):
            raise UserError(
                f"colorize.latent_model={source}: is a model of pixels; with colorize.method=factorized it is given as "
                "colorize.stage_1 or stage_2"
            )
        outline = pretrained.abstract_model(source, components=("text_encoder", "unet", "vae"), dtype=how.dtype)
        self.unit = outline.vae.config.factor
        self._check_window()
        outline.schedule.timesteps(how.num_steps)
        self.steps = how.num_steps - how.latent_start_step
        asked = dict.fromkeys([how.negative_prompt, *prompts])
        pipeline_prompts.warn_about_prompts(outline.tokenizer, asked, vocabulary=outline.vocabulary)
        self._model = model = load.restore_weights(outline, sharding=self._layout.replicated)
        backends.specialize(model.unet, self._device, prepare=True)
        for part in (model.text_encoder, model.vae):
            backends.specialize(part, self._device)
        self.identities = {"latent_model": model.identity}
        self._unet = pipeline_prompts.precompute_unet(model.unet, model.schedule.num_train_timesteps)
        self._embedded: dict[str, Any] = {}  # of the last batch

    def _prepared(self, prompt):
        ids = self._put(pipeline_prompts.tokenize(self._model.tokenizer, [prompt]), sharded=False)
        return pipeline_prompts.prepare_texts(self._model.text_encoder, self._model.unet, ids)

    def _texts(self, prompts):
        asked = [prompt for positive in prompts for prompt in (self._how.negative_prompt, positive)]
        known = self._embedded
        self._embedded = {p: known[p] if p in known else self._prepared(p) for p in dict.fromkeys(asked)}
        pairs = [self._embedded[prompt] for prompt in asked]
        joined = jax.tree.map(lambda *a: jnp.concatenate(a).reshape(len(prompts), 2, *a[0].shape[1:]), *pairs)
        return self._put(joined)

    def _paint(self, batch):
        how, vae, schedule = self._how, self._model.vae, self._model.schedule
        rows = self._put(solver_table(schedule, how.num_steps, latent.SOLVER), sharded=False)
        row = jax.tree.map(lambda column: column[how.latent_start_step], rows)
        z = self._program(latent.initial_latent, (_WHOLE, _WHOLE, _SPLIT, _SPLIT))(vae, row, batch.grey, batch.seeds)
        windows = self._windows(z.shape[2], vae.config.factor, batch.wrap)
        term = denoise.Term(batch.texts, batch.guidance_scale, None, windows=windows)
        program = self._program(latent.colorize, (_WHOLE, _WHOLE, *[_SPLIT] * 2, _WHOLE, _WHOLE))

        def call(z, first, last):
            return program(self._unet, rows, term, z, first, last)

        z = self._in_calls(call, z, how.latent_start_step, how.num_steps, batch.on_steps)
        return self._program(latent.decode, (_WHOLE, _SPLIT))(vae, z)


def _outline(how, name):
    texts_too = ("text_encoder",) if name == "stage_1" else ()
    source = getattr(how, name)
    return pretrained.abstract_model(source, components=(*texts_too, "unet"), dtype=how.dtype)
