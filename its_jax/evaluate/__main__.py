"""Scores of finished samples, side by side: `python -m its_jax.evaluate --workdir=A --workdir=B`.

Measures what was not measured before, keeps it in WORKDIR/scores/, prints a table and writes it into --out (by default
WORKDIR/evaluation of the first folder) as evaluation.json, .md and, CLIP against CLAP, .png. A folder in which a
setting varies gets a row for each of its values with --by, as --by=method. Several processes share the work of a folder
by --shard_index and --num_shards, or as the scheduler says that started them (Slurm, SkyPilot); the last to end writes
the table.
"""

import logging
from pathlib import Path

from absl import flags

from its_jax.errors import UserError
from its_jax.runtime import cli, process_shard

_WORKDIR = flags.DEFINE_multi_string("workdir", [], "A folder of samples; may be given several times.")
_BY = flags.DEFINE_string("by", "", "The setting that gets a row for each of its values.")
_OUT = flags.DEFINE_string("out", None, "A folder for the tables.")
_CLIP = flags.DEFINE_string("clip", "", "The CLIP model; by default the paper's, of embedded models tiny/clip.")
_CLAP = flags.DEFINE_string("clap", "", "The CLAP model; by default the paper's, of embedded models tiny/clap.")
_FID = flags.DEFINE_string("fid", "", "Pictures to compare with: a folder, or statistics in an .npz.")
_FAD = flags.DEFINE_string("fad", "", "Sounds to compare with: a folder, or statistics in an .npz.")
_FEATURES = flags.DEFINE_enum("fad_features", "clap", ["clap", "vggish"], "What FAD compares.")
_SAVE_FID = flags.DEFINE_string("save_fid", "", "An .npz for the statistics of the pictures that --fid names.")
_SAVE_FAD = flags.DEFINE_string("save_fad", "", "An .npz for the statistics of the sounds that --fad names.")
_GRIFFIN_LIM = flags.DEFINE_bool("griffin_lim", False, "Also score the sound that Griffin-Lim makes.")
_ROUND_TRIP = flags.DEFINE_bool(
    "round_trip", False, "Also compare the sound's own spectrogram with what it was made of."
)
_INDEX = flags.DEFINE_integer("shard_index", None, "Which share of each folder this process measures, from 0 on.")
_COUNT = flags.DEFINE_integer("num_shards", None, "How many processes share the work.")


def main():
    if not _WORKDIR.value:
        raise UserError("give --workdir=FOLDER, once or several times")
    for of, to in ((_FID, _SAVE_FID), (_FAD, _SAVE_FAD)):
        if to.value and not of.value:
            raise UserError(f"--{to.name} saves the statistics of what --{of.name} names: give both")
    share = process_shard.from_flags_or_scheduler(_INDEX.value, _COUNT.value)
    from its_jax.evaluate import run  # slow, as JAX is: what is wrong with the flags is said before

    logging.info(
        "\n%s",
        run.run(
            _WORKDIR.value,
            by=_BY.value,
            out=Path(_OUT.value) if _OUT.value else None,
            models={"clip": _CLIP.value, "clap": _CLAP.value},
            compare_with={"FID": _FID.value, "FAD": _FAD.value},
            statistics={"FID": _SAVE_FID.value, "FAD": _SAVE_FAD.value},
            fad_features=_FEATURES.value,
            more=[name for name, on in (("griffin_lim", _GRIFFIN_LIM.value), ("round_trip", _ROUND_TRIP.value)) if on],
            share=share or (0, 1),
        ),
    )


if __name__ == "__main__":
    cli.run(main)
