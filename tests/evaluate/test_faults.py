"""Samples, folders and scores with faults are reported, and cost only themselves."""

import contextlib
import json

import numpy as np
import pytest
import soundfile

from its_jax.errors import UserError
from its_jax.evaluate import references
from its_jax.evaluate.run import run
from its_jax.media import images
from its_jax.media import sounds as media_sounds
from its_jax.scoring.metrics import Gaussian
from its_jax.storage import writers
from tests.helpers import finished_samples
from tests.helpers.evaluation import make_records, read_report, read_rows, table_file


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
    assert "spectrogram.png must be gray" in str(error.value) and table_file(tmp_path, "_samples.png").exists()
    faults = read_rows(tmp_path)[0]["faults"]
    assert any(ids[1] in fault and "audio.wav has more than one channel" in fault for fault in faults)
    assert any(ids[2] in fault and "audio.wav has no samples" in fault for fault in faults)


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
