"""Contact sheets: positions of samples, labels and pages; and the settings in which samples differ."""

import numpy as np
import pytest
from PIL import Image

from its_jax.errors import UserError
from its_jax.gallery import axes, contact_sheet
from its_jax.storage import samples
from tests.helpers import finished_samples as finished

SUBJECTS, SOUNDS = ("a castle", "a dog"), ("bell", "rain", "a very long sound " * 30)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Returns a folder with samples of subjects x sounds x two seeds."""
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


def test_columns_hold_the_settings_that_vary():
    records = [finished.record({"seed": seed, "image.weight": weight}) for seed in (10, 9) for weight in (0.6, 0.4)]
    settings = axes.columns_of([*records, {"seed": 9, "extra": "yes", "init_sha256": "f"}])
    assert list(settings)[:2] == ["image.prompt", "audio.prompt"] and list(settings)[-1] == "seed"
    assert "init_sha256" not in settings and "id" not in settings
    assert axes.varying(settings)["seed"] == [9, 10]
    assert axes.varying(settings)["image.weight"] == [0.4, 0.6, None]
    assert settings["extra"] == [None] * 4 + ["yes"]
    assert axes.sort_order(axes.columns_of(records)) == [3, 1, 2, 0]  # by weight, then by seed
    assert axes.sort_order(axes.columns_of(records[:1])) == [0]


def corners(page, gray):
    """Returns the sorted (y, x) of the upper left corners of the bright halves of images of this gray."""
    pixels = np.asarray(page.convert("RGB"), int)
    is_gray = (abs(pixels - round(255 * gray)) <= 2).all(-1)
    corner = is_gray & ~np.pad(is_gray, 1)[:-2, 1:-1] & ~np.pad(is_gray, 1)[1:-1, :-2]
    block = np.lib.stride_tricks.sliding_window_view(np.pad(is_gray, ((0, 19), (0, 19))), (20, 20)).all((-1, -2))
    return sorted(map(tuple, np.argwhere(corner & block)))


def test_every_sample_is_in_the_cell_of_its_settings(workdir):
    (path,) = contact_sheet.write(workdir)
    assert path == workdir / "sheet-01.png"
    with Image.open(path) as page:
        assert max(page.size) <= contact_sheet.MAX_PAGE
        places = {seed: corners(page, 0.3 + seed / 10) for seed in (1, 3)}
    for seed in (1, 3):
        assert len(places[seed]) == 6
        rows, tops = ({place[k] for place in places[seed]} for k in (0, 1))
        assert len(rows) == 2 and len(tops) == 3
    for first, second in zip(places[1], places[3], strict=True):  # They are in one cell, sorted by seed.
        assert first[0] == second[0] and 0 < second[1] - first[1] < 400


def test_labels_are_the_values_of_the_axes_and_captions_the_other_settings(workdir):
    records = [sample.record for sample in samples.open_samples(workdir).values()]
    grid = contact_sheet.build_grid(records)
    assert (set(grid.down), set(grid.across)) == (set(SUBJECTS), set(SOUNDS))
    assert set(grid.captions) == {"seed 1", "seed 3"} and grid.corner == "audio.prompt across\nimage.prompt down"
    grid = contact_sheet.build_grid(records, x="seed")
    assert (grid.across, grid.down, grid.corner) == (["1", "3"], [""], "seed across")
    assert "a castle, bell" in grid.captions


def test_large_grids_have_pages_with_their_own_labels():
    records = [finished.record({"num_steps": n, "seed": s}) for n in range(5, 13) for s in range(5)]
    grid = contact_sheet.build_grid(records, x="seed", y="num_steps")
    pages = list(contact_sheet.build_pages(grid, (320, 107), "sheet", max_page=1100))
    assert len(pages) > 2 and all(f"page {n} of {len(pages)}" in page.foot for n, page in enumerate(pages, 1))
    assert {label for page in pages for label in page.across} == set(map(str, range(5)))
    assert {label for page in pages for label, _ in page.rows} == set(map(str, range(5, 13)))
    shown = [sample for page in pages for _, cells in page.rows for cell in cells for sample in cell]
    assert sorted(shown) == list(range(40))


def test_pages_are_no_larger_than_their_limit_and_replace_those_of_an_earlier_sheet(tmp_path):
    finished.write(tmp_path, [finished.record({"num_steps": n, "seed": s}) for n in range(5, 9) for s in range(5)])
    paths = contact_sheet.write(tmp_path, x="seed", y="num_steps", max_page=1100)
    assert len(paths) > 1 and all(max(Image.open(path).size) <= 1100 for path in paths)
    found = [corner for path in paths for seed in range(5) for corner in corners(Image.open(path), 0.3 + seed / 10)]
    assert len(found) == 20
    assert contact_sheet.write(tmp_path, x="seed", y="num_steps") == paths[:1]
    assert sorted(tmp_path.glob("sheet*")) == paths[:1]


def test_samples_that_differ_only_in_their_seeds_fill_a_page(tmp_path):
    finished.write(tmp_path, [finished.record({"seed": seed}) for seed in range(5)])
    (path,) = contact_sheet.write(tmp_path, image="image")
    with Image.open(path) as page:
        assert page.width > 3 * contact_sheet.MAX_WIDTH


def test_bad_input_is_named_in_one_line(workdir, tmp_path):
    cases = [
        (dict(workdir=tmp_path / "nowhere"), "nowhere: no such folder"),
        (dict(workdir=tmp_path), "has no finished samples yet"),
        (dict(workdir=workdir, x="image.promt"), "x=image.promt: .*did you mean image.prompt"),
        (dict(workdir=workdir, x="seed", y="seed"), "take two different settings"),
        (dict(workdir=workdir, image="vision"), "picture=vision: .* has only image, spectrogram"),
    ]
    for arguments, message in cases:
        with pytest.raises(UserError, match=message) as error:
            contact_sheet.write(**arguments)
        assert "\n" not in str(error.value)
