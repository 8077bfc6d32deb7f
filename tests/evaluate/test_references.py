"""References that samples are compared with."""

import io

import numpy as np
import pytest

from its_jax.errors import UserError
from its_jax.evaluate import references
from its_jax.scoring.metrics import Gaussian
from its_jax.storage import files
from tests.helpers import finished_samples


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_each_file_of_a_sample_counts_once(tmp_path):
    read = []

    def extract(path):
        read.append(path.name)
        return np.zeros((1, 3))

    finished_samples.write(tmp_path, [finished_samples.record({"seed": seed}) for seed in range(2)])
    for record in tmp_path.glob("*/sample.json"):
        (record.parent / "video.mp4").write_bytes(b"")
    references.read_reference(str(tmp_path), extract)
    assert sorted(read) == ["audio.wav"] * 2 + ["spectrogram.png"] * 2


def test_unusable_files_are_left_out(tmp_path, caplog):
    def extract(path):
        if path.suffix == ".txt":
            raise UserError(f"{path.name}: cannot be read")
        return np.array([[len(path.name), 1.0]])

    for name in ("a.wav", "long.wav", "notes.txt", ".hidden"):
        (tmp_path / name).write_bytes(b"")
    reference = references.read_reference(str(tmp_path), extract)
    np.testing.assert_allclose(reference.mean, [6.5, 1.0])
    assert "left out of the reference: 1 files, the first: notes.txt: cannot be read" in caplog.text


def test_statistics_are_read_as_they_were_written(tmp_path):
    gaussian = Gaussian(np.arange(3.0), np.eye(3))
    references.write_statistics(tmp_path / "statistics.npz", gaussian)
    found = references.read_reference(str(tmp_path / "statistics.npz"), lambda path: np.zeros((2, 3)))
    np.testing.assert_array_equal(found.mean, gaussian.mean)
    np.testing.assert_array_equal(found.covariance, gaussian.covariance)


@pytest.mark.parametrize("count", [0, 1])
def test_references_of_fewer_than_two_files_are_refused(tmp_path, count):
    for i in range(count):
        (tmp_path / f"{i}.wav").write_bytes(b"")
    with pytest.raises(UserError, match=f"has {count} files to compare with; a Frechet distance needs 2 or more"):
        references.read_reference(str(tmp_path), lambda path: np.zeros((5, 3)))


def test_folders_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder; give one of images or audio, or statistics as FILE.npz"):
        references.read_reference(str(tmp_path / "nowhere"), lambda path: np.zeros((5, 3)))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: files.write(path, b"no statistics"), "must be an .npz with mu and sigma"),
        (lambda path: files.write(path, b"PK\x03\x04cut short"), "must be an .npz with mu and sigma"),
        (lambda path: files.write(path, npy(np.zeros(3))), "must be an .npz with mu and sigma"),
        (lambda path: np.savez(path, mu=np.zeros(3), sigma=np.eye(2)), "must be .d. and .d, d."),
        (lambda path: np.savez(path, mu=np.zeros(2), sigma=np.eye(2) * np.nan), "must be finite numbers"),
    ],
)
def test_invalid_statistics_are_refused(write, message, tmp_path):
    path = tmp_path / "statistics.npz"
    write(path)
    with pytest.raises(UserError, match=message):
        references.read_reference(str(path), lambda path: np.zeros((2, 3)))
