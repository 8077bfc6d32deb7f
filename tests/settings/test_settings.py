"""Settings: what is refused, in which words, and that ids are stable. The configs that we ship, and the docs."""

import dataclasses
import json
import pathlib
import pickle
import re
import runpy

import pytest

from its_jax.diffusion import views
from its_jax.errors import UserError
from its_jax.settings import schema
from its_jax.settings.ids import sample_id
from its_jax.settings.parse import expand, read_settings
from its_jax.settings.records import RECORD, from_record, recorded_image_terms, unfinished
from its_jax.settings.schema import TERMS, RunOptions, SampleSettings, TermSettings, setting_docs
from its_jax.settings.steps import active_steps, denoising_runs, first_step, image_terms, total_steps
from its_jax.settings.validate import keep_ranges, validate

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
GRAYSCALE = "a painting of {}, grayscale".format
EXAMPLES = {
    "bell": (GRAYSCALE("castle towers"), "bell ringing", 1234, 100),
    "corgi": (GRAYSCALE("corgis") + ", black background", "dog barking", 2034, 50),
    "dog": (GRAYSCALE("cute dogs"), "dog barking", 1234, 100),
    "garden": (GRAYSCALE("a blooming garden with many birds"), "birds singing sweetly", 1234, 100),
    "garden-v2": (GRAYSCALE("a blooming garden"), "birds singing sweetly", 1234, 100),
    "horse": (GRAYSCALE("horse heads") + ", black background", "horse neighing", 1234, 1000),
    "kitten": (GRAYSCALE("furry kittens"), "a kitten meowing for attention", 1234, 100),
    "pond": ("a pond full of water lilies, grayscale, lithograph style", "frog croaking", 2024, 100),
    "race": (GRAYSCALE("auto racing game"), "a race car passing by and disappearing", 1234, 100),
    "tiger": (GRAYSCALE("tigers"), "tiger growling", 1234, 100),
    "train": (GRAYSCALE("trains"), "train whistling", 1234, 100),
}


def get_config(name, *argument):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](*argument)


def settings(**change):
    """Returns the dictionary of configs/default.py with changes; `image__weight=1` sets one of a term."""
    config = get_config("default")
    with config.unlocked():
        config.update_from_flattened_dict({key.replace("__", "."): value for key, value in change.items()})
    return config.to_dict()


def default_settings(**change):
    (one,) = expand(settings(**change), 1)
    return one


def record_of(one, **more):
    """A record with the groups that reproducing needs."""
    run = {"batch_size": 4, "position": 3, "video": True}
    return one.to_dict() | {"run": run, "models": {}, "versions": {}} | more


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


def test_only_settings_of_methods_have_defaults():
    def defaults(cls):
        fields = dataclasses.fields(cls)
        return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}

    methods = {"method": "fused", "inverse_image": True, "mag_ratio": 0.5, "learning_rate": 1e-4}
    assert defaults(SampleSettings) == methods | {"init_sha256": ""}
    assert defaults(TermSettings) == {"turn": 1, "num_steps": 0} and defaults(RunOptions) == {}


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
        ({"audio__start_step": 1}, "no model takes part at step 0"),
        ({"audio__weight": 0.0}, "no model takes part at step 0"),  # the picture's starts at step 2
        ({"image__prompt": "\udcff"}, r"image\.prompt=.*UTF-8"),
        ({"image__stop_step": -2}, r"image\.stop_step=-2: must be a step, or -1"),
        ({"audio__stop_step": 5, "image__start_step": 6}, r"no model takes part at step 5 .*audio at 0 to 4"),
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
        ({"method": "alternating", "audio__start_step": 3}, "no model takes part at step 0"),
        ({"strength": 0.5}, "strength=0.5: needs something to start from"),
        ({"keep": "0-1s"}, "keep='0-1s': needs something to start from"),
        ({"init_image": "/nowhere.png"}, "init_image=/nowhere.png: cannot be read .No such file"),
        ({"init_audio": "/"}, "init_audio=/: cannot be read .Is a directory"),
    ],
)
def test_what_no_sample_can_have_is_refused_by_name(change, message):
    with pytest.raises(UserError, match=message):
        read_settings(settings(**change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strength": 0.0}, r"strength=0.0: must be above 0"),
        ({"strength": 1.5}, r"strength=1.5: must be above 0 .* and at most 1"),
        ({"strength": float("nan")}, "strength=nan"),
        ({"strength": 0.01}, "of 25 steps it leaves none"),
        ({"keep": "0-1"}, "keep='0-1': must be rising ranges in seconds or Hz"),
        ({"keep": "2-1s"}, "keep='2-1s': must be rising"),
        ({"keep": "0-1s;2-3s"}, "must be rising ranges"),
        ({"init_image": __file__}, "from one of them, not from both"),
    ],
)
def test_a_start_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        read_settings(settings(init_audio=__file__, **change))


