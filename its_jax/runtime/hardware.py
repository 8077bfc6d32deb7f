"""The machine's processors, speed and memory."""

import ctypes
import datetime
import gc
import os
import pathlib
import platform
import resource
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

# Rows of the square matrices whose product measures the machine's speed, on an accelerator and on a CPU.
PRODUCT = 8192, 2048
_VECTOR_EXTENSIONS = {"amx_tile": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}


def describe() -> str:
    """Returns where and when something is measured: devices or CPU cores, the date, and the version of JAX."""
    devices = jax.devices()
    kind = f"{len(devices)} x {devices[0].device_kind}"
    if devices[0].platform == "cpu":
        kind = f"{os.cpu_count()} cores of {cpu_name()}"
    return f"{kind}, {datetime.date.today()}, jax {jax.__version__}"


def cpu_name() -> str:
    """Returns the CPU's name and its widest vector extension."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name", platform.processor() or platform.machine())
    flags = fields.get("flags", "").split()
    widest = next((extension for flag, extension in _VECTOR_EXTENSIONS.items() if flag in flags), None)
    return f"{name} with {widest}" if widest else name


def suitable_dtype(device: Any) -> str:
    """Returns the dtype that suits a device: one of 16 bits on an accelerator.

    GPUs before compute capability 8.0, such as the T4, have no units for bfloat16.

    Args:
      device: a `jax.Device`.
    """
    if device.platform == "cpu":
        return "float32"
    if device.platform == "gpu" and float(device.compute_capability) < 8:
        return "float16"
    return "bfloat16"


def matrix_rate(dtype: Any, repeats: int = 5) -> float:
    """Measures the floating-point operations per second of a square matrix product on all local devices.

    It takes the faster of two ways to get a result in `dtype`: to compute it in float32 and round, or to compute it in
    `dtype`. Devices differ in which one is faster.
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
    """Returns the peak memory in bytes of the first local device, or of this process on a CPU."""
    memory = jax.local_devices()[0].memory_stats()
    return memory["peak_bytes_in_use"] if memory else process_peak()


def process_peak() -> int:
    """Returns the peak memory of this process in bytes."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # getrusage counts the peak of the parent process too.
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line[:6] == "VmHWM:")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts in bytes, other systems in KiB.


def reset_peak() -> None:
    """Resets the peak memory of this process to its current memory. It works on Linux only."""
    gc.collect()
    release_memory()
    if sys.platform == "linux":
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def release_memory() -> None:
    """Returns freed memory to the system.

    glibc keeps freed memory, and reading a checkpoint frees as much as it reads. Other C libraries return it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
