"""Sweeps: what is made, what a kill leaves, and that the rest is made to the same bits."""

import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest

from its_jax import errors
from its_jax.generate import groups
from its_jax.scoring import registry
from its_jax.settings.ids import sample_id
from its_jax.settings.records import from_record
from its_jax.storage import files, locks, samples, writers
from its_jax.sweep import forecast, run
from its_jax.sweep.run import run_sweep
from tests.helpers import finished_samples as finished
from tests.helpers import sweep_driver
from tests.helpers.small import CONFIG

DRIVER = pathlib.Path(__file__).parents[1] / "helpers" / "sweep_driver.py"
TINY = ["--config.height=16", "--config.width=32", "--config.num_samples=1", "--config.video=False"]
GRID = ["--axis=seed=0..9", "--axis=image.prompt=a castle,a dog", "--axis=num_steps=10,20"]


@pytest.fixture
def noise(monkeypatch):
    """Noise in place of models, in this process."""
    monkeypatch.setattr(groups, "Sampler", sweep_driver.Noise)
    monkeypatch.setattr(sweep_driver, "SECONDS_OF_BATCH", 0)


@pytest.fixture
def tiny(noise):
    """Runs a sweep of small samples: `tiny(workdir, ["seed=0..3"], layout="shards")`."""

    def run(workdir, axes=("seed=0..3",), share=None, plan_only=False, **more):
        from configs import default

        settings = default.get_config().to_dict() | {"height": 16, "width": 32, "num_samples": 1, "video": False} | more
        run_sweep(settings, workdir, axes=list(axes), share=share, plan_only=plan_only)

    return run


def start(workdir, *flags, seconds=0.05):
    command = [sys.executable, str(DRIVER), f"--config={CONFIG}", f"--workdir={workdir}", *TINY, *GRID, *flags]
    environment = os.environ | {"SECONDS_OF_BATCH": str(seconds), "PYTHONPATH": str(DRIVER.parents[1])}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )


def finish(process):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out


def latents(workdir):
    """Id -> hash of the latents, of a work folder of any layout; pictures and sounds are read, too."""
    found = {}
    for name, sample in samples.open_samples(workdir).items():
        assert sample.read_image().shape == (16, 32) and sample.read_image("image").shape == (16, 32, 3)
        assert sample.read_audio()[0].shape == (32 * 160,)
        assert json.loads(sample.read("sample.json"))["id"] == name and sample.record["id"] == name
        assert name.encode() in sample.read("image.png")
        found[name] = sample.record["run"]["latents_sha256"]
    return found


def strays(workdir):
    """Hidden files, the locks aside, and signatures of who holds one."""
    hidden = [path for path in workdir.rglob(".*") if path.is_file()]
    return hidden + list(workdir.rglob(".locks/*.json"))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """What one run makes that nothing disturbs, in each layout."""
    made = {}
    for layout in writers.LAYOUTS:
        workdir = tmp_path_factory.mktemp(layout)
        finish(start(workdir, f"--layout={layout}", seconds=0))
        made[layout] = latents(workdir)
    assert len(made["folders"]) == 40 and made["folders"] == made["shards"]
    return made["folders"]


# Kills


@pytest.mark.parametrize("layout", writers.LAYOUTS)
def test_killed_at_any_moment_it_makes_the_same_in_the_end(layout, unbroken, tmp_path):
    rng, kills = random.Random(layout), 0
    while True:
        process = start(tmp_path, f"--layout={layout}", seconds=0.2)
        wait_for_first_line(process)
        time.sleep(rng.uniform(0, 1.5))
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert process.returncode == 0 and kills >= 2
    assert latents(tmp_path) == unbroken
    assert not strays(tmp_path)
    if layout == "shards":
        assert_whole_tars(tmp_path, unbroken)


def wait_for_first_line(process):
    """Once the plan is printed the work begins."""
    assert process.stdout.readline()


def assert_whole_tars(workdir, expected):
    """Each sample once, as WebDataset reads it: files of one stem in a row, the record among them."""
    found = []
    for path in (workdir / "shards").glob("*.tar"):
        with tarfile.open(path) as tar:
            names = tar.getnames()
        for name in dict.fromkeys(name.partition(".")[0] for name in names):
            kinds = [other.partition(".")[2] for other in names if other.partition(".")[0] == name]
            assert kinds == ["image.png", "spectrogram.png", "audio.flac", "json"]
            found.append(name)
    assert sorted(found) == sorted(expected)


def test_three_shards_one_of_them_killed_make_what_one_run_makes(unbroken, tmp_path):
    running = [start(tmp_path, f"--shard_index={i}", "--num_shards=3", seconds=0.6) for i in range(3)]
    wait_for_first_line(running[1])
    time.sleep(0.7)
    os.killpg(running[1].pid, signal.SIGKILL)
    running[1].wait()
    finish(running[0]), finish(running[2])
    assert len(samples.open_samples(tmp_path)) < 40
    finish(start(tmp_path, "--shard_index=1", "--num_shards=3", seconds=0))
    assert latents(tmp_path) == unbroken and not strays(tmp_path)


