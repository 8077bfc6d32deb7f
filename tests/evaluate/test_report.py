"""Tables of scores."""

from its_jax.evaluate import report


def test_a_single_sample_has_no_interval():
    row = report.Row("a|b", 1, {"clip": (20.0, float("nan"), 1)}, {"FAD": 0.5}, None)
    assert report.cells([row])[1] == ["a|b", "1", "20.00", "0.500", ""]
    assert report.as_json([row])[0]["means"] == {"clip": {"mean": 20.0, "reach": None, "n": 1}}


def test_bars_in_names_are_escaped_in_markdown():
    row = report.Row("a|b", 2, {"clip": (20.0, 1.0, 2)}, {}, 0.5)
    assert "| a\\|b | 2 | 20.00 ± 1.00 | 0.50 |" in report.markdown([row])
