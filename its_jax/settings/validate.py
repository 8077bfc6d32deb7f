"""Validates everything that does not depend on the models."""

import math
import re

from its_jax.errors import UserError, check_choice
from its_jax.settings.methods import METHODS
from its_jax.settings.schema import (
    DTYPES,
    NOISES,
    RECORD_GROUPS,
    SOLVERS,
    VIEWS,
    VOCODERS,
    SampleSettings,
    TermSettings,
)
from its_jax.settings.steps import active_steps, first_step, term_weight

_TERM_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
# Names of a sample's files, of groups of its record, and of scores.
_TAKEN = ("spectrogram", "video", "sample", "id", *RECORD_GROUPS, "clip", "clap")
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_RANGE = re.compile(rf"\s*{_NUMBER}\s*-\s*{_NUMBER}\s*(s|hz)\s*", re.IGNORECASE)
_MAX_SEED = 2**32 - 1
# LUFS. No waveform in [-1, 1] exceeds 4 LUFS, so that gains are above -48 dB. Down to there, each of the 16-bit values
# times the gain is another value of 24 bits.
_MIN_LOUDNESS = -40.0


def validate(settings: SampleSettings) -> None:
    """Raises `UserError` for values that are wrong whatever the models are."""
    check_seed(settings.seed)
    for name in ("height", "width", "num_steps", "cache_interval"):
        if getattr(settings, name) < 1:
            raise UserError(f"{name}={getattr(settings, name)}: must be 1 or more")
    for name, known in (("dtype", DTYPES), ("vocoder", VOCODERS), ("noise", NOISES), ("solver", SOLVERS)):
        check_choice(name, getattr(settings, name), known)
    check_choice("method", settings.method, METHODS)
    if settings.crop_image and settings.cutoff_latent:
        raise UserError("crop_image and cutoff_latent cut off the same columns: set one of them, not both")
    for name, term in settings.terms.items():
        _check_term(name, term)
    _check_canvas(settings)
    _check_start(settings)
    _check_method(settings)
    _check_steps(settings)


def check_seed(seed: int) -> None:
    """Raises `UserError` for a seed that is out of range."""
    if not 0 <= seed <= _MAX_SEED:
        raise UserError(f"seed={seed}: seeds must be 0 to {_MAX_SEED}")


def check_loudness(loudness: float | None, prefix: str = "") -> None:
    """Raises `UserError` for a loudness in LUFS that is out of range; None is the raw scale. `prefix` stands before the
    name of the setting."""
    if loudness is not None and not _MIN_LOUDNESS <= loudness <= 0:
        raise UserError(f"{prefix}loudness={loudness}: must be {_MIN_LOUDNESS:g} to 0 LUFS, or None for the raw scale")


def _check_term(name: str, term: TermSettings) -> None:
    """Raises `UserError` for a name that no term can have, and for values of a term that are wrong in themselves."""
    if not _TERM_NAME.fullmatch(name) or name in _TAKEN:
        raise UserError(
            f"{name!r} cannot name a term: take a small letter, then small letters, digits and _, but none of "
            f"{', '.join(_TAKEN)}"
        )
    check_choice(f"{name}.view", term.view, VIEWS)
    for key in ("prompt", "negative_prompt"):
        check_text(f"{name}.{key}", getattr(term, key))
    for key in ("guidance_scale", "weight"):
        if not math.isfinite(getattr(term, key)):
            raise UserError(f"{name}.{key}={getattr(term, key)}: must be a finite number")
    for key in ("weight", "start_step", "guidance_start_step"):
        if getattr(term, key) < 0:
            raise UserError(f"{name}.{key}={getattr(term, key)}: must not be negative")
    for key in ("stop_step", "guidance_stop_step"):
        if getattr(term, key) < -1:
            raise UserError(f"{name}.{key}={getattr(term, key)}: must be a step, or -1 for none")
    if term.turn < 1:
        raise UserError(f"{name}.turn={term.turn}: must be 1 or more, steps in a row")
    if term.num_steps < 0:
        raise UserError(f"{name}.num_steps={term.num_steps}: must be 0 (as the sample has) or more")


