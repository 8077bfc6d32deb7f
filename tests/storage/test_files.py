"""Files are written whole or not at all."""

import errno
import os
import re

import numpy as np
import pytest

from its_jax.errors import UserError
from its_jax.media import images, sounds, videos
from its_jax.storage.files import write_json

WRITERS = {
    "a.png": lambda path: images.write_png(path, np.zeros((8, 8)), {}),
    "a.wav": lambda path: sounds.write_wav(path, np.zeros(8), 16000, {}),
    "a.json": lambda path: write_json(path, {}),
    "a.mp4": lambda path: videos.write_video(path, np.zeros((8, 8)), np.zeros(1600), 16000, "a", "b"),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, name, call):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / name
    path.write_text("old")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(UserError, match=re.escape(f"{path}: cannot write: {os.strerror(errno.ENOSPC)}")):
        WRITERS[name](path)
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "old"


def test_an_interrupted_writer_leaves_no_file(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "a.json", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", WRITERS)
def test_a_path_in_a_missing_folder_is_named_in_the_error(tmp_path, name):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / name, tmp_path / "missing" / name):
        with pytest.raises(UserError, match=re.escape(f"{path}: cannot write: ")):
            WRITERS[name](path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "write",
    [
        lambda path, value: images.write_png(path, np.full((2, 2), value), {}),
        lambda path, value: sounds.write_wav(path, np.full(2, value), 16000, {}),
        lambda path, value: write_json(path, {"score": value}),
    ],
)
def test_values_that_are_not_finite_are_refused(tmp_path, write):
    with pytest.raises(ValueError):
        write(tmp_path / "a", np.nan)
    assert not list(tmp_path.iterdir())