def test_a_start_leaves_steps_out_and_keeps_ranges():
    one = default_settings(init_audio=__file__, strength=0.6, keep=" 0-1.5s, 200 - 800Hz")
    assert first_step(one) == 10 and first_step(default_settings()) == 0
    assert keep_ranges(one.keep) == [(0.0, 1.5, "s"), (200.0, 800.0, "Hz")]
    assert keep_ranges("") == []
    assert keep_ranges("0.-.5S,1-2hz") == [(0.0, 0.5, "s"), (1.0, 2.0, "Hz")]


def test_the_content_of_what_a_sample_starts_from_is_in_its_id(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(b"one")
    one = default_settings(init_image=str(file))
    record = record_of(one)
    assert from_record(record)[0] == one
    (tmp_path / "b.png").write_bytes(b"one")
    assert sample_id(default_settings(init_image=str(tmp_path / "b.png"))) == sample_id(one)
    file.write_bytes(b"two")
    assert sample_id(default_settings(init_image=str(file))) != sample_id(one)
    with pytest.raises(UserError, match="a.png: is not any more the file"):
        from_record(record)
    file.unlink()
    with pytest.raises(
        UserError, match="^init_image=.*a.png: cannot be read .*this sample started from it: put it back"
    ):
        from_record(record)


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
        ({"image": "a castle"}, "the settings of 'image' are missing: model, prompt, "),
        ({"audio": settings()["audio"] | {"promt": ""}}, "no setting audio.promt; did you mean audio.prompt?"),
    ]:
        with pytest.raises(UserError, match=re.escape(message)):
            read_settings(settings() | change)
    incomplete = settings()
    del incomplete["batch_size"]
    with pytest.raises(UserError, match="the setting batch_size is missing"):
        read_settings(incomplete)


def test_the_id_is_stable():
    """It names folders that people keep: another way to compute it would generate their samples again."""
    term = {"model": "m", "prompt": "a castle", "negative_prompt": "", "view": "identity", "guidance_scale": 7.5}
    term |= {"start_step": 0, "stop_step": -1, "weight": 0.5}
    term |= {"guidance_start_step": 0, "guidance_stop_step": -1}
    raw = {"seed": 3, "noise": "jax", "num_steps": 25, "solver": "ddim", "height": 128, "width": 512}
    raw |= {
        "cache_interval": 1,
        "window": 512,
        "wrap": False,
        "dtype": "float32",
        "crop_image": False,
        "cutoff_latent": False,
    }
    raw |= {"vocoder": "hifigan", "init_image": "", "init_audio": "", "init_sha256": "", "strength": 1.0, "keep": ""}
    raw |= {"image": term, "audio": term | {"prompt": "bell ringing"}}
    assert sample_id(SampleSettings.from_dict(raw)) == "a-castle_bell-ringing_3_f1d778c2b0"
    as_integers = default_settings(image__guidance_scale=7)
    assert as_integers.terms["image"].guidance_scale == 7.0
    assert sample_id(as_integers) == sample_id(default_settings(image__guidance_scale=7.0))


def test_what_there_was_before_methods_keeps_its_id():
    """Whether a config, or a record, says so or says nothing."""
    before, (one, *_) = settings(), expand(settings(), 4)
    for group in (before, before["image"], before["audio"]):
        group.pop("method", None)
        group.pop("turn", None)
    assert expand(before, 1)[0] == one
    assert sample_id(one) == "a-painting-of-trees-grayscal_train-whistling_0_5d288348ff"
    record = {name: value for name, value in record_of(one).items() if name != "method"}
    assert from_record(record)[0] == one


def test_every_setting_of_the_sample_is_in_its_id():
    changes = [{}, {"seed": 1}, {"num_steps": 24}, {"solver": "ddim"}, {"height": 64}, {"width": 64}]
    changes += [
        {"dtype": "bfloat16"},
        {"noise": "torch"},
        {"window": 64},
        {"wrap": True},
        {"crop_image": True},
        {"cutoff_latent": True},
        {"vocoder": "griffin_lim"},
    ]
    other = {"model": "x", "prompt": "x", "negative_prompt": "x", "guidance_scale": 1.5, "weight": 0.75}
    changes += [{f"{term}__{key}": value} for term in TERMS for key, value in other.items()]
    changes += [{"image__start_step": 3}, {"image__stop_step": 20}, {"image__view": "rotate_180"}]
    changes += [{"cache_interval": 2}, {"image__guidance_start_step": 3}, {"image__guidance_stop_step": 20}]
    changes += [{"method": "alternating"}, {"method": "image_only"}, {"image__turn": 2}, {"audio__turn": 2}]
    changes += [{"method": "imprint"}, {"mag_ratio": 0.4}, {"inverse_image": False}, {"image__num_steps": 5}]
    changes += [{"method": "sds"}, {"learning_rate": 1e-3}]
    ids = [sample_id(default_settings(**change)) for change in changes]
    assert len(set(ids)) == len(ids)
    assert sample_id(default_settings(batch_size=3, video=False, num_samples=9)) == ids[0]


