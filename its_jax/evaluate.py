"""Scores of finished samples, side by side: `python -m its_jax.evaluate --workdir=A --workdir=B`.

Measures what was not measured before, keeps it in WORKDIR/scores/, prints a table and writes it into --out (by default
WORKDIR/evaluation of the first folder) as evaluation.json, .md and, CLIP against CLAP, .png. A folder in which a
setting varies gets a row for each of its values with --by, as --by=method. Several processes share the work of a folder
by --shard_index and --num_shards; the last to end writes the table.
"""

import logging
from pathlib import Path

from absl import flags

from its_jax import cli
from its_jax.errors import UserError

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
_SHARD_INDEX = flags.DEFINE_integer("shard_index", 0, "Which share this process measures.", lower_bound=0)
_NUM_SHARDS = flags.DEFINE_integer("num_shards", 1, "Of how many shares.", lower_bound=1)


def main():
    if not _WORKDIR.value:
        raise UserError("give --workdir=FOLDER, once or several times")
    if _SHARD_INDEX.value >= _NUM_SHARDS.value:
        raise UserError(f"--shard_index={_SHARD_INDEX.value}: must be below --num_shards={_NUM_SHARDS.value}")
    from its_jax.evaluation import run  # slow, as JAX is: what is wrong with the flags is said before

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
            share=(_SHARD_INDEX.value, _NUM_SHARDS.value),
        ),
    )


if __name__ == "__main__":
    cli.start(main)
