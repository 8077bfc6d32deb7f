"""A page of pairs, answered in a browser, and the win rates of the answers."""

import json
import pathlib

import pytest

from its_jax.errors import UserError
from its_jax.scoring import metrics
from its_jax.storage import samples
from its_jax.versus import study
from tests.helpers import finished_samples as finished
from tests.helpers.browser import reloaded

PROMPTS = [("a painting of trees", "bell ringing"), ("a painting of <b>dogs</b> & cats", 'train "whistling"')]


def workdirs(tmp_path):
    for name, weight in (("ours", 0.5), ("theirs", 0.3)):
        finished.write(
            tmp_path / name,
            [
                finished.record({"seed": seed, "image.prompt": image, "audio.prompt": audio, "image.weight": weight})
                for image, audio in PROMPTS
                for seed in range(3)
            ],
        )
    return [str(tmp_path / "ours"), str(tmp_path / "theirs")]


def test_pairs_share_their_prompts_and_do_not_reveal_their_sides(tmp_path):
    dirs = workdirs(tmp_path)
    study.write(dirs, tmp_path / "page", pairs=20, seed=1)
    key = json.loads((tmp_path / "page" / "key.json").read_text())
    records = {workdir: samples.open_samples(workdir) for workdir in dirs}
    for two in key["pairs"]:
        assert {side["of"] for side in two} == set(dirs)
        a, b = (records[side["of"]][side["id"]].record for side in two)
        assert all(a[term]["prompt"] == b[term]["prompt"] for term in ("image", "audio"))
    first = [two[0]["of"] for two in key["pairs"]]
    assert 4 < first.count(dirs[0]) < 16  # The order is random.
    page = (tmp_path / "page" / "index.html").read_text()
    assert "theirs" not in page and not any(side["id"] in page for two in key["pairs"] for side in two)
    for file in (tmp_path / "page" / "media").iterdir():
        assert b"weight" not in file.read_bytes()
    assert len(list((tmp_path / "page" / "media").iterdir())) == 80
    study.write(dirs, tmp_path / "again", pairs=20, seed=1)
    assert json.loads((tmp_path / "again" / "key.json").read_text()) == key
    study.write(dirs, tmp_path / "other", pairs=20, seed=2)
    assert json.loads((tmp_path / "other" / "key.json").read_text())["page"] != key["page"]  # nor fit its answers


def test_answers_from_a_browser_give_win_rates(opened, tmp_path):
    dirs = workdirs(tmp_path)
    page = study.write(dirs, tmp_path / "page", pairs=4, seed=0)
    key = json.loads((tmp_path / "page" / "key.json").read_text())
    tab = opened(page)
    for i, two in enumerate(key["pairs"]):
        ours = ["left", "right"][[side["of"] for side in two].index(dirs[0])]
        other = {"left": "right", "right": "left"}[ours]
        sides = (ours, ours if i else other, other)
        for question, side in enumerate(sides):
            tab.locator("fieldset").nth(question).get_by_text(f"The {side} one").click()
        pressed = tab.locator("button[aria-pressed=true]").all_text_contents()
        assert pressed == [f"The {side} one" for side in sides]
        if i == 1:
            reloaded(tab)  # what was answered stays
            assert tab.locator("#count").text_content() == "2 of 4"
        elif i < 3:
            tab.get_by_text("Next").click()
    assert all(tab.locator("figure img").evaluate_all("all => all.map(one => one.naturalWidth > 0)"))
    with tab.expect_download() as download:
        tab.get_by_text("Save answers").click()
    download.value.save_as(tmp_path / "page" / "answers-1.json")
    rates = {rate["question"]: rate for rate in study.tally(tmp_path / "page")}
    assert {question: (rate["won"], rate["n"]) for question, rate in rates.items()} == {
        "picture": (1.0, 4), "sound": (0.75, 4), "both": (0.0, 4)
    }  # fmt: skip
    page = tmp_path / "page"
    # Two files from one browser count once, and files from other browsers count, too.
    saved = json.loads((page / "answers-1.json").read_text())
    (page / "answers-2.json").write_text(json.dumps(saved))
    assert {rate["n"] for rate in study.tally(page)} == {4}
    (page / "answers-3.json").write_text(json.dumps(saved | {"who": "another"}))
    assert {rate["n"] for rate in study.tally(page)} == {8}
    assert rates["sound"]["interval"] == list(metrics.wilson_interval(3, 4)) and rates["sound"]["a"] == dirs[0]
    assert f"{dirs[0]} wins over {dirs[1]} in 75%" in study.rates_table(list(rates.values()))