def test_the_same_shard_twice_is_refused(tmp_path):
    first = start(tmp_path, seconds=30)
    while not list((tmp_path / ".locks").glob("*.json")):
        time.sleep(0.05)
    second = start(tmp_path)
    out, _ = second.communicate(timeout=120)
    assert second.returncode == 2
    assert f"error: shard-0-of-1 is being made in {tmp_path} by process {first.pid} on " in out
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    finish(start(tmp_path, seconds=0))  # the lock ended with its process
    assert len(samples.open_samples(tmp_path)) == 40


# What is made


def test_a_grid_that_grows_makes_only_what_is_new(tiny, tmp_path):
    tiny(tmp_path, ["seed=0..3", "image.prompt=a castle,a dgo"])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("sample.json")}
    tiny(tmp_path, ["seed=0..5", "image.prompt=a castle,a dog"])
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("sample.json")}
    assert before.items() <= after.items() and len(after) == 8 + 2 + 6


def test_a_second_run_begins_nothing(tiny, tmp_path, monkeypatch):
    tiny(tmp_path)
    monkeypatch.setattr(groups, "Sampler", None)
    tiny(tmp_path)


def test_a_finished_share_loads_nothing(tiny, tmp_path, monkeypatch):
    tiny(tmp_path, ["seed=0..15"], share=(0, 2))
    monkeypatch.setattr(groups, "Sampler", None)
    tiny(tmp_path, ["seed=0..15"], share=(0, 2))
    assert len(samples.open_samples(tmp_path)) == 8


def test_the_plan_is_told_and_nothing_made(tiny, tmp_path, caplog):
    axes = ["seed=0..15", "num_steps=10,20", "width=32,64"]
    with caplog.at_level("INFO"):
        tiny(tmp_path / "out", axes, plan_only=True, batch_size=4)
    assert not (tmp_path / "out").exists()
    for words in (
        "64 samples, 0 of which are there",
        "2 programs",
        "16 batches of up to 4",
        "at most",
        "time: is told",
    ):
        assert words in caplog.text
    caplog.clear()
    tiny(tmp_path / "out", ["seed=0..3", "num_steps=10"], batch_size=4)
    with caplog.at_level("INFO"):
        tiny(tmp_path / "out", axes, plan_only=True, batch_size=4)
    for words in ("64 samples, 4 of which are there", "2 programs", "15 batches", "as 4 finished samples took"):
        assert words in caplog.text


def test_what_takes_its_place_in_a_batch_is_not_written_twice(tiny, tmp_path):
    """A prompt is corrected while half a batch is still to be made."""
    tiny(tmp_path / "whole", ["seed=0..3"], batch_size=4)
    tiny(tmp_path, ["seed=0..3"], batch_size=4)
    whole = latents(tmp_path / "whole")
    (gone,) = [name for name in whole if "_3_" in name]
    for path in (tmp_path / gone).iterdir():
        path.unlink()
    tiny(tmp_path, ["seed=2..3"], batch_size=4)  # seeds 0 and 1 are no part of it any more
    assert latents(tmp_path) == whole


def test_faults_of_one_program_leave_the_others(tiny, tmp_path, monkeypatch):
    class Picky(sweep_driver.Noise):
        def __init__(self, settings, **how):
            if settings.width == 40:
                raise errors.UserError("width=40: must be a multiple of 16")
            super().__init__(settings, **how)

    monkeypatch.setattr(groups, "Sampler", Picky)
    with pytest.raises(errors.UserError, match="not written: width=40: must be a multiple of 16"):
        tiny(tmp_path, ["width=32,40,48"])
    assert {sample.record["width"] for sample in samples.open_samples(tmp_path).values()} == {32, 48}


def test_the_sampler_is_asked_for_few_enough_for_each_share(tiny, tmp_path, monkeypatch):
    asked = []

    class Watched(sweep_driver.Noise):
        def __init__(self, settings, *, pending, **how):
            asked.append(pending)
            super().__init__(settings, pending=pending, **how)

    monkeypatch.setattr(groups, "Sampler", Watched)
    tiny(tmp_path, ["seed=0..9"], share=(0, 3))
    assert asked == [4]


# Scores


def loud(items):
    return {"loudness": [float(np.abs(item.waveform).mean()) for item in items], "one": [1] * len(items)}


def partly(items):
    return {"brightness": [float("nan") if item.settings.seed == 1 else 1.0 for item in items]}


def failing(items):
    return {"nothing": [1 / 0 for _ in items]}


