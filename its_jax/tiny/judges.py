"""Small classifiers that say which subject a picture shows and which sound a spectrogram holds.

They are trained on program data of their own (splits `judge_*`), disturbed by noise, blur, contrast and an overlay of
the other kind, since that is how fused samples look. They judge the embedded models and train in minutes.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file
from scipy.ndimage import gaussian_filter

from its_jax.models import state_dict
from its_jax.models.layers import List
from its_jax.tiny import recipe
from its_jax.tiny.data import items as data_items
from its_jax.tiny.training.loop import fit

WEIGHTS = Path(__file__).with_name("weights")
TRAIN_ITEMS, HELD_OUT_ITEMS = 1800, 480
CHANNELS = (24, 48, 64, 96)
CLASSES = len(data_items.SUBJECTS)
COMB = {"picture": 0.0, "sound": 0.5}  # sounds are judged as they are heard
_OTHER = {"picture": "sound", "sound": "picture"}


class Judge(nnx.Module):
    """Strided convolutions, then mean and maximum over the canvas: `[b, 128, w]` in [0, 1] -> logits `[b, 12]`."""

    def __init__(self, *, rngs):
        sizes = (1, *CHANNELS)
        self.convs = List(
            [nnx.Conv(a, b, (3, 3), strides=2, rngs=rngs) for a, b in zip(sizes, sizes[1:], strict=False)]
        )
        self.norms = List([nnx.GroupNorm(c, num_groups=8, rngs=rngs) for c in CHANNELS])
        self.out = nnx.Linear(2 * CHANNELS[-1], CLASSES, rngs=rngs)

    def __call__(self, x):
        b, h, w = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2).mean(axis=(2, 4))[..., None]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(conv(x)))
        return self.out(jnp.concatenate([x.mean(axis=(1, 2)), x.max(axis=(1, 2))], axis=-1))


def classify(judge, items):
    """Class indices `[n]` of pictures `[n, 128, w]` in [0, 1]."""
    logits = jax.jit(lambda judge, x: judge(x))
    blocks = [items[i : i + 24] for i in range(0, len(items), 24)]
    return np.concatenate([np.argmax(logits(judge, jnp.asarray(block, jnp.float32)), axis=-1) for block in blocks])


@jax.jit
def log_chances(judge, items):
    """How likely each class is of pictures `[n, 128, w]` in [0, 1], in the logarithm: `[n, 12]`."""
    return jax.nn.log_softmax(judge(items))


@functools.cache
def _comb():
    """What the harmonics of the frame rate leave of an even spectrogram, `[128, 1]`, 0 where it is whole.

    A vocoder without noise has nothing else to put in the place of a steady sound, see `its_jax.tiny.training.vocoder_init`.
    """
    clicks = np.zeros((1, recipe.NUM_SAMPLES), np.float32)
    clicks[:, :: recipe.MEL.hop_length] = 0.1
    response = np.asarray(data_items.to_spectrogram(clicks)).mean(axis=2).T
    return np.minimum(response - np.median(response), 0)


def disturbed(rng, item, other, comb=0.0):
    """One uint8 canvas with an overlay of the other kind, blur, noise and contrast; float32 in [0, 1].

    With a probability of `comb`, also as a vocoder would leave it.
    """
    x, overlay = item / np.float32(255), other / np.float32(255)
    kind = rng.integers(4)
    if kind == 0:
        x = np.maximum(x * rng.uniform(0.6, 1.0), overlay * rng.uniform(0.0, 0.9))
    elif kind == 1:
        share = rng.uniform(0.5, 1.0)
        x = share * x + (1 - share) * overlay
    elif kind == 2:  # the one made of the other
        x = x * (1 - rng.uniform(0.3, 0.9) * (1 - overlay))
        x = x * (rng.uniform(0.6, 1.0) / x.max())
    if rng.random() < 0.5:
        x = gaussian_filter(x, rng.uniform(0.0, 1.5))
    if rng.random() < comb:
        x = np.maximum(x + rng.uniform(0.0, 1.5) * _comb(), 0)
    x = np.clip(x + rng.uniform(0.0, 0.12) * rng.standard_normal(x.shape, dtype=np.float32), 0, 1)
    if rng.random() < 0.5:
        x = np.clip(rng.uniform(0.7, 1.3) * x ** rng.uniform(0.7, 1.4), 0, 1)
    return x


def _items(kind, split, count):
    return data_items.make_pictures(split, count) if kind == "picture" else data_items.make_spectrograms(split, count)


def train(kind, workdir, split="judge_train", seed=0):
    """Trains a judge of 'picture' or 'sound' and returns it, its held-out figures and the seconds it took."""
    stage = recipe.STAGES["judge"]
    items, others = (_items(k, split, TRAIN_ITEMS) for k in (kind, _OTHER[kind]))

    def batches(step):
        rng = data_items.generator(f"judge {kind}", split, step)
        chosen = rng.integers(len(items), size=stage.batch)
        x = np.stack([disturbed(rng, items[i], others[rng.integers(len(others))], COMB[kind]) for i in chosen])
        return x.astype(np.float32), chosen % CLASSES

    graph, params = nnx.split(Judge(rngs=nnx.Rngs(seed)))

    def loss(params, batch, key):
        logits = jax.nn.log_softmax(nnx.merge(graph, params)(batch[0]))
        return -jnp.mean(logits[jnp.arange(len(batch[1])), batch[1]])

    params, seconds = fit(loss, params, batches, stage, workdir / f"judge_{kind}")
    judge = nnx.merge(graph, params)
    return judge, _held_out(judge, kind), seconds


def load(kind, folder=WEIGHTS):
    """The judge of 'picture' or 'sound' that comes with the package, or one that another training exported."""
    tensors = load_file(folder / "judges" / f"{kind}.safetensors")
    return state_dict.load_state_dict(state_dict.abstract_arrays(Judge), tensors, name=f"judge of {kind}")


def _held_out(judge, kind):
    """Accuracies on clean and on disturbed data."""
    clean, others = (_items(k, "judge_held_out", HELD_OUT_ITEMS) for k in (kind, _OTHER[kind]))
    rng = data_items.generator(f"judge {kind}", "judge_held_out", 0)
    hard = np.stack([disturbed(rng, x, others[rng.integers(len(others))], COMB[kind]) for x in clean])
    truth = data_items.labels(HELD_OUT_ITEMS)
    return {
        "held_out": float(np.mean(classify(judge, clean / np.float32(255)) == truth)),
        "held_out_disturbed": float(np.mean(classify(judge, hard) == truth)),
    }
