"""The page over many samples: its data, and what it refuses."""

import html
import re
import sys
import types

import pytest

from its_jax import gallery
from its_jax.errors import UserError
from its_jax.storage import samples
from tests.helpers import finished_samples as finished
from tests.helpers.gallery import data


def test_the_data_of_the_page_hold_each_value_once(workdir):
    page_data = data(gallery.write(workdir))
    assert set(page_data["columns"]) == {"image.prompt", "audio.prompt", "image.weight", "seed"}
    assert page_data["columns"]["seed"]["values"] == [9, 10] and page_data["common"]["num_steps"] == 25
    found = samples.open_samples(workdir)
    for n, sample in enumerate(page_data["ids"]):
        record = found[sample].record
        for name, column in page_data["columns"].items():
            group, _, key = name.rpartition(".")
            assert column["values"][column["index"][n]] == (record[group] if group else record)[key]
        assert page_data["scores"]["good"][n] == pytest.approx(record["scores"]["good"], rel=1e-5)
    assert page_data["canvas"]["values"] == [[48, 16, 1.0, finished.RATE]]


def test_the_page_links_only_to_files_that_exist(workdir):
    page_data = data(gallery.write(workdir))
    for n, sample in enumerate(page_data["ids"]):
        of = {key: page_data[key]["values"][page_data[key]["index"][n]] for key in ("folders", "pictures")}
        folder = workdir / of["folders"] / sample
        assert all((folder / f"{name}.png").stat().st_size for name in of["pictures"])
        assert (folder / "audio.wav").stat().st_size
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*.png")}
    gallery.write(workdir)
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*.png")}


def test_the_page_loads_nothing_from_the_network(folders):
    for text in (gallery.write(folders).read_text(), gallery.write(folders, embed=True).read_text()):
        assert not re.search(r"https?://", re.sub('<script id="data".*?</script>', "", text, flags=re.DOTALL))
        assert "default-src 'none'" in text


def test_a_notebook_shows_the_page_in_a_frame(folders, monkeypatch):
    display = types.ModuleType("IPython.display")
    display.HTML = str
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    shown = gallery.show(folders, height=321)
    assert "height: 321px" in shown and shown.count("<iframe") == 1 and "<script" not in shown


def test_a_notebook_shows_the_first_samples_and_links_to_all_of_them(folders):
    path = folders / "gallery.html"
    path.unlink(missing_ok=True)
    size = sum(file.stat().st_size for file in folders.glob("*/*.*") if file.name != "sample.json")
    shown = gallery.show(folders, max_bytes=size // 2).data
    first, total = map(int, re.search(r"<p>(\d+) of (\d+) samples", shown).groups())
    assert 1 < first < total == 16 and html.escape(str(path)) in shown
    assert len(re.findall("data:audio/wav;base64", shown)) == first
    assert "data:" not in path.read_text().partition('id="data"')[2].partition("</script>")[0]
    assert "samples. All of them" in gallery.show(folders, max_bytes=10).data  # not even one
    everything = gallery.show(folders).data
    assert "All of them" not in everything and len(re.findall("data:audio/wav;base64", everything)) == total


def test_bad_input_is_named_in_one_line(folders, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        gallery.write(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no finished samples yet"):
        gallery.write(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="16 samples are more than the 0 MiB that one file may hold"):
        gallery.write(folders, embed=True, max_bytes=1000)


def test_a_damaged_sample_is_named_in_the_error(tmp_path):
    (sample,) = finished.write(tmp_path, [finished.record()])
    (tmp_path / sample / "spectrogram.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=f"of {sample} cannot be read"):
        gallery.write(tmp_path)
