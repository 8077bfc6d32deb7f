"""A grid over the embedded models: subjects x sounds x seeds. Nothing is downloaded.

    python -m its_jax.sweep --config=configs/sweep.py --workdir=sweep

Generates 96 samples in about three minutes on 2 CPU cores. Axes on the command line replace or extend these:
--axis=seed=0..7 --axis=image.weight=0.4..0.7..0.1 --axis=audio.prompt="dog barking,siren wailing"
Any other config can be swept in the same way, for example configs/sd15_auffusion.py with --prompts=pairs.csv.
"""

from ml_collections import ConfigDict

from its_jax.runtime.config_files import shipped

SUBJECTS = ("castle towers", "dogs", "trees", "sailing boats", "butterflies", "guitars")
SOUNDS = ("bell ringing", "birds singing", "dog barking", "train whistling")


def get_config():
    config = shipped("default")["get_config"]()
    config.num_samples = 1  # per cell, if the grid has no axis over seeds
    config.video = False  # python -m its_jax.video WORKDIR/ID makes one later
    config.layout = "folders"  # or "shards": tar files with an index
    config.scorers = "clip@tiny/clip,clap@tiny/clap"  # or "package.module:function"; each adds columns to the records
    config.prompts = ""  # a .txt, .csv or .jsonl file whose rows are settings that belong together
    config.grid = ConfigDict()
    config.grid.image = ConfigDict({"prompt": tuple(f"a painting of {subject}, grayscale" for subject in SUBJECTS)})
    config.grid.audio = ConfigDict({"prompt": SOUNDS})
    config.grid.seed = "0..3"
    return config
