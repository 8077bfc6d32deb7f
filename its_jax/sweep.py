"""A grid of settings -> samples: `python -m its_jax.sweep --config=configs/sweep.py --workdir=sweep`.

Axes are in the config's `grid`, or given as --axis=SETTING=VALUES; `its_jax.grid` says how they are written. The plan
is printed before anything is made (--plan stops there). The same command again, after whatever happened, makes only
what is missing, with the bits that an unbroken run gives; so it does after the grid has grown. Several processes can
share one work folder: each makes the share that --shard_index and --num_shards name, or the scheduler that started it.
With --engine=ray the actors of a Ray cluster do.
"""

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from its_jax import cli, files, gallery, grid, jobs, locks, outlook, plan, shards, store
from its_jax.errors import DiskFull, UserError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Settings, and a grid of them.", lock_config=True, allow_override=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for the samples, or gs://BUCKET/FOLDER.", required=True, allow_override=True
)
_AXIS = flags.DEFINE_multi_string("axis", [], "SETTING=VALUES: an axis of the grid; may be given several times.")
_PROMPTS = flags.DEFINE_string("prompts", None, "A .txt, .csv or .jsonl of settings that belong together.")
_LAYOUT = flags.DEFINE_enum("layout", None, store.LAYOUTS, "A folder for each sample, or tar files with an index.")
_SCORERS = flags.DEFINE_string("scorers", None, "'package.module:function, ...': scores for each record.")
_INDEX = flags.DEFINE_integer("shard_index", None, "Which share of the sweep this process makes, from 0 on.")
_COUNT = flags.DEFINE_integer("num_shards", None, "How many processes share the sweep.")
_PLAN = flags.DEFINE_bool("plan", False, "Prints the plan, and makes nothing.")
_ENGINE = flags.DEFINE_enum("engine", "here", ["here", "ray"], "Who makes it: this process, or actors of Ray.")
_ADDRESS = flags.DEFINE_string("ray_address", "local", "A Ray cluster ('auto' finds the one that this is part of).")
_RESOURCES = flags.DEFINE_string(
    "ray_resources", "", "What an actor takes, as TPU=4 or GPU=1,CPU=2; else one of these."
)
# Settings of a sweep, which a config may leave out.
_DEFAULTS = {"grid": {}, "prompts": "", "layout": "folders", "scorers": ""}


def main():
    if _CONFIG.value is None:
        raise UserError("give --config=FILE.py, such as configs/sweep.py")
    given = {"prompts": _PROMPTS.value, "layout": _LAYOUT.value, "scorers": _SCORERS.value}
    settings = _CONFIG.value.to_dict() | {name: value for name, value in given.items() if value is not None}
    by_ray = _ENGINE.value == "ray"
    share = shards.here(_INDEX.value, _COUNT.value, {} if by_ray else os.environ)
    how = {"axes": _AXIS.value, "plan_only": _PLAN.value, "share": share}
    if by_ray:
        how["ray"] = {"address": _ADDRESS.value, "resources": _resources(_RESOURCES.value)}
    run(settings, files.folder(_WORKDIR.value), **how)


def run(
    settings: Mapping[str, Any],
    workdir: Path,
    *,
    axes: Sequence[str] = (),
    share: tuple[int, int] | None = None,
    plan_only: bool = False,
    ray: Mapping[str, Any] | None = None,
) -> None:
    """Makes what is missing of a sweep.

    Args:
      settings: of samples and their run, and `grid`, `prompts`, `layout` and `scorers`. axes: as the flag --axis.
      share: index and count of this process's share; None: of JAX's processes.
      ray: `address` and `resources` of `its_jax.fleet.make`, if that is to make it.

    Raises:
      UserError: settings that are wrong; programs or samples that could not be made (named; all others are there).
      DiskFull: what is complete is there, and the same call goes on.
    """
    asked = _DEFAULTS | {name: value for name, value in settings.items() if name in _DEFAULTS}
    settings = {name: value for name, value in settings.items() if name not in _DEFAULTS}
    _, how = jobs.read(settings)
    from its_jax import scoring  # slow, as numpy is

    todo = grid.read(settings, asked["grid"], asked["prompts"], axes)
    named = scoring.of_jobs(asked["scorers"], todo.values())
    scoring.check(named)
    groups = plan.groups(todo)
    kept = store.open_store(asked["layout"], workdir)
    with files.reasons(workdir, "read"):
        done = kept.finished() & todo.keys()
    outlook.tell(workdir, groups, done, how, kept, scoring.own(named))
    if plan_only:
        return
    scorers = scoring.load(named)
    if ray is not None and share:
        raise UserError("--engine=ray shares the sweep out itself: leave --shard_index and --num_shards away")
    share = share or ((0, 1) if ray is not None else _share_of_jax())
    name = "shard-{}-of-{}".format(*share)
    with locks.held(workdir, name), _shown(workdir, len(done) < len(todo)):
        locks.check_no_other(workdir, "shard-*-of-*", f"shard-*-of-{share[1]}")
        _sweep_up(asked["layout"], workdir)
        if len(done) == len(todo):
            return
        if ray is not None:
            from its_jax import fleet

            choice = {"layout": asked["layout"], "scorers": named}
            try:
                fleet.make(groups, workdir, done, how=how, **choice, **ray)
            finally:
                _sweep_up(asked["layout"], workdir)
        else:
            from its_jax.groups import make

            kept = store.open_store(asked["layout"], workdir, name)
            make(groups, workdir, kept, done, how=how, share=share, scorers=scorers)


@contextlib.contextmanager
def _shown(workdir, anew):
    """Writes the page over all that is there, also if some could not be made; else where it is missing."""
    try:
        yield
    except (DiskFull, locks.Locked):
        raise
    except UserError:
        _show(workdir)
        raise
    if anew or not (workdir / gallery.PAGE).exists():
        _show(workdir)


def _show(workdir):
    from its_jax import samples  # slow, as numpy is

    if files.is_local(workdir) and samples.open(workdir):
        with locks.turn(workdir, gallery.__name__):
            files.sweep_up(workdir, *workdir.glob("gallery/*"))  # this is the only process that writes there
            logging.info("%s shows them", gallery.write(workdir))


def _share_of_jax():
    from its_jax.machine import process_share  # slow, as JAX is: what is wrong with the settings is said before

    return process_share()


def _sweep_up(layout, workdir):
    """What was left by writers that are no more."""
    for writer in store.writers(layout, workdir):
        with contextlib.suppress(locks.Locked), locks.held(workdir, writer):
            store.open_store(layout, workdir, writer).clean()


def _resources(text):
    """'TPU=4,CPU=2' -> what an actor takes; None for ''."""
    try:
        return (
            {name: float(count) for name, _, count in (part.partition("=") for part in text.split(","))}
            if text
            else None
        )
    except ValueError as error:
        raise UserError(f"--ray_resources={text}: must be as TPU=4 or GPU=1,CPU=2") from error


if __name__ == "__main__":
    cli.start(main)
