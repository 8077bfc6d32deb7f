"""The settings of colorization. No jax."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from its_jax.errors import UserError, check_choice
from its_jax.settings.fields import field_defaults, field_types, parse_types, setting
from its_jax.settings.parse import check_names
from its_jax.settings.schema import DTYPES
from its_jax.settings.validate import check_seed, check_text

METHODS = ("factorized", "latent")
SUBJECT = "{subject}"  # in a prompt: what the sample shows, see `subject`
_PREFIX = "colorize."
# The settings that determine an image: those of every method, and those of one of them.
_COMMON = ("method", "negative_prompt", "guidance_scale", "num_steps", "window", "dtype")
_BY_METHOD = {
    "factorized": ("stage_1", "stage_2", "start_step", "reduction"),
    "latent": ("latent_start_step",),
}
_START_STEPS = {"factorized": "start_step", "latent": "latent_start_step"}
_POSITIVE = ("num_steps", "trials", "reduction")
_NOT_NEGATIVE = ("start_step", "latent_start_step", "noise_level", "window", "batch_size", "videos")
_STYLE = re.compile(r"(an?|the)? *(\w+ )?(painting|drawing|photo|photograph|picture|sketch|image|print)s? of ", re.I)


@dataclasses.dataclass(frozen=True)
class ColorSettings:
    """The group `colorize` of a config. The defaults are those of the paper's authors."""

    method: str = setting(
        "`factorized`, by a pixel model in one or two stages, or `latent`, by a latent model", default="factorized"
    )
    prompt: str = setting(
        "`{subject}` in it stands for the sample's own prompt for the image, without its style",
        default="a colorful photo of {subject}",
    )
    negative_prompt: str = setting("what images should not show", default="")
    trials: int = setting("the number of images of each sample", default=16)
    seed: int = setting("the seed of the first trial; the next ones have seed + 1, seed + 2, ...", default=0)
    stage_1: str = setting(
        "method `factorized`: the model of the first stage; its text encoder serves both stages",
        default="DeepFloyd/IF-I-M-v1.0",
    )
    stage_2: str = setting(
        "method `factorized`: the model of the second stage; if empty, the first image is enlarged",
        default="DeepFloyd/IF-II-M-v1.0",
    )
    latent_model: str = setting(
        "method `latent`: the model; if empty, the image model that made the sample", default=""
    )
    guidance_scale: float = setting("the scale of classifier-free guidance", default=10.0)
    num_steps: int = setting("the number of denoising steps of each stage", default=30)
    start_step: int = setting("method `factorized`: the step to begin at, with the noised gray image", default=7)
    latent_start_step: int = setting(
        "method `latent`: the step to begin at; a later one keeps more of the shapes", default=13
    )
    noise_level: int = setting("the timestep of the noise in the small image that the second stage takes", default=50)
    reduction: int = setting("by how much the image of the first stage is smaller, in height and width", default=4)
    window: int = setting(
        "wider images are colorized in overlapping windows of this many pixels; 0: in one piece", default=0
    )
    dtype: str = setting("the dtype of weights and activations", default="float32")
    batch_size: int = setting(
        "images at once; 0: all trials of a sample, and fewer if they do not fit in memory", default=0
    )
    videos: int = setting("the number of each sample's first trials that get a video", default=1)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "ColorSettings":
        """Reads the settings from a dictionary. Those that it leaves out have their defaults.

        Raises:
          UserError: a name is unknown, or a value is wrong for any models.
        """
        types = field_types(cls)
        check_names(raw, types, _PREFIX)
        return cls(**parse_types({**field_defaults(cls), **raw}, types, _PREFIX))

    def __post_init__(self) -> None:
        check_choice(f"{_PREFIX}method", self.method, METHODS)
        check_choice(f"{_PREFIX}dtype", self.dtype, DTYPES)
        for name in ("prompt", "negative_prompt"):
            check_text(_PREFIX + name, getattr(self, name))
        if not self.prompt.strip():
            self._refuse("prompt", f"must not be empty; for example 'a colorful photo of {SUBJECT}'")
        if self.method == "factorized" and not self.stage_1:
            self._refuse("stage_1", "must name a pixel model, such as DeepFloyd/IF-I-M-v1.0")
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                self._refuse(name, "must be 1 or more")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                self._refuse(name, "must not be negative")
        start = _START_STEPS[self.method]
        if getattr(self, start) >= self.num_steps:
            self._refuse(start, f"leaves 0 of {self.num_steps} steps; set it below num_steps")
        if not math.isfinite(self.guidance_scale):
            self._refuse("guidance_scale", "must be a finite number")
        for seed in (self.seed, self.seed + self.trials - 1):
            check_seed(seed)

    def _refuse(self, name, reason):
        raise UserError(f"{_PREFIX}{name}={getattr(self, name)!r}: {reason}")

    def for_trial(self, record: Mapping[str, Any], trial: int) -> dict[str, Any]:
        """Returns all settings that determine an image; equal settings give equal images.

        Args:
          record: the record of the sample.
          trial: 0, 1, ...; each trial has its own seed.
        """
        own = {name: getattr(self, name) for name in (*_COMMON, *_BY_METHOD[self.method])}
        if self.method == "factorized" and self.stage_2:
            own["noise_level"] = self.noise_level
        if self.method == "latent":
            own["latent_model"] = self.latent_model or record["image"]["model"]
        prompt = self.prompt.replace(SUBJECT, subject(record["image"]["prompt"]))
        return own | {"prompt": prompt, "seed": self.seed + trial}


def subject(prompt: str) -> str:
    """Returns a prompt without its style: 'a painting of castle towers, grayscale' -> 'castle towers'."""
    return _STYLE.sub("", prompt.partition(",")[0], count=1).strip()