def test_methods_in_one_folder_are_compared(tmp_path):
    made = [finished.record({"seed": seed, "method": method}) for seed in range(2) for method in ("fused", "imprint")]
    finished.write(tmp_path / "work", made)
    page = study.write([str(tmp_path / "work")], tmp_path / "page", pairs=3, seed=0, by="method").parent
    key = json.loads((page / "key.json").read_text())
    assert sorted(key["sides"]) == [f"{tmp_path / 'work'}: method={method}" for method in ("fused", "imprint")]
    assert len(key["pairs"]) == 3 and all({side["of"] for side in two} == set(key["sides"]) for two in key["pairs"])
    with pytest.raises(UserError, match="--by=num_steps: all samples have one value"):
        study.write([str(tmp_path / "work")], tmp_path / "none", pairs=3, seed=0, by="num_steps")


def test_questions_quote_prompts_without_interpreting_them(tmp_path):
    page = study.write(workdirs(tmp_path), tmp_path / "page", pairs=2, seed=0)
    assert "<b>dogs" not in page.read_text() and "\\u003cb>dogs\\u003c/b> & cats" in page.read_text()


def test_the_interval_of_a_share_is_wilsons():
    assert metrics.wilson_interval(0, 0) == (0.0, 1.0)
    assert metrics.wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)  # as statsmodels has it
    assert metrics.wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


def test_input_that_cannot_be_compared_is_named_in_the_error(tmp_path):
    dirs = workdirs(tmp_path)
    with pytest.raises(UserError, match="give --workdir twice or more"):
        study.write(dirs[:1], tmp_path / "page", pairs=2, seed=0)
    finished.write(tmp_path / "other", [finished.record({"audio.prompt": "siren wailing"})])
    with pytest.raises(UserError, match="have no prompts in common"):
        study.write([dirs[0], str(tmp_path / "other")], tmp_path / "page", pairs=2, seed=0)
    page = study.write(dirs, tmp_path / "page", pairs=2, seed=0).parent
    with pytest.raises(UserError, match="holds a page already"):
        study.write(dirs, page, pairs=2, seed=0)
    with pytest.raises(UserError, match="has no answers-"):
        study.tally(page)
    odd = {"answers": [{"pair": 0, "question": ["picture"], "chosen": 0}]}
    for wrong in ({"answers": [{"pair": 9, "question": "sound", "chosen": 0}]}, odd, {"answers": []}, {}):
        pathlib.Path(page / "answers-1.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match="answers-1.json: these are not the answers to this page"):
            study.tally(page)
    (page / "key.json").write_text("{}")
    with pytest.raises(UserError, match="key.json: is not the key to a page of ours"):
        study.tally(page)


def test_pairs_with_an_unreadable_sample_are_left_out(tmp_path, caplog):
    dirs = workdirs(tmp_path)
    damaged = list(samples.open_samples(dirs[0]).values())
    for sample in damaged[:2]:
        (sample.path / "audio.wav").write_bytes(b"no sound")
    study.write(dirs, tmp_path / "page", pairs=20, seed=1)
    key = json.loads((tmp_path / "page" / "key.json").read_text())
    left_out = [message for message in caplog.messages if "a pair is left out: " in message]
    assert 0 < len(left_out) < 20 and len(key["pairs"]) == 20 - len(left_out)
    assert not {sample.id for sample in damaged[:2]} & {side["id"] for two in key["pairs"] for side in two}
    shown = {file.stem for file in (tmp_path / "page" / "media").iterdir()}
    assert shown == {f"{number:04d}{side}" for number in range(len(key["pairs"])) for side in "ab"}
    for sample in damaged:
        (sample.path / "spectrogram.png").unlink()
    with pytest.raises(UserError, match="in each pair one of the samples cannot be read"):
        study.write(dirs, tmp_path / "none", pairs=20, seed=1)
    assert not (tmp_path / "none").exists()
