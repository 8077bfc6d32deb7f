"""Prompts in, images that sound out: the public API, on which the commands are built."""

import collections
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from its_jax import pretrained
from its_jax.errors import Cancelled, UserError
from its_jax.pipeline import progress, requests
from its_jax.pipeline.batching import run_fitting, useful_batch
from its_jax.pipeline.components import Components, Loader, components_key, load_components, open_models
from its_jax.pipeline.methods.base import method_class
from its_jax.pipeline.model_parallel import choose_placement
from its_jax.pipeline.program import Program, timed
from its_jax.pipeline.progress import OnProgress
from its_jax.pipeline.sample import Sample
from its_jax.runtime.cache import keep_programs
from its_jax.runtime.config_files import load_config
from its_jax.settings.ids import batch_key, program_key
from its_jax.settings.parse import read_settings, with_defaults
from its_jax.settings.schema import SampleSettings, term_names

PROGRAMS = 4  # This many compiled programs are kept, those that were used last.

Callback = Callable[[int, int, Callable[[], list[np.ndarray]]], None]


class Pipeline:
    """Several diffusion models and a vocoder, loaded once, that generate images that sound.

        pipe = Pipeline.from_config("configs/sd15_auffusion.py:tiger")
        samples = pipe(image="a painting of tigers, grayscale", audio="tiger growling", num_samples=8)
        samples[0].image, samples[0].audio, samples[0].sampling_rate
        samples[0].save("out")

    A call compiles programs for the shapes that it needs, and loads models only if it names other ones.

    Args of the constructor:
      base: the settings of all calls, as a config has them. Models are loaded when they are needed. Without settings, a
        pipeline can only `load` and `compile`.
      devices: the devices to use; by default all local ones.
      loader: loads models; by default `its_jax.pretrained`.
    """

    def __init__(
        self,
        base: Mapping[str, Any] | None = None,
        *,
        devices: Sequence[jax.Device] | None = None,
        loader: Loader = pretrained,
    ):
        self._base, self._devices, self._loader = with_defaults(base) if base else {}, devices, loader
        self._components: Components | None = None
        self._load_seconds = 0.0  # not yet reported by a program
        self._components_key: tuple[Any, ...] = ()
        self._programs: collections.OrderedDict[Any, Program] = collections.OrderedDict()

    def __repr__(self) -> str:
        models = (f"{term}={self._base[term]['model']!r}" for term in term_names(self._base) if term in self._base)
        return f"Pipeline({', '.join([*models, *([self._base['dtype']] if self._base else [])])})"

    @classmethod
    def from_config(cls, config: Any, *, devices: Sequence[jax.Device] | None = None) -> "Pipeline":
        """Loads the models of a config.

        Args:
          config: the name of a shipped config or 'FILE.py', also with an argument, as in 'sd15_auffusion:tiger'; or a
            ConfigDict.

        Raises:
          UserError: the config or a model cannot be read.
        """
        found = load_config(config) if isinstance(config, str | Path) else config
        if not hasattr(found, "to_dict"):
            kind = type(found).__name__
            raise UserError(f"config: must be the name of a file or a ConfigDict, not a {kind}; see from_settings")
        return cls.from_settings(found.to_dict(), devices=devices)

    @classmethod
    def from_pretrained(
        cls,
        image: str | os.PathLike[str],
        audio: str | os.PathLike[str],
        *,
        dtype: Any = None,
        devices: Sequence[jax.Device] | None = None,
        **settings: Any,
    ) -> "Pipeline":
        """Loads an image model and an audio model that share one latent space.

        All other settings are those of the shipped default config for that kind of models, which the height of the
        audio model's spectrograms tells: `configs/default.py` for 128 pixels, or `configs/sd15_auffusion.py`.

        Args:
          image, audio: hub ids, folders, single files (each with `+LORA@SCALE` for LoRAs), or models that come with
            the package, such as 'tiny/image' and 'tiny/audio'.
          dtype: float32, bfloat16 or float16, as a name or as `jnp.float32`; None is that of the default config.
          settings: any settings of the config but `num_samples`, see `__call__`.

        Raises:
          UserError: a model cannot be loaded, the models do not fit each other, or a setting is wrong.
        """
        changes: dict[str, Any] = {"image": {"model": os.fspath(image)}, "audio": {"model": os.fspath(audio)}}
        changes |= {} if dtype is None else {"dtype": dtype}
        if "num_samples" in settings:
            raise UserError(f"num_samples={settings['num_samples']}: give it to the call of the pipeline")
        vocoder: Any = pretrained.abstract_model(os.fspath(audio), components=["vocoder"], dtype="float32").vocoder
        defaults = requests.default_settings(vocoder.config.num_mels)
        base = requests.merge_settings(defaults, changes)
        return cls.from_settings(requests.merge_settings(base, settings), devices=devices)

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], *, devices: Sequence[jax.Device] | None = None, loader: Loader = pretrained
    ) -> "Pipeline":
        """Loads the models of settings in a dictionary, as `ConfigDict.to_dict()` returns them, or in a ConfigDict.

        Compiled programs are kept in the cache folder, unless JAX is configured to keep them elsewhere.

        Raises:
          UserError: a setting is missing, unknown or wrong, or a model cannot be loaded.
        """
        settings = requests.plain_settings(settings)
        keep_programs()
        pipe = cls(settings, devices=devices, loader=loader)
        requested, options = read_settings(settings)
        pipe.load(requested[0], options.devices_per_sample)
        return pipe

    def __call__(
        self,
        image: str | Sequence[str] | Mapping[str, Any] | None = None,
        audio: str | Sequence[str] | Mapping[str, Any] | None = None,
        *,
        seed: int | Sequence[int] | None = None,
        num_samples: int | None = None,
        callback: Callback | None = None,
        **settings: Any,
    ) -> list[Sample]:
        """Generates samples.

        Args:
          image, audio: a prompt, a list of prompts, or a dictionary of the term's settings, such as
            `{"prompt": "rain", "weight": 0.4}`. Lists have equal lengths and are paired; a single prompt serves all.
          seed: the first of consecutive seeds, or a list of seeds; by default that of the config.
          num_samples: the number of seeds for each pair of prompts; by default one, or the length of the list of seeds.
          callback: called as `callback(step, num_steps, preview)` at least 20 times while a batch is denoised, or at
            every step if there are fewer. `preview()` decodes the current estimate of the clean latents: one image per
            sample of the batch, float32 `[H, W, 3]` in [0, 1]. It costs nothing unless it is called. Raising
            `its_jax.Cancelled` in the callback ends the call; the pipeline stays usable.
          settings: any settings of the config, such as `width=2048` or `guidance_scale` within a term.

        Returns:
          one sample for each pair of prompts and each seed, in the order of the pairs.

        Raises:
          UserError: an argument is unknown or wrong, a model cannot be loaded, or a sample does not fit in memory.
          Cancelled: the callback has raised it. Its attribute `samples` holds those of the batches before.
        """
        if callback is not None and not callable(callback):
            raise UserError(f"callback={callback!r}: must be a function of step, num_steps and preview")
        if not self._base:
            raise UserError("this pipeline has no settings: make it with from_config, from_pretrained or from_settings")
        changes = {name: value for name, value in (("image", image), ("audio", audio)) if value is not None}
        requested, options = requests.expand_request(self._base, changes | settings, seed, num_samples)
        found: dict[int, Sample] = {}
        on_progress = _report_to(callback) if callback else progress.ignore
        try:
            for indices in _group_by_batch_key(requested):
                self._generate(requested, indices, options, on_progress, found)
        except Cancelled as canceled:
            canceled.samples = [found[i] for i in sorted(found)]
            raise
        return [found[i] for i in range(len(requested))]

    def _generate(self, requested, indices, options, on_progress, found):
        """Generates samples that can share a batch."""
        first = requested[indices[0]]
        program = self.compile(
            first,
            pending=len(indices),
            batch_size=options.batch_size,
            devices_per_sample=options.devices_per_sample,
        )
        program.check([first])
        program.check_init_file(first)  # All samples of a call start from the same file.
        program.warn([requested[i] for i in indices])
        while indices:
            samples = run_fitting(program, [requested[i] for i in indices], on_progress)
            written = {"with_video": options.video, "loudness": options.loudness}
            samples = [dataclasses.replace(sample, **written) for sample in samples]
            found.update(zip(indices, samples, strict=False))
            indices = indices[len(samples) :]

    def load(self, settings: SampleSettings, devices_per_sample: int = 1) -> Components:
        """Returns the models of a sample; loads those that are not loaded yet, and drops those that it does not use.

        Raises:
          UserError: a model cannot be loaded, the models do not fit each other, or the settings do not fit them.
        """
        method = method_class(settings.method)
        key = components_key(settings, devices_per_sample, method.requirements)
        if self._components is None or self._components_key != key:
            placement = choose_placement(len(settings.terms), devices_per_sample, self._devices)
            seconds: dict[str, float] = {}
            with timed("load", seconds):
                # A mistake is reported here, while the present models are still loaded.
                opened = open_models(settings, placement, self._loader, method.requirements, method.check)
                share = self._models_in_common(key, settings)
                self._programs.clear()
                self._components = None  # Models that are not used any more make room before others are loaded.
                self._components = load_components(
                    settings, placement, self._loader, method.requirements, opened, share
                )
            self._components_key = key
            self._load_seconds += seconds["load"]
        return self._components

    def _models_in_common(self, key, settings):
        """Returns the loaded models that these settings use, too, on the same devices in the same dtype."""
        if self._components is None or self._components_key[:2] != key[:2]:
            return []
        sources = {term.model for term in settings.terms.values()}
        models = {model.source: model for model in self._components.models.values() if model.source in sources}
        return list(models.values())

    def compile(
        self,
        settings: SampleSettings,
        *,
        pending: int = 1,
        batch_size: int = 0,
        devices_per_sample: int = 1,
        may_shrink: bool = False,
        workdir: Path | None = None,
    ) -> Program:
        """Returns the compiled stages for samples of one shape, see `Program`, whose arguments these are.

        Raises:
          UserError: as `Program` and `load`.
        """
        components = self.load(settings, devices_per_sample)
        at_once = useful_batch(pending, components.placement.at_once, components.placement.device)
        # A batch size that was requested and one that was chosen differ in what happens if memory is short.
        key = (tuple(program_key(settings).items()), batch_size, 0 if batch_size else at_once, may_shrink, workdir)
        program = self._programs.pop(key, None)
        if program is None:
            program = Program(
                settings,
                components,
                pending=pending,
                batch_size=batch_size,
                may_shrink=may_shrink,
                workdir=workdir,
                load_seconds=self._load_seconds,
            )
            self._load_seconds = 0.0
        self._programs[key] = program
        while len(self._programs) > PROGRAMS:
            self._programs.popitem(last=False)
        return program


def _report_to(callback) -> OnProgress:
    return lambda found: callback(found.step, found.num_steps, found.preview)


def _group_by_batch_key(requested: Sequence[SampleSettings]) -> list[list[int]]:
    """Returns the indices of samples that can share a batch."""
    groups: dict[Any, list[int]] = {}
    for i, settings in enumerate(requested):
        groups.setdefault(tuple(batch_key(settings).items()), []).append(i)
    return list(groups.values())
