"""The noise of PyTorch's CPU generator, without PyTorch: a seed gives the latent that the paper's authors began with.

They draw it in float16. PyTorch then computes in float32 and rounds: in blocks of 16, each from 16 words of the
Mersenne Twister, or, below 16 values, two by two from double precision.
"""

import numpy as np

_BLOCK = 16


def torch_noise(seed: int, shape: tuple[int, int, int], draw: int = 0) -> np.ndarray:
    """Standard normal float32 `[h w c]` of a seed from 0 to 2^32 - 1, rounded to float16's values.

    `draw` 1 is what the same generator gives when it is asked once more, and so on.

    It is `torch.randn((1, c, h, w), generator=torch.Generator().manual_seed(seed), dtype=torch.float16)`, but for one
    value in a hundred thousand, which is the next of float16: PyTorch's logarithm, sine and cosine are approximations
    that depend on the processor.
    """
    h, w, c = shape
    values = torch_normal(seed, h * w * c, draw).astype(np.float16).astype(np.float32)
    return np.moveaxis(values.reshape(c, h, w), 0, -1)


def torch_normal(seed: int, count: int, draw: int = 0) -> np.ndarray:
    """The `count` values before they are rounded to float16, float32 `[count]`."""
    if count < _BLOCK:  # the second of a pair that is left over is kept for the next draw
        return _in_pairs(seed, (draw + 1) * count)[draw * count :]
    return _in_blocks(seed, count, draw)


def _words(seed, count):
    """What the Mersenne Twister gives, uint32 `[count]`: NumPy's legacy generator hands it on as it is."""
    return np.random.RandomState(seed).randint(0, 2**32, count, dtype=np.uint32)


def _in_blocks(seed, count, draw):
    size = -(-count // _BLOCK) * _BLOCK
    words = _words(seed, (draw + 1) * size)[draw * size :].reshape(-1, 2, _BLOCK // 2)
    radii, turns = np.moveaxis((words & 0xFFFFFF).astype(np.float32) * np.float32(2**-24), 1, 0)
    values = np.stack(_box_muller(radii, turns, np.float32), axis=1).ravel()
    # Where the last block is cut, all of its 16 values take the last 16 places (in float32 PyTorch draws it afresh).
    return np.concatenate([values[: count - _BLOCK], values[-_BLOCK:]])


def _in_pairs(seed, count):
    high, low = _words(seed, 2 * (count + count % 2)).reshape(-1, 2).T.astype(np.uint64)
    uniform = ((high << 32 | low) & (2**53 - 1)) * 2.0**-53
    values = np.stack(_box_muller(uniform[1::2], uniform[::2], np.float64), axis=1).ravel()
    return values[:count].astype(np.float32)


def _box_muller(radii, turns, dtype):
    """Two independent normals from uniforms in [0, 1), every step in `dtype`."""
    radius, angle = np.sqrt(-2 * np.log1p(-radii)), dtype(2 * np.pi) * turns
    return radius * np.cos(angle), radius * np.sin(angle)
