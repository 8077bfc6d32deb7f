"""The paper's comparison on the embedded models: every subject with every sound, by every method.

    python -m its_jax.sweep --config=configs/comparison.py --workdir=work/comparison
    python -m its_jax.sweep --config=configs/comparison.py:sds --workdir=work/comparison
    python -m its_jax.evaluate --workdir=work/comparison --by=method

The first command generates 8 samples of each pair by five methods, 5760 in total, from the same seeds, so that only the
method differs. It takes about two hours on 2 CPU cores. The second adds score distillation, which takes six minutes per
sample: one sample of each of 12 pairs, in which every subject and every sound occurs once. Both commands resume where
they were interrupted.
"""

from ml_collections import ConfigDict

from its_jax.runtime.config_files import SHIPPED, shipped

ARGUMENTS = ("sds",)
SUBJECTS = ("castle towers", "dogs", "tigers", "trains", "flowers", "trees", "fish", "sailing boats", "butterflies",
            "mushrooms", "guitars", "elephants")  # fmt: skip
SOUNDS = ("bell ringing", "birds singing", "cat meowing", "clock ticking", "dog barking", "engine running",
          "frog croaking", "knocking", "laser firing", "rain falling", "siren wailing", "train whistling")  # fmt: skip


def get_config(method=""):
    if method not in ("", *ARGUMENTS):
        raise ValueError(f"configs/comparison.py has no method {method!r}; give it none, or sds")
    config = shipped("sds" if method else "default")["get_config"]()
    config.num_samples = 1
    config.video = False
    config.layout = "folders"
    # The judges are included, because the models that rank samples should not also decide whether they are right.
    config.scorers = "clip@tiny/clip,clap@tiny/clap,its_jax.tiny.scorer:right"
    config.grid = ConfigDict()
    config.prompts = ""
    if method:
        config.prompts = str(SHIPPED / "twelve_pairs.txt")
        return config
    config.grid.image = ConfigDict({"prompt": tuple(f"a painting of {name}, grayscale" for name in SUBJECTS)})
    config.grid.audio = ConfigDict({"prompt": SOUNDS})
    config.grid.method = ("fused", "imprint", "alternating", "image_only", "audio_only")
    config.grid.seed = "0..7"
    return config
