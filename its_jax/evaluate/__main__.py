"""Compares the scores of finished samples: `python -m its_jax.evaluate --workdir=A --workdir=B`.

Measures what was not measured before, keeps it in WORKDIR/scores/, prints a table and writes it into --out (by default
WORKDIR/evaluation of the first folder) as evaluation.json, .md and .png: CLIP against CLAP. With --by=method, or any
other setting, each value of the setting gets a row. A table of several folders, or with other arguments, has a name of
its own, such as evaluation_by-method_1f3a5b7c.json; the same arguments give the same name. Several processes share the
work of a folder by --shard_index and --num_shards, or as their scheduler says (Slurm, SkyPilot). The last of them to
finish writes the table.
"""

import logging
from pathlib import Path

from absl import flags

from its_jax.errors import UserError
from its_jax.runtime import cli, process_shard

_WORKDIR = flags.DEFINE_multi_string("workdir", ["out"], "A folder of samples; may be given several times.")
_BY = flags.DEFINE_string("by", "", "The setting that gets a row for each of its values.")
_OUT = flags.DEFINE_string("out", None, "A folder for the tables.")
_CLIP = flags.DEFINE_string("clip", "", "The CLIP model; by default the paper's, for embedded models tiny/clip.")
_CLAP = flags.DEFINE_string("clap", "", "The CLAP model; by default the paper's, for embedded models tiny/clap.")
_FID = flags.DEFINE_string("fid", "", "Images to compare with: a folder, or statistics in an .npz.")
_FAD = flags.DEFINE_string("fad", "", "Audio to compare with: a folder, or statistics in an .npz.")
_FEATURES = flags.DEFINE_enum("fad_features", "clap", ["clap", "vggish"], "The features that FAD compares.")
_SAVE_FID = flags.DEFINE_string("save_fid", "", "An .npz for the statistics of the images that --fid names.")
_SAVE_FAD = flags.DEFINE_string("save_fad", "", "An .npz for the statistics of the audio that --fad names.")
_GRIFFIN_LIM = flags.DEFINE_bool("griffin_lim", False, "Also score the audio that Griffin-Lim generates.")
_ROUND_TRIP = flags.DEFINE_bool(
    "round_trip", False, "Also compare the spectrogram of the audio with the one that it was generated from."
)
_INDEX = flags.DEFINE_integer("shard_index", None, "The shard of each folder that this process measures, from 0 on.")
_COUNT = flags.DEFINE_integer("num_shards", None, "The number of processes that share the work.")


def main() -> None:
    """Scores the samples of the work folders and writes the table."""
    for source, target in ((_FID, _SAVE_FID), (_FAD, _SAVE_FAD)):
        if target.value and not source.value:
            raise UserError(f"--{target.name} saves the statistics of what --{source.name} names: give both")
    shard = process_shard.from_flags_or_scheduler(_INDEX.value, _COUNT.value)
    # JAX is slow to import, so wrong flags are reported before.
    from its_jax.evaluate.run import run

    table = run(
        _WORKDIR.value,
        by=_BY.value,
        out=Path(_OUT.value) if _OUT.value else None,
        models={"clip": _CLIP.value, "clap": _CLAP.value},
        compare_with={"FID": _FID.value, "FAD": _FAD.value},
        statistics={"FID": _SAVE_FID.value, "FAD": _SAVE_FAD.value},
        fad_features=_FEATURES.value,
        extra=[flag.name for flag in (_GRIFFIN_LIM, _ROUND_TRIP) if flag.value],
        shard=shard or (0, 1),
    )
    logging.info("\n%s", table)


if __name__ == "__main__":
    cli.run(main)
