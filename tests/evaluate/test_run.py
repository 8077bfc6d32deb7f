"""Tables of finished samples: each sample is measured once, results are kept and compared."""

import json
import logging

import numpy as np
import pytest

from its_jax.errors import UserError
from its_jax.evaluate import measures, missing_scores, score_cache
from its_jax.evaluate.run import run
from its_jax.media import images
from its_jax.media import sounds as media_sounds
from its_jax.scoring import clip_clap
from its_jax.scoring.metrics import Gaussian, frechet_distance
from its_jax.storage import samples
from tests.helpers import finished_samples
from tests.helpers.evaluation import make_records, measured, read_report, read_rows, table_file


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
    assert table_file(tmp_path / "a", ".md").read_text().startswith("|  | n | mine | CLIP | CLAP |")
    assert images.read_image(table_file(tmp_path / "a", ".png")).std() > 0.05


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


def test_tables_of_different_arguments_do_not_overwrite_each_other(models, tmp_path):
    for name in ("a", "b"):
        finished_samples.write(tmp_path / name, make_records(2), width=512, height=128, seconds=5.12)
    a, b = (str(tmp_path / name) for name in ("a", "b"))
    calls = [([a], {}), ([a, b], {}), ([a], {"by": "seed"}), ([a], {"extra": ["griffin_lim"]})]
    for folders, options in [*calls, *calls]:
        run(folders, models=models, **options)
        expected = {"workdir": folders, **models, **options}
        assert read_report(tmp_path / "a")["arguments"] == expected
    out = tmp_path / "a" / "evaluation"
    tables = [json.loads(path.read_text()) for path in out.glob("*.json")]
    assert len(tables) == len(calls) == len(list(out.glob("*.md"))) == len(list(out.glob("*.png")))
    assert sorted(len(table["rows"]) for table in tables) == [1, 1, 2, 2]


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


def test_griffin_lim_and_the_round_trip_can_be_measured(models, tmp_path):
    finished_samples.write(tmp_path, make_records(2), width=512, height=128, seconds=5.12)
    run([str(tmp_path)], models=models, extra=["griffin_lim", "round_trip"])
    (row,) = read_rows(tmp_path)
    assert {"clap", "clap_griffin_lim", "round_trip"} <= row["means"].keys()
    assert 0.05 < row["means"]["round_trip"]["mean"] < 0.9  # a tone differs from the bright rectangle
    shown = images.read_image(table_file(tmp_path, "_samples.png"))
    assert shown.shape[1] > 1000 and shown.std() > 0.1
