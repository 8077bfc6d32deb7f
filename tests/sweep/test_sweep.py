"""Sweeps: the samples that they generate, their plan, shards and scores."""

import numpy as np
import pytest

from its_jax import errors, pretrained
from its_jax.pipeline.pipeline import Pipeline
from its_jax.scoring import registry
from its_jax.settings.ids import sample_id
from its_jax.settings.records import from_record
from its_jax.settings.schema import RunOptions
from its_jax.storage import samples, writers
from its_jax.sweep import forecast
from its_jax.sweep.run import run_sweep
from tests.helpers import finished_samples as finished
from tests.helpers.sweep_driver import FakePipeline
from tests.helpers.sweep_runs import latents


def test_a_grid_that_grows_generates_only_new_samples(tiny, tmp_path):
    tiny(tmp_path, ["seed=0..3", "image.prompt=a castle,a dgo"])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("sample.json")}
    tiny(tmp_path, ["seed=0..5", "image.prompt=a castle,a dog"])
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("sample.json")}
    assert before.items() <= after.items() and len(after) == 8 + 2 + 6


def test_a_finished_sweep_compiles_nothing(tiny, tmp_path):
    assert tiny(tmp_path).compiled
    assert not tiny(tmp_path).compiled


def test_a_finished_shard_compiles_nothing(tiny, tmp_path):
    assert tiny(tmp_path, ["seed=0..15"], shard=(0, 2)).compiled
    assert not tiny(tmp_path, ["seed=0..15"], shard=(0, 2)).compiled
    assert len(samples.open_samples(tmp_path)) == 8


def test_the_plan_is_logged_and_nothing_generated(tiny, tmp_path, caplog):
    axes = ["seed=0..15", "num_steps=10,20", "width=32,64"]
    with caplog.at_level("INFO"):
        tiny(tmp_path / "out", axes, plan_only=True, batch_size=4)
    assert not (tmp_path / "out").exists()
    expected = "64 samples, 0 of them finished", "2 programs", "16 batches of up to 4", "at most", "time: known after"
    assert all(words in caplog.text for words in expected)
    caplog.clear()
    tiny(tmp_path / "out", ["seed=0..3", "num_steps=10"], batch_size=4)
    with caplog.at_level("INFO"):
        tiny(tmp_path / "out", axes, plan_only=True, batch_size=4)
    expected = "64 samples, 4 of them finished", "2 programs", "15 batches", "based on 4 finished samples"
    assert all(words in caplog.text for words in expected)


def test_the_plan_warns_if_finished_samples_lack_requested_scores(tmp_path, caplog):
    ids = finished.write(tmp_path, [finished.record({"seed": seed}) for seed in range(2)])
    store = writers.open_writer("folders", tmp_path)
    options = RunOptions(num_samples=1, batch_size=0, devices_per_sample=1, video=False)
    columns = registry.builtin_columns("clap@x, my:scorer,clip")
    forecast.log_forecast(tmp_path, [], ids, options, store, columns)
    assert f"have no clip and clap scores: python -m its_jax.evaluate --workdir={tmp_path}" in caplog.text
    caplog.clear()
    forecast.log_forecast(tmp_path, [], ids, options, store, registry.builtin_columns("my:scorer"))
    assert "scores" not in caplog.text


def test_samples_keep_their_places_in_a_batch_when_the_grid_changes(tiny, tmp_path):
    tiny(tmp_path / "whole", ["seed=0..3"], batch_size=4)
    tiny(tmp_path, ["seed=0..3"], batch_size=4)
    whole = latents(tmp_path / "whole")
    (gone,) = [name for name in whole if "_3_" in name]
    for path in (tmp_path / gone).iterdir():
        path.unlink()
    tiny(tmp_path, ["seed=2..3"], batch_size=4)  # Seeds 0 and 1 are not requested any more.
    assert latents(tmp_path) == whole


