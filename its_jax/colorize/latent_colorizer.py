"""Colorizes with a latent model, see `its_jax.colorize.latent`."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from its_jax import pretrained
from its_jax.checkpoints import load
from its_jax.colorize import latent
from its_jax.colorize.colorizer import SPLIT, WHOLE, Batch, Colorizer
from its_jax.colorize.settings import ColorSettings
from its_jax.diffusion import denoise
from its_jax.diffusion.solvers import solver_table
from its_jax.errors import UserError
from its_jax.models import backends
from its_jax.models.if_unet import PixelUNet
from its_jax.pipeline import prompts as pipeline_prompts
from its_jax.pipeline.placement import DataParallel


class LatentColorizer(Colorizer):
    """Colorizes with the latent model `source`, such as Stable Diffusion.

    Args of the constructor:
      prompts: all prompts that it will be called with. Those that the model does not understand are logged.

    Raises:
      UserError: the model is not available or of the wrong kind, or does not fit the settings.
    """

    def __init__(
        self, settings: ColorSettings, source: str, prompts: Sequence[str], placement: DataParallel | None = None
    ):
        super().__init__(settings, placement)
        if isinstance(pretrained.abstract_model(source, components=("unet",), dtype=settings.dtype).unet, PixelUNet):
            raise UserError(
                f"colorize.latent_model={source}: is a pixel model; with colorize.method=factorized, give it as "
                "colorize.stage_1 or stage_2"
            )
        model: Any = pretrained.abstract_model(source, components=("text_encoder", "unet", "vae"), dtype=settings.dtype)
        self.multiple = model.vae.config.factor
        self._check_window()
        model.schedule.timesteps(settings.num_steps)
        self.num_steps = settings.num_steps - settings.latent_start_step
        requested = dict.fromkeys([settings.negative_prompt, *prompts])
        pipeline_prompts.warn_about_prompts(model.tokenizer, requested, vocabulary=model.vocabulary)
        model = load.restore_weights(model, sharding=self._placement.replicated)
        backends.specialize(model.unet, self._placement.device, prepare=True)
        for component in (model.text_encoder, model.vae):
            backends.specialize(component, self._placement.device)
        self._model = model
        self.identities = {"latent_model": model.identity}
        self._unet = pipeline_prompts.precompute_unet(model.unet, model.schedule.num_train_timesteps)
        self._texts: dict[str, Any] = {}  # by prompt, those of the last batch

    def encode(self, prompts: Sequence[str]) -> Any:
        """Embeds the negative prompt and each of the prompts, leaves `[b 2 ...]`."""
        requested = [prompt for positive in prompts for prompt in (self._settings.negative_prompt, positive)]
        previous = self._texts
        self._texts = {
            prompt: previous[prompt] if prompt in previous else self._encode_prompt(prompt)
            for prompt in dict.fromkeys(requested)
        }
        texts = [self._texts[prompt] for prompt in requested]
        return self._placement.put(pipeline_prompts.stack_texts(len(prompts), texts), sharded=True)

    def _encode_prompt(self, prompt):
        ids = self._placement.put(pipeline_prompts.tokenize(self._model.tokenizer, [prompt]))
        return pipeline_prompts.prepare_texts(self._model.text_encoder, self._model.unet, ids)

    def generate(self, batch: Batch) -> Array:
        """Generates images `[b H W 3]`, about [0, 1]."""
        settings, vae = self._settings, self._model.vae
        table = self._placement.put(solver_table(self._model.schedule, settings.num_steps, latent.SOLVER))
        row = jax.tree.map(lambda column: column[settings.latent_start_step], table)
        initial_state = self._program(latent.initial_state, (WHOLE, WHOLE, SPLIT, SPLIT))
        state = initial_state(vae, row, batch.gray, batch.seeds)
        windows = self._windows(state.x.shape[2], vae.config.factor, batch.wrap)
        # There is one model: at each step it is evaluated, with a weight of 1.
        steps = len(table.t)
        selected = self._placement.put(np.ones((1, steps), np.int32))
        weights = self._placement.put(np.ones((len(state.x), steps), np.float32), sharded=True)
        term = denoise.Term(batch.texts, batch.guidance_scale, weights, windows=windows)
        run = self._program(denoise.denoise, (WHOLE, SPLIT, WHOLE, WHOLE, SPLIT, WHOLE, WHOLE))

        def program(state, first, last):
            return run((self._unet,), (term,), table, selected, state, first, last)

        state = self._run_steps(program, state, settings.latent_start_step, settings.num_steps, batch.on_steps)
        return self._program(latent.decode, (WHOLE, SPLIT))(vae, state.x)
