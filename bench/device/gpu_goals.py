"""The goals for one GPU, and what the figures of `bench.device.gpu` say about them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

COMPARED = "unet", "peer", "authors"


class Goal(NamedTuple):
    """A goal with its figure, which is None if it was not measured."""

    name: str
    target: float
    found: float | None


def goals(figures: Mapping[str, Any]) -> list[Goal]:
    """Returns all goals. A comparison that failed is ignored, because its results may be wrong."""
    figures = {name: piece for name, piece in figures.items() if not ("fault" in piece and name.startswith(COMPARED))}
    best = best_batch(figures) or "?"
    at_best = [batch for batch in batches(figures) if batch["batch_size"] == best]
    share = at_best[0]["stages"]["all"]["of_matrix_product"] if at_best else None
    speedups = {name: read_speedups(piece) for name, piece in figures.items()}
    compiled = {
        name.removeprefix("peer, "): speedup
        for name, piece in speedups.items()
        if name.startswith(("unet", "peer")) and (speedup := over_compiled(piece)) is not None
    }
    traces = [piece for name, piece in figures.items() if name.startswith("trace") and "program" in piece]
    fused, host = ([trace["program"][key] for trace in traces] for key in ("fused_attentions", "host_operations"))
    copies = f" (up to {max(trace['transfers'] / trace['steps'] for trace in traces):.3g} a step)" if traces else ""
    attentions = figures.get("attention", {}).get("attentions", {}).values()
    authors = {b: speedups.get(f"authors, batch {b}", {}).get("eager") for b in (1, best)}
    return [
        Goal("x the authors' loop, a sample at batch 1", 2, authors[1]),
        Goal(f"x the authors' loop, a sample at batch {best}", 8, authors[best]),
        *(Goal(f"x compiled PyTorch, {name}", 1.15, speedup) for name, speedup in compiled.items()),
        *([] if compiled else [Goal("x compiled PyTorch", 1.15, None)]),
        Goal(f"of the matrix product, batch {best}", 0.5, share),
        Goal("fused attentions in the program", 1, min(fused, default=None)),
        Goal("of cuDNN's attentions agree", 1, fraction(a["agrees"] for a in attentions if a["form"] == "cudnn")),
        Goal("of programs, without host operations in their text", 1, fraction(count == 0 for count in host)),
        Goal(f"of traced loops, without host copies{copies}", 1, fraction(t["transfers"] == 0 for t in traces)),
    ]


def batches(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the benchmark's figures of each batch size."""
    benchmarks = (piece for name, piece in figures.items() if name.startswith("benchmark"))
    return [batch for piece in benchmarks for batch in piece.get("batches", [])]


def best_batch(figures: Mapping[str, Any]) -> int | None:
    """Returns the batch size with the most samples per second."""
    measured = [batch for batch in batches(figures) if "stages" in batch]
    if not measured:
        return None
    return max(measured, key=lambda batch: batch["stages"]["all"]["samples_per_second"])["batch_size"]


def read_speedups(piece: Mapping[str, Any]) -> dict[str, float]:
    """Returns PyTorch's seconds / ours by form, from the only result of a run of `bench.peer`."""
    ratios = [result["ratio"] for result in piece.get("results", {}).values()]
    return {form: 1 / ratio["median"] for form, ratio in ratios[0].items()} if ratios else {}


def over_compiled(speedups: Mapping[str, float]) -> float | None:
    """Returns the speedup over the fastest of PyTorch's compiled forms, or None if none works."""
    return min((value for form, value in speedups.items() if form != "eager"), default=None)


def fraction(flags: Iterable[bool]) -> float | None:
    """Returns the fraction of true values, or None without any value."""
    values = list(flags)
    return sum(values) / len(values) if values else None


def table(rows: Sequence[Goal]) -> Iterator[str]:
    """Yields a line for each goal: its target, its figure and whether it is met."""
    yield f"{'goal':60} {'target':>8} {'found':>8}"
    for goal in rows:
        if goal.found is None:
            yield f"{goal.name:60} {goal.target:8.4g} {'':>8} not measured"
        else:
            verdict = "met" if goal.found >= goal.target else f"missed by {1 - goal.found / goal.target:.0%}"
            yield f"{goal.name:60} {goal.target:8.4g} {goal.found:8.3g} {verdict}"
