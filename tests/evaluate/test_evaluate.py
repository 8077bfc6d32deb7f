"""Tables of finished samples: measured once, kept, compared."""

import contextlib
import io
import json
import logging

import numpy as np
import pytest
import soundfile

from its_jax.errors import UserError
from its_jax.evaluate import aggregate, measures, references, report, run, score_cache
from its_jax.media import images
from its_jax.media import sounds as media_sounds
from its_jax.scoring import clip_clap, registry
from its_jax.scoring.metrics import Gaussian, frechet_distance
from its_jax.storage import files, samples, writers
from tests.helpers import dual_encoder_folder as dual_folder
from tests.helpers import finished_samples as finished


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Sources of a small random CLIP and CLAP."""
    folder = tmp_path_factory.mktemp("models")
    dual_folder.build_clip(folder / "clip")
    dual_folder.build_clap(folder / "clap")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITS_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield {"clip": str(folder / "clip"), "clap": str(folder / "clap")}


def records(count=4, scores=None, **changes):
    return [finished.record({"seed": seed, **changes}, scores) for seed in range(count)]


def rows(out):
    return json.loads((out / "evaluation" / "evaluation.json").read_text())["rows"]


@pytest.mark.parametrize("layout", ["folders", "shards"])
def test_folders_stand_side_by_side(layout, models, tmp_path):
    finished.write(tmp_path / "a", records(4, {"mine": 3.0}), layout)
    finished.write(tmp_path / "b", records(3, **{"audio.prompt": "dog barking"}), layout)
    table = run.run([str(tmp_path / "a"), str(tmp_path / "b")], models=models)
    assert [line.split()[0] for line in table.splitlines()] == ["n", "a", "b"]
    a, b = rows(tmp_path / "a")
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


def test_what_was_measured_is_not_measured_again(models, tmp_path, monkeypatch):
    finished.write(tmp_path, records(3))
    first = run.run([str(tmp_path)], models=models)
    monkeypatch.setattr(clip_clap.ClipScorer, "embed_image", None)
    assert run.run([str(tmp_path)], models=models) == first
    finished.write(tmp_path, records(4))
    with pytest.raises(TypeError):  # the fourth is new
        run.run([str(tmp_path)], models=models)


def test_a_kill_costs_little(models, tmp_path, monkeypatch):
    """What was measured before stays, whatever ends the run."""
    finished.write(tmp_path, records(4))
    monkeypatch.setattr(score_cache, "SAVE_EVERY_S", 0.0)
    clip, seen = measures.clip(clip_clap.ClipScorer(models["clip"])), []

    def of(item):
        seen.append(item.settings.seed)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return clip.of(item)

    with pytest.raises(KeyboardInterrupt):
        aggregate.score_missing(tmp_path, [clip._replace(of=of)])
    aggregate.score_missing(tmp_path, [clip._replace(of=of)])
    assert seen == [0, 1, 2, 2, 3]


def test_a_damaged_line_is_measured_again(models, tmp_path, caplog):
    finished.write(tmp_path, records(2))
    run.run([str(tmp_path)], models=models)
    (file,) = (tmp_path / score_cache.FOLDER).iterdir()
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([lines[0][:40], *lines[1:]]))
    assert run.run([str(tmp_path)], models=models).splitlines()[1].split()[:2] == [tmp_path.name, "2"]
    assert "line 1: cannot be read; it is measured again" in caplog.text


def test_shares_are_of_different_samples(models, tmp_path, caplog):
    finished.write(tmp_path, records(3))
    with caplog.at_level(logging.INFO):
        assert run.run([str(tmp_path)], models=models, share=(0, 2)) == ""
    assert "other shares have 2 more to measure" in caplog.text
    assert tmp_path.name in run.run([str(tmp_path)], models=models, share=(1, 2))
    names = sorted(file.name for file in (tmp_path / score_cache.FOLDER).iterdir())
    assert names == ["0-of-2-00000.jsonl", "1-of-2-00000.jsonl"]


def test_a_setting_gets_a_row_for_each_value(models, tmp_path):
    finished.write(tmp_path, [*records(2), *records(3, **{"image.weight": 0.3})])
    run.run([str(tmp_path)], models=models, by="image.weight")
    names = {row["name"]: row["n"] for row in rows(tmp_path)}
    assert names == {f"{tmp_path.name}: image.weight=0.6": 2, f"{tmp_path.name}: image.weight=0.3": 3}
    with pytest.raises(UserError, match="--by=image.wait: the samples have no such setting"):
        run.run([str(tmp_path)], models=models, by="image.wait")


def test_what_was_scored_when_it_was_made_is_not_measured_again(models, tmp_path, monkeypatch):
    clip = clip_clap.ClipScorer(models["clip"])
    made = records(2, {"clip": 12.5})
    for record in made:
        record["models"]["clip"] = clip.identity
    finished.write(tmp_path, made)
    monkeypatch.setattr(clip_clap.ClipScorer, "embed_image", None)
    run.run([str(tmp_path)], models=models)
    assert rows(tmp_path)[0]["means"]["clip"]["mean"] == 12.5


def test_what_cannot_be_scored_is_told_and_the_others_are_scored(models, tmp_path, caplog):
    caplog.set_level("INFO")
    ids = finished.write(tmp_path, records(4))
    good = {name: (tmp_path / name).read_bytes() for name in (f"{ids[0]}/spectrogram.png", f"{ids[1]}/audio.wav")}
    (tmp_path / ids[0] / "spectrogram.png").write_bytes(b"no picture")
    (tmp_path / ids[1] / "audio.wav").unlink()
    media_sounds.write_wav(tmp_path / ids[2] / "audio.wav", np.zeros(16000), 16000, {})
    with pytest.raises(UserError) as told:
        run.run([str(tmp_path), str(tmp_path / "nowhere")], models=models)
    assert "nowhere: no such folder" in str(told.value)
    with pytest.raises(UserError) as told:
        run.run([str(tmp_path)], models=models)
    (row,) = rows(tmp_path)
    assert row["n"] == 4 and row["means"]["clip"]["n"] == 3 and row["means"]["clap"]["n"] == 2
    assert f"{ids[2]}: no clap: the sound is silent" in str(told.value)
    for name, file in ((ids[0], "spectrogram.png"), (ids[1], "audio.wav")):
        assert any(name in fault and f"{file} of {name} cannot be read" in fault for fault in row["faults"])
    assert "(of 2)" in caplog.text
    for name, content in good.items():  # what was mended is scored at the next run
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError):
        run.run([str(tmp_path)], models=models)
    (row,) = rows(tmp_path)
    assert row["means"]["clip"]["n"] == 4 and row["means"]["clap"]["n"] == 3 and len(row["faults"]) == 1


def test_files_that_hold_something_else_are_told(models, tmp_path):
    ids = finished.write(tmp_path, records(4), height=128)
    images.write_png(tmp_path / ids[0] / "spectrogram.png", np.zeros((16, 48, 3)), {})
    soundfile.write(tmp_path / ids[1] / "audio.wav", np.zeros((16000, 2)), 16000)
    soundfile.write(tmp_path / ids[2] / "audio.wav", np.zeros(0), 16000)
    with pytest.raises(UserError) as told:
        run.run([str(tmp_path)], models=models, more=["round_trip"])
    assert "spectrogram.png is in colour" in str(told.value) and (tmp_path / "evaluation" / "round_trip.png").exists()
    faults = rows(tmp_path)[0]["faults"]
    assert any(ids[1] in fault and "audio.wav has more than one channel" in fault for fault in faults)
    assert any(ids[2] in fault and "audio.wav has no samples" in fault for fault in faults)


def test_shares_of_several_folders_end_in_one_table(models, tmp_path):
    for name in ("a", "b"):
        finished.write(tmp_path / name, records(4))
    folders = [str(tmp_path / name) for name in ("a", "b")]
    assert run.run(folders, models=models, share=(0, 2)) == ""
    assert run.run(folders, models=models, share=(1, 2)).count("\n") == 2


def test_folders_of_one_name_are_told_apart(models, tmp_path):
    for name in ("a", "b"):
        finished.write(tmp_path / name / "out", records(2))
    folders = [str(tmp_path / name / "out") for name in ("a", "b")]
    run.run([*folders, f"{folders[0]}/"], models=models)  # the first is given twice
    assert [row["name"] for row in rows(tmp_path / "a" / "out")] == folders
    run.run(folders[:1], models=models, by="seed")
    assert [row["name"] for row in rows(tmp_path / "a" / "out")] == ["out: seed=0", "out: seed=1"]


def test_scores_that_are_not_numbers_do_not_count(models, tmp_path):
    ids = finished.write(tmp_path, records(2, {"mine": 2.0}))
    record = tmp_path / ids[0] / "sample.json"
    record.write_text(record.read_text().replace('"mine": 2.0', '"mine": NaN'))
    with pytest.raises(UserError, match="its score mine is nan; it does not count"):
        run.run([str(tmp_path)], models=models)
    assert rows(tmp_path)[0]["means"]["mine"] == {"mean": 2.0, "reach": None, "n": 1}
    for scores, fault in ({"mine": None}, "its score mine is None; it does not count"), ("bad", "they do not count"):
        record.write_text(json.dumps(json.loads(record.read_text()) | {"scores": scores}))
        with pytest.raises(UserError, match=fault):
            run.run([str(tmp_path)], models=models)
        assert rows(tmp_path)[0]["means"]["mine"]["n"] == 1


def test_folders_of_different_canvases_are_told(models, tmp_path, caplog):
    finished.write(tmp_path / "a", records(1, {"clip": 1.0}))
    finished.write(tmp_path / "b", records(1, width=256))
    run.run([str(tmp_path / "a")], models=models)
    assert "folders differ" not in caplog.text
    run.run([str(tmp_path / "a"), str(tmp_path / "b")], models=models)
    assert "folders differ: samples of 128 x 256 and 128 x 512 pixels have scores that do not" in caplog.text


def test_scores_of_other_models_do_not_count(models, tmp_path):
    ids = finished.write(tmp_path, records(3, {"clip": 99.0, "clap": 99.0, "mine": 1.0}))
    (tmp_path / ids[0] / "spectrogram.png").unlink()
    with pytest.raises(UserError, match=f"{ids[0]}: no clip: "):
        run.run([str(tmp_path)], models=models)
    means = rows(tmp_path)[0]["means"]
    assert (means["clip"]["n"], means["clap"]["n"], means["mine"]["n"]) == (2, 3, 3)
    assert means["clip"]["mean"] < 90


def test_what_was_found_goes_before_an_older_fault(models, tmp_path):
    ids = finished.write(tmp_path, records(2))
    sound = tmp_path / ids[1] / "audio.wav"
    content = sound.read_bytes()
    sound.unlink()
    for index in range(2):
        with contextlib.suppress(UserError):
            run.run([str(tmp_path)], models=models, share=(index, 2))
    sound.write_bytes(content)
    run.run([str(tmp_path)], models=models)
    assert rows(tmp_path)[0]["means"]["clap"]["n"] == 2


def test_a_sound_that_is_cut_short_is_told(models, tmp_path):
    ids = finished.write(tmp_path, records(2))
    sound = tmp_path / ids[0] / "audio.wav"
    sound.write_bytes(sound.read_bytes()[:9000])
    with pytest.raises(UserError, match=f"{ids[0]}: no clap: .*it is cut short"):
        run.run([str(tmp_path)], models=models)
    assert rows(tmp_path)[0]["means"]["clap"]["n"] == 1


def _lacking(group, name):
    return lambda record: record[group].pop(name) if group else record.pop(name)


@pytest.mark.parametrize(
    "harm",
    [
        _lacking("", "height"),
        _lacking("audio", "prompt"),
        _lacking("image", "model"),
        lambda record: record.update(run=None),
        lambda record: record.update(image="trees"),
    ],
)
@pytest.mark.parametrize("layout", ["folders", "shards"])
def test_records_that_are_none_cost_themselves(layout, harm, models, tmp_path):
    made = records(3)
    odd = json.loads(json.dumps(made[0]))
    written = finished.write(tmp_path, made, layout)
    harm(odd)
    if layout == "folders":
        (tmp_path / written[0] / "sample.json").write_text(json.dumps(odd))
    else:
        (index,) = writers.indices(tmp_path)
        lines = [json.loads(line) for line in index.read_bytes().splitlines()]
        lines = [line | ({"record": odd} if line["id"] == written[0] else {}) for line in lines]
        index.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="is not the record of a sample of ours"):
        run.run([str(tmp_path)], models=models)
    assert rows(tmp_path)[0]["n"] == 2
    told = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["faults"]
    assert len(told) == 1 and written[0] in told[0]


def test_a_reference_of_our_samples_counts_each_once(tmp_path):
    seen = []
    look = lambda path: seen.append(path.name) or np.zeros((1, 3))  # noqa: E731
    finished.write(tmp_path, records(2))
    for place in tmp_path.glob("*/sample.json"):
        (place.parent / "video.mp4").write_bytes(b"")
    references.gaussian(str(tmp_path), look)
    assert sorted(seen) == ["audio.wav"] * 2 + ["spectrogram.png"] * 2


def test_a_reference_of_one_file_is_refused(tmp_path):
    (tmp_path / "one.wav").write_bytes(b"")
    with pytest.raises(UserError, match="a Frechet distance of 1 files: there must be 2 or more in it to compare with"):
        references.gaussian(str(tmp_path), lambda path: np.zeros((5, 3)))


def test_canvases_are_not_mixed(models, tmp_path):
    finished.write(tmp_path, [*records(1), *records(1, width=256), *records(2, cutoff_latent=True)])
    with pytest.raises(UserError, match="has samples of 128 x 256 and 128 x 512 and 128 x 512 cropped pixels, whose"):
        run.run([str(tmp_path)], models=models)
    sizes = [("128 x 256", 1), ("128 x 512", 1), ("128 x 512 cropped", 2)]
    assert [(row["name"], row["n"]) for row in rows(tmp_path)] == [
        (f"{tmp_path.name}: {size}", count) for size, count in sizes
    ]
    for sample in samples.open_samples(tmp_path).values():
        if sample.record["cutoff_latent"]:
            (sample.path / "sample.json").unlink()
    run.run([str(tmp_path)], models=models, by="width")
    assert [row["n"] for row in rows(tmp_path)] == [1, 1]
    finished.write(tmp_path, records(1, method="imprint"))
    with pytest.raises(UserError, match="method=fused: has samples of"):
        run.run([str(tmp_path)], models=models, by="method")
    assert [row["n"] for row in rows(tmp_path)] == [1, 1, 1]
    assert rows(tmp_path)[-1]["name"].endswith("method=imprint")
    with pytest.raises(UserError, match="--by=image: is a group of settings; take one of them, as image.model"):
        run.run([str(tmp_path)], models=models, by="image")


def test_sounds_are_compared_with_a_folder_or_its_statistics(models, tmp_path):
    finished.write(tmp_path / "a", records(3, **{"audio.prompt": "dog barking"}))
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
    run.run([str(tmp_path / "a")], models=models, **of_folder)
    (distance,) = (row["distances"]["FAD"] for row in rows(tmp_path / "a"))
    run.run([str(tmp_path / "a")], models=models, compare_with={"FAD": str(statistics)})
    assert rows(tmp_path / "a")[0]["distances"]["FAD"] == pytest.approx(distance)
    clap = clip_clap.ClapScorer(models["clap"])
    ours = [
        clap.embed_audio(*sample.read_audio()).mean(axis=0) for sample in samples.open_samples(tmp_path / "a").values()
    ]
    theirs = [
        clap.embed_audio(media_sounds.read_audio(sounds / f"{i}.wav", 16000), 16000).mean(axis=0) for i in range(5)
    ]
    assert distance == pytest.approx(frechet_distance(Gaussian.fit(ours), Gaussian.fit(theirs)), rel=1e-3)
    assert distance > 1e-3


def test_a_folder_that_is_missing_leaves_the_others(models, tmp_path):
    finished.write(tmp_path / "a", records(2))
    with pytest.raises(UserError, match="gone: no such folder"):
        run.run([str(tmp_path / "gone"), str(tmp_path / "a")], models=models)
    assert [row["name"] for row in rows(tmp_path / "a")] == ["a"] and not (tmp_path / "gone").exists()
    with pytest.raises(UserError, match="gone: no such folder; .*; .*away: no such folder"):
        run.run([str(tmp_path / "gone"), str(tmp_path / "away")], models=models)


def test_too_few_samples_for_a_distance_are_told(models, tmp_path):
    finished.write(tmp_path / "a", records(1))
    rng = np.random.default_rng(0)
    references.write(tmp_path / "other.npz", Gaussian.fit(rng.normal(size=(20, 12))))
    with pytest.raises(UserError, match="FAD: a Frechet distance of 1 samples: there must be 2 or more"):
        run.run([str(tmp_path / "a")], models=models, compare_with={"FAD": str(tmp_path / "other.npz")})
    references.write(tmp_path / "other.npz", Gaussian.fit(rng.normal(size=(20, 7))))
    finished.write(tmp_path / "a", records(2))
    with pytest.raises(UserError, match="FAD: a Frechet distance of features of 12 and 7 numbers"):
        run.run([str(tmp_path / "a")], models=models, compare_with={"FAD": str(tmp_path / "other.npz")})


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.mkdir(), "nothing in it to compare with"),
        (lambda path: None, "no such folder; give one of pictures or sounds"),
        (lambda path: files.write(f"{path}.npz", b"no statistics"), "no statistics, an .npz of mu and sigma"),
        (lambda path: np.savez(f"{path}.npz", mu=np.zeros(3), sigma=np.eye(2)), "must be .d. and .d, d."),
        (lambda path: np.savez(f"{path}.npz", mu=np.zeros(2), sigma=np.eye(2) * np.nan), "must be finite numbers"),
        (lambda path: files.write(f"{path}.npz", b"PK\x03\x04cut short"), "no statistics, an .npz of mu and sigma"),
        (lambda path: files.write(f"{path}.npz", npy(np.zeros(3))), "no statistics, an .npz of mu and sigma"),
    ],
)
def test_a_reference_that_is_none_is_refused(make, words, tmp_path):
    make(tmp_path / "x")
    source = next((str(path) for path in tmp_path.glob("x.npz")), str(tmp_path / "x"))
    with pytest.raises(UserError, match=words):
        references.gaussian(source, lambda path: np.zeros((2, 3)))


def test_griffin_lim_and_the_round_trip_are_figures_too(models, tmp_path):
    finished.write(tmp_path, records(2), width=512, height=128, seconds=5.12)
    run.run([str(tmp_path)], models=models, more=["griffin_lim", "round_trip"])
    (row,) = rows(tmp_path)
    assert {"clap", "clap_griffin_lim", "round_trip"} <= row["means"].keys()
    assert 0.05 < row["means"]["round_trip"]["mean"] < 0.9  # a tone is no bright rectangle
    shown = images.read_image(tmp_path / "evaluation" / "round_trip.png")
    assert shown.shape[1] > 1000 and shown.std() > 0.1


def test_squares_leave_a_strip_as_it_is():
    grey = np.random.default_rng(0).random((16, 52))
    found = measures.squares(grey)
    assert found.shape == (3, 16, 16, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found[2, :, :, 0], np.rint(np.float32(grey[:, 32:48]) * 255))


def test_a_sample_alone_has_no_interval():
    row = report.Row("a|b", 1, {"clip": (20.0, float("nan"), 1)}, {"FAD": 0.5}, None)
    assert report.cells([row])[1] == ["a|b", "1", "20.00", "0.500", ""]
    assert "a\\|b" in report.markdown([row])


def test_the_models_of_embedded_samples_are_the_embedded_ones(tmp_path):
    finished.write(tmp_path / "a", records(1))
    assert registry.all_tiny(image_models(tmp_path / "a"))
    finished.write(tmp_path / "b", [*records(1), *records(1, **{"image.model": "someone/model"})])
    assert not registry.all_tiny(image_models(tmp_path / "b"))
    for folder, names in (
        ("a", "clip@tiny/clip,clap@clap_folder,mine:score"),
        ("b", "clip, clap@clap_folder,mine:score"),
    ):
        assert registry.resolve_names("clip, clap@clap_folder,mine:score", image_models(tmp_path / folder)) == names


def image_models(workdir):
    return [sample.record["image"]["model"] for sample in samples.open_samples(workdir).values()]
