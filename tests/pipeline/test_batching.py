"""The batch size that is chosen, with figures in place of programs."""

import types

import jax
import pytest

from its_jax.errors import UserError
from its_jax.pipeline import batching
from its_jax.pipeline.batching import BatchSize, run_fitting

OUT_OF_MEMORY = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.")
IN_USE = 1000


class Compiler:
    """Compiles nothing.

    Args:
      needed: bytes of a device for this many samples on it. limit: the number of samples that the compiler can place.

    Attributes:
      tried: the batch sizes, in order.
    """

    def __init__(self, needed, limit=64, devices=1):
        self._needed, self._limit, self._devices, self.tried = needed, limit, devices, []

    def __call__(self, batch_size):
        self.tried.append(batch_size)
        if batch_size // self._devices > self._limit:
            raise OUT_OF_MEMORY
        return lambda: self._needed(batch_size // self._devices)


def device(free):
    """Returns an accelerator with this many free bytes, of which a share is used."""
    memory = {"bytes_limit": (free + IN_USE) / batching.MEMORY_SHARE, "bytes_in_use": IN_USE}
    return types.SimpleNamespace(platform="tpu", memory_stats=lambda: memory)


def choose(*, pending, free, needed, requested=0, limit=64, devices=1):
    compiler = Compiler(needed, limit, devices)
    size = BatchSize(compiler, device(free), devices, adjustable=not requested)
    size.choose(pending, requested, cpu_pixels=1, reserved=0)
    return size.value, compiler.tried


@pytest.mark.parametrize(
    ("case", "tried"),
    [
        (dict(pending=64, free=1000, needed=lambda n: 100 * n), [1, 8]),
        (dict(pending=64, free=1600, needed=lambda n: 100 * n), [1, 16]),
        (dict(pending=64, free=1599, needed=lambda n: 100 * n), [1, 8]),
        (dict(pending=64, free=1600, needed=lambda n: 100 * n, devices=4), [4, 64]),
        # A part that does not grow with the batch shows in the first program, so that more samples fit.
        (dict(pending=64, free=1599, needed=lambda n: 10 * n + max(500, 90 * n)), [1, 2, 4, 8]),
        (dict(pending=3, free=1600, needed=lambda n: 10 * n + max(500, 90 * n)), [1, 2, 3]),
        (dict(pending=3, free=1600, needed=lambda n: 100 * n), [1, 3]),
        (dict(pending=5, free=1600, needed=lambda n: 100 * n, devices=4), [4, 8]),
        (dict(pending=1, free=1600, needed=lambda n: 100 * n), [1]),
        (dict(pending=900, free=10**6, needed=lambda n: 100 * n), [1, 64]),
        # Growth beyond proportion shows in the program of that size, which is then halved.
        (dict(pending=64, free=1600, needed=lambda n: 10 * n + 90 * n**1.1), [1, 16, 8]),
        # It is also halved if the compiler refuses.
        (dict(pending=64, free=1600, needed=lambda n: 100 * n, limit=7), [1, 16, 8, 4]),
        (dict(pending=6, free=1600, needed=lambda n: 100 * n, limit=5), [1, 6, 3]),
        # A single sample is tried even if the figures say that it does not fit.
        (dict(pending=64, free=10, needed=lambda n: 100 * n), [1]),
        (dict(pending=64, requested=5, free=10, needed=lambda n: 100 * n, devices=4), [8]),
    ],
)
def test_the_largest_batch_that_fits_is_chosen(case, tried):
    assert choose(**case) == (tried[-1], tried)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (dict(requested=6), "batch_size=6 does not fit in memory; set it to 3 or less, or to 0, which chooses"),
        (dict(requested=1, limit=0), "one sample on each device does not fit in memory; set a dtype of fewer bits"),
        (dict(limit=0), "one sample on each device does not fit in memory; set a dtype of fewer bits"),
    ],
)
def test_the_error_says_which_setting_helps(case, message):
    with pytest.raises(UserError, match=f"^{message}"):
        choose(pending=64, free=1600, needed=lambda n: 100 * n, **{"limit": 4} | case)


def test_a_device_that_does_not_report_its_memory_needs_a_batch_size():
    silent = types.SimpleNamespace(platform="tpu", memory_stats=lambda: None)
    size = BatchSize(Compiler(lambda n: n), silent, 1, adjustable=True)
    size.choose(1, 1, cpu_pixels=1, reserved=0)
    with pytest.raises(UserError, match="does not report its memory; set a batch size"):
        size.choose(1, 0, cpu_pixels=1, reserved=0)


def test_a_cpu_takes_small_batches():
    cpu = types.SimpleNamespace(platform="cpu")
    compiler = Compiler(lambda n: n)
    BatchSize(compiler, cpu, 1, adjustable=True).choose(100, 0, cpu_pixels=1, reserved=0)
    assert compiler.tried == [batching.CPU_BATCH]
    compiler = Compiler(lambda n: n)
    BatchSize(compiler, cpu, 1, adjustable=True).choose(100, 0, cpu_pixels=10**15, reserved=0)
    assert compiler.tried == [1]


class Program:
    """Fails for batches above a limit, as a device without memory does."""

    def __init__(self, batch_size, limit, adjustable=True, message=str(OUT_OF_MEMORY)):
        compiler = Compiler(lambda n: n)
        self._size = BatchSize(compiler, device(10**6), 1, adjustable)
        self._size.choose(batch_size, batch_size, cpu_pixels=1, reserved=0)
        self._limit, self._message = limit, message
        self.shrink, self.check_can_shrink = self._size.shrink, self._size.check_can_shrink

    @property
    def batch_size(self):
        return self._size.value

    def __call__(self, batch, on_progress, *, batch_index=0):
        if self.batch_size > self._limit:
            raise jax.errors.JaxRuntimeError(self._message)
        return [f"{item} at {i}" for i, item in enumerate(batch, batch_index)]


def test_a_batch_that_does_not_fit_is_halved_until_it_does(caplog):
    program = Program(8, limit=3)
    assert run_fitting(program, list("abcdefgh"), None) == ["a at 0", "b at 1"]
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "a batch of 8 does not fit in memory; continuing with 4",
        "a batch of 4 does not fit in memory; continuing with 2",
    ]


def test_a_requested_batch_size_is_not_halved():
    with pytest.raises(UserError, match="batch_size=8 does not fit in memory; set it to 4 or less, or to 0"):
        run_fitting(Program(8, limit=3, adjustable=False), ["a"], None)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: broken"):
        run_fitting(Program(8, limit=3, message="INTERNAL: broken"), ["a"], None)


def test_a_batch_that_begins_later_has_room_for_fewer():
    assert run_fitting(Program(4, limit=4), list("abcdefgh"), None, batch_index=2) == ["a at 2", "b at 3"]
