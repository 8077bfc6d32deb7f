"""Runs a sweep, or resumes it: expands the grid, generates the missing samples, and writes the gallery."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from its_jax import gallery
from its_jax.errors import DiskFull, UserError
from its_jax.generate import batches
from its_jax.settings.parse import read_options
from its_jax.settings.schema import RunOptions, SampleSettings
from its_jax.storage import files, locks, writers
from its_jax.sweep import defaults, forecast, grid, plan

if TYPE_CHECKING:
    from its_jax.pipeline.pipeline import Pipeline

_CONFIRM = "give --yes to run it (confirmed=True in Python), or ask for fewer samples"
# Settings of a sweep, which a config may leave out.
_DEFAULTS: dict[str, Any] = {"grid": {}, "prompts": "", "layout": "folders", "scorers": ""}


@dataclasses.dataclass(frozen=True)
class _Sweep:
    """A sweep as it was requested.

    Attributes:
      workdir, layout: where and how samples are written. requested: settings of all samples by id.
      options: of the run. scorers: names of scorers.
      counts: where the number of samples comes from, in words.
    """

    workdir: Path
    layout: str
    requested: Mapping[str, SampleSettings]
    options: RunOptions
    scorers: str
    counts: str


def run_sweep(
    settings: Mapping[str, Any],
    workdir: Path,
    *,
    axes: Sequence[str] = (),
    shard: tuple[int, int] | None = None,
    plan_only: bool = False,
    confirmed: bool = False,
    origins: Mapping[str, str] | None = None,
    ray: Mapping[str, Any] | None = None,
    pipeline: "Pipeline | None" = None,
) -> None:
    """Generates the missing samples of a sweep, after it has logged the plan.

    Args:
      settings: of samples and their run, and `grid`, `prompts`, `layout` and `scorers`.
      axes: axes of the grid, as the flag --axis takes them.
      shard: index and number of the shards, one of which this process generates; by default those of JAX's processes.
      plan_only: whether to stop after the plan.
      confirmed: whether the sweep may be larger than `its_jax.sweep.forecast.Forecast.excess` allows.
      origins: where `num_samples` and `video` come from, see `its_jax.sweep.defaults`; by default the settings are
        taken for a config.
      ray: `address` and `resources`, see `its_jax.sweep.ray_engine.run_on_ray`, for a sweep by the actors of Ray.
      pipeline: an `its_jax.Pipeline` to use in place of a new one.

    Raises:
      UserError: a setting is wrong; the sweep is too large and not confirmed; or some programs or samples could not be
        generated (all others are written).
      DiskFull: finished samples are kept; the same call continues.
    """
    if ray is not None and shard:
        raise UserError("--engine=ray distributes the sweep itself: leave out --shard_index and --num_shards")
    from its_jax.scoring import registry  # slow, because it imports NumPy

    origins = defaults.find_origins(settings) if origins is None else origins
    sweep = _read_sweep(defaults.apply(settings, origins), workdir, axes, origins)
    registry.check_scorers(sweep.scorers)
    groups = batches.program_groups(sweep.requested)
    store = writers.open_writer(sweep.layout, workdir)
    with files.explain_os_errors(workdir, "read"):
        done = store.finished() & sweep.requested.keys()
    logging.info("%s", sweep.counts)
    logging.info("%s (video: %s)", "videos" if sweep.options.video else "no videos", origins["video"])
    columns = registry.builtin_columns(sweep.scorers)
    expected = forecast.log_forecast(workdir, groups, done, sweep.options, store, columns)
    if expected.excess and not (plan_only or confirmed):
        raise UserError(f"{expected.excess}: {_CONFIRM}")
    if expected.excess:
        logging.warning("%s", expected.excess if confirmed else f"{expected.excess}: {_CONFIRM}")
    if plan_only:
        return
    scorers = registry.load_scorers(sweep.scorers)
    shard = shard or ((0, 1) if ray is not None else _shard_of_jax())
    name, is_done = "shard-{}-of-{}".format(*shard), len(done) == len(sweep.requested)
    with locks.hold(workdir, name), _gallery_afterwards(workdir, changed=not is_done):
        locks.check_no_other(workdir, "shard-*-of-*", f"shard-*-of-{shard[1]}")
        remove_leftovers(sweep.layout, workdir)
        if is_done:
            return
        if ray is not None:
            _run_on_ray(sweep, groups, done, ray)
            return
        from its_jax.generate.groups import write_groups
        from its_jax.pipeline.pipeline import Pipeline

        store = writers.open_writer(sweep.layout, workdir, name)
        options: dict[str, Any] = {"options": sweep.options, "shard": shard, "scorers": scorers}
        write_groups(pipeline or Pipeline(), groups, workdir, store, done, **options)


def _read_sweep(settings: Mapping[str, Any], workdir: Path, axes: Sequence[str], origins: Mapping[str, str]) -> _Sweep:
    """Reads the settings of a sweep; raises `UserError` for wrong ones."""
    from its_jax.scoring import registry

    own = _DEFAULTS | {name: value for name, value in settings.items() if name in _DEFAULTS}
    settings = {name: value for name, value in settings.items() if name not in _DEFAULTS}
    options = read_options(settings)  # A sample of the config alone need not be valid, only those of the grid.
    opened = grid.open_grid(settings, own["grid"], own["prompts"], axes)
    requested = opened.samples()
    counts = plan.describe_counts(opened, len(requested), origins)
    image_models = (one.terms["image"].model for one in requested.values())
    scorers = registry.resolve_names(own["scorers"], image_models)
    return _Sweep(workdir, own["layout"], requested, options, scorers, counts)


def _run_on_ray(
    sweep: _Sweep, groups: Sequence[batches.ProgramGroup], done: set[str], where: Mapping[str, Any]
) -> None:
    """Generates the missing samples with actors, and removes what killed actors have left."""
    from its_jax.sweep import ray_engine

    try:
        ray_engine.run_on_ray(
            groups, sweep.workdir, done, options=sweep.options, layout=sweep.layout, scorers=sweep.scorers, **where
        )
    finally:
        remove_leftovers(sweep.layout, sweep.workdir)


@contextlib.contextmanager
def _gallery_afterwards(workdir: Path, changed: bool) -> Iterator[None]:
    """Writes the gallery of all finished samples in the end, also if some samples could not be generated.

    If the samples have not `changed`, it is written only if it does not exist.
    """
    try:
        yield
    except (DiskFull, locks.Locked):
        raise
    except UserError:
        _write_gallery(workdir)
        raise
    if changed or not (workdir / gallery.PAGE).exists():
        _write_gallery(workdir)


def _write_gallery(workdir: Path) -> None:
    """Writes the gallery, if the work folder is local and has samples."""
    from its_jax.storage import samples  # slow, because it imports NumPy

    if files.is_local(workdir) and samples.open_samples(workdir):
        with locks.wait_turn(workdir, gallery.__name__):
            files.remove_leftovers(workdir, *workdir.glob("gallery/*"))  # Only this process writes there now.
            logging.info("gallery: %s", gallery.write(workdir))


def _shard_of_jax() -> tuple[int, int]:
    """Returns the shard of this process among those that run JAX together."""
    from its_jax.runtime.process_shard import jax_process_shard  # slow, because it imports JAX

    return jax_process_shard()


def remove_leftovers(layout: str, workdir: Path) -> None:
    """Removes unfinished samples of writers that no longer run."""
    for name in writers.writer_names(layout, workdir):
        with contextlib.suppress(locks.Locked), locks.hold(workdir, name):
            writers.ShardWriter(workdir, name).remove_leftovers()
