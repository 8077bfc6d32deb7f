"""What a config says of colouring, checked. No jax."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from its_jax.errors import UserError, check_choice
from its_jax.settings.fields import parse_types
from its_jax.settings.parse import check_names
from its_jax.settings.schema import DTYPES
from its_jax.settings.validate import check_seed, check_text

METHODS = ("factorized", "latent")
SUBJECT = "{subject}"  # in a prompt: what the sample shows, see `subject`
# Models by method; a latent model that is not named is the one that made the sample.
MODELS = {"factorized": ("stage_1", "stage_2"), "latent": ("latent_model",)}
# Settings that decide what a picture is, by method; of all others it is independent.
_OF_ALL = ("method", "negative_prompt", "guidance_scale", "num_steps", "window", "dtype")
_OF_METHOD = {"factorized": (*MODELS["factorized"], "start_step", "reduction"), "latent": ("latent_start_step",)}
_START_STEPS = ("start_step", "latent_start_step")
_NOT_NEGATIVE = (*_START_STEPS, "noise_level", "window", "batch_size", "videos")
_STYLE = re.compile(r"(an?|the)? *(\w+ )?(painting|drawing|photo|photograph|picture|sketch|image|print)s? of ", re.I)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The group `colorize` of a config; `configs/colorize.py` says what each is."""

    method: str
    prompt: str
    negative_prompt: str
    trials: int
    seed: int
    stage_1: str
    stage_2: str
    latent_model: str
    guidance_scale: float
    num_steps: int
    start_step: int
    latent_start_step: int
    noise_level: int
    reduction: int
    window: int
    dtype: str
    batch_size: int
    videos: int

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> "Settings":
        """UserError: a name that is unknown or missing, or a value that is wrong whatever the models are."""
        types = {field.name: field.type for field in dataclasses.fields(cls)}
        check_names(raw, types, _PREFIX)
        return cls(**parse_types(raw, types, _PREFIX))

    def __post_init__(self):
        check_choice(f"{_PREFIX}method", self.method, METHODS)
        check_choice(f"{_PREFIX}dtype", self.dtype, DTYPES)
        for name in ("prompt", "negative_prompt"):
            check_text(_PREFIX + name, getattr(self, name))
        if not self.prompt.strip():
            self._refuse("prompt", f"must not be empty; for example 'a colorful photo of {SUBJECT}'")
        if self.method == "factorized" and not self.stage_1:
            self._refuse("stage_1", "must name a model of pixels, such as DeepFloyd/IF-I-M-v1.0")
        for name in ("num_steps", "trials", "reduction"):
            if getattr(self, name) < 1:
                self._refuse(name, "must be 1 or more")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                self._refuse(name, "must not be negative")
        start = _START_STEPS[METHODS.index(self.method)]
        if getattr(self, start) >= self.num_steps:
            self._refuse(start, f"leaves none of {self.num_steps} steps; set it below num_steps")
        if not math.isfinite(self.guidance_scale):
            self._refuse("guidance_scale", "must be a finite number")
        for seed in (self.seed, self.seed + self.trials - 1):
            check_seed(seed)

    def _refuse(self, name, why):
        raise UserError(f"{_PREFIX}{name}={getattr(self, name)!r}: {why}")

    def of_trial(self, record: Mapping[str, Any], trial: int) -> dict[str, Any]:
        """All that decides what the trial of a sample is; equal settings, equal picture.

        Args:
          record: of the sample. trial: from 0 on; each has its own seed.
        """
        own = {name: getattr(self, name) for name in (*_OF_ALL, *_OF_METHOD[self.method])}
        if self.method == "factorized" and self.stage_2:
            own["noise_level"] = self.noise_level
        if self.method == "latent":
            own["latent_model"] = self.latent_model or record["image"]["model"]
        prompt = self.prompt.replace(SUBJECT, subject(record["image"]["prompt"]))
        return own | {"prompt": prompt, "seed": self.seed + trial}


_PREFIX = "colorize."


def subject(prompt: str) -> str:
    """'a painting of castle towers, grayscale' -> 'castle towers': without what says how it is to be painted."""
    return _STYLE.sub("", prompt.partition(",")[0], count=1).strip()
