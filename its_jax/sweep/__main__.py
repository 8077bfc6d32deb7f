"""A grid of settings -> samples: `python -m its_jax.sweep --config=configs/sweep.py --workdir=sweep`.

Axes are in the config's `grid`, or given as --axis=SETTING=VALUES; `its_jax.sweep.grid` says how they are written. The plan
is printed before anything is made (--plan stops there). The same command again, after whatever happened, makes only
what is missing, with the bits that an unbroken run gives; so it does after the grid has grown. Several processes can
share one work folder: each makes the share that --shard_index and --num_shards name, or the scheduler that started it.
With --engine=ray the actors of a Ray cluster do.
"""

import os

from absl import flags
from ml_collections import config_flags

from its_jax.errors import UserError
from its_jax.runtime import cli, process_shard
from its_jax.storage import files, writers
from its_jax.sweep.run import run_sweep

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Settings, and a grid of them.", lock_config=True, allow_override=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for the samples, or gs://BUCKET/FOLDER.", required=True, allow_override=True
)
_AXIS = flags.DEFINE_multi_string("axis", [], "SETTING=VALUES: an axis of the grid; may be given several times.")
_PROMPTS = flags.DEFINE_string("prompts", None, "A .txt, .csv or .jsonl of settings that belong together.")
_LAYOUT = flags.DEFINE_enum("layout", None, writers.LAYOUTS, "A folder for each sample, or tar files with an index.")
_SCORERS = flags.DEFINE_string("scorers", None, "'package.module:function, ...': scores for each record.")
_INDEX = flags.DEFINE_integer("shard_index", None, "Which share of the sweep this process makes, from 0 on.")
_COUNT = flags.DEFINE_integer("num_shards", None, "How many processes share the sweep.")
_PLAN = flags.DEFINE_bool("plan", False, "Prints the plan, and makes nothing.")
_ENGINE = flags.DEFINE_enum("engine", "here", ["here", "ray"], "Who makes it: this process, or actors of Ray.")
_ADDRESS = flags.DEFINE_string("ray_address", "local", "A Ray cluster ('auto' finds the one that this is part of).")
_RESOURCES = flags.DEFINE_string(
    "ray_resources", "", "What an actor takes, as TPU=4 or GPU=1,CPU=2; else one of these."
)


def main(pipeline=None):
    if _CONFIG.value is None:
        raise UserError("give --config=FILE.py, such as configs/sweep.py")
    given = {"prompts": _PROMPTS.value, "layout": _LAYOUT.value, "scorers": _SCORERS.value}
    settings = _CONFIG.value.to_dict() | {name: value for name, value in given.items() if value is not None}
    by_ray = _ENGINE.value == "ray"
    share = process_shard.from_flags_or_scheduler(_INDEX.value, _COUNT.value, {} if by_ray else os.environ)
    options = {"axes": _AXIS.value, "plan_only": _PLAN.value, "share": share}
    if by_ray:
        options["ray"] = {"address": _ADDRESS.value, "resources": _resources(_RESOURCES.value)}
    run_sweep(settings, files.to_path(_WORKDIR.value), pipeline=pipeline, **options)


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
    cli.run(main)