def test_a_program_that_cannot_be_compiled_leaves_the_others(tiny, tmp_path):
    class Picky(FakePipeline):
        def compile(self, settings, **options):
            if settings.width == 40:
                raise errors.UserError("width=40: must be a multiple of 16")
            return super().compile(settings, **options)

    with pytest.raises(errors.UserError, match="not written: width=40: must be a multiple of 16"):
        tiny(tmp_path, ["width=32,40,48"], pipeline=Picky())
    assert {sample.record["width"] for sample in samples.open_samples(tmp_path).values()} == {32, 48}


def test_a_setting_that_needs_a_file_may_have_it_from_the_rows(tiny, tmp_path):
    (tmp_path / "a.png").write_text("content")
    (tmp_path / "rows.csv").write_text(f"image,init_image\na,{tmp_path}/a.png\n")
    tiny(tmp_path / "out", (), prompts=str(tmp_path / "rows.csv"), strength=0.5)
    (sample,) = samples.open_samples(tmp_path / "out").values()
    assert sample.record["strength"] == 0.5 and sample.record["init_image"] == f"{tmp_path}/a.png"
    with pytest.raises(errors.UserError, match="strength=0.5: needs something to start from"):
        tiny(tmp_path / "other", strength=0.5)


class OneUnusableFile(FakePipeline):
    """A pipeline whose programs cannot use the file bad.png."""

    def compile(self, settings, **options):
        program = super().compile(settings, **options)
        program.check_init_file = self.check
        return program

    def check(self, settings):
        if settings.init_image.endswith("bad.png"):
            raise errors.UserError("bad.png: cannot read: not an image")


def test_a_file_that_cannot_be_used_costs_only_its_own_samples(tiny, tmp_path):
    files = [tmp_path / name for name in ("a.png", "bad.png", "c.png")]
    for file in files:
        file.write_text(file.name)
    rows = "\n".join(["image,init_image", *(f"{file.name},{file}" for file in files)])
    (tmp_path / "rows.csv").write_text(rows)
    pipeline = OneUnusableFile()
    with pytest.raises(errors.UserError, match="not written: bad-png.*: bad.png: cannot read: not an image"):
        tiny(tmp_path / "out", (), prompts=str(tmp_path / "rows.csv"), batch_size=4, pipeline=pipeline)
    found = samples.open_samples(tmp_path / "out").values()
    assert {sample.record["init_image"]: sample.record["run"]["position"] for sample in found} == {
        str(files[0]): 0, str(files[2]): 2,
    }  # fmt: skip
    assert len(pipeline.compiled) == 1


def test_the_number_of_pending_samples_is_that_of_one_shard(tiny, tmp_path):
    pipeline = tiny(tmp_path, ["seed=0..9"], shard=(0, 3))
    assert [options["pending"] for options in pipeline.compiled] == [4]


def test_shards_must_agree_on_the_batch_size(tiny, tmp_path):
    axes = ["seed=0..23"]
    tiny(tmp_path, axes, shard=(0, 2), batch_size=4)
    with pytest.raises(errors.UserError, match="batch_size=2: other processes of this sweep use a batch size of 4"):
        tiny(tmp_path, axes, shard=(1, 2), batch_size=2)
    tiny(tmp_path, axes, shard=(1, 2))
    assert len(samples.open_samples(tmp_path)) == 24


def test_both_layouts_hold_the_same_samples(tiny, tmp_path):
    for layout in writers.LAYOUTS:
        tiny(tmp_path / layout, ["seed=0..2"], layout=layout, loudness=-30.0)
    folders, shards = (samples.open_samples(tmp_path / layout) for layout in writers.LAYOUTS)
    assert list(folders) == list(shards)
    for name in folders:
        np.testing.assert_array_equal(folders[name].read_image("image"), shards[name].read_image("image"))
        np.testing.assert_array_equal(folders[name].read_audio()[0], shards[name].read_audio()[0])
        for sample in (folders[name], shards[name]):
            assert name.encode() in sample.read("spectrogram.png")
            assert sample.record["run"]["loudness"] == -30
        differing = {key for key in folders[name].record if folders[name].record[key] != shards[name].record[key]}
        assert differing <= {"seconds"}


