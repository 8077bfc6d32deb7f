"""The plan of a sweep: how many samples it has, where their number comes from, and what must be confirmed."""

import shutil

import pytest

from configs import default, sweep
from its_jax import errors
from its_jax.settings.schema import RunOptions
from its_jax.storage import samples, writers
from its_jax.sweep import defaults, forecast, grid, plan
from its_jax.sweep.run import run_sweep
from tests.helpers import sweep_runs
from tests.helpers.fixed_pipeline import NoPipeline
from tests.helpers.sweep_driver import FakePipeline

SMALL = {"height": 16, "width": 32}


@pytest.fixture
def pairs(tmp_path):
    """Writes a prompt file of ten pairs, one of which occurs twice; returns its name."""
    rows = [f"image {i % 9} | audio {i % 9}" for i in range(10)]
    (tmp_path / "pairs.txt").write_text("\n".join(rows))
    return str(tmp_path / "pairs.txt")


def example(**more):
    """Returns the settings of an example config, which has four samples and a video of each."""
    settings = default.get_config().to_dict()
    assert settings["num_samples"] == 4 and settings["video"]
    return settings | SMALL | more


def counts(caplog):
    """Returns the line of the plan that says where the number of samples comes from."""
    (line,) = [record.message for record in caplog.records if " = " in record.message]
    return line


def run(settings, workdir, caplog, **options):
    with caplog.at_level("INFO"):
        run_sweep(settings, workdir, pipeline=FakePipeline(), **options)
    return [sample.record for sample in samples.open_samples(workdir).values()]


def test_a_pair_of_a_prompt_file_gives_one_sample_whatever_an_example_config_says(tmp_path, pairs, caplog):
    origins = defaults.find_origins(example())
    records = run(example(prompts=pairs), tmp_path / "out", caplog, origins=origins)
    assert len(records) == 9 and not any(record["run"]["video"] for record in records)
    expected = f"9 samples = 10 rows of {pairs} x 1 sample each (num_samples: the default of sweeps), less 1 that is"
    assert counts(caplog) == f"{expected} the same as others"
    assert "no videos (video: the default of sweeps)" in caplog.text


def test_what_the_command_line_states_counts(tmp_path, pairs, caplog):
    origins = defaults.find_origins(example(), ["num_samples", "video", "width"])
    run(example(prompts=pairs), tmp_path, caplog, origins=origins, plan_only=True)
    assert counts(caplog).startswith(f"36 samples = 10 rows of {pairs} x 4 samples each (num_samples: --config.num_s")
    assert "videos (video: --config.video)" in caplog.text.replace("no videos", "")


@pytest.mark.parametrize("own", [{"prompts": ""}, {"grid": {"num_steps": (5, 6)}}])
def test_a_config_that_is_made_for_sweeps_states_its_numbers(tmp_path, caplog, own):
    """A sweep that was begun with them goes on with the same samples."""
    settings = example(num_steps=5, **own)
    records = run(settings | {"video": False}, tmp_path, caplog)
    assert sorted({record["seed"] for record in records}) == [0, 1, 2, 3]
    assert "4 samples each (num_samples: the config)" in counts(caplog)
    assert "no videos (video: the config)" in caplog.text


def test_the_command_reads_what_was_given_to_it(tmp_path, pairs):
    for flags, expected in (
        ([], "9 samples = 10 rows"),
        (["--config.num_samples=2"], "x 2 samples each (num_samples: --config.num_samples)"),
        (["--config.video=True"], "videos (video: --config.video)"),
    ):
        command = ["--config=" + str(sweep_runs.CONFIG), f"--prompts={pairs}", "--plan", *flags]
        assert expected in sweep_runs.output(tmp_path / "out", *command)


@pytest.mark.parametrize(
    "rows, axes, flags, samples_of, expected",
    [
        ("a | b", {}, [], 3, "3 samples = 1 row of FILE x 3 samples each (num_samples: X)"),
        ("a | b", {"seed": "0..4"}, [], 3, "5 samples = 1 row of FILE x 5 seeds (seed: the grid)"),
        ("", {"seed": "0..4"}, ["seed=3"], 3, "1 sample = 1 seed (seed: --axis=seed)"),
        ("", {"num_steps": (5, 6)}, ["image.weight=0.3"], 1,
         "2 samples = 2 values of num_steps (the grid) x 1 value of image.weight (--axis=image.weight)"
         " x 1 sample each (num_samples: X)"),
        ("", {"num_samples": (2,)}, [], 1,
         "2 samples = 1 value of num_samples (the grid) x 2 samples each (num_samples: the grid)"),
        ("image,num_samples\na,2\nb,3", {"num_steps": (5, 6)}, [], 1,
         "10 samples = 2 rows of FILE x 2 values of num_steps (the grid) x 2 to 3 samples each (num_samples: FILE)"),
        ("image,num_samples\na,5\nb,\nc,5", {}, [], 1,
         "11 samples = 3 rows of FILE x 1 to 5 samples each (num_samples: FILE, and X for 1 row)"),
    ],
)  # fmt: skip
def test_the_plan_says_where_each_number_comes_from(tmp_path, rows, axes, flags, samples_of, expected):
    file = str(tmp_path / ("a.csv" if "," in rows else "a.txt")) if rows else ""
    if file:
        (tmp_path / file).write_text(rows)
    opened = grid.open_grid(example(num_samples=samples_of), axes, file, flags)
    line = plan.describe_counts(opened, len(opened.samples()), {"num_samples": "X"})
    assert line == expected.replace("FILE", file)


