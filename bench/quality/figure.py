"""Draws the figure of docs/method.md: the clean latent that each model, and both together, estimate at some steps.

    python -m bench.quality.figure --out=docs/method.png

It shows three samples of one seed at the settings of configs/default.py.
"""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from absl import flags

from bench.quality import generation
from its_jax.runtime import cache, cli
from its_jax.settings.parse import expand

IMAGE, AUDIO, SEED = "a painting of trees, grayscale", "bell ringing", 1
ROWS = {
    "image_only": f"image model alone\n“{IMAGE}”",
    "audio_only": f"audio model alone\n“{AUDIO}”",
    "fused": "both, averaged\nat every step",
}
SHOWN = (3, 6, 10, 16, 25)  # steps


def main():
    cache.keep_programs()
    prompts = {"image.prompt": IMAGE, "audio.prompt": AUDIO}
    settings = [generation.default_settings({"method": method, "seed": SEED, **prompts}) for method in ROWS]
    draw(list(generation.generate_with_estimates([expand(each, 1)[0] for each in settings])), flags.FLAGS.out)


def draw(rows: Sequence[Mapping[int, np.ndarray]], out: str) -> None:
    """Draws the estimated images of each row at the steps that are closest to `SHOWN`."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(ROWS), len(SHOWN), figsize=(12, 2.6), layout="constrained")
    for i, (label, estimates) in enumerate(zip(ROWS.values(), rows, strict=True)):
        axes[i, 0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        for axis, step in zip(axes[i], SHOWN, strict=True):
            _, nearest = min((abs(known - step), known) for known in estimates)
            axis.imshow(estimates[nearest].mean(axis=-1), cmap="gray", vmin=0, vmax=1, aspect="auto")
            axis.set(xticks=[], yticks=[])
            if i == 0:
                axis.set_title(f"step {nearest} of {max(estimates)}", fontsize=9)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    flags.DEFINE_string("out", "docs/method.png", "PNG file.")
    cli.run(main)
