"""Settings: what is refused and in which words, and what the docs say of them."""

import dataclasses
import pickle
import re

import pytest

from its_jax.diffusion import views
from its_jax.errors import UserError
from its_jax.settings import schema
from its_jax.settings.parse import read_settings
from its_jax.settings.records import from_record, recorded_image_terms
from its_jax.settings.schema import TERMS, RunOptions, SampleSettings, TermSettings, setting_docs
from its_jax.settings.steps import first_step, image_terms
from its_jax.settings.validate import keep_ranges
from tests.helpers.configs import ROOT, default_settings, record_of, settings


def test_samples_differ_in_their_seeds_only():
    requested, options = read_settings(settings(seed=7, num_samples=3, video=False))
    first, second, third = requested
    assert second == dataclasses.replace(first, seed=8) and third == dataclasses.replace(first, seed=9)
    assert first.terms is second.terms  # so that many samples take little memory
    assert options == RunOptions(num_samples=3, batch_size=0, devices_per_sample=1, video=False)


def test_settings_go_through_a_dictionary_unchanged():
    one = default_settings(num_steps=20, cache_interval=2, method="alternating", image__turn=3)
    raw = one.to_dict()
    assert list(raw) == [*(field.name for field in dataclasses.fields(one))][:-2] + ["image", "audio", "init_sha256"]
    assert SampleSettings.from_dict(raw) == one
    assert SampleSettings.from_dict(dict(reversed(raw.items()))).to_dict() == raw
    assert list(SampleSettings.from_dict(dict(reversed(raw.items()))).terms) == ["image", "audio"]
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(UserError, match="audio.weight='much': must be of type float"):
        SampleSettings.from_dict(raw | {"audio": raw["audio"] | {"weight": "much"}})
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.seed = 3


def test_every_setting_but_model_and_prompt_has_a_default():
    fields = [field for cls in (SampleSettings, TermSettings, RunOptions) for field in dataclasses.fields(cls)]
    without = {field.name for field in fields if field.default is dataclasses.MISSING}
    assert without == {"model", "prompt", "terms"}


def test_the_docs_list_every_setting_with_its_meaning_and_default():
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    section = text.partition("\n## Settings\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    meanings = {row[0].strip("`"): row[1] for row in rows if len(row) == 3}  # of a sample, or a run
    for name, meaning in (row for row in rows if len(row) == 2):
        meanings |= {f"{term}.{name.strip('`')}": meaning for term in TERMS}
    assert meanings == setting_docs()
    config = default_settings().to_dict() | settings()
    defaults = {row[0].strip("`"): row[2].strip("`") for row in rows if len(row) == 3}
    assert defaults == {name: str(config[name]) or "none" for name in defaults}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_samples": 0}, "num_samples=0"),
        ({"num_samples": -3}, "num_samples=-3"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"num_steps": 0}, "num_steps=0"),
        ({"height": -128}, "height=-128"),
        ({"width": 0}, "width=0"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32 - 2}, "seed=4294967297"),  # of the last sample
        ({"dtype": "int8"}, "dtype='int8'.*float32, bfloat16, float16"),
        ({"vocoder": "wavenet"}, "vocoder='wavenet'.*hifigan, griffin_lim"),
        ({"crop_image": True, "cutoff_latent": True}, "crop_image and cutoff_latent"),
        ({"image__weight": 0.0, "audio__weight": 0.0}, "sum to zero"),
        ({"audio__weight": -0.5}, r"audio\.weight=-0\.5"),
        ({"image__start_step": -1}, r"image\.start_step=-1"),
        ({"image__guidance_scale": float("nan")}, r"image\.guidance_scale=nan"),
        ({"audio__weight": float("inf")}, r"audio\.weight=inf"),
        ({"image__start_step": 25, "audio__start_step": 99}, "image at 25, audio at 99"),  # beyond the end
        ({"audio__start_step": 1}, "no model is active at step 0"),
        ({"audio__weight": 0.0}, "no model is active at step 0"),  # the picture's starts at step 2
        ({"image__prompt": "\udcff"}, r"image\.prompt=.*UTF-8"),
        ({"image__stop_step": -2}, r"image\.stop_step=-2: must be a step, or -1"),
        ({"audio__stop_step": 5, "image__start_step": 6}, r"no model is active at step 5 .*audio at 0 to 4"),
        ({"audio__view": "rotate_180"}, r"audio\.view='rotate_180': must be 'identity'"),
        ({"image__view": "rotate_180", "crop_image": True}, r"crop_image.*not image\.view='rotate_180'"),
        ({"wrap": True, "cutoff_latent": True}, "cutoff_latent.*wrap"),
        ({"window": -8}, "window=-8"),
        ({"image__view": "block_rearrange", "width": 1024}, "whole canvas at once"),
        ({"image__view": "block_rearrange", "wrap": True}, "whole canvas at once"),
        ({"noise": "numpy"}, "noise='numpy'.*jax, torch"),
        ({"method": "magic"}, "method='magic'.*fused, image_only, audio_only, alternating"),
        ({"method": "imprint", "init_audio": __file__}, "init_audio=.*method='imprint' does not use it"),
        ({"method": "imprint", "mag_ratio": 1.5}, "mag_ratio=1.5: must be 0"),
        ({"image__num_steps": -1}, r"image\.num_steps=-1: must be 0"),
        ({"image__turn": 0}, r"image\.turn=0: must be 1 or more"),
        ({"method": "alternating", "audio__start_step": 3}, "no model is active at step 0"),
        ({"strength": 0.5}, "strength=0.5: needs something to start from"),
        ({"keep": "0-1s"}, "keep='0-1s': needs something to start from"),
        ({"loudness": 0.5}, "loudness=0.5: must be -40 to 0 LUFS, or None for the raw scale"),
        ({"loudness": -41}, "loudness=-41.0: must be -40 to 0 LUFS"),
        ({"loudness": float("nan")}, "loudness=nan: must be -40 to 0 LUFS"),
        ({"loudness": float("-inf")}, "loudness=-inf: must be -40 to 0 LUFS"),
        ({"loudness": "none"}, "loudness='none': must be of type float or None"),
        ({"init_image": "/nowhere.png"}, "init_image=/nowhere.png: cannot be read .No such file"),
        ({"init_audio": "/"}, "init_audio=/: cannot be read .Is a directory"),
    ],
)
def test_impossible_settings_are_refused_by_name(change, message):
    with pytest.raises(UserError, match=message):
        read_settings(settings(**change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strength": 0.0}, r"strength=0.0: must be above 0"),
        ({"strength": 1.5}, r"strength=1.5: must be above 0 .* and at most 1"),
        ({"strength": float("nan")}, "strength=nan"),
        ({"strength": 0.01}, "leaves 0 of 25 steps; set it higher"),
        ({"keep": "0-1"}, "keep='0-1': must be rising ranges in seconds or Hz"),
        ({"keep": "2-1s"}, "keep='2-1s': must be rising"),
        ({"keep": "0-1s;2-3s"}, "must be rising ranges"),
        ({"init_image": __file__}, "from one of them, not from both"),
    ],
)
def test_an_impossible_start_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        read_settings(settings(init_audio=__file__, **change))


