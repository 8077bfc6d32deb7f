"""Records for the tests of evaluation, and its results."""

import json

from its_jax.evaluate import score_cache
from tests.helpers import finished_samples


def make_records(count=4, scores=None, **changes):
    return [finished_samples.record({"seed": seed, **changes}, scores) for seed in range(count)]


def table_file(workdir, suffix):
    """Returns the path of the last table of a work folder, with a suffix such as '.md'."""
    last = max((workdir / "evaluation").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return last.with_name(last.stem + suffix)


def read_report(workdir):
    return json.loads(table_file(workdir, ".json").read_text())


def read_rows(workdir):
    return read_report(workdir)["rows"]


def measured(workdir):
    """Returns the ids of samples and the names of measures in the score files, by file."""
    lines = {
        path.name: [json.loads(line)["key"] for line in path.read_bytes().splitlines()]
        for path in (workdir / score_cache.FOLDER).glob("*.jsonl")
    }
    return {name: [(key[0], key[2]) for key in keys] for name, keys in lines.items()}
