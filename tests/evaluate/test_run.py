"""Tables of finished samples: each sample is measured once, results are kept and compared."""

import contextlib
import json
import logging

import numpy as np
import pytest
import soundfile

from its_jax.errors import UserError
from its_jax.evaluate import measures, missing_scores, references, score_cache
from its_jax.evaluate.run import run
from its_jax.media import images
from its_jax.media import sounds as media_sounds
from its_jax.scoring import clip_clap
from its_jax.scoring.metrics import Gaussian, frechet_distance
from its_jax.storage import samples, writers
from tests.helpers import dual_encoder_folder, finished_samples


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The sources of a small random CLIP and CLAP."""
    folder = tmp_path_factory.mktemp("models")
    dual_encoder_folder.build_clip(folder / "clip")
    dual_encoder_folder.build_clap(folder / "clap")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITS_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield {"clip": str(folder / "clip"), "clap": str(folder / "clap")}


def make_records(count=4, scores=None, **changes):
    return [finished_samples.record({"seed": seed, **changes}, scores) for seed in range(count)]


def read_report(workdir):
    return json.loads((workdir / "evaluation" / "evaluation.json").read_text())


def read_rows(workdir):
    return read_report(workdir)["rows"]


def measured(workdir):
    """Returns the ids of samples and the names of measures in the score files, by file."""
    lines = {
        path.name: [json.loads(line)["key"] for line in path.read_bytes().splitlines()]
        for path in (workdir / score_cache.FOLDER).glob("*.jsonl")
    }
    return {name: [(key[0], key[2]) for key in keys] for name, keys in lines.items()}


@pytest.mark.parametrize("layout", ["folders", "shards"])
def test_each_folder_gets_a_row(layout, models, tmp_path):
    finished_samples.write(tmp_path / "a", make_records(4, {"mine": 3.0}), layout)
    finished_samples.write(tmp_path / "b", make_records(3, **{"audio.prompt": "dog barking"}), layout)
    table = run([str(tmp_path / "a"), str(tmp_path / "b")], models=models)
    assert [line.split()[0] for line in table.splitlines()] == ["n", "a", "b"]
    a, b = read_rows(tmp_path / "a")
    assert (a["n"], b["n"]) == (4, 3)
    assert a["means"]["mine"] == {"mean": 3.0, "reach": 0.0, "n": 4} and "mine" not in b["means"]
    made = samples.open_samples(tmp_path / "a").values()
    clip, clap = clip_clap.ClipScorer(models["clip"]), clip_clap.ClapScorer(models["clap"])
    expected = [clip.score(sample.read_image(), sample.record["image"]["prompt"]) for sample in made]
    assert a["means"]["clip"]["mean"] == pytest.approx(np.mean(expected))
    assert a["means"]["clip"]["reach"] == pytest.approx(3.1824 * np.std(expected, ddof=1) / 2, rel=1e-4)
    expected = [clap.score(*sample.read_audio(), sample.record["audio"]["prompt"]) for sample in made]
    assert a["means"]["clap"]["mean"] == pytest.approx(np.mean(expected))
    out = tmp_path / "a" / "evaluation"
    assert (out / "evaluation.md").read_text().startswith("|  | n | mine | CLIP | CLAP |")
    assert images.read_image(out / "evaluation.png").std() > 0.05


def test_measured_samples_are_not_measured_again(models, tmp_path):
    finished_samples.write(tmp_path, make_records(3))
    first, before = run([str(tmp_path)], models=models), measured(tmp_path)
    assert run([str(tmp_path)], models=models) == first
    assert measured(tmp_path) == before
    *_, new = finished_samples.write(tmp_path, make_records(4))
    run([str(tmp_path)], models=models)
    assert measured(tmp_path) == before | {"0-of-1-00001.jsonl": [(new, "clip"), (new, "clap")]}


def test_an_interrupted_run_keeps_its_results(models, tmp_path):
    finished_samples.write(tmp_path, make_records(4))
    clip, seeds = measures.clip(clip_clap.ClipScorer(models["clip"])), []

    def compute(item):
        seeds.append(item.settings.seed)
        if len(seeds) == 3:
            raise KeyboardInterrupt
        return clip.compute(item)

    with pytest.raises(KeyboardInterrupt):
        missing_scores.score_missing(tmp_path, [clip._replace(compute=compute)])
    missing_scores.score_missing(tmp_path, [clip._replace(compute=compute)])
    assert seeds == [0, 1, 2, 2, 3]


def test_a_damaged_line_is_measured_again(models, tmp_path, caplog):
    finished_samples.write(tmp_path, make_records(2))
    run([str(tmp_path)], models=models)
    (file,) = (tmp_path / score_cache.FOLDER).iterdir()
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([lines[0][:40], *lines[1:]]))
    assert run([str(tmp_path)], models=models).splitlines()[1].split()[:2] == [tmp_path.name, "2"]
    assert "line 1: cannot be read; it is measured again" in caplog.text


def test_shards_measure_different_samples(models, tmp_path, caplog):
    finished_samples.write(tmp_path, make_records(3))
    with caplog.at_level(logging.INFO):
        assert run([str(tmp_path)], models=models, shard=(0, 2)) == ""
    assert "other shards have 2 more to measure" in caplog.text
    assert tmp_path.name in run([str(tmp_path)], models=models, shard=(1, 2))
    names = sorted(file.name for file in (tmp_path / score_cache.FOLDER).iterdir())
    assert names == ["0-of-2-00000.jsonl", "1-of-2-00000.jsonl"]


def test_each_value_of_a_setting_gets_a_row(models, tmp_path):
    finished_samples.write(tmp_path, [*make_records(2), *make_records(3, **{"image.weight": 0.3})])
    run([str(tmp_path)], models=models, by="image.weight")
    names = {row["name"]: row["n"] for row in read_rows(tmp_path)}
    assert names == {f"{tmp_path.name}: image.weight=0.6": 2, f"{tmp_path.name}: image.weight=0.3": 3}


def test_unknown_settings_are_refused_before_anything_is_measured(tmp_path):
    finished_samples.write(tmp_path / "a", make_records(2))
    finished_samples.write(tmp_path / "b", make_records(2))
    folders = [str(tmp_path / name) for name in ("a", "b")]
    with pytest.raises(UserError) as error:
        run(folders, models={"clip": "nowhere", "clap": "nowhere"}, by="image.wait")
    message = "--by=image.wait: the samples have no such setting; take one as method or image.weight"
    assert str(error.value) == message
    assert not list(tmp_path.rglob(score_cache.FOLDER))


def test_recorded_scores_of_the_same_model_are_used(models, tmp_path):
    clip = clip_clap.ClipScorer(models["clip"])
    records = make_records(2, {"clip": 12.5})
    for record in records:
        record["models"]["clip"] = clip.identity
    finished_samples.write(tmp_path, records)
    run([str(tmp_path)], models=models)
    assert read_rows(tmp_path)[0]["means"]["clip"]["mean"] == 12.5
    (results,) = measured(tmp_path).values()
    assert {measure for _, measure in results} == {"clap"}


def test_samples_that_cannot_be_scored_are_reported_and_all_others_scored(models, tmp_path, caplog):
    caplog.set_level("INFO")
    ids = finished_samples.write(tmp_path, make_records(4))
    good = {name: (tmp_path / name).read_bytes() for name in (f"{ids[0]}/spectrogram.png", f"{ids[1]}/audio.wav")}
    (tmp_path / ids[0] / "spectrogram.png").write_bytes(b"no picture")
    (tmp_path / ids[1] / "audio.wav").unlink()
    media_sounds.write_wav(tmp_path / ids[2] / "audio.wav", np.zeros(16000), 16000, {})
    with pytest.raises(UserError) as error:
        run([str(tmp_path), str(tmp_path / "nowhere")], models=models)
    assert "nowhere: no such folder" in str(error.value)
    with pytest.raises(UserError) as error:
        run([str(tmp_path)], models=models)
    (row,) = read_rows(tmp_path)
    assert row["n"] == 4 and row["means"]["clip"]["n"] == 3 and row["means"]["clap"]["n"] == 2
    assert f"{ids[2]}: no clap: the sound is silent" in str(error.value)
    for name, file in ((ids[0], "spectrogram.png"), (ids[1], "audio.wav")):
        assert any(name in fault and f"{file} of {name} cannot be read" in fault for fault in row["faults"])
    assert "(of 2)" in caplog.text
    for name, content in good.items():  # what was mended is scored at the next run
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError):
        run([str(tmp_path)], models=models)
    (row,) = read_rows(tmp_path)
    assert row["means"]["clip"]["n"] == 4 and row["means"]["clap"]["n"] == 3 and len(row["faults"]) == 1


def test_files_of_the_wrong_kind_are_reported(models, tmp_path):
    ids = finished_samples.write(tmp_path, make_records(4), height=128)
    images.write_png(tmp_path / ids[0] / "spectrogram.png", np.zeros((16, 48, 3)), {})
    soundfile.write(tmp_path / ids[1] / "audio.wav", np.zeros((16000, 2)), 16000)
    soundfile.write(tmp_path / ids[2] / "audio.wav", np.zeros(0), 16000)
    with pytest.raises(UserError) as error:
        run([str(tmp_path)], models=models, extra=["round_trip"])
    assert "spectrogram.png must be gray" in str(error.value) and (tmp_path / "evaluation" / "round_trip.png").exists()
    faults = read_rows(tmp_path)[0]["faults"]
    assert any(ids[1] in fault and "audio.wav has more than one channel" in fault for fault in faults)
    assert any(ids[2] in fault and "audio.wav has no samples" in fault for fault in faults)


def test_the_last_shard_writes_the_table_of_all_folders(models, tmp_path):
    for name in ("a", "b"):
        finished_samples.write(tmp_path / name, make_records(4))
    folders = [str(tmp_path / name) for name in ("a", "b")]
    assert run(folders, models=models, shard=(0, 2)) == ""
    assert run(folders, models=models, shard=(1, 2)).count("\n") == 2


def test_folders_of_the_same_name_are_shown_with_their_path(models, tmp_path):
    for name in ("a", "b"):
        finished_samples.write(tmp_path / name / "out", make_records(2))
    folders = [str(tmp_path / name / "out") for name in ("a", "b")]
    run([*folders, f"{folders[0]}/"], models=models)  # the first is given twice
    assert [row["name"] for row in read_rows(tmp_path / "a" / "out")] == folders
    run(folders[:1], models=models, by="seed")
    assert [row["name"] for row in read_rows(tmp_path / "a" / "out")] == ["out: seed=0", "out: seed=1"]


def test_scores_that_are_not_numbers_do_not_count(models, tmp_path):
    ids = finished_samples.write(tmp_path, make_records(2, {"mine": 2.0}))
    record = tmp_path / ids[0] / "sample.json"
    record.write_text(record.read_text().replace('"mine": 2.0', '"mine": NaN'))
    with pytest.raises(UserError, match="its score mine is nan; it does not count"):
        run([str(tmp_path)], models=models)
    assert read_rows(tmp_path)[0]["means"]["mine"] == {"mean": 2.0, "reach": None, "n": 1}
    for scores, fault in ({"mine": None}, "its score mine is None; it does not count"), ("bad", "they do not count"):
        record.write_text(json.dumps(json.loads(record.read_text()) | {"scores": scores}))
        with pytest.raises(UserError, match=fault):
            run([str(tmp_path)], models=models)
        assert read_rows(tmp_path)[0]["means"]["mine"]["n"] == 1


def test_folders_of_different_canvases_are_reported(models, tmp_path, caplog):
    finished_samples.write(tmp_path / "a", make_records(1, {"clip": 1.0}))
    finished_samples.write(tmp_path / "b", make_records(1, width=256))
    run([str(tmp_path / "a")], models=models)
    assert "folders differ" not in caplog.text
    run([str(tmp_path / "a"), str(tmp_path / "b")], models=models)
    assert "folders differ: samples of 128 x 256 and 128 x 512 pixels have scores that do not" in caplog.text


def test_scores_of_other_models_do_not_count(models, tmp_path):
    ids = finished_samples.write(tmp_path, make_records(3, {"clip": 99.0, "clap": 99.0, "mine": 1.0}))
    (tmp_path / ids[0] / "spectrogram.png").unlink()
    with pytest.raises(UserError, match=f"{ids[0]}: no clip: "):
        run([str(tmp_path)], models=models)
    means = read_rows(tmp_path)[0]["means"]
    assert (means["clip"]["n"], means["clap"]["n"], means["mine"]["n"]) == (2, 3, 3)
    assert means["clip"]["mean"] < 90


def test_scores_take_precedence_over_earlier_faults(models, tmp_path):
    ids = finished_samples.write(tmp_path, make_records(2))
    sound = tmp_path / ids[1] / "audio.wav"
    content = sound.read_bytes()
    sound.unlink()
    for index in range(2):
        with contextlib.suppress(UserError):
            run([str(tmp_path)], models=models, shard=(index, 2))
    sound.write_bytes(content)
    run([str(tmp_path)], models=models)
    assert read_rows(tmp_path)[0]["means"]["clap"]["n"] == 2


def test_truncated_audio_is_reported(models, tmp_path):
    ids = finished_samples.write(tmp_path, make_records(2))
    sound = tmp_path / ids[0] / "audio.wav"
    sound.write_bytes(sound.read_bytes()[:9000])
    with pytest.raises(UserError, match=f"{ids[0]}: no clap: .*it is cut short"):
        run([str(tmp_path)], models=models)
    assert read_rows(tmp_path)[0]["means"]["clap"]["n"] == 1


def without(group, name):
    return lambda record: record[group].pop(name) if group else record.pop(name)


@pytest.mark.parametrize(
    "harm",
    [
        without("", "height"),
        without("audio", "prompt"),
        without("image", "model"),
        lambda record: record.update(run=None),
        lambda record: record.update(image="trees"),
    ],
)
@pytest.mark.parametrize("layout", ["folders", "shards"])
def test_invalid_records_are_left_out(layout, harm, models, tmp_path):
    made = make_records(3)
    odd = json.loads(json.dumps(made[0]))
    written = finished_samples.write(tmp_path, made, layout)
    harm(odd)
    if layout == "folders":
        (tmp_path / written[0] / "sample.json").write_text(json.dumps(odd))
    else:
        (index,) = writers.indices(tmp_path)
        lines = [json.loads(line) for line in index.read_bytes().splitlines()]
        lines = [line | ({"record": odd} if line["id"] == written[0] else {}) for line in lines]
        index.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="is not the record of a sample of ours"):
        run([str(tmp_path)], models=models)
    assert read_rows(tmp_path)[0]["n"] == 2
    faults = read_report(tmp_path)["faults"]
    assert len(faults) == 1 and written[0] in faults[0]


def test_each_canvas_gets_a_row(models, tmp_path):
    finished_samples.write(
        tmp_path, [*make_records(1), *make_records(1, width=256), *make_records(2, cutoff_latent=True)]
    )
    with pytest.raises(UserError, match="has samples of 128 x 256 and 128 x 512 and 128 x 512 cropped pixels, whose"):
        run([str(tmp_path)], models=models)
    sizes = [("128 x 256", 1), ("128 x 512", 1), ("128 x 512 cropped", 2)]
    assert [(row["name"], row["n"]) for row in read_rows(tmp_path)] == [
        (f"{tmp_path.name}: {size}", count) for size, count in sizes
    ]
    for sample in samples.open_samples(tmp_path).values():
        if sample.record["cutoff_latent"]:
            (sample.path / "sample.json").unlink()
    run([str(tmp_path)], models=models, by="width")
    assert [row["n"] for row in read_rows(tmp_path)] == [1, 1]
    finished_samples.write(tmp_path, make_records(1, method="imprint"))
    with pytest.raises(UserError, match="method=fused: has samples of"):
        run([str(tmp_path)], models=models, by="method")
    assert [row["n"] for row in read_rows(tmp_path)] == [1, 1, 1]
    assert read_rows(tmp_path)[-1]["name"].endswith("method=imprint")
    with pytest.raises(UserError, match="--by=image: is a group of settings; take one of them, as image.model"):
        run([str(tmp_path)], models=models, by="image")


def test_audio_is_compared_with_a_folder_or_its_statistics(models, tmp_path):
    finished_samples.write(tmp_path / "a", make_records(3, **{"audio.prompt": "dog barking"}))
    sounds, rng = tmp_path / "sounds", np.random.default_rng(0)
    sounds.mkdir()
    for i in range(5):
        t = np.arange(16000 + 2000 * i) / 16000
        media_sounds.write_wav(
            sounds / f"{i}.wav", 0.3 * np.sin(900 * (i + 1) * t) + 0.01 * rng.normal(size=len(t)), 16000, {}
        )
    (sounds / "notes.txt").write_text("no sound")
    statistics = tmp_path / "statistics.npz"
    of_folder = dict(compare_with={"FAD": str(sounds)}, statistics={"FAD": str(statistics)})
    run([str(tmp_path / "a")], models=models, **of_folder)
    (distance,) = (row["distances"]["FAD"] for row in read_rows(tmp_path / "a"))
    run([str(tmp_path / "a")], models=models, compare_with={"FAD": str(statistics)})
    assert read_rows(tmp_path / "a")[0]["distances"]["FAD"] == pytest.approx(distance)
    clap = clip_clap.ClapScorer(models["clap"])
    ours = [
        clap.embed_audio(*sample.read_audio()).mean(axis=0) for sample in samples.open_samples(tmp_path / "a").values()
    ]
    theirs = [
        clap.embed_audio(media_sounds.read_audio(sounds / f"{i}.wav", 16000), 16000).mean(axis=0) for i in range(5)
    ]
    assert distance == pytest.approx(frechet_distance(Gaussian.fit(ours), Gaussian.fit(theirs)), rel=1e-3)
    assert distance > 1e-3


def test_missing_folders_are_reported_and_all_others_evaluated(models, tmp_path):
    finished_samples.write(tmp_path / "a", make_records(2))
    with pytest.raises(UserError, match="gone: no such folder"):
        run([str(tmp_path / "gone"), str(tmp_path / "a")], models=models)
    assert [row["name"] for row in read_rows(tmp_path / "a")] == ["a"] and not (tmp_path / "gone").exists()
    with pytest.raises(UserError, match="gone: no such folder; .*; .*away: no such folder"):
        run([str(tmp_path / "gone"), str(tmp_path / "away")], models=models)


def test_too_few_samples_for_a_distance_are_reported(models, tmp_path):
    finished_samples.write(tmp_path / "a", make_records(1))
    rng = np.random.default_rng(0)
    references.write_statistics(tmp_path / "other.npz", Gaussian.fit(rng.normal(size=(20, 12))))
    with pytest.raises(UserError, match="FAD: a Frechet distance of 1 samples: there must be 2 or more"):
        run([str(tmp_path / "a")], models=models, compare_with={"FAD": str(tmp_path / "other.npz")})
    references.write_statistics(tmp_path / "other.npz", Gaussian.fit(rng.normal(size=(20, 7))))
    finished_samples.write(tmp_path / "a", make_records(2))
    with pytest.raises(UserError, match="FAD: a Frechet distance of features of 12 and 7 numbers"):
        run([str(tmp_path / "a")], models=models, compare_with={"FAD": str(tmp_path / "other.npz")})


def test_griffin_lim_and_the_round_trip_can_be_measured(models, tmp_path):
    finished_samples.write(tmp_path, make_records(2), width=512, height=128, seconds=5.12)
    run([str(tmp_path)], models=models, extra=["griffin_lim", "round_trip"])
    (row,) = read_rows(tmp_path)
    assert {"clap", "clap_griffin_lim", "round_trip"} <= row["means"].keys()
    assert 0.05 < row["means"]["round_trip"]["mean"] < 0.9  # a tone differs from the bright rectangle
    shown = images.read_image(tmp_path / "evaluation" / "round_trip.png")
    assert shown.shape[1] > 1000 and shown.std() > 0.1
