"""The settings of a sample: names, types and allowed values."""

from collections.abc import Mapping
from typing import Any

TERMS = ("image", "audio")  # every job has these; `audio` gives the sound, all others pictures
DTYPES = ("float32", "bfloat16", "float16")
VOCODERS = ("hifigan", "griffin_lim")
NOISES = ("jax", "torch")
SOLVERS = ("ddim", "euler", "dpmpp_2m")  # as `its_jax.diffusion.denoise` has them
METHODS = (
    "fused",
    "image_only",
    "audio_only",
    "alternating",
    "imprint",
    "sds",
)  # the paper's, and what it is compared with
# Settings and their types. Those of a job decide what its sample is; those of a run, only how it is made.
TERM_TYPES: dict[str, type] = {"model": str, "prompt": str, "negative_prompt": str, "view": str}
TERM_TYPES |= {"guidance_scale": float, "guidance_start_step": int, "guidance_stop_step": int}
TERM_TYPES |= {"start_step": int, "stop_step": int, "weight": float}
SAMPLE_TYPES: dict[str, type] = {"seed": int, "noise": str, "num_steps": int, "solver": str, "cache_interval": int}
SAMPLE_TYPES |= {"height": int, "width": int, "dtype": str}
SAMPLE_TYPES |= {"window": int, "wrap": bool, "init_image": str, "init_audio": str, "strength": float, "keep": str}
SAMPLE_TYPES |= {"crop_image": bool, "cutoff_latent": bool, "vocoder": str}
# Settings of methods, which a config may leave out. At these values they are not in an id, nor in what jobs must share,
# so that both are what they were before there were methods.
METHOD_DEFAULTS: dict[str, Any] = {"method": "fused", "inverse_image": True, "mag_ratio": 0.5, "learning_rate": 1e-4}
TERM_METHOD_DEFAULTS: dict[str, Any] = {"turn": 1, "num_steps": 0}
SAMPLE_TYPES |= {name: type(value) for name, value in METHOD_DEFAULTS.items()}
TERM_TYPES |= {name: type(value) for name, value in TERM_METHOD_DEFAULTS.items()}
RUN_TYPES = {"num_samples": int, "batch_size": int, "devices_per_sample": int, "video": bool}
RECORD_GROUPS = ("run", "models", "versions", "scores", "seconds")  # of a record, beside the terms
_PLAIN = (str, int, float)  # asked for first: that something is a Mapping takes Python long to find out


def setting_types(settings: Mapping[str, Any]) -> dict[str, type]:
    """The type of each setting of a sample, by its full name: `seed`, `image.prompt`, ..."""
    return SAMPLE_TYPES | {f"{term}.{key}": kind for term in term_names(settings) for key, kind in TERM_TYPES.items()}


def term_names(settings: Mapping[str, Any]) -> list[str]:
    """The names of the terms: `image`, `audio`, then all others in alphabetical order."""
    groups = [name for name, value in settings.items() if not isinstance(value, _PLAIN) and isinstance(value, Mapping)]
    return [*TERMS, *sorted(name for name in groups if name not in TERMS)]
