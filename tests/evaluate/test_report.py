"""Tables of scores."""

import sys

import pytest

from its_jax.errors import UserError
from its_jax.evaluate import report


def test_a_single_sample_has_no_interval():
    row = report.Row("a|b", 1, {"clip": (20.0, float("nan"), 1)}, {"FAD": 0.5}, None)
    assert report.cells([row])[1] == ["a|b", "1", "20.00", "0.500", ""]
    assert report.as_json([row])[0]["means"] == {"clip": {"mean": 20.0, "reach": None, "n": 1}}


def test_bars_in_names_are_escaped_in_markdown():
    row = report.Row("a|b", 2, {"clip": (20.0, 1.0, 2)}, {}, 0.5)
    assert "| a\\|b | 2 | 20.00 ± 1.00 | 0.50 |" in report.markdown([row])


def test_without_matplotlib_the_table_is_written_and_one_line_names_the_extra(tmp_path, monkeypatch, caplog):
    for name in ("matplotlib", "matplotlib.figure"):  # as if it was not installed
        monkeypatch.setitem(sys.modules, name, None)
    row = report.Row("a", 2, {"clip": (20.0, 1.0, 2), "clap": (10.0, 1.0, 2)}, {}, 0.5)
    report.write(tmp_path, [row], {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.json", "evaluation.md"]
    (message,) = caplog.messages
    assert message == "evaluation.png is not written: plots need matplotlib; pip install 'its_jax[plot]'"
    with pytest.raises(UserError, match=r"plots need matplotlib; pip install 'its_jax\[plot\]'"):
        report.plot([row])