@pytest.mark.parametrize(
    "prompt",
    [
        "../../etc/passwd",
        'say "hi"',
        "a\nb\r\n\tc",
        "dog 🐶",
        "一座城堡",
        "Ça c’été ß عربى",
        "CON",
        "",
        "x" * 5000,
        "\0",
    ],
)
def test_ids_are_safe_as_file_names(prompt):
    identity = sample_id(default_settings(image__prompt=prompt, audio__prompt=prompt))
    assert re.fullmatch(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?", identity) and len(identity) < 100


def test_unfinished_are_the_distinct_ones_without_a_record(tmp_path):
    requested = expand(settings(), 3)
    for one in requested[:2]:
        (tmp_path / sample_id(one)).mkdir()
    (tmp_path / sample_id(requested[0]) / RECORD).touch()
    assert unfinished([*requested, *requested], tmp_path) == requested[1:]


def test_a_record_gives_its_settings_back():
    one = default_settings(seed=5)
    record = {"id": "x"} | record_of(one, run={"batch_size": 4, "position": 3, "video": True, "devices": 1})
    run = {"batch_size": 4, "position": 3, "devices_per_sample": 1, "video": True}  # the third is of younger records
    assert from_record(json.loads(json.dumps(record))) == (one, run)
    record["run"]["devices_per_sample"] = 2
    assert from_record(record) == (one, run | {"devices_per_sample": 2})


@pytest.mark.parametrize(
    "change",
    [
        {"run": None},
        {"run": {"batch_size": 4, "position": 4, "video": True}},
        {"image": None},
        {"seed": "1"},
        {"run": 5},
        {"models": [1]},
        {"versions": None},
    ],
)
def test_a_damaged_record_is_refused(change):
    record = record_of(default_settings(), **change)
    with pytest.raises(UserError, match=f"{next(iter(change))}"):
        from_record(record)


def test_the_published_examples():
    for name, (image, audio, seed, num_samples) in EXAMPLES.items():
        config = get_config("sd15_auffusion", name)
        assert (config.image.prompt, config.audio.prompt) == (image, audio)
        assert (config.seed, config.num_samples) == (seed, num_samples)
        made, _ = read_settings(config.to_dict())
        assert len(made) == num_samples
    assert get_config("sd15_auffusion") == get_config("sd15_auffusion", "bell")
    assert get_config("sd15_auffusion", "fast") == get_config("sd15_auffusion", "bell+fast")
    fast, plain = (get_config("sd15_auffusion", name) for name in ("tiger+fast", "tiger"))
    assert fast.num_steps < plain.num_steps and fast.image.prompt == plain.image.prompt
    with pytest.raises(ValueError, match="'lion'"):
        get_config("sd15_auffusion", "lion+fast")


@pytest.mark.parametrize("example", ["upside_down", "square"])
def test_the_examples_of_views(example):
    (one,) = expand(get_config("views", example).to_dict(), 1)
    assert image_terms(one) == (["image", "upside_down"] if example == "upside_down" else ["image"])
    with pytest.raises(ValueError, match="no example 'x'; choose one of upside_down, square"):
        get_config("views", "x")


def test_the_imprint_of_the_authors():
    (one,) = expand(get_config("imprint", "tiger").to_dict(), 1)
    assert [run.num_steps for run in denoising_runs(one)] == [50, 100] and total_steps(one) == 150
    assert one.terms["image"].guidance_scale == one.terms["audio"].guidance_scale == 7.5 and one.noise == "torch"
    assert one.mag_ratio == 0.5 and one.inverse_image
    (one,) = expand(get_config("imprint").to_dict(), 1)
    assert total_steps(one) == 50
    with pytest.raises(UserError, match="uses only image and audio: remove dog"):
        validate(dataclasses.replace(one, terms={**one.terms, "dog": one.terms["image"]}))


def test_score_distillation_of_the_authors():
    (one,) = expand(get_config("sds", "tiger").to_dict(), 1)
    assert one.learning_rate == 1e-4 and one.terms["audio"].weight == 1.0 and one.terms["image"].weight == 0.4
    assert one.terms["image"].model == "DeepFloyd/IF-I-M-v1.0"
    assert total_steps(one) == 40_000 and active_steps(one, "image").start == 5_000
    read_settings(get_config("sds").to_dict())


def test_the_settings_of_the_authors():
    (one,) = expand(get_config("sd15_auffusion").to_dict(), 1)
    assert (one.height, one.width, one.num_steps, one.solver) == (256, 1024, 100, "ddim")
    assert one.crop_image and not one.cutoff_latent and one.vocoder == "hifigan"
    assert one.noise == "torch" and one.terms["image"].view == "identity"
    for term, start in (("image", 10), ("audio", 0)):
        numbers = [
            getattr(one.terms[term], key) for key in ("guidance_scale", "weight", "start_step", "negative_prompt")
        ]
        assert numbers == [10.0, 0.5, start, ""]


def test_the_views_are_those_of_the_diffusion_package():
    assert schema.VIEWS == tuple(views.VIEWS)