# Scores


def loud(items):
    return {"loudness": [float(np.abs(item.waveform).mean()) for item in items], "one": [1] * len(items)}


def partly(items):
    return {"brightness": [float("nan") if item.settings.seed == 1 else 1.0 for item in items]}


def failing(items):
    return {"nothing": [1 / 0 for _ in items]}


def test_scores_are_columns_of_the_records(tiny, tmp_path):
    tiny(tmp_path, scorers=f"{__name__}:loud")
    for sample in samples.open_samples(tmp_path).values():
        assert sample.record["scores"]["one"] == 1
        assert sample.record["scores"]["loudness"] == pytest.approx(np.abs(sample.read_audio()[0]).mean(), abs=1e-4)
        settings, _ = from_record(sample.record)
        assert sample_id(settings) == sample.id


def test_a_score_that_is_not_finite_is_left_out_with_a_warning(tiny, tmp_path, caplog):
    tiny(tmp_path, ["seed=0..3"], scorers=f"{__name__}:partly,{__name__}:loud")
    found = {sample.record["seed"]: sample for sample in samples.open_samples(tmp_path).values()}
    assert [found[seed].record["scores"].get("brightness") for seed in range(4)] == [1, None, 1, 1]
    assert all("loudness" in sample.record["scores"] for sample in found.values())
    assert caplog.text.count("is left out: scorers must return finite numbers") == 1
    assert f"{found[1].id}: its score brightness is nan" in caplog.text


@pytest.mark.parametrize(
    "name, words",
    [
        (f"{__name__}:none", f"scorers='{__name__}:none': must be clip, clap or 'package.module:function'"),
        ("nowhere:loud", "scorers='nowhere:loud': must be"),
        ("loud", "scorers='loud': must be"),
        (f"{__name__}:failing", f"the scorer {__name__}:failing fails: ZeroDivisionError"),
    ],
)
def test_a_wrong_scorer_is_named(tiny, tmp_path, name, words):
    with pytest.raises(errors.UserError) as caught:
        tiny(tmp_path, scorers=name)
    assert words in str(caught.value)


# With models


class CountingLoader:
    """The default loader, which also keeps a list of the models whose weights it has loaded."""

    def __init__(self):
        self.loaded = []

    def __getattr__(self, name):
        return getattr(pretrained, name)

    def restore_weights(self, model, **options):
        self.loaded.append(model.source)
        return pretrained.restore_weights(model, **options)


def test_a_sweep_over_widths_loads_each_model_once(small, quick_programs, tmp_path):
    settings, loader = small(num_samples=1).to_dict(), CountingLoader()
    run_sweep(settings, tmp_path, axes=["width=32,40,48"], pipeline=Pipeline(loader=loader))
    assert len(samples.open_samples(tmp_path)) == 3
    assert sorted(loader.loaded) == sorted(settings[term]["model"] for term in ("image", "audio"))


def test_a_sweep_generates_the_bits_that_single_runs_do(small, quick_programs, tmp_path):
    from its_jax import sample

    config = small(num_samples=1, batch_size=2)
    axes = ["seed=0,1", "image.weight=0.3,0.7", "num_steps=4,5"]
    run_sweep(config.to_dict(), tmp_path / "sweep", axes=axes)
    swept = samples.open_samples(tmp_path / "sweep")
    assert len(swept) == 8
    sample.run(small({"image.weight": 0.7, "num_steps": 5}, num_samples=2, batch_size=2), tmp_path / "single")
    for name, single in samples.open_samples(tmp_path / "single").items():
        assert single.record["run"]["latents_sha256"] == swept[name].record["run"]["latents_sha256"]
