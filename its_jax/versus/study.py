"""A blind comparison by people who look and listen: a page of pairs, and win rates from their answers.

A pair is two samples of the same prompts from different work folders, or with different values of a setting such as
`method`. FOLDER/index.html shows them in random order and does not say which is which. FOLDER/key.json says it, and
`tally` reads it.
"""

import itertools
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from its_jax.errors import UserError
from its_jax.media import images, sounds
from its_jax.scoring import metrics
from its_jax.settings.schema import TERMS
from its_jax.storage import files, samples
from its_jax.storage.files import read_json, write_json
from its_jax.storage.samples import Sample
from its_jax.versus import page

PAGE, KEY, ANSWERS = "index.html", "key.json", "answers-*.json"
# The questions of the paper's study: about the image, about the sound, and about both.
QUESTIONS = {
    "picture": "Which one looks more like {image}?",
    "sound": "Which one sounds more like {audio}?",
    "both": "Which one is better as a picture that can be heard?",
}

Side = dict[tuple[str, ...], list[Sample]]  # prompts -> samples
Pair = list[tuple[str, Sample]]  # the name of the side and its sample, twice


def write(workdirs: Sequence[str], out: Path, *, pairs: int, seed: int, by: str = "") -> Path:
    """Writes the page, its key, and anonymous copies of the files that it shows. Returns the path of the page.

    Args:
      pairs: the number for each two sides. seed: of the random choice and order of samples.
      by: a setting whose values are the sides, such as `method`, instead of the folders.

    Raises:
      UserError: there are fewer than two sides, they share no prompts, their samples cannot be read, or `out` holds
        another page.
    """
    if len(set(map(Path, workdirs))) < max(len(workdirs), 1 if by else 2):
        raise UserError("give --workdir twice or more, each time another folder; or once with --by, as --by=method")
    if (out / KEY).exists():
        raise UserError(f"{out}: holds a page already, whose answers would not fit another one; choose a new folder")
    sides = _sides(workdirs, by)
    rng = random.Random(seed)
    chosen = [pair for a, b in itertools.combinations(sides.items(), 2) for pair in _choose_pairs(a, b, pairs, rng)]
    rng.shuffle(chosen)
    shown: list[dict[str, Any]] = []
    key: list[list[dict[str, str]]] = []
    for pair in chosen:
        try:
            contents = [(sample.read_image(), *sample.read_audio(), sample.gain_db) for _, sample in pair]
        except UserError as error:
            logging.warning("a pair is left out: %s", error)
            continue
        paths = [out / "media" / f"{len(key):04d}{letter}" for letter in "ab"]
        names = [_copy(path, *content) for path, content in zip(paths, contents, strict=True)]
        shown.append({"questions": _questions(pair[0][1]), "sides": names})
        key.append([{"of": name, "id": sample.id} for name, sample in pair])
    if not key:
        raise UserError(f"{out}: no page is written, as in each pair one of the samples cannot be read")
    page_id = page.page_id(key)
    write_json(out / KEY, {"page": page_id, "sides": list(sides), "pairs": key})
    files.write(out / PAGE, page.html(shown, page_id).encode())
    return out / PAGE


def _sides(workdirs: Sequence[str], by: str) -> dict[str, Side]:
    """Returns the samples of each side by its name. UserError: there are fewer than two sides."""
    sides: dict[str, Side] = {}
    for workdir in workdirs:
        found = samples.open_samples(workdir).values()
        if not found:
            raise UserError(f"{workdir}: has no finished samples yet")
        for sample in found:
            name = f"{workdir}: {by}={samples.get_setting(sample.record, by)}" if by else workdir
            sides.setdefault(name, {}).setdefault(_prompts(sample), []).append(sample)
    if len(sides) < 2:
        raise UserError(f"--by={by}: all samples have one value; there is nothing to compare")
    return sides


