"""States in words where the number of samples of a sweep comes from."""

from collections.abc import Mapping

from its_jax.sweep.grid import Grid


def describe_counts(grid: Grid, samples: int, origins: Mapping[str, str]) -> str:
    """Returns a line such as '20 samples = 10 rows of pairs.csv x 2 samples each (num_samples: --config.num_samples)'.

    Args:
      samples: the number of distinct samples. origins: see `its_jax.sweep.defaults.find_origins`.
    """
    factors = [_count(len(grid.rows), f"row of {grid.prompts}", f"rows of {grid.prompts}")] if grid.prompts else []
    factors += [
        f"{_count(len(values), 'value', 'values')} of {name} ({grid.origin(name)})"
        for name, values in grid.axes.items()
    ]
    factors.append(_each(grid, origins))
    repeated = sum(grid.samples_each) - samples
    less = f", less {_count(repeated, 'that is', 'that are')} the same as others" if repeated else ""
    return f"{_count(samples, 'sample', 'samples')} = {' x '.join(factors)}{less}"


def _each(grid: Grid, origins: Mapping[str, str]) -> str:
    """Describes the number of samples of each cell of the grid."""
    if grid.seeds is not None:
        return f"{_count(len(grid.seeds), 'seed', 'seeds')} (seed: {grid.origin('seed')})"
    low, high = min(grid.samples_each), max(grid.samples_each)
    count = _count(high, "sample", "samples") if low == high else f"{low:,} to {high:,} samples"
    named = sum("num_samples" in row for _, row in grid.rows)
    others = grid.origin("num_samples") if "num_samples" in grid.axes else origins["num_samples"]
    origin = others if not named else grid.prompts
    if 0 < named < len(grid.rows):
        origin += f", and {others} for {_count(len(grid.rows) - named, 'row', 'rows')}"
    return f"{count} each (num_samples: {origin})"


def _count(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"