def _check_canvas(settings: SampleSettings) -> None:
    """Raises `UserError` for views, windows and crops that exclude each other."""
    views = {name: term.view for name, term in settings.terms.items()}
    if views["audio"] != "identity":
        raise UserError(
            f"audio.view={views['audio']!r}: must be 'identity', for the spectrogram is what is played; "
            "give the other terms a view"
        )
    turned = [f"{term}.view={view!r}" for term, view in views.items() if view != "identity"]
    cut = [name for name in ("crop_image", "cutoff_latent") if getattr(settings, name)]
    if cut and turned:
        raise UserError(f"{cut[0]} cuts the end of the spectrogram off: it needs views of 'identity', not {turned[0]}")
    if cut and settings.wrap:
        raise UserError(f"{cut[0]} cuts the end of the spectrogram off, which wrap joins to its beginning: set one")
    if settings.window < 0:
        raise UserError(f"window={settings.window}: must be 0 (none) or more")
    rearranged = [term for term, view in views.items() if view == "block_rearrange"]
    if rearranged and (settings.wrap or 0 < settings.window < settings.width):
        raise UserError(
            f"{rearranged[0]}.view='block_rearrange' needs the whole canvas at once: no wrap, and a width of at most "
            f"window={settings.window}"
        )


def _check_start(settings: SampleSettings) -> None:
    """Raises `UserError` for a file to start from whose settings are wrong, and for those settings without a file."""
    given = [name for name in ("init_image", "init_audio") if getattr(settings, name)]
    if len(given) > 1:
        raise UserError("init_image and init_audio: a sample starts from one of them, not from both")
    if not 0 < settings.strength <= 1:
        raise UserError(f"strength={settings.strength}: must be above 0 (as it was) and at most 1 (all steps)")
    if first_step(settings) == settings.num_steps:
        raise UserError(f"strength={settings.strength}: leaves 0 of {settings.num_steps} steps; set it higher")
    for name, default in (("strength", 1.0), ("keep", "")):
        value = getattr(settings, name)
        if not given and value != default:
            raise UserError(f"{name}={value!r}: needs something to start from; set init_image or init_audio")
    keep_ranges(settings.keep)


def keep_ranges(keep: str) -> list[tuple[float, float, str]]:
    """Parses the setting `keep`: '0-1.5s, 200-800Hz' becomes [(0.0, 1.5, 's'), (200.0, 800.0, 'Hz')].

    Raises:
      UserError: it cannot be parsed.
    """
    parts = keep.split(",") if keep.strip() else []
    ranges = [match for part in parts if (match := _RANGE.fullmatch(part))]
    if len(ranges) < len(parts) or not all(float(match[1]) < float(match[2]) for match in ranges):
        raise UserError(f"keep={keep!r}: must be rising ranges in seconds or Hz, such as '0-1.5s, 200-800Hz'")
    return [(float(match[1]), float(match[2]), {"s": "s", "hz": "Hz"}[match[3].lower()]) for match in ranges]


def _check_method(settings: SampleSettings) -> None:
    """Raises `UserError` for settings of methods that are out of range, or that do not suit the method."""
    if not 0 <= settings.mag_ratio <= 1:
        raise UserError(f"mag_ratio={settings.mag_ratio}: must be 0 (no image) to 1 (down to silence)")
    if not 0 < settings.learning_rate < math.inf:
        raise UserError(f"learning_rate={settings.learning_rate}: must be above 0, and finite")
    METHODS[settings.method].check(settings)


def _check_steps(settings: SampleSettings) -> None:
    """Raises `UserError` if no term is active at some step."""
    if METHODS[settings.method].separate_runs:
        return
    weights = {term: term_weight(settings, term) for term in settings.terms}
    if sum(weights.values()) == 0:
        raise UserError(f"the weights sum to zero: set one of {', '.join(f'{t}.weight' for t in weights)} above 0")
    active = [active_steps(settings, term) for term, weight in weights.items() if weight > 0]
    first = first_step(settings)
    # A gap can only begin at the first step or where a term stops.
    for k in sorted({first, *(steps.stop for steps in active)}):
        if first <= k < settings.num_steps and not any(k in steps for steps in active):
            spans = ", ".join(f"{name} at {_span(term)}" for name, term in settings.terms.items())
            raise UserError(
                f"no model is active at step {k} of {settings.num_steps}: one with a weight above 0 must be ({spans})"
            )


def _span(term: TermSettings) -> str:
    """Returns the steps of a term as text."""
    return f"{term.start_step}" if term.stop_step < 0 else f"{term.start_step} to {term.stop_step - 1}"


def check_text(name: str, text: str) -> None:
    """Raises `UserError` for invalid Unicode. Shells pass bytes that are not UTF-8 as lone surrogates, which no
    tokenizer accepts."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{name}={ascii(text)}: is not valid text; give it in UTF-8") from error
