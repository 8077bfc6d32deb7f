"""Scorers by name."""

import importlib
import logging
import math
from collections.abc import Iterable, Sequence

from its_jax.errors import UserError
from its_jax.scoring.item import Item, Scorer
from its_jax.settings.ids import sample_id

BUILTIN = ("clip", "clap")
EMBEDDED = "tiny/"  # what the names of models that come with the package begin with


def all_tiny(image_models: Iterable[str]) -> bool:
    """Returns whether all of the image models come with the package."""
    return all(model.startswith(EMBEDDED) for model in image_models)


def resolve_names(names: str, image_models: Iterable[str]) -> str:
    """Returns the names of scorers, where `clip` and `clap` alone become those that come with the package if all of the
    samples' image models do, too."""
    if not all_tiny(image_models):
        return names
    parts = [name.strip() for name in names.split(",")]
    return ",".join(f"{name}@{EMBEDDED}{name}" if name in BUILTIN else name for name in parts)


def builtin_columns(names: str) -> list[str]:
    """Of the scorers, those of `its_jax.scoring.clip_clap`, whose columns have their names."""
    return [own for own in BUILTIN if any(own == name.strip().partition("@")[0] for name in names.split(","))]


def check(names: str) -> None:
    """What `load` does, but for the models of `its_jax.scoring.clip_clap`. UserError: as `load`."""
    load_scorers(",".join(name for name in names.split(",") if not builtin_columns(name)))


def load_scorers(names: str) -> list[Scorer]:
    """'clip, clap@MODEL, package.module:scorer, ...' -> the scorers.

    Raises:
      UserError: there is none of that name, or its model cannot be had.
    """
    return [_load(name.strip()) for name in names.split(",") if name.strip()]


def score_item(scorers: Sequence[Scorer], item: Item) -> dict[str, dict[str, float]]:
    """What a record tells of the scores of one item: nothing, without a scorer. What is no finite number is told of,
    and left out.

    Raises:
      UserError: a scorer fails.
    """
    found = {column: values[0] for scorer in scorers for column, values in _columns(scorer, item).items()}
    found = {column: float(value) for column, value in found.items() if value is not None}
    for column in [column for column, value in found.items() if not math.isfinite(value)]:
        logging.warning(
            "%s: its score %s is %s, and is left out: scorers must give finite numbers",
            sample_id(item.settings), column, found.pop(column),
        )  # fmt: skip
    return {"scores": found} if scorers else {}


def _columns(scorer, item):
    try:
        return scorer([item])
    except UserError:
        raise
    except Exception as error:  # it is the user's program
        raise UserError(
            f"the scorer {scorer.__module__}:{getattr(scorer, '__name__', type(scorer).__name__)} fails: {error!r}"
        ) from error


def _load(name):
    own, at, source = name.partition("@")
    if own in BUILTIN:
        from its_jax.scoring import clip_clap  # needs JAX, as this module does not

        scorer = {"clip": clip_clap.ClipScorer, "clap": clip_clap.ClapScorer}[own]
        return scorer(source) if at else scorer()
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"scorers={name!r}: must be {', '.join(BUILTIN)} or 'package.module:function' ({error})"
        ) from error
