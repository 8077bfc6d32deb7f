"""Where the device's time goes in the loop: a profile of a few steps, summed up.

    python -m bench.trace --models=FOLDER --batch=8 --dtype=bfloat16 --out=trace.json

Kernels are those of the compiled loop alone. `busy` is their share of the loop's time: the rest is the device waiting
for the host. `transfers` are copies between host and device while the loop ran; a step has a few of one byte or word at
least, with which XLA asks whether the loop goes on and which models take part. The program's text says which attention
and which layouts of convolutions XLA chose.
"""

import argparse
import collections
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bench import flags, peer_sample
from bench.about import about
from bench.peer_parts import FULL_SIZE
from its_jax.errors import UserError
from its_jax.storage.files import write_json

# What the names of kernels and operations say of their kind; the first that fits counts.
KINDS = {
    "attention": r"fmha|sdpa|flash|attention",
    "convolution": r"conv(?!ert)|fprop|winograd",
    "matrix product": r"gemm|dot|matmul|nvjet|cublas|cutlass",
    "copy": r"memcpy|memset|copy|transpose|nchwtonhwc|nhwctonchw",
}
REST = "elementwise and sums"
TRANSFER = re.compile(r"memcpy.*(d2h|h2d|dtoh|htod)", re.IGNORECASE)
# Of XLA's CPU programs: they contain others, which are counted.
CONTAINERS = re.compile(r"(while|call|conditional|cond)(\.\w+)*$")


class Kernel(NamedTuple):
    name: str
    start: float  # ns
    duration: float  # ns
    module: str  # of the program that it belongs to, or ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", type=Path, default=FULL_SIZE)
    parser.add_argument("--models", type=Path, required=True, help="as python -m bench.full_size makes them")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=flags.at_least(1), default=1)
    parser.add_argument("--steps", type=flags.at_least(1), default=10)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    args = parser.parse_args()
    with flags.told(parser):
        flags.check_out(args.out)
        figures = profile(args)
    device = jax.local_devices()[0].device_kind
    write_json(args.out, {**about(), "device": device, "dtype": args.dtype, "batch": args.batch, **figures})
    for name, share in figures["shares"].items():
        print(f"{name:24} {share:6.1%}")
    print(f"busy {figures['busy']:.1%}, transfers {figures['transfers']}, {figures['program']}")


def profile(args: argparse.Namespace) -> dict[str, Any]:
    """Summary of the loop of one batch."""
    settings = peer_sample.settings(args.config, args.models, args.dtype, args.steps)
    run = peer_sample.Ours(settings, args.batch)
    run(peer_sample.batch(settings, args.batch, 0))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run(peer_sample.batch(settings, args.batch, 1))
        (file,) = Path(folder).rglob("*.xplane.pb")
        summary = summed(kernels(jax.profiler.ProfileData.from_file(str(file))), "denoise")
    return {"steps": args.steps, **summary, "program": of_program(run.sampler.programs["denoise"].as_text())}


def kernels(data: Any) -> Iterable[Kernel]:
    """What ran on the devices, or on a CPU the operations of compiled programs."""
    planes = list(data.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in devices or planes:
        for line in plane.lines:
            if devices and not line.name.startswith("Stream"):  # the other lines sum these up
                continue
            for event in line.events:
                stats = dict(event.stats)
                if devices or ("hlo_op" in stats and not CONTAINERS.match(event.name)):
                    name = f"{event.name} {stats.get('hlo_op', '')}".strip()
                    yield Kernel(name, event.start_ns, event.duration_ns, str(stats.get("hlo_module", "")))


def summed(found: Iterable[Kernel], module: str) -> dict[str, Any]:
    """Shares of time by kind, the ten kernels that take most, and what is not computing.

    Raises:
      UserError: the profile has no kernels of a program whose name has `module` in it.
    """
    found = list(found)
    own = [kernel for kernel in found if module in kernel.module and not TRANSFER.search(kernel.name)]
    if not own:
        raise UserError(f"the profile shows nothing of the program {module!r}")
    first, last = min(k.start for k in own), max(k.start + k.duration for k in own)
    total, by_kind, by_name = sum(k.duration for k in own), collections.Counter(), collections.Counter()
    for kernel in own:
        by_kind[kind(kernel.name)] += kernel.duration
        by_name[kernel.name.partition(" ")[0]] += kernel.duration
    transfers = sum(bool(TRANSFER.search(k.name)) and first <= k.start <= last for k in found)
    return {
        "loop_seconds": round((last - first) / 1e9, 4),
        "busy": round(total / (last - first), 4),
        "kernels": len(own),
        "transfers": transfers,
        "shares": {name: round(duration / total, 4) for name, duration in by_kind.most_common()},
        "longest": {name: round(duration / total, 4) for name, duration in by_name.most_common(10)},
    }


def kind(name: str) -> str:
    """Of a kernel, by its name and that of its operation."""
    return next((kind for kind, words in KINDS.items() if re.search(words, name, re.IGNORECASE)), REST)


def of_program(text: str) -> dict[str, Any]:
    """What the text of a compiled program says: fused attentions, layouts of convolutions, and talk with the host."""
    layouts = re.findall(r"dim_labels=(\w+)_\w+->\w+", text)
    return {
        "fused_attentions": len(re.findall(r'custom_call_target="__cudnn\$fmha', text)),
        "convolutions_by_layout": dict(collections.Counter(layouts)),
        "host_operations": len(re.findall(r"= \S+ (?:infeed|outfeed|send|recv)\(|callback", text)),
    }


if __name__ == "__main__":
    main()
