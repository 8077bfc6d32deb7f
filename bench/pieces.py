"""What XLA's space-to-batch makes a TPU compute twice: it cuts few wide pictures into pieces that overlap."""

import re

SHAPE = re.compile(r"%([\w.\-]+) = \w+\[([\d,]+)\]")
# One whose input is cut: its rows still have the zeros around the picture, its columns come with their neighbours.
CUT = re.compile(
    r" = \w+\[([\d,]+)\]\S* convolution\(%([\w.\-]+), %([\w.\-]+)\), "
    r"window=\{size=\dx\d(?: stride=(\d)x\d)?(?: pad=\d_\dx0_0)?\}, dim_labels=0b1f_01io->0b1f"
)


def overlaps(text: str, batch: int, wide: int) -> int:
    """Floating-point operations of convolutions in a compiled program that serve columns computed already, or none.

    Args:
      text: the program, as `compiled.as_text()` has it.
      batch: pictures that it takes at once, before any are cut.
      wide: how many times a picture is as wide as it is high.
    """
    shapes = {name: _numbers(dims) for name, dims in SHAPE.findall(text)}
    return sum(_twice(shapes, batch, wide, *found) for found in CUT.findall(text))


def _twice(shapes, batch, wide, out, lhs, rhs, stride):
    (height, pieces, columns, _), stride = _numbers(out), int(stride or 1)
    size, _, inputs, outputs = shapes[rhs]
    rows = _taps(height, size, stride, shapes[lhs][0])
    width = wide * height
    computed = pieces * columns * size
    needed = batch * _taps(width, size, stride, width * stride)
    return 2 * rows * inputs * outputs * (computed - needed)


def _taps(places, size, stride, length):
    """Of a kernel's taps at all places, those that meet the input."""
    return sum(0 <= stride * place + tap - size // 2 < length for place in range(places) for tap in range(size))


def _numbers(text):
    return [int(part) for part in text.split(",")]
