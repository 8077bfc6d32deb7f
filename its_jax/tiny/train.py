"""Trains the embedded models from random weights: `python -m its_jax.tiny.train --workdir=FOLDER`.

The stages are the VAE, the two UNets with their text encoders, the vocoder, the judges, CLIP and CLAP, the pixel UNet
with its T5, which colors images, and the export in the layouts of diffusers and transformers. All of it takes four to
five hours on 2 CPU cores, and training.json has the seconds of each stage. A stage saves its state every two minutes
and resumes from there. The two UNets can train side by side, with `--stage=image` and `--stage=audio` in two processes.
"""

from pathlib import Path

from absl import flags

from its_jax.runtime import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, figures and exported models.", required=True)
_STAGE = flags.DEFINE_enum(
    "stage",
    "all",
    ["all", "vae", "image", "audio", "vocoder", "judges", "clip", "clap", "color", "export"],
    "The stage to run; 'all' resumes where it was interrupted.",
)


def main() -> None:
    """Runs the requested stages."""
    from its_jax.tiny.training import stages  # JAX is slow to import, and errors in flags should appear at once.

    stages.run(Path(_WORKDIR.value).absolute(), _STAGE.value)


if __name__ == "__main__":
    cli.run(main)
