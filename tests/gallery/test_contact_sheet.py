"""Contact sheets: which sample is where, labels, pages; and the settings that samples differ in."""

import re

import numpy as np
import pytest
from PIL import Image

from its_jax.errors import UserError
from its_jax.gallery import axes, contact_sheet
from its_jax.media import text_layout
from tests.helpers import finished_samples as finished

SUBJECTS, SOUNDS = ("a castle", "a dog"), ("bell", "rain", "a very long sound " * 30)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Subjects x sounds x two seeds."""
    folder = tmp_path_factory.mktemp("samples")
    finished.write(
        folder,
        [
            finished.record({"image.prompt": subject, "audio.prompt": sound, "seed": seed})
            for subject in SUBJECTS
            for sound in SOUNDS
            for seed in (1, 3)
        ],
    )
    return folder


def test_columns_tell_what_varies():
    records = [finished.record({"seed": seed, "image.weight": weight}) for seed in (10, 9) for weight in (0.6, 0.4)]
    settings = axes.columns_of([*records, {"seed": 9, "extra": "yes", "init_sha256": "f"}])
    assert list(settings)[:2] == ["image.prompt", "audio.prompt"] and list(settings)[-1] == "seed"
    assert "init_sha256" not in settings and "id" not in settings
    assert axes.varying(settings)["seed"] == [9, 10]
    assert axes.varying(settings)["image.weight"] == [0.4, 0.6, None]
    assert settings["extra"] == [None] * 4 + ["yes"]
    assert axes.sort_order(axes.columns_of(records)) == [3, 1, 2, 0]  # by weight, then by seed
    assert axes.sort_order(axes.columns_of(records[:1])) == [0]


def shades(page, grey):
    """Where the bright halves of pictures of this grey are: sorted (y, x) of their upper left corners."""
    pixels = np.asarray(page.convert("RGB"), int)
    is_grey = (abs(pixels - round(255 * grey)) <= 2).all(-1)
    corner = is_grey & ~np.pad(is_grey, 1)[:-2, 1:-1] & ~np.pad(is_grey, 1)[1:-1, :-2]
    block = np.lib.stride_tricks.sliding_window_view(np.pad(is_grey, ((0, 19), (0, 19))), (20, 20)).all((-1, -2))
    return sorted(map(tuple, np.argwhere(corner & block)))


def test_every_sample_is_in_the_cell_of_its_settings(workdir):
    (path,) = contact_sheet.write(workdir)
    assert path == workdir / "sheet-01.png"
    with Image.open(path) as page:
        assert max(page.size) <= contact_sheet.PAGE
        places = {seed: shades(page, 0.3 + seed / 10) for seed in (1, 3)}
    for seed in (1, 3):
        assert len(places[seed]) == 6
        rows, tops = ({place[k] for place in places[seed]} for k in (0, 1))
        assert len(rows) == 2 and len(tops) == 3
    for first, second in zip(places[1], places[3], strict=True):  # in one cell, by their seeds
        assert first[0] == second[0] and 0 < second[1] - first[1] < 400


def drawn(monkeypatch):
    """All texts that are set, in order."""
    texts, init = [], text_layout._Paragraph.__init__

    def keep(self, text, *rest, **more):
        texts.append(text)
        init(self, text, *rest, **more)

    monkeypatch.setattr(text_layout._Paragraph, "__init__", keep)
    return texts


def test_labels_are_the_values_and_captions_the_rest(workdir, monkeypatch):
    texts = drawn(monkeypatch)
    contact_sheet.write(workdir)
    assert {*SUBJECTS, *SOUNDS, "seed 1", "seed 3", "audio.prompt across", "image.prompt down"} <= set(texts)
    texts.clear()
    contact_sheet.write(workdir, x="seed")
    assert {"1", "3", "seed across", "a castle, bell"} <= set(texts) and "image.prompt down" not in texts


def test_large_grids_have_pages_with_labels_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "PAGE", 1100)
    finished.write(tmp_path, [finished.record({"num_steps": n, "seed": s}) for n in range(5, 13) for s in range(5)])
    texts = drawn(monkeypatch)
    first = contact_sheet.write(tmp_path, x="seed", y="num_steps")
    assert len(first) > 2 and all(max(Image.open(path).size) <= 1100 for path in first)
    assert sum(bool(re.search("page 1 of", text)) for text in texts) == 1
    assert {text for text in texts if text.isdigit()} == {str(n) for n in range(13)}
    found = [place for path in first for seed in range(5) for place in shades(Image.open(path), 0.3 + seed / 10)]
    assert len(found) == 40
    monkeypatch.undo()
    assert contact_sheet.write(tmp_path, x="seed", y="num_steps") == first[:1]
    assert sorted(tmp_path.glob("sheet*")) == first[:1]  # pages of the earlier sheet are gone


def test_samples_that_differ_in_nothing_but_seeds_fill_a_page(tmp_path):
    finished.write(tmp_path, [finished.record({"seed": seed}) for seed in range(5)])
    (path,) = contact_sheet.write(tmp_path, picture="image")
    with Image.open(path) as page:
        assert page.width > 3 * contact_sheet._WIDEST


def test_bad_input_is_named_in_one_line(workdir, tmp_path):
    cases = [
        (dict(workdir=tmp_path / "nowhere"), "nowhere: no such folder"),
        (dict(workdir=tmp_path), "has no finished samples yet"),
        (dict(workdir=workdir, x="image.promt"), "x=image.promt: .*did you mean image.prompt"),
        (dict(workdir=workdir, x="seed", y="seed"), "take two different settings"),
        (dict(workdir=workdir, picture="vision"), "picture=vision: .* has only image, spectrogram"),
    ]
    for arguments, message in cases:
        with pytest.raises(UserError, match=message) as error:
            contact_sheet.write(**arguments)
        assert "\n" not in str(error.value)
