"""Scorers by name. A scorer is any callable that takes items and returns columns for their records:

    def loudness(items):
        return {"loudness": [float(np.abs(item.waveform).mean()) for item in items]}

In a config its name is its place, as in `scorers = "my_package.my_module:loudness"`. Several names are separated by
commas. The scorers of `its_jax.scoring.clip_clap` have the names `clip` and `clap`, which a model can follow:
`scorers = "clip,clap@FOLDER"`. Without one they use the paper's models, or, for samples of embedded models, the scoring
models that come with the package.
"""

import importlib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from its_jax.errors import UserError
from its_jax.scoring.item import Item, Scorer
from its_jax.settings.ids import sample_id
from its_jax.settings.schema import EMBEDDED

BUILTIN = ("clip", "clap")


def all_tiny(image_models: Iterable[str]) -> bool:
    """Returns whether all of the image models come with the package."""
    return all(model.startswith(EMBEDDED) for model in image_models)


def resolve_names(names: str, image_models: Iterable[str]) -> str:
    """Returns the names of scorers with the models of `clip` and `clap` filled in.

    If all of the samples' image models come with the package, so do those of the scorers. Otherwise they remain open,
    which selects the paper's.
    """
    if not all_tiny(image_models):
        return names
    parts = [name.strip() for name in names.split(",")]
    return ",".join(f"{name}@{EMBEDDED}{name}" if name in BUILTIN else name for name in parts)


def builtin_columns(names: str) -> list[str]:
    """Returns which of `clip` and `clap` are among the names of scorers. Their columns have the same names."""
    return [own for own in BUILTIN if any(own == name.strip().partition("@")[0] for name in names.split(","))]


def check_scorers(names: str) -> None:
    """Checks the names of scorers without loading the models of `clip` and `clap`. UserError: as `load_scorers`."""
    load_scorers(",".join(name for name in names.split(",") if not builtin_columns(name)))


def load_scorers(names: str) -> list[Scorer]:
    """Loads the scorers 'clip, clap@MODEL, package.module:scorer, ...'.

    Raises:
      UserError: a scorer of that name does not exist, or its model is not available.
    """
    return [_load(name.strip()) for name in names.split(",") if name.strip()]


def _load(name: str) -> Scorer:
    builtin, at, source = name.partition("@")
    if builtin in BUILTIN:
        from its_jax.scoring.clip_clap import ClapScorer, ClipScorer  # They need JAX, unlike this module.

        scorer: Any = {"clip": ClipScorer, "clap": ClapScorer}[builtin]
        return scorer(source) if at else scorer()
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"scorers={name!r}: must be {', '.join(BUILTIN)} or 'package.module:function' ({error})"
        ) from error


def score_item(scorers: Sequence[Scorer], item: Item) -> dict[str, dict[str, float]]:
    """Returns the scores of one item as a record holds them: under `scores`, or nothing without scorers.

    It warns of scores that are not finite and omits them.

    Raises:
      UserError: a scorer fails.
    """
    columns = {column: values[0] for scorer in scorers for column, values in _call(scorer, item).items()}
    scores = {column: float(value) for column, value in columns.items() if value is not None}
    for column in [column for column, value in scores.items() if not math.isfinite(value)]:
        logging.warning(
            "%s: its score %s is %s, and is left out: scorers must return finite numbers",
            sample_id(item.settings), column, scores.pop(column),
        )  # fmt: skip
    return {"scores": scores} if scorers else {}


def _call(scorer: Scorer, item: Item) -> Mapping[str, Sequence[float | None]]:
    try:
        return scorer([item])
    except UserError:
        raise
    except Exception as error:  # A user's function may fail in any way.
        name = getattr(scorer, "__name__", type(scorer).__name__)
        raise UserError(f"the scorer {scorer.__module__}:{name} fails: {error!r}") from error
