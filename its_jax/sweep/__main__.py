"""Generates the samples of a grid: `python -m its_jax.sweep --config=configs/sweep.py --workdir=sweep`.

Axes are in the config's `grid`, or given as --axis=SETTING=VALUES; `its_jax.sweep.grid` documents how they are written.
The plan is printed before anything is generated (--plan stops there). Each cell of the grid has one sample without a
video, unless the grid, --config.num_samples=N, --config.video=True or a config with a grid of its own says otherwise. A
sweep of more than 100,000 samples, or of more than the free disk space, needs --yes. If the command is interrupted, or
if the grid has grown, the same command generates only the missing samples, with the same bits as an uninterrupted run.
Several processes can share one work folder: each generates the shard that --shard_index and --num_shards name, or that
its scheduler assigns. With --engine=ray the actors of a Ray cluster generate all samples.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags

from its_jax.errors import UserError
from its_jax.runtime import cli, process_shard
from its_jax.settings.schema import setting_docs
from its_jax.storage import files, writers
from its_jax.sweep import defaults
from its_jax.sweep.run import run_sweep

if TYPE_CHECKING:
    from its_jax.pipeline.pipeline import Pipeline

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Settings, and a grid of them; --axis adds one to any other config.",
    lock_config=True,
    allow_override=True,
)
_WORKDIR = flags.DEFINE_string("workdir", "out", "Folder for the samples, or gs://BUCKET/FOLDER.", allow_override=True)
_AXIS = flags.DEFINE_multi_string("axis", [], "SETTING=VALUES: an axis of the grid; may be given several times.")
_PROMPTS = flags.DEFINE_string("prompts", None, "A .txt, .csv or .jsonl of settings that belong together.")
_LAYOUT = flags.DEFINE_enum("layout", None, writers.LAYOUTS, "A folder for each sample, or tar files with an index.")
_SCORERS = flags.DEFINE_string("scorers", None, "'package.module:function, ...': scores for each record.")
_INDEX = flags.DEFINE_integer("shard_index", None, "The shard that this process generates, from 0 on.")
_COUNT = flags.DEFINE_integer("num_shards", None, "The number of shards, one for each process.")
_PLAN = flags.DEFINE_bool("plan", False, "Prints the plan and generates nothing.")
_YES = flags.DEFINE_bool("yes", False, "Runs a sweep of more than 100,000 samples, or of more than the free space.")
_ENGINE = flags.DEFINE_enum("engine", "here", ["here", "ray"], "What generates: this process, or actors of Ray.")
_ADDRESS = flags.DEFINE_string("ray_address", "local", "A Ray cluster; 'auto' finds the one of this machine.")
_RESOURCES = flags.DEFINE_string(
    "ray_resources", "", "Resources of an actor, as TPU=4 or GPU=1,CPU=2; by default one TPU, GPU or CPU."
)


def main(pipeline: "Pipeline | None" = None) -> None:
    """Runs the sweep of the flags, with this pipeline in place of a new one."""
    given = {"prompts": _PROMPTS.value, "layout": _LAYOUT.value, "scorers": _SCORERS.value}
    config = _CONFIG.value.to_dict()
    settings = config | {name: value for name, value in given.items() if value is not None}
    by_ray = _ENGINE.value == "ray"
    run_sweep(
        settings,
        files.to_path(_WORKDIR.value),
        axes=_AXIS.value,
        shard=process_shard.from_flags_or_scheduler(_INDEX.value, _COUNT.value, {} if by_ray else os.environ),
        plan_only=_PLAN.value,
        confirmed=_YES.value,
        origins=defaults.find_origins(config, config_flags.get_override_values(flags.FLAGS["config"])),
        ray={"address": _ADDRESS.value, "resources": _parse_resources(_RESOURCES.value)} if by_ray else None,
        pipeline=pipeline,
    )


def _docs(settings: Mapping[str, Any]) -> dict[str, str]:
    """Returns a line of documentation for each setting and each axis of a config."""
    docs = setting_docs(settings)
    return docs | {f"grid.{name}": f"the axis of the grid over {name}: {doc}" for name, doc in docs.items()}


def _parse_resources(text: str) -> dict[str, float] | None:
    """Parses the resources of an actor, such as 'TPU=4,CPU=2'; returns None for ''."""
    if not text:
        return None
    try:
        parts = (part.partition("=") for part in text.split(","))
        return {name: float(count) for name, _, count in parts}
    except ValueError as error:
        raise UserError(f"--ray_resources={text}: must be as TPU=4 or GPU=1,CPU=2") from error


if __name__ == "__main__":
    cli.run(main, config="sweep", docs=_docs)
