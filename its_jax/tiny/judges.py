"""Small classifiers that recognize the subject of an image and the sound of a spectrogram.

They measure the embedded models. `its_jax.tiny.training.judge` trains them.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file

from its_jax.models import state_dict
from its_jax.models.layers import List
from its_jax.tiny.data import items

WEIGHTS = Path(__file__).with_name("weights")
KINDS = ("picture", "sound")
CHANNELS = (24, 48, 64, 96)
_BATCH = 24  # canvases that are classified at once


class Judge(nnx.Module):
    """A classifier: strided convolutions, then mean and maximum over the canvas."""

    def __init__(self, *, rngs: nnx.Rngs):
        sizes = (1, *CHANNELS)
        self.convs = List(
            [nnx.Conv(a, b, (3, 3), strides=2, rngs=rngs) for a, b in zip(sizes, sizes[1:], strict=False)]
        )
        self.norms = List([nnx.GroupNorm(c, num_groups=8, rngs=rngs) for c in CHANNELS])
        self.out = nnx.Linear(2 * CHANNELS[-1], items.CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits `[b, 12]` of canvases `[b, 128, w]` in [0, 1]."""
        b, h, w = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2).mean(axis=(2, 4))[..., None]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(conv(x)))
        return self.out(jnp.concatenate([x.mean(axis=(1, 2)), x.max(axis=(1, 2))], axis=-1))


def load(kind: str, folder: Path = WEIGHTS) -> Judge:
    """Loads the judge of 'picture' or 'sound' that comes with the package, or one that was exported to `folder`."""
    tensors = load_file(folder / "judges" / f"{kind}.safetensors")
    return state_dict.load_state_dict(state_dict.abstract_arrays(Judge), tensors, name=f"judge of {kind}")


def classify(judge: Judge, canvases: np.ndarray) -> np.ndarray:
    """Returns the most likely classes `[n]` of canvases `[n, 128, w]` in [0, 1]."""
    logits = jax.jit(lambda judge, x: judge(x))
    blocks = [canvases[i : i + _BATCH] for i in range(0, len(canvases), _BATCH)]
    return np.concatenate([np.argmax(logits(judge, jnp.asarray(block, jnp.float32)), axis=-1) for block in blocks])


@jax.jit
def probabilities(judge: Judge, canvases: jax.Array) -> jax.Array:
    """Returns the probabilities `[n, 12]` of the classes of canvases `[n, 128, w]` in [0, 1]."""
    return jax.nn.softmax(judge(canvases))
