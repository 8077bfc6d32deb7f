"""The verdict of `bench.device.tpu_compile` on what the compiler reports. Compiling itself takes libtpu and minutes."""

import copy

import pytest

from bench.device import hlo, tpu_compile

GOOD = {
    "total": 10.8e9,
    "of_hbm": 0.64,
    "fits": True,
    "programs": {
        "denoise": {"collectives": [], "of_a_step": {"compiled_to_counted": 1.005}},
        "decode": {"collectives": []},
    },
}


def test_correct_results_pass_the_check():
    assert tpu_compile.find_faults(GOOD) == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("fits",), False, "10.80 GB do not fit, 64% of the memory"),
        (("programs", "decode", "collectives"), ["all-reduce"], "between chips: {'decode': ['all-reduce']}"),
        (("programs", "denoise", "of_a_step", "compiled_to_counted"), 1.031, "1.031 of the arithmetic"),
        (("programs", "denoise", "of_a_step", "compiled_to_counted"), 0.969, "0.969 of the arithmetic"),
        (("refused",), "the batch is too large", "the batch is too large"),
    ],
)
def test_each_missed_requirement_is_reported(path, value, message):
    found = copy.deepcopy(GOOD)
    at = found
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    (fault,) = tpu_compile.find_faults(found)
    assert message in fault


def test_chips_that_share_a_sample_may_sum_its_noise():
    found = copy.deepcopy(GOOD) | {"devices_per_sample": 4}
    found["programs"]["denoise"] = {"collectives": ["all-reduce"]}
    assert tpu_compile.find_faults(found) == []
    found["programs"]["denoise"]["collectives"].append("all-gather")
    (fault,) = tpu_compile.find_faults(found)
    assert "all-gather" in fault


def test_overlaps_of_cut_images_are_counted():
    program = """
  %a = bf16[32,16,19,320]{3,1,2,0} fusion(%x), kind=kLoop
  %k = bf16[3,3,320,640]{3,2,1,0} parameter(0)
  ROOT %y = bf16[32,16,17,640]{3,1,2,0} convolution(%a, %k), window={size=3x3 pad=1_1x0_0}, dim_labels=0b1f_01io->0b1f
  %b = bf16[2,32,128,320]{3,2,1,0} parameter(1)
  %z = bf16[2,32,128,640]{3,2,1,0} convolution(%b, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f
"""
    # 2 images of 32 x 128 in 8 pieces of 17 columns: all taps of those, instead of 128 without the zeros around.
    rows = 3 * 32 - 2
    columns = 16 * 17 * 3 - 2 * (3 * 128 - 2)
    assert hlo.overlap_flops(program, batch=2, aspect=4) == 2 * rows * columns * 320 * 640


def test_padding_of_written_arrays_is_counted():
    program = """
%fused_computation.1 (p: f32[8,8]) -> f32[8,8] {
  %inside = f32[8,8]{1,0:T(8,128)} add(%p, %p)
}
ENTRY %main (x: f32[100,40]) -> f32[100,40] {
  %x = f32[100,40]{1,0:T(8,128)} parameter(0)
  %y = f32[100,40]{1,0:T(8,128)} fusion(%x), kind=kLoop
}
"""
    (array,) = hlo.written_arrays(program)
    assert array == {"shape": "f32[100,40]", "logical": 16000, "padded": 4 * 104 * 128, "dense": False}
