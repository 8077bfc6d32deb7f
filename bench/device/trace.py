"""Profiles a few steps and sums up where the device's time in the loop goes.

    python -m bench.device.trace --models=FOLDER --batch=8 --dtype=bfloat16 --out=trace.json

Only the kernels of the compiled loop are counted. `busy` is their share of the loop's time; during the rest the device
waits for the host. `transfers` are copies between host and device while the loop ran. A step has at least a few of one
byte or word, by which XLA finds out whether the loop continues and which models are active. The text of the program
shows which attention and which layouts of convolutions XLA chose.
"""

import collections
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags
from ml_collections import config_flags

from bench import command
from bench.peer import samples
from bench.peer.parts import FULL_SIZE
from its_jax.errors import UserError
from its_jax.runtime import cli
from its_jax.settings.schema import DTYPES

# Kinds of kernels by the names of the kernel and its operation; the first match counts.
KINDS = {
    "attention": r"fmha|sdpa|flash|attention",
    "convolution": r"conv(?!ert)|fprop|winograd",
    "matrix product": r"gemm|dot|matmul|nvjet|cublas|cutlass",
    "copy": r"memcpy|memset|copy|transpose|nchwtonhwc|nhwctonchw",
}
REST = "elementwise and sums"
TRANSFER = re.compile(r"memcpy.*(d2h|h2d|dtoh|htod)", re.IGNORECASE)
# Operations of XLA's CPU programs that contain others, which are counted themselves.
CONTAINERS = re.compile(r"(while|call|conditional|cond)(\.\w+)*$")


class Kernel(NamedTuple):
    """A kernel that ran on the device."""

    name: str
    start: float  # ns
    duration: float  # ns
    module: str  # the program to which it belongs, or ""


def main():
    args = flags.FLAGS
    save = command.results_writer(args.out)
    settings = samples.comparable_settings(args.config.to_dict(), Path(args.models), args.dtype, args.steps)
    figures = profile(settings, args.batch)
    save({"dtype": args.dtype, "batch": args.batch, "steps": args.steps, **figures})
    for name, share in figures["shares"].items():
        print(f"{name:24} {share:6.1%}")
    print(f"busy {figures['busy']:.1%}, transfers {figures['transfers']}, {figures['program']}")


def profile(settings: dict[str, Any], b: int) -> dict[str, Any]:
    """Returns the summary of the loop of one batch."""
    run = samples.Ours(settings, b)
    run(samples.batch(settings, b, 0))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run(samples.batch(settings, b, 1))
        (file,) = Path(folder).rglob("*.xplane.pb")
        summary = summarize(read_kernels(jax.profiler.ProfileData.from_file(str(file))), "denoise")
    return {**summary, "program": describe_program(run.loop_text())}


def read_kernels(data: Any) -> Iterable[Kernel]:
    """Yields what ran on the devices or, on a CPU, the operations of compiled programs."""
    planes = list(data.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in devices or planes:
        for line in plane.lines:
            if devices and not line.name.startswith("Stream"):  # the other lines are sums
                continue
            for event in line.events:
                stats = dict(event.stats)
                if devices or ("hlo_op" in stats and not CONTAINERS.match(event.name)):
                    name = f"{event.name} {stats.get('hlo_op', '')}".strip()
                    yield Kernel(name, event.start_ns, event.duration_ns, str(stats.get("hlo_module", "")))


def summarize(kernels: Iterable[Kernel], module: str) -> dict[str, Any]:
    """Returns shares of time by kind, the ten longest kernels, the busy share and the number of transfers.

    Only programs with `module` in their name count; raises UserError if there are none.
    """
    kernels = list(kernels)
    own = [kernel for kernel in kernels if module in kernel.module and not TRANSFER.search(kernel.name)]
    if not own:
        raise UserError(f"the profile shows nothing of the program {module!r}")
    first, last = min(k.start for k in own), max(k.start + k.duration for k in own)
    total = sum(k.duration for k in own)
    by_kind, by_name = collections.Counter[str](), collections.Counter[str]()
    for kernel in own:
        by_kind[find_kind(kernel.name)] += kernel.duration  # type: ignore[assignment]
        by_name[kernel.name.partition(" ")[0]] += kernel.duration  # type: ignore[assignment]
    transfers = sum(bool(TRANSFER.search(k.name)) and first <= k.start <= last for k in kernels)
    return {
        "loop_seconds": round((last - first) / 1e9, 4),
        "busy": round(total / (last - first), 4),
        "kernels": len(own),
        "transfers": transfers,
        "shares": {name: round(duration / total, 4) for name, duration in by_kind.most_common()},
        "longest": {name: round(duration / total, 4) for name, duration in by_name.most_common(10)},
    }


def find_kind(name: str) -> str:
    """Returns the kind of a kernel by its name and that of its operation."""
    return next((kind for kind, words in KINDS.items() if re.search(words, name, re.IGNORECASE)), REST)


def describe_program(text: str) -> dict[str, Any]:
    """Counts fused attentions, convolutions by layout and host operations in the text of a compiled program."""
    layouts = re.findall(r"dim_labels=(\w+)_\w+->\w+", text)
    return {
        "fused_attentions": len(re.findall(r'custom_call_target="__cudnn\$fmha', text)),
        "convolutions_by_layout": dict(collections.Counter(layouts)),
        "host_operations": len(re.findall(r"= \S+ (?:infeed|outfeed|send|recv)\(|callback", text)),
    }


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "Settings of the samples.", lock_config=True)
    flags.DEFINE_string("models", None, "Folder that python -m bench.peer.random_models wrote.", required=True)
    flags.DEFINE_enum("dtype", "bfloat16", DTYPES, "Dtype of the samples.")
    flags.DEFINE_integer("batch", 1, "Batch size.", lower_bound=1)
    flags.DEFINE_integer("steps", 10, "Number of steps.", lower_bound=1)
    flags.DEFINE_string("out", None, "JSON file for the results.", required=True)
    cli.run(main, config=FULL_SIZE)
