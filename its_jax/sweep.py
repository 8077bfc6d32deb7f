"""A grid of settings -> samples: `python -m its_jax.sweep --config=configs/sweep.py --workdir=sweep`.

Axes are in the config's `grid`, or given as --axis=SETTING=VALUES; `its_jax.grid` says how they are written. The plan
is printed before anything is made (--plan stops there). The same command again, after whatever happened, makes only
what is missing, with the bits that an unbroken run gives; so it does after the grid has grown. Several processes can
share one work folder: each makes the share that --shard_index and --num_shards name, or the scheduler that started it.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from its_jax import cli, files, grid, jobs, locks, outlook, plan, scoring, shards, store
from its_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Settings, and a grid of them.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the samples, or gs://BUCKET/FOLDER.", required=True)
_AXIS = flags.DEFINE_multi_string("axis", [], "SETTING=VALUES: an axis of the grid; may be given several times.")
_PROMPTS = flags.DEFINE_string("prompts", None, "A .txt, .csv or .jsonl of settings that belong together.")
_LAYOUT = flags.DEFINE_enum("layout", None, store.LAYOUTS, "A folder for each sample, or tar files with an index.")
_SCORERS = flags.DEFINE_string("scorers", None, "'package.module:function, ...': scores for each record.")
_INDEX = flags.DEFINE_integer("shard_index", None, "Which share of the sweep this process makes, from 0 on.")
_COUNT = flags.DEFINE_integer("num_shards", None, "How many processes share the sweep.")
_PLAN = flags.DEFINE_bool("plan", False, "Prints the plan, and makes nothing.")
# Settings of a sweep, which a config may leave out.
_DEFAULTS = {"grid": {}, "prompts": "", "layout": "folders", "scorers": ""}


def main():
    if _CONFIG.value is None:
        raise UserError("give --config=FILE.py, such as configs/sweep.py")
    given = {"prompts": _PROMPTS.value, "layout": _LAYOUT.value, "scorers": _SCORERS.value}
    settings = _CONFIG.value.to_dict() | {name: value for name, value in given.items() if value is not None}
    share = shards.here(_INDEX.value, _COUNT.value)
    run(settings, files.folder(_WORKDIR.value), axes=_AXIS.value, share=share, plan_only=_PLAN.value)


def run(
    settings: Mapping[str, Any],
    workdir: Path,
    *,
    axes: list[str] = (),
    share: tuple[int, int] | None = None,
    plan_only: bool = False,
) -> None:
    """Makes what is missing of a sweep.

    Args:
      settings: of samples and their run, and `grid`, `prompts`, `layout` and `scorers`. axes: as the flag --axis.
      share: index and count of this process's share; None: of JAX's processes.

    Raises:
      UserError: settings that are wrong; samples that could not be made (named; all others are there).
      DiskFull: what is complete is there, and the same call goes on.
    """
    asked = _DEFAULTS | {name: value for name, value in settings.items() if name in _DEFAULTS}
    settings = {name: value for name, value in settings.items() if name not in _DEFAULTS}
    _, how = jobs.read(settings)
    scorers = scoring.load(asked["scorers"])
    todo = grid.read(settings, asked["grid"], asked["prompts"], axes)
    groups = plan.groups(todo)
    kept = store.open_store(asked["layout"], workdir)
    done = kept.finished() & todo.keys()
    outlook.tell(workdir, groups, done, how, kept)
    if plan_only or len(done) == len(todo):
        return
    share = share or shards.of_jax()
    writer = "shard-{}-of-{}".format(*share)
    with locks.held(workdir, writer):
        _sweep_up(asked["layout"], workdir)
        from its_jax import groups as makers  # slow, as JAX is: what is wrong with the settings is said before

        kept = store.open_store(asked["layout"], workdir, writer)
        makers.make(groups, workdir, kept, done, how=how, share=share, scorers=scorers)


def _sweep_up(layout, workdir):
    """What was left by writers that are no more."""
    for writer in store.writers(layout, workdir):
        with contextlib.suppress(locks.Locked), locks.held(workdir, writer):
            store.open_store(layout, workdir, writer).clean()


if __name__ == "__main__":
    cli.start(main)
