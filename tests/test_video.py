"""`its_jax.video`: videos of finished samples."""

import re
import subprocess
import sys

import pytest

from its_jax.errors import UserError
from its_jax.settings.records import VIDEO
from its_jax.storage import samples
from its_jax.video import write_video
from tests.helpers import finished_samples


@pytest.mark.parametrize("layout", ["folders", "shards"])
def test_a_finished_sample_gets_its_video_later(tmp_path, layout):
    records = [finished_samples.record({"seed": seed}) for seed in (1, 2)]
    one, other = finished_samples.write(tmp_path, records, layout)
    assert VIDEO not in samples.open_samples(tmp_path)[one].files
    path = write_video(f"{tmp_path}/{one}/")
    assert path == tmp_path / {"folders": f"{one}/video.mp4", "shards": f"videos/{one}.mp4"}[layout]
    assert path.read_bytes()[4:8] == b"ftyp"
    assert sorted(samples.open_samples(tmp_path)) == sorted([one, other])
    found = samples.open_sample(tmp_path / one)
    assert samples.video_path(found) == path and (VIDEO in found.files) == (layout == "folders")


def test_a_path_that_is_not_a_sample_is_refused_in_one_line(tmp_path):
    finished_samples.write(tmp_path, [finished_samples.record()])
    for path in (tmp_path / "nothing", tmp_path, tmp_path / "no" / "where", tmp_path / "*"):
        with pytest.raises(UserError, match=re.escape(f"{path}: not a finished sample")):
            write_video(path)


def test_the_old_name_of_the_command_warns_and_works(tmp_path):
    (name,) = finished_samples.write(tmp_path, [finished_samples.record()])
    command = [sys.executable, "-m", "its_jax.media", str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "DeprecationWarning: python -m its_jax.media is deprecated: use python -m its_jax.video" in done.stderr
    assert (tmp_path / name / VIDEO).exists()
