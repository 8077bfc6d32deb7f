"""Validates everything that does not depend on the models."""

import math
import re
from collections.abc import Mapping
from typing import Any

from its_jax.errors import UserError, check_choice
from its_jax.settings.schema import DTYPES, METHODS, NOISES, RECORD_GROUPS, SOLVERS, TERMS, VOCODERS, term_names
from its_jax.settings.steps import active_steps, first_step, term_weight

_TERM_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
# By files of a sample, by what its record tells, and by models that score it.
_TAKEN = ("spectrogram", "video", "sample", "id", *RECORD_GROUPS, "clip", "clap")
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_RANGE = re.compile(rf"\s*{_NUMBER}\s*-\s*{_NUMBER}\s*(s|hz)\s*", re.IGNORECASE)
_MAX_SEED = 2**32 - 1


def validate(job: Mapping[str, Any]) -> None:
    """Raises `UserError` for values that are wrong whatever the models are."""
    check_seed(job["seed"])
    for key in ("height", "width", "num_steps", "cache_interval"):
        if job[key] < 1:
            raise UserError(f"{key}={job[key]}: must be 1 or more")
    for key, known in (("dtype", DTYPES), ("vocoder", VOCODERS), ("noise", NOISES), ("solver", SOLVERS)):
        check_choice(key, job[key], known)
    check_choice("method", job["method"], METHODS)
    if job["crop_image"] and job["cutoff_latent"]:
        raise UserError("crop_image and cutoff_latent cut off the same columns: set one of them, not both")
    for term in term_names(job):
        _check_term(term, job[term])
    _check_canvas(job)
    _check_start(job)
    _check_method(job)
    _check_steps(job)


def check_seed(seed: int) -> None:
    """Raises `UserError` for a seed that cannot be drawn from."""
    if not 0 <= seed <= _MAX_SEED:
        raise UserError(f"seed={seed}: seeds must be 0 to {_MAX_SEED}")


def _check_term(name, term):
    if not _TERM_NAME.fullmatch(name) or name in _TAKEN:
        raise UserError(
            f"{name!r} cannot name a term: take a small letter, then small letters, digits and _, but none of "
            f"{', '.join(_TAKEN)}"
        )
    for key in ("prompt", "negative_prompt"):
        check_text(f"{name}.{key}", term[key])
    for key in ("guidance_scale", "weight"):
        if not math.isfinite(term[key]):
            raise UserError(f"{name}.{key}={term[key]}: must be a finite number")
    for key in ("weight", "start_step", "guidance_start_step"):
        if term[key] < 0:
            raise UserError(f"{name}.{key}={term[key]}: must not be negative")
    for key in ("stop_step", "guidance_stop_step"):
        if term[key] < -1:
            raise UserError(f"{name}.{key}={term[key]}: must be a step, or -1 for none")
    if term["turn"] < 1:
        raise UserError(f"{name}.turn={term['turn']}: must be 1 or more, steps in a row")
    if term["num_steps"] < 0:
        raise UserError(f"{name}.num_steps={term['num_steps']}: must be 0 (as the sample has) or more")


def _check_canvas(job):
    views = {term: job[term]["view"] for term in term_names(job)}
    if views["audio"] != "identity":
        raise UserError(
            f"audio.view={views['audio']!r}: must be 'identity', for the spectrogram is what is played; "
            "give the other terms a view"
        )
    turned = [f"{term}.view={view!r}" for term, view in views.items() if view != "identity"]
    cut = [key for key in ("crop_image", "cutoff_latent") if job[key]]
    if cut and turned:
        raise UserError(f"{cut[0]} cuts the end of the spectrogram off: it needs views of 'identity', not {turned[0]}")
    if cut and job["wrap"]:
        raise UserError(f"{cut[0]} cuts the end of the spectrogram off, which wrap joins to its beginning: set one")
    if job["window"] < 0:
        raise UserError(f"window={job['window']}: must be 0 (none) or more")
    rearranged = [term for term, view in views.items() if view == "block_rearrange"]
    if rearranged and (job["wrap"] or 0 < job["window"] < job["width"]):
        raise UserError(
            f"{rearranged[0]}.view='block_rearrange' needs the whole canvas at once: no wrap, and a width of at most "
            f"window={job['window']}"
        )


