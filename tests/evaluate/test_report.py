"""Tables of scores."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from its_jax.errors import UserError
from its_jax.evaluate import report, table_name


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
    report.write(tmp_path, "evaluation", [row], {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.json", "evaluation.md"]
    (message,) = caplog.messages
    assert message == "evaluation.png is not written: plots need matplotlib; pip install 'its_jax[plot]'"
    with pytest.raises(UserError, match=r"plots need matplotlib; pip install 'its_jax\[plot\]'"):
        report.plot([row])


def plotted(row, *others):
    """Returns the pixels of a plot, uint8 `[h, w, 3]`."""
    return np.asarray(Image.open(io.BytesIO(report.plot([row, *others]))).convert("RGB"))


def row_of(scores, name="a"):
    """Returns a row of samples with these CLIP and CLAP scores."""
    means = dict(zip(("clip", "clap"), ((mean, 0.5, len(scores)) for mean in np.mean(scores, axis=0)), strict=True))
    return report.Row(name, len(scores), means, {}, None, scores=scores)


def test_the_plot_of_a_single_row_shows_its_samples():
    """Samples of equal mean that lie otherwise give another plot, and a row among others shows its mean only."""
    near, far = ([(20.0 - d, 10.0 - 2 * d), (20.0 + d, 10.0 + 2 * d)] for d in (1.0, 3.0))
    assert (plotted(row_of(near)) != plotted(row_of(far))).any()
    other = row_of([(22.0, 12.0)], "b")
    np.testing.assert_array_equal(plotted(row_of(near), other), plotted(row_of(far), other))


def test_the_plot_of_a_single_sample_and_of_equal_samples_can_be_drawn():
    for scores in ([(20.0, 10.0)], [(20.0, 10.0)] * 3):
        assert plotted(row_of(scores)).std() > 5


def test_the_scores_of_samples_are_not_in_the_json():
    assert "scores" not in report.as_json([row_of([(1.0, 2.0)])])[0]


def test_equal_arguments_give_equal_names_and_others_give_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = tmp_path / "a", tmp_path / "b"
    variants = [
        ([a], {}),
        ([b], {}),
        ([a, b], {}),
        ([b, a], {}),
        ([a], {"by": "method"}),
        ([a], {"by": "image.weight"}),
    ]
    variants += [([a], {"models": {"clip": "x", "clap": ""}}), ([a], {"models": {"clip": "", "clap": "x"}})]
    variants += [([a], {"extra": ["round_trip"]}), ([a], {"extra": ["griffin_lim", "round_trip"]})]
    for source in ("c", "d.npz"):
        variants += [([a], {"compare_with": {name: source}}) for name in ("FID", "FAD")]
    variants += [([a], {"compare_with": {"FAD": "c"}, "fad_features": "vggish"})]
    names = [name_of(folders, **options) for folders, options in variants]
    assert len(set(names)) == len(names)
    assert names == [name_of([folder.relative_to(tmp_path) for folder in folders], **o) for folders, o in variants]
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") for name in names)
    assert name_of([a], fad_features="vggish") == name_of([a])  # They have no effect without FAD.
    assert name_of([a], extra=["y", "x"]) == name_of([a], extra=["x", "y"])
    assert name_of([a], in_own_folder=True) == "evaluation"
    assert name_of([a], in_own_folder=True, by="method").startswith("evaluation_by-method_")


def name_of(folders, in_own_folder=False, **options):
    return table_name.table_name(table_name.table_arguments(folders, **options), in_own_folder=in_own_folder)
