"""Runs a sweep: plans the grid, generates what is missing, and writes the gallery."""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from its_jax import gallery
from its_jax.errors import DiskFull, UserError
from its_jax.generate import batches
from its_jax.settings.parse import read_settings
from its_jax.storage import files, locks, writers
from its_jax.sweep import forecast, grid

# Settings of a sweep, which a config may leave out.
_DEFAULTS = {"grid": {}, "prompts": "", "layout": "folders", "scorers": ""}


def run_sweep(
    settings: Mapping[str, Any],
    workdir: Path,
    *,
    axes: Sequence[str] = (),
    share: tuple[int, int] | None = None,
    plan_only: bool = False,
    ray: Mapping[str, Any] | None = None,
    pipeline: Any = None,
) -> None:
    """Makes what is missing of a sweep.

    Args:
      settings: of samples and their run, and `grid`, `prompts`, `layout` and `scorers`. axes: as the flag --axis.
      share: index and count of this process's share; None: of JAX's processes.
      ray: `address` and `resources` of `its_jax.sweep.ray_engine.run_on_ray`, if that is to make it.
      pipeline: an `its_jax.Pipeline` to use in place of a new one.

    Raises:
      UserError: settings that are wrong; programs or samples that could not be made (named; all others are there).
      DiskFull: what is complete is there, and the same call goes on.
    """
    asked = _DEFAULTS | {name: value for name, value in settings.items() if name in _DEFAULTS}
    settings = {name: value for name, value in settings.items() if name not in _DEFAULTS}
    _, options = read_settings(settings)
    from its_jax.scoring import registry  # slow, as numpy is

    requested = grid.read_grid(settings, asked["grid"], asked["prompts"], axes)
    named = registry.resolve_names(asked["scorers"], (one.terms["image"].model for one in requested.values()))
    registry.check_scorers(named)
    groups = batches.program_groups(requested)
    kept = writers.open_writer(asked["layout"], workdir)
    with files.explain_os_errors(workdir, "read"):
        done = kept.finished() & requested.keys()
    forecast.log_forecast(workdir, groups, done, options, kept, registry.builtin_columns(named))
    if plan_only:
        return
    scorers = registry.load_scorers(named)
    if ray is not None and share:
        raise UserError("--engine=ray shares the sweep out itself: leave --shard_index and --num_shards away")
    share = share or ((0, 1) if ray is not None else _share_of_jax())
    name = "shard-{}-of-{}".format(*share)
    with locks.hold(workdir, name), _shown(workdir, len(done) < len(requested)):
        locks.check_no_other(workdir, "shard-*-of-*", f"shard-*-of-{share[1]}")
        _sweep_up(asked["layout"], workdir)
        if len(done) == len(requested):
            return
        if ray is not None:
            from its_jax.sweep import ray_engine

            choice = {"layout": asked["layout"], "scorers": named}
            try:
                ray_engine.run_on_ray(groups, workdir, done, options=options, **choice, **ray)
            finally:
                _sweep_up(asked["layout"], workdir)
        else:
            from its_jax.generate.groups import write_groups
            from its_jax.pipeline.pipeline import Pipeline

            kept = writers.open_writer(asked["layout"], workdir, name)
            pipeline = pipeline or Pipeline()
            write_groups(pipeline, groups, workdir, kept, done, options=options, shard=share, scorers=scorers)


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
    from its_jax.storage import samples  # slow, as numpy is

    if files.is_local(workdir) and samples.open_samples(workdir):
        with locks.wait_turn(workdir, gallery.__name__):
            files.remove_leftovers(workdir, *workdir.glob("gallery/*"))  # this is the only process that writes there
            logging.info("%s shows them", gallery.write(workdir))


def _share_of_jax():
    from its_jax.runtime.process_shard import jax_process_shard  # slow, as JAX is

    return jax_process_shard()


def _sweep_up(layout, workdir):
    """What was left by writers that are no more."""
    for writer in writers.writer_names(layout, workdir):
        with contextlib.suppress(locks.Locked), locks.hold(workdir, writer):
            writers.open_writer(layout, workdir, writer).remove_leftovers()