def _check_start(job):
    given = [key for key in ("init_image", "init_audio") if job[key]]
    if len(given) > 1:
        raise UserError("init_image and init_audio: a sample starts from one of them, not from both")
    if not 0 < job["strength"] <= 1:
        raise UserError(f"strength={job['strength']}: must be above 0 (as it was) and at most 1 (all steps)")
    if first_step(job) == job["num_steps"]:
        raise UserError(f"strength={job['strength']}: of {job['num_steps']} steps it leaves none")
    for key in ("strength", "keep"):
        if not given and job[key] != {"strength": 1.0, "keep": ""}[key]:
            raise UserError(f"{key}={job[key]!r}: needs something to start from; set init_image or init_audio")
    keep_ranges(job["keep"])


def keep_ranges(keep: str) -> list[tuple[float, float, str]]:
    """'0-1.5s, 200-800Hz' -> [(0.0, 1.5, 's'), (200.0, 800.0, 'Hz')]; UserError: it is nothing of the kind."""
    parts = keep.split(",") if keep.strip() else []
    ranges = [match for part in parts if (match := _RANGE.fullmatch(part))]
    if len(ranges) < len(parts) or not all(float(match[1]) < float(match[2]) for match in ranges):
        raise UserError(f"keep={keep!r}: must be rising ranges in seconds or Hz, such as '0-1.5s, 200-800Hz'")
    return [(float(match[1]), float(match[2]), {"s": "s", "hz": "Hz"}[match[3].lower()]) for match in ranges]


def _check_method(job):
    method = job["method"]
    if not 0 <= job["mag_ratio"] <= 1:
        raise UserError(f"mag_ratio={job['mag_ratio']}: must be 0 (no picture) to 1 (down to black)")
    if method == "imprint":
        _check_without(job, "init_image", "init_audio")
        if len(term_names(job)) > len(TERMS):
            raise UserError(f"method='imprint' is made of image and audio alone: take {term_names(job)[-1]} away")
    if not 0 < job["learning_rate"] < math.inf:
        raise UserError(f"learning_rate={job['learning_rate']}: must be above 0, and finite")
    if method == "sds":
        _check_without(job, "init_image", "init_audio", "wrap", "cutoff_latent")
        if job["cache_interval"] > 1:
            raise UserError("cache_interval: method='sds' asks of another noise level at each iteration; set it to 1")
        if job["noise"] == "torch":
            raise UserError("noise='torch': method='sds' draws more than the initial noise; set it to 'jax'")


def _check_without(job, *names):
    for name in names:
        if job[name]:
            raise UserError(f"{name}={job[name]!r}: method={job['method']!r} has no use for it; leave it out")


def _check_steps(job):
    """Some term must take part at every step."""
    if job["method"] == "imprint":
        return
    weights = {term: term_weight(job, term) for term in term_names(job)}
    if sum(weights.values()) == 0:
        raise UserError(f"the weights sum to zero: set one of {', '.join(f'{t}.weight' for t in weights)} above 0")
    taking_part = [active_steps(job, term) for term, weight in weights.items() if weight > 0]
    # The first step without any is the first of all, or one at which some term has stopped.
    for k in sorted({first_step(job), *(span.stop for span in taking_part)}):
        if first_step(job) <= k < job["num_steps"] and not any(k in span for span in taking_part):
            spans = ", ".join(f"{term} at {_span(job[term])}" for term in weights)
            raise UserError(
                f"no model takes part at step {k} of {job['num_steps']}: one with a weight above 0 must ({spans})"
            )


def _span(term):
    return f"{term['start_step']}" if term["stop_step"] < 0 else f"{term['start_step']} to {term['stop_step'] - 1}"


def check_text(name: str, text: str) -> None:
    """Raises `UserError` for what is no text: a shell hands over bytes that are no UTF-8 as halves of surrogate pairs,
    which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{name}={ascii(text)}: is not valid text; give it in UTF-8") from error
