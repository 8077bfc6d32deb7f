"""Which of two does better, by people who look and listen: a page of pairs, and win rates from their answers.

A pair is two samples of the same prompts from different work folders, or of different values of a setting such as
`method`. FOLDER/index.html shows them in an order drawn by chance and does not tell which is whose; FOLDER/key.json
does, for `tally`.
"""

import itertools
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from its_jax.errors import UserError
from its_jax.media import images, sounds
from its_jax.scoring import metrics
from its_jax.settings.schema import TERMS
from its_jax.storage import files, samples
from its_jax.storage.files import read_json, write_json
from its_jax.versus import page

PAGE, KEY, ANSWERS = "index.html", "key.json", "answers-*.json"
# As the people of the paper's study were asked: of the picture, of the sound, and of both together.
QUESTIONS = {
    "picture": "Which one looks more like {image}?",
    "sound": "Which one sounds more like {audio}?",
    "both": "Which one is better as a picture that can be heard?",
}


def write(workdirs: Sequence[str], out: Path, *, pairs: int, seed: int, by: str = "") -> Path:
    """Writes the page, its key, and copies of what it shows under names that tell nothing.

    Args:
      pairs: for each two of what is compared; the samples are drawn by `seed`.
      by: a setting whose values are compared, such as `method`, in place of the folders.

    Raises:
      UserError: folders without samples of the same prompts, or that can be read; or `out` holds another page.
    """
    if len(set(map(Path, workdirs))) < max(len(workdirs), 1 if by else 2):
        raise UserError("give --workdir twice or more, each time another folder; or once with --by, as --by=method")
    if (out / KEY).exists():
        raise UserError(f"{out}: holds a page already, whose answers would not fit another one; choose a new folder")
    sides = _sides(workdirs, by)
    drawn = random.Random(seed)
    chosen = [pair for two in itertools.combinations(sides.items(), 2) for pair in _pairs(*two, pairs, drawn)]
    drawn.shuffle(chosen)
    shown: list[dict[str, Any]] = []
    key: list[list[dict[str, str]]] = []
    for pair in chosen:
        try:
            content = [(sample.picture(), sample.waveform()) for _, sample in pair]
        except UserError as error:
            logging.warning("a pair is left out: %s", error)
            continue
        places = [out / "media" / f"{len(key):04d}{letter}" for letter in "ab"]
        names = [_copy(*of_sample, place) for of_sample, place in zip(content, places, strict=True)]
        shown.append({"questions": _questions(pair[0][1]), "sides": names})
        key.append([{"of": name, "id": sample.id} for name, sample in pair])
    if not key:
        raise UserError(f"{out}: no page is written, as there is no pair of samples that can both be read")
    name = page.name(key)
    write_json(out / KEY, {"page": name, "sides": list(sides), "pairs": key})
    files.write(out / PAGE, page.html(shown, name).encode())
    return out / PAGE


def _sides(workdirs, by):
    """Name of a side -> prompts -> samples. UserError: there are less than two sides."""
    found: dict[str, dict[tuple[str, ...], list[samples.Sample]]] = {}
    for workdir in workdirs:
        made = samples.open_samples(workdir).values()
        if not made:
            raise UserError(f"{workdir}: there is no finished sample in it")
        for sample in made:
            name = f"{workdir}: {by}={samples.get_setting(sample.record, by)}" if by else workdir
            found.setdefault(name, {}).setdefault(_prompts(sample), []).append(sample)
    if len(found) < 2:
        raise UserError(f"--by={by}: all samples have one value; there is nothing to compare")
    return found


def _pairs(a, b, count, drawn):
    """`count` times two samples of the same prompts, in an order drawn by chance."""
    (name_a, of_a), (name_b, of_b) = a, b
    common = sorted(of_a.keys() & of_b.keys())
    if not common:
        raise UserError(f"{name_a} and {name_b} have no prompts in common: there is nothing to compare")
    if count > len(common):
        logging.warning(
            "%s and %s have %d prompts in common: some are asked more than once", name_a, name_b, len(common)
        )
    order = [prompts for _ in range(-(-count // len(common))) for prompts in drawn.sample(common, len(common))]
    for prompts in order[:count]:
        two = [(name_a, drawn.choice(of_a[prompts])), (name_b, drawn.choice(of_b[prompts]))]
        drawn.shuffle(two)
        yield two


def _prompts(sample):
    return tuple(sample.record[term]["prompt"] for term in TERMS)


def _questions(sample):
    words = dict(zip(TERMS, map("“{}”".format, _prompts(sample)), strict=True))
    return {name: question.format(**words) for name, question in QUESTIONS.items()}


def _copy(picture, sound, base):
    """Writes picture and sound without what a sample's files tell of it; returns names relative to the page."""
    with files.explain_os_errors(base.parent):
        base.parent.mkdir(parents=True, exist_ok=True)
    images.write_png(base.with_suffix(".png"), picture, {})
    sounds.write_wav(base.with_suffix(".wav"), *sound, {})
    return {"picture": f"media/{base.name}.png", "sound": f"media/{base.name}.wav"}


def tally(folder: Path) -> list[dict[str, Any]]:
    """The answers in a folder's answers-*.json, by pair of sides and question; of what one browser saved the last file
    counts.

    Returns:
      for each: `a` and `b`, `question`, answers `n`, how often `a` won, as a share, and the share's 95 % interval
      (Wilson).

    Raises:
      UserError: the folder holds no page of ours, no answers, or answers to another page.
    """
    key = read_json(folder / KEY)
    if not {"page", "sides", "pairs"} <= key.keys():
        raise UserError(f"{folder / KEY}: is not the key to a page of ours")
    found = sorted(folder.glob(ANSWERS))
    if not found:
        raise UserError(f"{folder}: there are no {ANSWERS} in it; put there what the page has saved")
    told = {}
    for file in found:
        answers, who = _answers(file, key)
        told[who] = answers
    votes: dict[tuple[str, str, str], list[bool]] = {}
    for answers in told.values():
        for answer in answers:
            sides = [side["of"] for side in key["pairs"][answer["pair"]]]
            a, b = sorted(sides, key=key["sides"].index)
            votes.setdefault((a, b, answer["question"]), []).append(sides[answer["chosen"]] == a)
    return [_rate(*what, won) for what, won in sorted(votes.items())]


def _rate(a, b, question, won):
    low, high = metrics.wilson(sum(won), len(won))
    return {"a": a, "b": b, "question": question, "n": len(won), "won": sum(won) / len(won), "interval": [low, high]}


def _answers(file: Path, key: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], str]:
    """And whose they are: the browser's, as the page has named it."""
    told = read_json(file)
    answers = told.get("answers")
    fit = isinstance(answers, list) and all(_fits(answer, key["pairs"]) for answer in answers)
    if not fit or told.get("page") != key["page"]:
        raise UserError(f"{file}: these are not the answers to this page")
    return answers, str(told.get("who", file))


def _fits(answer, pairs):
    return (
        isinstance(answer, dict)
        and answer.get("pair") in range(len(pairs))
        and answer.get("chosen") in (0, 1)
        and answer.get("question") in list(QUESTIONS)  # a list has no hash
    )


def rates_table(rates: Sequence[Mapping[str, Any]]) -> str:
    """A line for each."""
    return "\n".join(
        "{question:8} {a} wins over {b} in {share:.0%} ({low:.0%} to {high:.0%}) of {n}".format(
            **rate, share=rate["won"], low=rate["interval"][0], high=rate["interval"][1]
        )
        for rate in rates
    )
