"""Ids of samples: stable, complete, and safe as file names."""

import re

import pytest

from its_jax.errors import UserError
from its_jax.settings.ids import sample_id
from its_jax.settings.parse import expand
from its_jax.settings.records import from_record
from its_jax.settings.schema import TERMS, SampleSettings
from tests.helpers.configs import default_settings, record_of, settings


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


def test_settings_without_a_method_keep_their_ids():
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
