"""Trains the embedded models from nothing: `python -m its_jax.tiny.train --workdir=FOLDER`.

Stages: the VAE, the two UNets with their text encoders, the vocoder, the judges, CLIP and CLAP, and the UNet of pixels
with its T5, which colours; then the export in diffusers' and transformers' layouts.
Four to five hours on 2 CPU cores: training.json has the seconds of each stage. Each stage saves its state every two
minutes and goes on from there; the UNets may be trained side by side (`--stage=image` and `--stage=audio` in two
processes).
"""

from pathlib import Path

from absl import flags

from its_jax.runtime import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "where checkpoints, figures and the exported models go", required=True)
_STAGE = flags.DEFINE_enum(
    "stage",
    "all",
    ["all", "vae", "image", "audio", "vocoder", "judges", "clip", "clap", "color", "export"],
    "what to train; all is resumable too",
)


def main():
    from its_jax.tiny.training import stages  # slow, as JAX is: what is wrong with the flags is said before

    stages.run(Path(_WORKDIR.value).absolute(), _STAGE.value)


if __name__ == "__main__":
    cli.run(main)
