"""The number of samples that are generated at once: as many as are useful and fit in memory."""

import logging
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from its_jax.errors import UserError

# Beyond this many the CPU gains nothing from a larger batch.
CPU_BATCH = 4
# Rough peak of full-size models in float32: bytes per pixel of a sample and channel of the VAE at full resolution.
CPU_BYTES_PER_PIXEL = 64
# A share of all memory rather than of the free memory, so that a machine always forms the same batches, hence bits.
CPU_MEMORY_SHARE = 0.25
MAX_BATCH_PER_DEVICE = 64
MEMORY_SHARE = 0.9
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # part of XLA's error messages


class BatchSize:
    """The batch size of a program, a multiple of the samples that the devices generate at once.

    Args of the constructor:
      compile: compiles for a batch size; returns the bytes of a device that a batch needs, as a function without
        arguments, because not every caller asks.
      device: one of the devices, all of one kind. at_once: the samples that they generate at once.
      adjustable: whether a batch may become smaller if it does not fit in memory.
    """

    def __init__(self, compile: Callable[[int], Callable[[], int]], device: jax.Device, at_once: int, adjustable: bool):
        self._compile, self._device, self._at_once, self._adjustable = compile, device, at_once, adjustable
        self._needed: Callable[[], int] = lambda: 0
        self.value = 0

    def choose(self, pending: int, requested: int, *, cpu_pixels: int, reserved: int) -> None:
        """Compiles for the requested batch size, or for one that suits the device.

        Args:
          pending: how many samples there are. requested: 0 to choose.
          cpu_pixels: pixels of a sample times channels of the VAE at full resolution.
          reserved: bytes of a device that must stay free for other things.

        Raises:
          UserError: the batch does not fit in memory, or the device does not report its memory.
        """
        if requested:
            self._try(self._round(requested))
            return
        wanted = self._round(min(pending, MAX_BATCH_PER_DEVICE * self._at_once))
        if self._device.platform == "cpu":
            self._try(self._round(max(1, min(wanted, CPU_BATCH, fits_on_cpu(cpu_pixels)))))
        else:
            self._grow(wanted, self._free_bytes(reserved))

    def _grow(self, wanted, free):
        self._try(self._at_once)
        fitting = max(1, int(free / self._needed()))
        size = min(wanted, 2 ** int(np.log2(fitting)) * self._at_once)
        while size > self.value:
            self._try(size)
            if self.value < size:  # the compiler refused
                break
            if 2 * self._needed() <= free:  # not all of it grows with the batch
                size = min(wanted, 2 * size)
        while self._needed() > free and self.value > self._at_once:  # it may grow faster, too
            self._try(self._half())

    def shrink(self) -> None:
        """Compiles for half the batch size."""
        self._try(self._half())

    def check_can_shrink(self, error: jax.errors.JaxRuntimeError) -> None:
        """Logs that a batch does not fit in memory, if a smaller one may.

        Raises:
          UserError: the batch size was requested, or is the smallest possible.
          JaxRuntimeError: `error` has another cause.
        """
        remedy = "set a dtype of fewer bits, or a smaller width or window"
        check_can_shrink(error, "batch_size", self.value, self._half(), adjustable=self._adjustable, remedy=remedy)

    def _try(self, size):
        """Compiles for a batch size, or for a smaller one if the compiler finds that it does not fit in memory."""
        self.value = size
        try:
            self._needed = self._compile(size)
            return
        except jax.errors.JaxRuntimeError as error:
            self.check_can_shrink(error)
        self._try(self._half())

    def _round(self, size):
        return math.ceil(size / self._at_once) * self._at_once

    def _half(self):
        return max(1, self.value // self._at_once // 2) * self._at_once

    def _free_bytes(self, reserved):
        memory = self._device.memory_stats()
        if memory is None:
            raise UserError("batch_size=0: this device does not report its memory; set a batch size")
        return MEMORY_SHARE * memory["bytes_limit"] - memory["bytes_in_use"] - reserved


def useful_batch(pending: int, at_once: int, device: jax.Device) -> int:
    """Returns the largest batch size that is useful for this many samples."""
    limit = CPU_BATCH if device.platform == "cpu" else MAX_BATCH_PER_DEVICE * at_once
    return math.ceil(min(pending, limit) / at_once) * at_once


def fill_up(items: Sequence[Any], size: int, index: int = 0) -> list[Any]:
    """Returns a batch of `size` items that has `items` from `index` on, and copies of them elsewhere."""
    before = [items[0]] * index
    after = [items[-1]] * (size - index - len(items))
    return [*before, *items, *after]


def run_fitting(program: Any, batch: Sequence[Any], on_progress: Any, *, batch_index: int = 0) -> list[Any]:
    """Generates as many of the first samples as fit in memory, with a smaller batch size if that is necessary.

    Args:
      program: called as `program(batch, on_progress, batch_index=...)`; has `batch_size`, `shrink` and
        `check_can_shrink`.

    Raises:
      UserError: not even the smallest batch fits in memory, or the batch size must not change.
    """
    while True:
        part = batch[: program.batch_size - batch_index]
        try:
            return program(part, on_progress, batch_index=batch_index)
        except jax.errors.JaxRuntimeError as error:
            program.check_can_shrink(error)
        program.shrink()  # outside of the except clause, because the error holds on to arrays of the failed batch


def check_can_shrink(
    error: jax.errors.JaxRuntimeError, setting: str, size: int, smaller: int, *, adjustable: bool, remedy: str
) -> None:
    """Logs that a batch of `size` does not fit in memory, if one of `smaller` may.

    Args:
      setting: the name of the batch size. adjustable: whether it may change.
      remedy: what the user can change if no batch fits.

    Raises:
      UserError: the batch size must not change, or is the smallest possible.
      JaxRuntimeError: `error` has another cause.
    """
    if OUT_OF_MEMORY not in str(error):
        raise error
    if smaller == size:
        raise UserError(f"one sample on each device does not fit in memory; {remedy}") from error
    if not adjustable:
        hint = f"set it to {smaller} or less, or to 0, which chooses"
        raise UserError(f"{setting}={size} does not fit in memory; {hint}") from error
    logging.warning("a batch of %d does not fit in memory; continuing with %d", size, smaller)


def fits_on_cpu(pixels: int) -> int:
    """Returns how many samples fit in a CPU's memory; `pixels` of each are counted per channel of the VAE."""
    memory = CPU_MEMORY_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(memory / (CPU_BYTES_PER_PIXEL * pixels))