def test_scores_are_columns_of_the_records(tiny, tmp_path):
    tiny(tmp_path, scorers="test_sweep:loud")
    for sample in samples.open_samples(tmp_path).values():
        assert sample.record["scores"]["one"] == 1
        assert sample.record["scores"]["loudness"] == pytest.approx(np.abs(sample.read_audio()[0]).mean(), abs=1e-4)
        settings, _ = from_record(sample.record)
        assert sample_id(settings) == sample.id


def test_a_score_that_is_no_number_costs_only_itself(tiny, tmp_path, caplog):
    tiny(tmp_path, ["seed=0..3"], scorers="test_sweep:partly,test_sweep:loud")
    found = {sample.record["seed"]: sample for sample in samples.open_samples(tmp_path).values()}
    assert [found[seed].record["scores"].get("brightness") for seed in range(4)] == [1, None, 1, 1]
    assert all("loudness" in sample.record["scores"] for sample in found.values())
    assert caplog.text.count("is left out: scorers must return finite numbers") == 1
    assert f"{found[1].id}: its score brightness is nan" in caplog.text


@pytest.mark.parametrize(
    "name, words",
    [
        ("test_sweep:none", "scorers='test_sweep:none': must be clip, clap or 'package.module:function'"),
        ("nowhere:loud", "scorers='nowhere:loud': must be"),
        ("loud", "scorers='loud': must be"),
        ("test_sweep:failing", "the scorer test_sweep:failing fails: ZeroDivisionError"),
    ],
)
def test_a_wrong_scorer_is_named(tiny, tmp_path, name, words):
    with pytest.raises(errors.UserError) as caught:
        tiny(tmp_path, scorers=name)
    assert words in str(caught.value)


# Bad luck


def test_an_unreadable_record_is_set_aside_and_made_again(tiny, tmp_path, caplog):
    tiny(tmp_path)
    before = latents(tmp_path)
    broken = next(tmp_path.glob("*/sample.json"))
    broken.write_text('{"seed": ')
    tiny(tmp_path)
    assert f"{broken}: cannot be read; its sample will be regenerated" in caplog.text
    assert broken.with_name("sample.json.unreadable").read_text() == '{"seed": '
    assert latents(tmp_path) == before


def test_a_folder_that_is_none_is_named(tiny, tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "made"):
        with pytest.raises(errors.UserError, match=f"{place}: cannot (read|write): Not a directory"):
            tiny(place)
    assert (tmp_path / "file").read_text() == "mine"


def test_samples_without_the_scores_that_are_asked_for_are_told(tiny, tmp_path, caplog):
    finished.write(tmp_path, [finished.record({"seed": seed}) for seed in range(2)])
    made = {path.parent.name for path in tmp_path.glob("*/sample.json")}
    kept = writers.open_writer("folders", tmp_path)
    forecast.log_forecast(tmp_path, [], made, {}, kept, registry.builtin_columns("clap@x, my:scorer,clip"))
    assert f"have no clip and clap: python -m its_jax.evaluate --workdir={tmp_path}" in caplog.text
    caplog.clear()
    forecast.log_forecast(tmp_path, [], made, {}, kept, registry.builtin_columns("my:scorer"))
    assert "scores" not in caplog.text and "have no" not in caplog.text


def test_an_unreadable_line_of_an_index_is_named_and_made_again(tiny, tmp_path, caplog):
    tiny(tmp_path, layout="shards")
    before = latents(tmp_path)
    (index,) = writers.indices(tmp_path)
    lines = index.read_bytes().splitlines(keepends=True)
    index.write_bytes(lines[0] + b'{"id": \n' + b"".join(lines[2:]))
    tiny(tmp_path, layout="shards")
    assert f"{index}, line 2: cannot be read; its sample will be regenerated" in caplog.text
    assert latents(tmp_path) == before


