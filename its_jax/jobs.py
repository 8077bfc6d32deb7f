"""Settings -> jobs: one dictionary of plain values for each sample, with a stable id. No jax.

A job's settings hold everything that decides what the sample looks and sounds like, and nothing else: not how
many are made at once, not whether a video is written. Settings that are groups are the terms, by name: `image` and
`audio`, and any that a config adds.
"""

import difflib
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from its_jax.errors import UserError
from its_jax.fields import check_choice

TERMS = ("image", "audio")  # every job has these; `audio` gives the sound, all others pictures
DTYPES = ("float32", "bfloat16", "float16")
VOCODERS = ("hifigan", "griffin_lim")
NOISES = ("jax", "torch")
SOLVERS = ("ddim", "euler", "dpmpp_2m")  # as `its_jax.denoise` has them
METHODS = (
    "fused",
    "image_only",
    "audio_only",
    "alternating",
    "imprint",
    "sds",
)  # the paper's, and what it is compared with
RECORD = "sample.json"  # written last: a job is done when its record is there
VIDEO = "video.mp4"

# Settings and their types. Those of a job decide what its sample is; those of a run, only how it is made.
_TERM: dict[str, type] = {"model": str, "prompt": str, "negative_prompt": str, "view": str}
_TERM |= {"guidance_scale": float, "guidance_start_step": int, "guidance_stop_step": int}
_TERM |= {"start_step": int, "stop_step": int, "weight": float}
_JOB: dict[str, type] = {"seed": int, "noise": str, "num_steps": int, "solver": str, "cache_interval": int}
_JOB |= {"height": int, "width": int, "dtype": str}
_JOB |= {"window": int, "wrap": bool, "init_image": str, "init_audio": str, "strength": float, "keep": str}
_JOB |= {"crop_image": bool, "cutoff_latent": bool, "vocoder": str}
# Settings of methods, which a config may leave out. At these values they are not in an id, nor in what jobs must share,
# so that both are what they were before there were methods.
_METHOD: dict[str, Any] = {"method": "fused", "inverse_image": True, "mag_ratio": 0.5, "learning_rate": 1e-4}
_TERM_METHOD: dict[str, Any] = {"turn": 1, "num_steps": 0}
_JOB |= {name: type(value) for name, value in _METHOD.items()}
_TERM |= {name: type(value) for name, value in _TERM_METHOD.items()}
_SOLE = {"image_only": "image", "audio_only": "audio"}
_ONE_PROGRAM = ("fused", *_SOLE, "alternating")  # these differ in weights alone
_TRACED = ("num_steps", "solver", "strength", "cache_interval", "noise")  # no part of a program, but of a batch
_ALONE = ("seed", "crop_image")  # of one sample in a batch
_RUN = {"num_samples": int, "batch_size": int, "devices_per_sample": int, "video": bool}
# What a record tells of the run, and what older ones leave out.
_MADE = {"batch_size": int, "position": int, "devices_per_sample": int, "video": bool}
_MADE_BEFORE = {"devices_per_sample": 1}
# Settings that older records leave out.
_JOB_BEFORE = {"cache_interval": 1} | _METHOD
_TERM_BEFORE = {"guidance_start_step": 0, "guidance_stop_step": -1} | _TERM_METHOD
_GROUPS = ("run", "models", "versions", "scores", "seconds")  # of a record, beside the terms
_PLAIN = (str, int, float)  # asked for first: that something is a Mapping takes Python long to find out
_TERM_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
# By files of a sample, by what its record tells, and by models that score it.
_TAKEN = ("spectrogram", "video", "sample", "id", *_GROUPS, "clip", "clap")
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_RANGE = re.compile(rf"\s*{_NUMBER}\s*-\s*{_NUMBER}\s*(s|hz)\s*", re.IGNORECASE)
_MAX_SEED = 2**32 - 1


