"""What the machine is, and how much of it a process used."""

import ctypes
import datetime
import gc
import os
import pathlib
import platform
import resource
import sys
import time

import jax
import jax.numpy as jnp

# Rows of the matrices whose product shows what the machine gives: on an accelerator, and on a CPU.
PRODUCT = 8192, 2048
_VECTORS = {"amx_tile": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}


def describe() -> str:
    """Where and when something is measured: devices or cores of the processor, date and version of JAX."""
    devices = jax.devices()
    kind = f"{len(devices)} x {devices[0].device_kind}"
    if devices[0].platform == "cpu":
        kind = f"{os.cpu_count()} cores of {processor()}"
    return f"{kind}, {datetime.date.today()}, jax {jax.__version__}"


def processor() -> str:
    """Its name, as the system tells it, and the widest of its instructions for vectors."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = told.get("model name", platform.processor() or platform.machine())
    widest = next((told_as for flag, told_as in _VECTORS.items() if flag in told.get("flags", "").split()), None)
    return f"{name} with {widest}" if widest else name


def matrix_rate(dtype, repeats: int = 5) -> float:
    """Floating-point operations per second of a square matrix product on all devices: what there is to be had.

    With a result in float32 that is rounded, or in `dtype` at once, whichever is quicker: that differs by device.
    """
    devices, on_cpu = jax.local_devices(), jax.default_backend() == "cpu"
    n = PRODUCT[on_cpu]
    a = [jax.device_put(jnp.full((n, n), 1 / n, dtype), device) for device in devices]
    seconds = []
    for result in {jnp.dtype(jnp.float32), jnp.dtype(dtype)}:
        product = jax.jit(lambda a, result=result: jnp.matmul(a, a, preferred_element_type=result).astype(dtype))
        jax.block_until_ready([product(x) for x in a])
        for _ in range(repeats):
            start = time.perf_counter()
            jax.block_until_ready([product(x) for x in a])
            seconds.append(time.perf_counter() - start)
    return 2 * n**3 * len(devices) / min(seconds)


def peak_memory() -> int:
    """Bytes: the most that the first device held so far, or on a CPU this process."""
    memory = jax.local_devices()[0].memory_stats()
    return memory["peak_bytes_in_use"] if memory else process_peak()


def forget_peak() -> None:
    """Lets the peak of this process begin anew, with what it holds now, where that can be done: on Linux."""
    gc.collect()
    release_memory()
    if sys.platform == "linux":
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def release_memory() -> None:
    """Gives back what was freed: glibc keeps it, of which reading leaves as much as it read; other systems' libraries
    do not."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def process_peak() -> int:
    """Bytes: the most memory that this process had so far."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # getrusage's figure is never below that of the process that started this one
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line[:6] == "VmHWM:")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts in bytes, others in KiB
