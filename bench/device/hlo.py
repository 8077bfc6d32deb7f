"""Reads what a program compiled for a TPU says about itself: memory, padding, collectives and repeated work."""

import collections
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from tests.helpers.collectives import COLLECTIVES

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
ARRAY = re.compile(r" = (\w+)\[([\d,]+)\]\{([\d,]+):T\((\d+),(\d+)\)")
SHAPE = re.compile(r"%([\w.\-]+) = \w+\[([\d,]+)\]")
# A convolution of cut images. Its rows still include the zeros around the image, its columns those of their neighbors.
CUT = re.compile(
    r" = \w+\[([\d,]+)\]\S* convolution\(%([\w.\-]+), %([\w.\-]+)\), "
    r"window=\{size=\dx\d(?: stride=(\d)x\d)?(?: pad=\d_\dx0_0)?\}, dim_labels=0b1f_01io->0b1f"
)


def memory_bytes(program: jax.stages.Compiled) -> dict[str, int]:
    """Returns the bytes of arguments, temporaries and outputs on each chip."""
    memory: Any = program.memory_analysis()
    return {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
    }


def describe(program: jax.stages.Compiled) -> dict[str, Any]:
    """Returns memory, collectives, kernels, arrays of attention scores, and padding of a compiled program."""
    text = program.as_text() or ""
    arrays = list(written_arrays(text))
    logical, padded = (sum(array[key] for array in arrays) for key in ("logical", "padded"))
    waste = collections.Counter[str]()
    for array in arrays:
        waste[array["shape"]] += array["padded"] - array["logical"]
    return {
        **memory_bytes(program),
        "collectives": sorted(set(re.findall(COLLECTIVES, text))),
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
        "dense_scores": sorted({array["shape"] for array in arrays if array["dense"]}),
        "padded_to_logical": round(padded / max(logical, 1), 3),
        "most_padded_mb": {shape: round(size / 1e6, 1) for shape, size in waste.most_common(4) if size > 1e6},
    }


def written_arrays(text: str) -> Iterator[dict[str, Any]]:
    """Yields the arrays that instructions outside fusions write, with their logical and padded bytes."""
    fused = False
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            fused = line.startswith("%fused") or "fused_computation" in line.split("(")[0]
        match = None if fused else ARRAY.search(line)
        if match and match[1] in BYTES and not re.search(r"\} (parameter|get-tuple-element|bitcast)\(", line):
            dims, order = _numbers(match[2]), _numbers(match[3])
            tiles = [int(match[5]), int(match[4])]  # of the minor axis and of the one beside it
            minor_first = [dims[axis] for axis in order]
            padded = [-(-size // tile) * tile for size, tile in zip(minor_first, tiles, strict=False)]
            size = BYTES[match[1]]
            yield {
                "shape": f"{match[1]}[{match[2]}]",
                "logical": math.prod(dims) * size,
                "padded": math.prod([*padded, *minor_first[2:]]) * size,
                "dense": sum(dim >= 4096 for dim in dims) > 1,
            }


def overlap_flops(text: str, batch: int, aspect: int) -> int:
    """Counts the floating-point operations of convolutions that XLA's space-to-batch makes a TPU compute twice.

    XLA cuts few wide images into pieces, which overlap.

    Args:
      text: the compiled program.
      batch: number of images before they are cut. aspect: width of an image divided by its height.
    """
    shapes = {name: _numbers(dims) for name, dims in SHAPE.findall(text)}
    return sum(_repeated_flops(shapes, batch, aspect, *found) for found in CUT.findall(text))


def _repeated_flops(shapes, batch, aspect, out, lhs, rhs, stride):
    (height, pieces, columns, _), stride = _numbers(out), int(stride or 1)
    size, _, inputs, outputs = shapes[rhs]
    rows = _count_taps(height, size, stride, shapes[lhs][0])
    width = aspect * height
    computed = pieces * columns * size
    needed = batch * _count_taps(width, size, stride, width * stride)
    return 2 * rows * inputs * outputs * (computed - needed)


def _count_taps(places, size, stride, length):
    """Counts the taps of a kernel, over all its places, that meet the input."""
    return sum(0 <= stride * place + tap - size // 2 < length for place in range(places) for tap in range(size))


def _numbers(text: str) -> Sequence[int]:
    return [int(part) for part in text.split(",")]