def read(settings: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Everything that a config says -> its jobs, and the settings of the run.

    Raises:
      UserError: a name that is unknown or missing, a value of a wrong type, or one that no sample can have.
    """
    check_names(settings, {*_JOB, *_RUN, *terms(settings), *TERMS})
    run = typed(settings, _RUN)
    jobs = expand(settings, run["num_samples"])
    for term in terms(settings):
        check_names(settings[term], _TERM, f"{term}.")
    if run["batch_size"] < 0:
        raise UserError(f"batch_size={run['batch_size']}: must be 0 (chosen from the memory) or more")
    return jobs, run


def kinds(settings: Mapping[str, Any]) -> dict[str, type]:
    """The type of each setting of a sample, by its full name: `seed`, `image.prompt`, ..."""
    return _JOB | {f"{term}.{key}": kind for term in terms(settings) for key, kind in _TERM.items()}


def unknown(name: str, known: Collection[str], prefix: str = "") -> str:
    """What to tell of a setting that is not among those that are known."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {prefix}{close[0]}?" if close else f"known are {', '.join(sorted(known))}"
    return f"there is no setting {prefix}{name}; {hint}"


def terms(settings: Mapping[str, Any]) -> list[str]:
    """The names of the terms: `image`, `audio`, then all others in alphabetical order."""
    groups = [name for name, value in settings.items() if not isinstance(value, _PLAIN) and isinstance(value, Mapping)]
    return [*TERMS, *sorted(name for name in groups if name not in TERMS)]


def prompts(job: Mapping[str, Any], term: str) -> list[str]:
    """Negative and positive prompt of a term; at guidance scale 1 the negative one is of no effect, and left out."""
    keys = ("prompt",) if job[term]["guidance_scale"] == 1 else ("negative_prompt", "prompt")
    return [job[term][key] for key in keys]


def pictures(job: Mapping[str, Any]) -> list[str]:
    """The terms whose picture is written: `image`, and for each view that is not seen yet the first other one."""
    by_view: dict[str, str] = {}
    for term in terms(job):
        if term != "audio":
            by_view.setdefault(job[term]["view"], term)
    return list(by_view.values())


def first_step(job: Mapping[str, Any]) -> int:
    """The step at which denoising begins: the first, or what `strength` leaves out."""
    return job["num_steps"] - round(job["num_steps"] * job["strength"])


def alone(job: Mapping[str, Any], term: str) -> Mapping[str, Any]:
    """The job in which `image` or `audio` alone takes part, at its own number of steps: what an imprint is made of."""
    own = job[term]["num_steps"] or job["num_steps"]
    return {**job, "method": f"{term}_only", "num_steps": own}


def runs(job: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The jobs that are denoised for this one: itself, those that an imprint is made of, or (`sds`) none."""
    if job["method"] == "imprint":
        return [alone(job, term) for term in TERMS]
    return [] if job["method"] == "sds" else [job]


def work(job: Mapping[str, Any]) -> int:
    """How many steps, or iterations, are made."""
    if job["method"] == "sds":
        return job["num_steps"]
    return sum(run["num_steps"] - first_step(run) for run in runs(job))


def voices(job: Mapping[str, Any]) -> list[str]:
    """The terms that the job's method asks."""
    return [_SOLE[job["method"]]] if job["method"] in _SOLE else terms(job)


def steps(job: Mapping[str, Any], term: str) -> range:
    """The steps at which a term takes part, or may have its turn; none is an empty range."""
    if job["method"] == "imprint":
        job = alone(job, term)
    if job["method"] in _SOLE:
        return _steps(job, 0, -1) if term in voices(job) else range(0)
    return _steps(job, job[term]["start_step"], job[term]["stop_step"])


def weight(job: Mapping[str, Any], term: str) -> float:
    """That of a term at these steps."""
    return 1.0 if job["method"] in (*_SOLE, "imprint") else job[term]["weight"]


def takes_part(job: Mapping[str, Any], term: str) -> bool:
    """Whether a term has a say at any step."""
    return weight(job, term) > 0 and len(steps(job, term)) > 0


def guided_steps(job: Mapping[str, Any], term: str) -> range:
    """The steps at which a term that takes part is pushed away from its negative prompt."""
    if job[term]["guidance_scale"] == 1:
        return range(0)
    if job["method"] == "imprint":
        job = alone(job, term)
    return _steps(job, job[term]["guidance_start_step"], job[term]["guidance_stop_step"])


def always_guided(job: Mapping[str, Any], term: str) -> bool:
    """Whether a term is guided at all of its steps (or, at guidance scale 1, at none)."""
    if job[term]["guidance_scale"] == 1:
        return True
    part, guided = steps(job, term), guided_steps(job, term)
    return not part or (guided.start <= part.start and part.stop <= guided.stop)


def program(job: Mapping[str, Any]) -> dict[str, Any]:
    """What jobs must share to share compiled programs, and what they start from."""
    of_terms = {
        term: (job[term]["model"], job[term]["view"], len(prompts(job, term)), always_guided(job, term))
        for term in terms(job)
    }
    own = {key: job[key] for key in (*_JOB, "init_sha256") if key not in (*_TRACED, *_ALONE, *_METHOD)}
    of_method = {} if job["method"] in _ONE_PROGRAM else {"method": job["method"]}
    return own | of_terms | {"cached": job["cache_interval"] > 1} | of_method


def shared(job: Mapping[str, Any]) -> dict[str, Any]:
    """What jobs must share to share a batch: `program`, a solver table and the source of their noise; and, where layers
    serve several steps, at which steps each term takes part and is guided, for from these it follows when they do. Of
    methods, what says which terms are evaluated at a step, so that no term is for other samples' sake."""
    own = {key: job[key] for key in (*_TRACED, "method")}
    own["runs"] = tuple(run["num_steps"] for run in runs(job))
    if job["method"] == "alternating":
        own["turns"] = tuple((job[term]["turn"], weight(job, term) > 0, steps(job, term)) for term in terms(job))
    if job["cache_interval"] > 1:
        own |= {
            f"{term}.steps": (weight(job, term) > 0, steps(job, term), guided_steps(job, term)) for term in terms(job)
        }
    return program(job) | own


def _steps(job, start, stop):
    return range(max(start, first_step(job)), job["num_steps"] if stop < 0 else min(stop, job["num_steps"]))


def expand(settings: Mapping[str, Any], num_samples: int) -> list[dict[str, Any]]:
    """The jobs of seeds seed, seed + 1, ...; checked. Settings that are not a job's are left out.

    Raises:
      UserError: a setting is missing, of a wrong type, or one that no sample can have.
    """
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples}: must be 1 or more")
    job = typed({**_METHOD, **settings}, _JOB)
    for term in terms(settings):
        if not isinstance(settings.get(term), Mapping):
            raise UserError(f"the settings of {term!r} are missing: {', '.join(_TERM)}")
        job[term] = typed(_TERM_METHOD | settings[term], _TERM, f"{term}.")
    job["init_sha256"] = _digest(job)
    check(job)
    check_seed(job["seed"] + num_samples - 1)
    return [job | {"seed": job["seed"] + i} for i in range(num_samples)]


def _digest(job):
    """Of the file that the sample starts from: another content is another sample."""
    path = job["init_image"] or job["init_audio"]
    if not path:
        return ""
    try:
        with open(Path(path).expanduser(), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, RuntimeError) as error:  # RuntimeError: ~ of a user who is not there
        name = "init_image" if job["init_image"] else "init_audio"
        raise _Gone(f"{name}={path}: cannot be read ({getattr(error, 'strerror', error)})") from error


class _Gone(UserError):
    """The file to start from cannot be read."""


def check_names(settings: Collection[str], known: Collection[str], prefix: str = "") -> None:
    """Raises `UserError` for a setting that is not among those that are known; `prefix` stands before its name."""
    for name in settings:
        if name not in known:
            raise UserError(unknown(name, known, prefix))


def typed(settings: Mapping[str, Any], types: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings that `types` names; 10 and 10.0 are one guidance scale, and make one id.

    Raises:
      UserError: one is missing, or of another type; `prefix` stands before its name.
    """
    found: dict[str, Any] = {}
    for name, kind in types.items():
        if name not in settings:
            raise UserError(f"the setting {prefix}{name} is missing")
        value = settings[name]
        if not (type(value) is kind or (kind is float and type(value) is int)):
            raise UserError(f"{prefix}{name}={value!r}: must be of type {kind.__name__}")
        found[name] = kind(value)
    return found


def check(job: Mapping[str, Any]) -> None:
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
    for term in terms(job):
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
    views = {term: job[term]["view"] for term in terms(job)}
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
    kept_ranges(job["keep"])


def kept_ranges(keep: str) -> list[tuple[float, float, str]]:
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
        if len(terms(job)) > len(TERMS):
            raise UserError(f"method='imprint' is made of image and audio alone: take {terms(job)[-1]} away")
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
    weights = {term: weight(job, term) for term in terms(job)}
    if sum(weights.values()) == 0:
        raise UserError(f"the weights sum to zero: set one of {', '.join(f'{t}.weight' for t in weights)} above 0")
    taking_part = [steps(job, term) for term, weight in weights.items() if weight > 0]
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


def job_id(job: Mapping[str, Any]) -> str:
    """Words of the prompts and the seed for people, and 10 hexadecimal digits over all settings.

    Safe as a file name on any system; equal settings give equal ids.
    """
    return job_ids(job, [job["seed"]])[0]


def job_ids(job: Mapping[str, Any], seeds: Sequence[int]) -> list[str]:
    """Those of jobs that differ in their seed alone."""
    # What a file holds counts, by `init_sha256`, not where it lies.
    placeless = _told(job) | {key: "file" for key in ("init_image", "init_audio") if job[key]} | {"seed": 0}
    # Quotes in a prompt are escaped, so that no prompt holds this.
    before, _, after = json.dumps(placeless, sort_keys=True).partition('"seed": 0')
    words = [word for term in TERMS if (word := _slug(job[term]["prompt"]))]
    digests = (hashlib.sha256(f'{before}"seed": {seed}{after}'.encode()).hexdigest()[:10] for seed in seeds)
    return ["_".join([*words, str(seed), digest]) for seed, digest in zip(seeds, digests, strict=True)]


def _told(job):
    """Without the settings of methods that are as they were before there were any."""
    told = _without(job, _METHOD)
    return told | {term: _without(told[term], _TERM_METHOD) for term in terms(told)}


def _without(settings, usual):
    return {name: value for name, value in settings.items() if name not in usual or value != usual[name]}


def _slug(text, length=28):
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")[:length].strip("-")


def unfinished(
    jobs: Sequence[Mapping[str, Any]], workdir: Path, files: Sequence[str] = (RECORD,)
) -> list[Mapping[str, Any]]:
    """The distinct jobs of which one of `files` is not in the work folder."""
    by_id = {job_id(job): job for job in jobs}
    return [job for i, job in by_id.items() if not all((workdir / i / name).exists() for name in files)]


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record's settings alone, as they are, and those that older records leave out."""
    settings = {name: value for name, value in record.items() if name not in (*_GROUPS, "id")}
    groups = {name: value for name, value in settings.items() if isinstance(value, Mapping)}
    return _JOB_BEFORE | settings | {term: {**_TERM_BEFORE, **group} for term, group in groups.items()}


def from_record(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The job in a sample's record, and what it tells of its run: `batch_size`, `position` and others.

    Raises:
      UserError: it is not the record of a sample of ours.
    """
    try:
        for name in ("run", "models", "versions"):
            if not isinstance(record.get(name), Mapping):
                raise UserError(f"the setting {name} is missing")
        (job,) = expand(settings_of(record), 1)
        made = typed(_MADE_BEFORE | record["run"], _MADE, "run.")
    except _Gone as error:
        raise UserError(f"{error}; this sample started from it: put it back there") from error
    except UserError as error:
        raise UserError(f"these are not the settings of a sample of ours: {error}") from error
    if job["init_sha256"] != record.get("init_sha256"):
        path = job["init_image"] or job["init_audio"]
        raise UserError(f"{path}: is not any more the file that this sample started from")
    if not 0 <= made["position"] < made["batch_size"]:
        raise UserError(f"run.position={made['position']}: must be 0 to {made['batch_size'] - 1}, within the batch")
    return job, made
