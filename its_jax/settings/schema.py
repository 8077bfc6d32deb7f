"""The settings of a sample and of a run: names, types, defaults and meaning."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

from its_jax.errors import UserError
from its_jax.settings.fields import field_defaults, field_docs, field_types, parse_types, setting

EMBEDDED = "tiny/"  # the beginning of the names of models that come with the package
TERMS = ("image", "audio")  # every sample has these; `audio` gives the waveform, all others give images
DTYPES = ("float32", "bfloat16", "float16")
# LUFS, as Apple asks of podcasts (with a true peak of at most -1 dBFS):
# https://podcasters.apple.com/support/893-audio-requirements
LOUDNESS = -16.0
VOCODERS = ("hifigan", "griffin_lim")
NOISES = ("jax", "torch")
VIEWS = (  # the keys of `its_jax.diffusion.views.VIEWS`
    "identity",
    "block_rearrange",
    "flip_horizontal",
    "flip_vertical",
    "rotate_90",
    "rotate_180",
    "rotate_270",
)
SOLVERS = ("ddim", "euler", "dpmpp_2m")  # the keys of `its_jax.diffusion.solvers.SOLVERS`


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TermSettings:
    """The settings of one term: a model, its prompts, and its part in each step."""

    model: str = setting(
        "`tiny/image` or `tiny/audio`; a folder in diffusers' layout, a hub id or a single file, and LoRAs (see "
        "models.md); or a folder that `convert` wrote"
    )
    prompt: str = setting("what to show or sound like")
    negative_prompt: str = setting("what not to show or sound like", default="")
    view: str = setting(
        "how the model sees the spectrogram: `identity`; `block_rearrange`, which puts the left half above the right "
        "half; `flip_horizontal`, `flip_vertical`; `rotate_90`, `rotate_180`, `rotate_270` (counter-clockwise). "
        "`audio` has `identity`",
        default="identity",
    )
    guidance_scale: float = setting(
        "the scale of classifier-free guidance; at 1 there is none, and half the work", default=10.0
    )
    guidance_start_step: int = setting(
        "the first step with guidance, see [arXiv 2404.07724](https://arxiv.org/abs/2404.07724)", default=0
    )
    guidance_stop_step: int = setting(
        "the first step without guidance again; -1: guidance lasts to the end", default=-1
    )
    start_step: int = setting("the first step, of `num_steps`, at which the model is evaluated", default=0)
    stop_step: int = setting(
        "the first step at which the model is not evaluated any more; -1: it is to the end", default=-1
    )
    weight: float = setting("the share of the model in each step, relative to the other models'", default=0.5)
    turn: int = setting(
        "method `alternating`: the number of consecutive steps of the model's turn", default=1, in_ids=False
    )
    num_steps: int = setting(
        "method `imprint`: the steps of the model's own run; 0: as `num_steps` says", default=0, in_ids=False
    )

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings by name."""
        return {name: getattr(self, name) for name in TERM_TYPES}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], prefix: str = "") -> "TermSettings":
        """Reads the settings from a dictionary; names that are not settings are ignored.

        Raises:
          UserError: a setting is missing or has another type; `prefix` stands before its name.
        """
        return cls(**parse_types({**TERM_METHOD_DEFAULTS, **raw}, TERM_TYPES, prefix))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SampleSettings:
    """All settings that decide what a sample is.

    Samples that differ only in their seed share their `terms`, so that many of them take little memory.
    """

    seed: int = setting(
        "seed of the first sample, 0 to 2^32 - 1; the next ones have seed + 1, seed + 2, ...", default=0
    )
    noise: str = setting(
        "the source of the initial noise: `jax`, or `torch`, as PyTorch 2.13 draws it on a CPU in float16, "
        "computed without PyTorch",
        default="jax",
    )
    num_steps: int = setting("the number of denoising steps, or of iterations with method `sds`", default=100)
    solver: str = setting("`ddim`, `dpmpp_2m` or `euler`", default="ddim")
    cache_interval: int = setting(
        "the inner layers of the UNets are evaluated at every n-th step, and their outputs are reused in between "
        "([DeepCache](https://arxiv.org/abs/2312.00858)); 1: at every step",
        default=1,
    )
    height: int = setting("height in pixels, which are mel bands: the number that the vocoder has", default=256)
    width: int = setting(
        "width in pixels, which are frames of 10 ms; a multiple of 8, as the height is. Any length, see `window`",
        default=1024,
    )
    dtype: str = setting(
        "the type of weights and activations: `float32`, `bfloat16` or `float16` (statistics, attention scores and "
        "the solver stay in float32)",
        default="float32",
    )
    window: int = setting(
        "a wider canvas is denoised in overlapping windows of this many pixels, averaged at each step; 0: all at once",
        default=0,
    )
    wrap: bool = setting("a loop: image and audio continue from their end to their beginning", default=False)
    init_image: str = setting(
        "an image file to start from, in any format that Pillow reads; it is scaled to the canvas, and transparent "
        "pixels are black",
        default="",
    )
    init_audio: str = setting(
        "an audio file to start from, in any format that libsndfile or ffmpeg reads; it is resampled, and cut or "
        "padded to the canvas",
        default="",
    )
    strength: float = setting(
        "the share of the steps that are made from that file: less stays nearer to it", default=1.0
    )
    keep: str = setting(
        'what stays as in that file, in seconds or Hz: `"0-1.5s, 200-800Hz"`; whole cells of 8 columns (0.08 s) by 8 '
        "bands, the outermost of which blend into what is new",
        default="",
    )
    crop_image: bool = setting("drop the last 32 columns, which Auffusion leaves black, and their sound", default=False)
    cutoff_latent: bool = setting("drop the last 32 columns before decoding instead", default=False)
    vocoder: str = setting(
        "`hifigan`, the audio model's own network, or `griffin_lim`, which estimates the phases iteratively",
        default="hifigan",
    )
    method: str = setting(
        "`fused`, or to compare `image_only`, `audio_only`, `alternating`, `imprint` or `sds`",
        default="fused",
        in_ids=False,
    )
    inverse_image: bool = setting(
        "method `imprint`: attenuate the dark parts of the image in place of its bright parts",
        default=True,
        in_ids=False,
    )
    mag_ratio: float = setting(
        "method `imprint`: the attenuation, 0 (none) to 1 (down to silence)", default=0.5, in_ids=False
    )
    learning_rate: float = setting("method `sds`: the learning rate of the optimizer", default=1e-4, in_ids=False)
    init_sha256: str = setting("digest of `init_image` or `init_audio`, computed from the file", default="")
    terms: Mapping[str, TermSettings] = setting("`image`, `audio`, then others in alphabetical order", hash=False)

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings by name, then a dictionary for each term, then `init_sha256`."""
        settings = {name: getattr(self, name) for name in SAMPLE_TYPES}
        terms = {name: term.to_dict() for name, term in self.terms.items()}
        return settings | terms | {"init_sha256": self.init_sha256}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "SampleSettings":
        """Reads the settings from a dictionary such as `to_dict` returns; values that are neither settings nor
        dictionaries are ignored, and settings of methods may be missing.

        Raises:
          UserError: a setting is missing or has another type.
        """
        settings = parse_types({**METHOD_DEFAULTS, "init_sha256": "", **raw}, {**SAMPLE_TYPES, "init_sha256": str})
        terms = {}
        for name in term_names(raw):
            if not isinstance(raw.get(name), Mapping):
                raise UserError(f"the settings of {name!r} are missing: give at least {name}.model and {name}.prompt")
            terms[name] = TermSettings.from_dict(raw[name], f"{name}.")
        return cls(**settings, terms=terms)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options of a run, which do not change what its samples are."""

    num_samples: int = setting("the number of samples", default=1)
    batch_size: int = setting(
        "samples at once; 0 chooses from the memory, and halves where that was too much", default=0
    )
    devices_per_sample: int = setting(
        "the number of devices that make one sample together: 1; one for each model (2); or two for each, one for "
        "each of its prompts (4). It must divide the number of devices",
        default=1,
    )
    video: bool = setting("write `video.mp4`", default=True)
    loudness: float | None = setting(
        "the loudness of written sounds, -40 to 0 LUFS; a sound whose true peak would exceed -1 dBFS is written less "
        "loud; `None`: as generated",
        default=LOUDNESS,
    )