def _choose_pairs(a: tuple[str, Side], b: tuple[str, Side], count: int, rng: random.Random) -> Iterator[Pair]:
    """Yields `count` random pairs of samples of the same prompts, in random order."""
    (name_a, samples_a), (name_b, samples_b) = a, b
    common = sorted(samples_a.keys() & samples_b.keys())
    if not common:
        raise UserError(f"{name_a} and {name_b} have no prompts in common: there is nothing to compare")
    if count > len(common):
        logging.warning("%s and %s have %d prompts in common: some appear more than once", name_a, name_b, len(common))
    order = [prompts for _ in range(-(-count // len(common))) for prompts in rng.sample(common, len(common))]
    for prompts in order[:count]:
        pair = [(name_a, rng.choice(samples_a[prompts])), (name_b, rng.choice(samples_b[prompts]))]
        rng.shuffle(pair)
        yield pair


def _prompts(sample: Sample) -> tuple[str, ...]:
    return tuple(sample.record[term]["prompt"] for term in TERMS)


def _questions(sample: Sample) -> dict[str, str]:
    quoted = dict(zip(TERMS, map("“{}”".format, _prompts(sample)), strict=True))
    return {name: question.format(**quoted) for name, question in QUESTIONS.items()}


def _copy(path: Path, image: np.ndarray, waveform: np.ndarray, sampling_rate: int, gain_db: float) -> dict[str, str]:
    """Writes image and sound without the metadata of their sample, except for the gain of the sound.

    Returns:
      their names relative to the page.
    """
    with files.explain_os_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    images.write_png(path.with_suffix(".png"), image, {})
    sounds.write_wav(path.with_suffix(".wav"), waveform, sampling_rate, {"run": {"gain_db": gain_db}})
    return {"picture": f"media/{path.name}.png", "sound": f"media/{path.name}.wav"}


def tally(folder: Path) -> list[dict[str, Any]]:
    """Counts the answers in a folder's answers-*.json, by pair of sides and question.

    If one browser has saved several files, the last one counts.

    Returns:
      For each pair of sides and question: `a` and `b`, `question`, the number of answers `n`, the share `won` of
      answers for `a`, and its 95 % `interval` (Wilson).

    Raises:
      UserError: the folder holds no page, no answers, or answers to another page.
    """
    key = read_json(folder / KEY)
    if not {"page", "sides", "pairs"} <= key.keys():
        raise UserError(f"{folder / KEY}: is not the key to a page of ours")
    found = sorted(folder.glob(ANSWERS))
    if not found:
        raise UserError(f"{folder}: has no {ANSWERS}; put the files there that the page has saved")
    by_browser = {}
    for file in found:
        browser, answers = _read_answers(file, key)
        by_browser[browser] = answers
    votes: dict[tuple[str, str, str], list[bool]] = {}
    for answers in by_browser.values():
        for answer in answers:
            sides = [side["of"] for side in key["pairs"][answer["pair"]]]
            a, b = sorted(sides, key=key["sides"].index)
            votes.setdefault((a, b, answer["question"]), []).append(sides[answer["chosen"]] == a)
    return [_rate(*group, won) for group, won in sorted(votes.items())]


def _rate(a: str, b: str, question: str, won: Sequence[bool]) -> dict[str, Any]:
    low, high = metrics.wilson_interval(sum(won), len(won))
    return {"a": a, "b": b, "question": question, "n": len(won), "won": sum(won) / len(won), "interval": [low, high]}


def _read_answers(file: Path, key: Mapping[str, Any]) -> tuple[str, list[Mapping[str, Any]]]:
    """Returns the id of the browser that saved the answers, and the answers."""
    content = read_json(file)
    answers: Any = content.get("answers")
    valid = isinstance(answers, list) and all(_is_valid(answer, key["pairs"]) for answer in answers)
    if not valid or content.get("page") != key["page"]:
        raise UserError(f"{file}: these are not the answers to this page")
    return str(content.get("who", file)), answers


def _is_valid(answer: Any, pairs: Sequence[Any]) -> bool:
    return (
        isinstance(answer, dict)
        and answer.get("pair") in range(len(pairs))
        and answer.get("chosen") in (0, 1)
        and answer.get("question") in list(QUESTIONS)  # It may be unhashable.
    )


def rates_table(rates: Sequence[Mapping[str, Any]]) -> str:
    """Formats the result of `tally`, one line for each rate."""
    return "\n".join(
        "{question:8} {a} wins over {b} in {share:.0%} ({low:.0%} to {high:.0%}) of {n}".format(
            **rate, share=rate["won"], low=rate["interval"][0], high=rate["interval"][1]
        )
        for rate in rates
    )
