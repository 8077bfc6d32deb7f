"""bench.tpu_compile's verdict on what the compiler says. (The compiling itself takes libtpu, and minutes.)"""

import copy

import pytest

from bench import tpu_compile

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