TERM_TYPES = field_types(TermSettings)
# Settings that were added later. At these values they are not in an id, nor in what samples must share, so that both
# are what they were before; and older records leave them out.
TERM_METHOD_DEFAULTS = field_defaults(TermSettings, in_ids=False)
_DERIVED = ("init_sha256", "terms")
SAMPLE_TYPES = {name: kind for name, kind in field_types(SampleSettings).items() if name not in _DERIVED}
METHOD_DEFAULTS = field_defaults(SampleSettings, in_ids=False)
# The other settings that a config may leave out.
SAMPLE_DEFAULTS = {
    name: value for name, value in field_defaults(SampleSettings, in_ids=True).items() if name not in _DERIVED
}
TERM_DEFAULTS = field_defaults(TermSettings, in_ids=True)
RUN_TYPES, RUN_DEFAULTS = field_types(RunOptions), field_defaults(RunOptions)
RECORD_GROUPS = ("run", "models", "versions", "scores", "seconds")  # groups of a record that are not terms
_PLAIN = (str, int, float)  # tested first, because isinstance(value, Mapping) is slow for what is not one


def setting_types(settings: Mapping[str, Any]) -> dict[str, type]:
    """Returns the type of each setting of a sample by its full name: `seed`, `image.prompt`, ..."""
    return SAMPLE_TYPES | {f"{term}.{key}": kind for term in term_names(settings) for key, kind in TERM_TYPES.items()}


def setting_docs(settings: Mapping[str, Any] = types.MappingProxyType({})) -> dict[str, str]:
    """Returns one line of documentation for each setting of a sample or a run by its full name.

    Args:
      settings: those of a config, which may have more terms than `image` and `audio`.
    """
    docs = field_docs(SampleSettings) | field_docs(RunOptions)
    of_terms = {
        f"{term}.{name}": doc for term in term_names(settings) for name, doc in field_docs(TermSettings).items()
    }
    return {name: doc for name, doc in docs.items() if name not in _DERIVED} | of_terms


def term_names(settings: Mapping[str, Any]) -> list[str]:
    """Returns the names of the terms: `image`, `audio`, then all others in alphabetical order."""
    groups = [name for name, value in settings.items() if not isinstance(value, _PLAIN) and isinstance(value, Mapping)]
    return [*TERMS, *sorted(name for name in groups if name not in TERMS)]
