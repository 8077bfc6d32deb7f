"""The figure of docs/method.md: what each model, and both together, take the clean latent for, step by step.

    python -m bench.figure --out=docs/method.png

Three samples of one seed, at the settings of configs/default.py.
"""

import argparse

import matplotlib
import numpy as np

from configs import default
from its_jax.pipeline.sampler import Sampler
from its_jax.runtime import cache
from its_jax.settings.parse import read_settings

ROWS = {
    "image_only": "image model alone\n“{image}”",
    "audio_only": "audio model alone\n“{audio}”",
    "fused": "both, averaged\nat every step",
}
SHOWN = (3, 6, 10, 16, 25)  # steps


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", default="docs/method.png")
    parser.add_argument("--image", default="a painting of trees, grayscale")
    parser.add_argument("--audio", default="bell ringing")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    prompts = {"image": args.image, "audio": args.audio}
    draw(list(estimates(prompts, args.seed)), prompts, args.out)


def estimates(prompts, seed):
    """For each row: step -> the spectrogram `[h, w]` of what is estimated after it."""
    cache.keep_programs()
    batch = [_settings(method, prompts, seed) for method in ROWS]
    sampler, states = Sampler(batch[0], pending=1, batch_size=1), {}
    run = sampler._denoise

    def watched(*args):
        ahead = run(*args)
        states[int(args[6])] = ahead.x0
        return ahead

    sampler._denoise = watched
    for settings in batch:
        states.clear()
        (sample,) = sampler([settings])
        decoded = {step: np.asarray(sampler._decode(x0, sampler.decoders)[0][0]) for step, x0 in states.items()}
        yield decoded | {max(decoded): sample.spectrogram}


def _settings(method, prompts, seed):
    config = default.get_config()
    config.method, config.seed, config.num_samples = method, seed, 1
    for term, prompt in prompts.items():
        config[term].prompt = prompt
    (settings,), _ = read_settings(config.to_dict())
    return settings


def draw(rows, prompts, out):
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(ROWS), len(SHOWN), figsize=(12, 2.6), layout="constrained")
    for i, (label, decoded) in enumerate(zip(ROWS.values(), rows, strict=True)):
        axes[i, 0].set_ylabel(label.format(**prompts), rotation=0, ha="right", va="center", fontsize=8)
        for axis, step in zip(axes[i], SHOWN, strict=True):
            nearest = min(decoded, key=lambda known, step=step: abs(known - step))
            axis.imshow(decoded[nearest], cmap="gray", vmin=0, vmax=1, aspect="auto")
            axis.set(xticks=[], yticks=[])
            if i == 0:
                axis.set_title(f"step {nearest} of {max(decoded)}", fontsize=9)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
