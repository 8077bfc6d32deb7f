"""bench.tpu_compile's verdict on what the compiler says. (The compiling itself takes libtpu, and minutes.)"""

import copy

import pytest

from bench import tpu_compile
from bench.pieces import overlaps

GOOD = {
    "total": 10.8e9,
    "of_hbm": 0.64,
    "fits": True,
    "programs": {
        "denoise": {"collectives": [], "of_a_step": {"compiled_to_counted": 1.005}},
        "decode": {"collectives": []},
    },
}


def test_nothing_is_missed():
    assert tpu_compile.faults(GOOD) == []


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("fits",), False, "10.80 GB do not fit, 64% of the memory"),
        (("programs", "decode", "collectives"), ["all-reduce"], "between chips: {'decode': ['all-reduce']}"),
        (("programs", "denoise", "of_a_step", "compiled_to_counted"), 1.031, "1.031 of the arithmetic"),
        (("programs", "denoise", "of_a_step", "compiled_to_counted"), 0.969, "0.969 of the arithmetic"),
        (("refused",), "the batch is too large", "the batch is too large"),
    ],
)
def test_a_miss_is_told(path, value, told):
    found = copy.deepcopy(GOOD)
    at = found
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    (fault,) = tpu_compile.faults(found)
    assert told in fault


def test_overlaps_of_pieces_are_counted():
    program = """
  %a = bf16[32,16,19,320]{3,1,2,0} fusion(%x), kind=kLoop
  %k = bf16[3,3,320,640]{3,2,1,0} parameter(0)
  ROOT %y = bf16[32,16,17,640]{3,1,2,0} convolution(%a, %k), window={size=3x3 pad=1_1x0_0}, dim_labels=0b1f_01io->0b1f
  %b = bf16[2,32,128,320]{3,2,1,0} parameter(1)
  %z = bf16[2,32,128,640]{3,2,1,0} convolution(%b, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f
"""
    # 2 pictures of 32 x 128 in 8 pieces of 17 columns: all taps of those, in place of 128 without the zeros around.
    rows = 3 * 32 - 2
    columns = 16 * 17 * 3 - 2 * (3 * 128 - 2)
    assert overlaps(program, batch=2, wide=4) == 2 * rows * columns * 320 * 640
