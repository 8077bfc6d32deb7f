"""The normal noise of PyTorch 2.13, reproduced without PyTorch.

The paper's authors draw float16 noise on the CPU. PyTorch 2.13 computes it in float32 and rounds. (The authors' PyTorch
2.1.2 computes in float16, which gives other values.) It draws blocks of 16 values,
each from 16 words of the Mersenne Twister, or fewer than 16 values in pairs, in double precision.
"""

import numpy as np

_BLOCK = 16


def torch_noise(seed: int, shape: tuple[int, int, int], draw: int = 0) -> np.ndarray:
    """Draws standard normal noise, float32 `[h w c]` rounded to float16's values.

    This is `torch.randn((1, c, h, w), generator=torch.Generator().manual_seed(seed), dtype=torch.float16)`, except that
    about one value in 100,000 is the adjacent float16 value: PyTorch approximates the logarithm, sine and cosine in a
    way that depends on the processor.

    Args:
      seed: 0 to 2^32 - 1.
      shape: h, w, c.
      draw: 0 for the first call of the same generator, 1 for the second, and so on.
    """
    h, w, c = shape
    values = torch_normal(seed, h * w * c, draw).astype(np.float16).astype(np.float32)
    return np.moveaxis(values.reshape(c, h, w), 0, -1)


def torch_normal(seed: int, count: int, draw: int = 0) -> np.ndarray:
    """Draws the values of `torch_noise` before they are rounded to float16: float32 `[count]`, in PyTorch's order."""
    if count < _BLOCK:  # an unpaired value remains for the next draw
        return _draw_pairs(seed, (draw + 1) * count)[draw * count :]
    return _draw_blocks(seed, count, draw)


def _random_words(seed, count):
    """Returns the output of the Mersenne Twister, uint32 `[count]`, which NumPy's legacy generator does not change."""
    return np.random.RandomState(seed).randint(0, 2**32, count, dtype=np.uint32)


def _draw_blocks(seed, count, draw):
    size = -(-count // _BLOCK) * _BLOCK
    words = _random_words(seed, (draw + 1) * size)[draw * size :].reshape(-1, 2, _BLOCK // 2)
    radii, turns = np.moveaxis((words & 0xFFFFFF).astype(np.float32) * np.float32(2**-24), 1, 0)
    values = np.stack(_box_muller(radii, turns, np.float32), axis=1).ravel()
    # PyTorch writes the last block over the last 16 places if it is incomplete. (In float32 it draws it again.)
    return np.concatenate([values[: count - _BLOCK], values[-_BLOCK:]])


def _draw_pairs(seed, count):
    high, low = _random_words(seed, 2 * (count + count % 2)).reshape(-1, 2).T.astype(np.uint64)
    uniform = ((high << 32 | low) & (2**53 - 1)) * 2.0**-53
    values = np.stack(_box_muller(uniform[1::2], uniform[::2], np.float64), axis=1).ravel()
    return values[:count].astype(np.float32)


def _box_muller(radii, turns, dtype):
    """Computes two independent normals from uniforms in [0, 1), every operation in `dtype`."""
    radius, angle = np.sqrt(-2 * np.log1p(-radii)), dtype(2 * np.pi) * turns
    return radius * np.cos(angle), radius * np.sin(angle)