def test_the_config_of_the_repository_states_its_numbers():
    config = sweep.get_config().to_dict()
    origins = defaults.find_origins(config)
    opened = grid.open_grid(config, config.pop("grid"))
    line = plan.describe_counts(opened, len(opened.samples()), origins)
    parts = "4 values of audio.prompt (the grid) x 6 values of image.prompt (the grid) x 4 seeds (seed: the grid)"
    assert line == f"96 samples = {parts}"


# Sweeps that must be confirmed


def forecast_of(workdir, requested, done=(), free=10**6, **more):
    """Returns the forecast of a sweep where this many bytes are free."""
    options = RunOptions(**{"num_samples": 1, "batch_size": 4, "devices_per_sample": 1, "video": False} | more)
    groups = forecast.batches.program_groups(requested)
    store = writers.open_writer("folders", workdir)
    return forecast.log_forecast(workdir, groups, done, options, store, free_bytes=lambda _: free)


def test_more_than_the_free_space_must_be_confirmed(tmp_path):
    requested = grid.read_grid(example(), {"seed": "0..9"})
    # An RGB image, a gray spectrogram, and 10 ms of 16 bits at 16 kHz for each column.
    size = 16 * 32 * (3 + 1) + 32 * 160 * 2
    exact = forecast_of(tmp_path, requested, free=10 * size)
    assert (exact.samples, exact.files, exact.is_limit, exact.excess) == (10, 10 * size, True, "")
    less = forecast_of(tmp_path, requested, free=10 * size - 1)
    assert less.excess == ("10 samples to generate need up to 122.9 kB of disk space, of which 122.9 kB are free")
    assert forecast_of(tmp_path, requested, free=10 * size, video=True).excess


def test_only_what_is_still_to_be_generated_counts(tmp_path, caplog):
    run(example(grid={"seed": "0..7"}, num_samples=1, video=False), tmp_path, caplog)
    requested = grid.read_grid(example(), {"seed": "0..9"})
    done = set(samples.open_samples(tmp_path))
    found = forecast_of(tmp_path, requested, done)
    each = [sum(file.stat().st_size for file in (tmp_path / name).iterdir()) for name in done]
    assert found.samples == 2 and not found.is_limit
    assert found.files == pytest.approx(2 * sum(each) / len(each))
    finished = {name: one for name, one in requested.items() if name in done}
    assert len(finished) == 8 and not forecast_of(tmp_path, finished, done, free=0).excess


def test_the_free_space_is_that_of_the_disk_of_the_work_folder(tmp_path):
    requested = grid.read_grid(example(), {"seed": "0..1"})
    options = RunOptions(num_samples=1, batch_size=4, devices_per_sample=1, video=False)
    groups, store = forecast.batches.program_groups(requested), writers.open_writer("folders", tmp_path)
    found = forecast.log_forecast(tmp_path / "not" / "made", groups, (), options, store)
    assert found.free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


def test_more_than_100_000_samples_must_be_confirmed():
    assert not forecast.Forecast(samples=100_000).excess
    assert forecast.Forecast(samples=100_001).excess == "100,001 samples to generate are more than 100,000"
    both = forecast.Forecast(samples=200_000, files=3e12, free=1e12)
    space = "need about 3.0 TB of disk space, of which 1.0 TB are free"
    assert both.excess == f"200,000 samples to generate are more than 100,000 and {space}"


def test_a_sweep_that_is_too_large_is_refused_in_one_line_before_models_are_loaded(tmp_path, caplog):
    settings = example(grid={"seed": "0..100000"})
    with pytest.raises(errors.UserError) as caught:
        run_sweep(settings, tmp_path / "out", pipeline=NoPipeline())
    message = "100,001 samples to generate are more than 100,000: give --yes to run it (confirmed=True in Python), or"
    assert str(caught.value) == f"{message} ask for fewer samples"
    assert not (tmp_path / "out").exists()
    run_sweep(settings, tmp_path / "out", pipeline=NoPipeline(), plan_only=True)
    assert "100,001 samples to generate are more than 100,000" in caplog.text
    with pytest.raises(AssertionError, match="nothing should be loaded"):
        run_sweep(settings, tmp_path / "out", pipeline=NoPipeline(), confirmed=True)