@pytest.mark.parametrize("layout", writers.LAYOUTS)
def test_a_full_disk_ends_it_with_status_3_and_the_rest_can_be_made(layout, tiny, tmp_path, monkeypatch):
    tiny(tmp_path / "whole", ["seed=0..9"], layout=layout)
    calls, write = [], os.fsync

    def full(file):
        calls.append(file)
        if len(calls) > 15:
            raise OSError(28, "No space left on device")
        write(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(errors.DiskFull, match="No space left on device") as caught:
            tiny(tmp_path / "out", ["seed=0..9"], layout=layout)
    assert caught.value.status == 3
    assert 0 < len(latents(tmp_path / "out")) < 10
    tiny(tmp_path / "out", ["seed=0..9"], layout=layout)
    assert latents(tmp_path / "out") == latents(tmp_path / "whole") and not strays(tmp_path)


@pytest.mark.parametrize("layout", writers.LAYOUTS)
def test_a_disk_that_is_really_full(layout, tiny, tmp_path):
    """At many moments, where this machine lets us mount small disks."""
    tiny(tmp_path / "whole", ["seed=0..9"], layout=layout)
    disk = tmp_path / "disk"
    disk.mkdir()
    for size in range(60, 260, 8):
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], capture_output=True
        ).returncode:
            pytest.skip("mounting takes rights that are not ours here")
        try:
            with contextlib.suppress(errors.DiskFull):
                tiny(disk / "out", ["seed=0..9"], layout=layout)
            subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
            tiny(disk / "out", ["seed=0..9"], layout=layout)
            assert latents(disk / "out") == latents(tmp_path / "whole") and not strays(disk)
            if layout == "shards":
                assert_whole_tars(disk / "out", latents(disk / "out"))
        finally:
            subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_full_disk_is_exit_status_3(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting takes rights that are not ours here")
    try:
        process = start(disk / "out", "--config.width=256", seconds=0)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 3 and "cannot write: No space left on device" in out.splitlines()[-1]
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_kill_while_the_page_is_written_leaves_nothing(tiny, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(path, data, write=files.write):
        if path.suffix != ".html":
            return write(path, data)
        (path.parent / ".0123.tmp").write_bytes(data[:9])
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(files, "write", kill)
        tiny(tmp_path)
    assert strays(tmp_path) and not (tmp_path / "gallery.html").exists()
    tiny(tmp_path)
    assert not strays(tmp_path) and (tmp_path / "gallery.html").exists()


def test_shares_of_another_count_are_refused(tmp_path):
    first = start(tmp_path, "--shard_index=0", "--num_shards=2", seconds=30)
    while not list((tmp_path / ".locks").glob("*.json")):
        time.sleep(0.05)
    second = start(tmp_path)
    out, _ = second.communicate(timeout=120)
    assert second.returncode == 2 and "error: shard-0-of-2 is being made in" in out
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    finish(start(tmp_path, seconds=0))
    assert len(samples.open_samples(tmp_path)) == 40


def test_shares_agree_on_the_size_of_batches(tiny, tmp_path):
    axes = ["seed=0..23"]
    tiny(tmp_path, axes, share=(0, 2), batch_size=4)
    with pytest.raises(errors.UserError, match="batch_size=2: the other shares of this work folder make 4 at once"):
        tiny(tmp_path, axes, share=(1, 2), batch_size=2)
    tiny(tmp_path, axes, share=(1, 2))
    assert len(samples.open_samples(tmp_path)) == 24


def test_who_writes_a_tar_file_is_left_in_peace(tiny, tmp_path):
    kept = writers.ShardWriter(tmp_path, "actor-0")
    content = [("a.png", b"1" * 999), ("sample.json", b"{}")]
    with locks.hold(tmp_path, "actor-0"):
        kept.add("first", content)
        run._sweep_up("shards", tmp_path)
        kept.add("second", content)
        with open(tmp_path / "shards" / "actor-0-00000.tar", "ab") as tar:
            tar.write(b"torn")
    kept.close()
    run._sweep_up("shards", tmp_path)
    with tarfile.open(tmp_path / "shards" / "actor-0-00000.tar") as tar:
        assert tar.getnames() == ["first.a.png", "first.json", "second.a.png", "second.json"]


# With models


def test_a_sweep_makes_the_samples_that_sample_makes(small, quick_programs, tmp_path):
    """And shares a program among settings that differ in numbers."""
    from its_jax import sample

    config = small(num_samples=1, batch_size=2)
    axes = ["seed=0,1", "image.weight=0.3,0.7", "num_steps=4,5"]
    run_sweep(config.to_dict(), tmp_path / "sweep", axes=axes)
    made = samples.open_samples(tmp_path / "sweep")
    assert len(made) == 8
    sample.run(small({"image.weight": 0.7, "num_steps": 5}, num_samples=2, batch_size=2), tmp_path / "alone")
    for name, alone in samples.open_samples(tmp_path / "alone").items():
        assert alone.record["run"]["latents_sha256"] == made[name].record["run"]["latents_sha256"]


def test_layouts_hold_the_same(tiny, tmp_path):
    for layout in writers.LAYOUTS:
        tiny(tmp_path / layout, ["seed=0..2"], layout=layout)
    folders, shards = (samples.open_samples(tmp_path / layout) for layout in writers.LAYOUTS)
    assert list(folders) == list(shards)
    for name in folders:
        np.testing.assert_array_equal(folders[name].read_image("image"), shards[name].read_image("image"))
        np.testing.assert_array_equal(folders[name].read_audio()[0], shards[name].read_audio()[0])
        for sample in (folders[name], shards[name]):
            embedded = sample.read("spectrogram.png")
            assert name.encode() in embedded
        differing = {key for key in folders[name].record if folders[name].record[key] != shards[name].record[key]}
        assert differing <= {"seconds"}