def test_a_start_leaves_steps_out_and_keeps_ranges():
    one = default_settings(init_audio=__file__, strength=0.6, keep=" 0-1.5s, 200 - 800Hz")
    assert first_step(one) == 10 and first_step(default_settings()) == 0
    assert keep_ranges(one.keep) == [(0.0, 1.5, "s"), (200.0, 800.0, "Hz")]
    assert keep_ranges("") == []
    assert keep_ranges("0.-.5S,1-2hz") == [(0.0, 0.5, "s"), (1.0, 2.0, "Hz")]


def test_the_loudness_is_an_option_of_the_run_that_no_id_depends_on():
    for given, read in ((-20, -20.0), (-40.0, -40.0), (0, 0.0), (None, None)):
        (one,), options = read_settings(settings(num_samples=1, loudness=given))
        assert options.loudness == read and one == default_settings()
    older = settings()
    del older["loudness"]  # a config from before there was a loudness
    assert read_settings(older)[1].loudness == -16.0


def test_a_config_adds_terms():
    other = settings()["image"] | {"view": "rotate_180", "prompt": "a dog"}
    (one,), _ = read_settings(settings(num_samples=1) | {"upside_down": other, "again": settings()["image"]})
    assert list(one.terms) == ["image", "audio", "again", "upside_down"]
    assert image_terms(one) == ["image", "upside_down"]  # `again` sees what `image` sees
    assert from_record(record_of(one, seconds={}))[0] == one
    assert recorded_image_terms(one.to_dict()) == image_terms(one)
    for name in ("Image", "a/b", "spectrogram", "1st", "id", "run", "models", "versions", "seconds"):
        with pytest.raises(UserError, match=f"{name!r} cannot name a term"):
            read_settings(settings(num_samples=1) | {name: other})
    with pytest.raises(UserError, match=r"no setting dog\.promt; did you mean dog\.prompt"):
        read_settings(settings(num_samples=1) | {"dog": other | {"promt": ""}})


def test_names_and_types_in_a_config_of_ones_own_are_checked():
    for change, message in [
        ({"num_step": 3}, "there is no setting num_step; did you mean num_steps?"),
        ({"zzz": 3}, "there is no setting zzz; known are audio, batch_size, "),
        ({"num_steps": "3"}, "num_steps='3': must be of type int"),
        ({"num_steps": True}, "num_steps=True: must be of type int"),
        ({"video": "no"}, "video='no': must be of type bool"),
        ({"image": {}}, "the setting image.model is missing"),
        ({"image": "a castle"}, "the settings of 'image' are missing: give at least image.model and image.prompt"),
        ({"audio": settings()["audio"] | {"promt": ""}}, "no setting audio.promt; did you mean audio.prompt?"),
    ]:
        with pytest.raises(UserError, match=re.escape(message)):
            read_settings(settings() | change)


def test_a_config_without_a_setting_has_the_papers_value():
    models = {name: {"model": f"tiny/{name}", "prompt": "a castle"} for name in TERMS}
    (one,), run = read_settings(models)
    # Section 4.1 of arXiv 2405.12221: DDIM with 100 steps, guidance 10 for both, equal weights; canvas 256 x 1024.
    assert (one.solver, one.num_steps, one.height, one.width) == ("ddim", 100, 256, 1024)
    assert [(term.guidance_scale, term.weight) for term in one.terms.values()] == [(10.0, 0.5)] * 2
    assert (run.num_samples, run.batch_size) == (1, 0)
    with pytest.raises(UserError, match=r"the setting audio\.prompt is missing"):
        read_settings(models | {"audio": {"model": "tiny/audio"}})


def test_a_record_without_a_setting_is_not_one():
    record = record_of(read_settings(settings(num_samples=1))[0][0], seconds={})
    del record["solver"]
    with pytest.raises(UserError, match="the setting solver is missing"):
        from_record(record)


def test_the_views_are_those_of_the_diffusion_package():
    assert schema.VIEWS == tuple(views.VIEWS)
