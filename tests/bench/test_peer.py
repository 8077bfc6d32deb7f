"""Both sides of the comparison with PyTorch do the same work, and its figures are correct."""

import contextlib
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch

from bench.peer import contest, parts, random_models, samples
from configs import default, sd15_auffusion
from its_jax import pretrained
from its_jax.errors import UserError
from its_jax.models import registry
from tests.helpers import bench_command, model_folder

SMALL = {"num_steps": 4, "height": 12, "width": 48, "image.start_step": 1}


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    """Uses one device, programs compiled without effort, and one thread of PyTorch, as others may keep cores busy."""
    threads = torch.get_num_threads()
    quick_device = model_folder.one_quick_device(tmp_path_factory.mktemp("cache"))
    with quick_device, jax.default_matmul_precision("highest"):
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Small random models, and four steps of the second-order solver; the image model joins at the second."""
    folder = tmp_path_factory.mktemp("models")
    model_folder.build(folder / "image", vocoder=False)
    model_folder.build(folder / "audio", seed=1)
    config = default.get_config()
    config.update_from_flattened_dict(SMALL)
    return parts.Options(config.to_dict(), folder, "float32")


def settings(options, **change):
    options = dataclasses.replace(options, **change)
    return samples.comparable_settings(options.config, options.models, options.dtype, options.steps)


@pytest.fixture(scope="module")
def pipeline(options):
    """Our side, which is compiled once for all tests."""
    ours = samples.Ours(settings(options), 2)
    return lambda settings, b: ours


def test_latents_of_a_batch_equal_pytorchs(options, pipeline):
    result = contest.run(parts.sample(2, options, pipeline=pipeline), 2, ["eager"])
    assert result["relative_difference"] < 1e-4 and result["failed"] == {}
    assert result["best_of_pytorch"] == "eager" and result["seconds_a_sample"].keys() == {"ours", "eager"}
    ratio = result["ratio"]["eager"]
    assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]


def test_the_authors_loop_is_float16_with_one_sample_at_a_time(options, pipeline):
    """The result equals that of our first sample, except for float16."""
    work = parts.sample(2, options, authors=True, pipeline=pipeline)
    assert work.samples == (2, 1) and work.forms == ("eager",)
    assert 1e-6 < contest.run(work, 1, ["eager"])["relative_difference"] < 0.1


def test_each_timed_call_encodes_new_prompts(options):
    """Texts are encoded each time; the first call is the same on either side."""
    seen = []
    run = parts.with_new_prompts(seen.append, settings(options), 1)
    run(), run()
    (first,), (second,) = seen
    assert first.terms["image"].prompt != second.terms["image"].prompt and first.seed == second.seed


def test_start_steps_keep_their_proportion(options):
    changed = settings(options, steps=8)
    assert changed["image"]["start_step"] == 2 and changed["num_steps"] == 8


def test_missing_models_are_an_error(options):
    with pytest.raises(UserError, match="random_models"):
        settings(options, models=Path("/no"))


def test_settings_that_pytorchs_side_lacks_are_errors(options):
    with pytest.raises(UserError, match="solver='euler'"):
        samples.check_comparable(settings(options) | {"solver": "euler"})


def test_a_form_that_fails_is_reported_with_its_reason():
    def theirs(wrap):
        if wrap is contest.FORMS["compiled"]:
            return lambda: 1 / 0
        return lambda: torch.ones(2, 3)

    work = parts.Work(lambda: lambda: np.ones((2, 3)), lambda: theirs, (1, 1), int)
    result = contest.run(work, 1, ["eager", "compiled"])
    assert result["failed"] == {"compiled": "division by zero"} and result["ratio"].keys() == {"eager"}


def test_different_results_make_the_comparison_void(monkeypatch, tmp_path, capsys):
    work = parts.Work(
        lambda: lambda: np.ones((1, 3)), lambda: lambda wrap: lambda: torch.full((1, 3), 2.0), (1, 1), lambda: 6 * 10**9
    )
    monkeypatch.setattr(contest, "matrix_rates", lambda dtype: {"ours": 2e12, "pytorch": 3e12})
    monkeypatch.setitem(parts.WORK, "vae", (lambda b, options: work, 1))
    out = tmp_path / "new" / "out.json"
    flags = "--parts=vae", "--rounds=1", "--forms=eager", "--skip_memory", f"--out={out}"
    assert bench_command.run("bench.peer", *flags) == 2
    assert "void" in capsys.readouterr().err
    written = json.loads(out.read_text())
    result = written["results"]["vae, batch 1"]
    assert result["relative_difference"] == 0.5
    assert written["matrix_product_gflops"] == {"ours": 2000, "pytorch": 3000}
    assert (result["gflop"], result["limit_seconds"]) == (6, 0.002)


@pytest.mark.parametrize("part, gflop", [("unet", 1600.5), ("vae", 2514.5), ("vocoder", 308.6)])
def test_arithmetic_is_that_of_one_full_size_sample(part, gflop):
    work, _ = parts.WORK[part]
    options = parts.Options({}, Path(), "bfloat16")
    assert work(2, options).count_flops() / 1e9 == pytest.approx(gflop, abs=0.1)


@pytest.mark.parametrize(
    "part, dtype, apart, agree",
    [
        ("vae", "float32", 1e-3, True),
        ("vae", "float32", 2e-3, False),
        ("vae", "bfloat16", 0.1, True),
        ("vae", "bfloat16", 0.2, False),
        ("sample", "float32", 2e-3, False),
        ("sample", "bfloat16", 0.2, True),
        ("authors", "float32", 0.2, True),
        ("authors", "float16", 1.4, False),
        ("sample", "bfloat16", None, False),
    ],
)
def test_differences_beyond_rounding_are_void(part, dtype, apart, agree):
    with contextlib.nullcontext() if agree else pytest.raises(UserError, match="void"):
        contest.check_agreement(part, dtype, apart)


def test_results_that_are_not_finite_do_not_agree():
    good, bad = np.ones((1, 2)), np.array([[1, np.nan]])
    assert contest.largest_difference(good, [good]) == 0
    assert contest.largest_difference(good, [good, bad]) is None and contest.largest_difference(bad, [good]) is None


@pytest.mark.parametrize(
    "flag", ["--parts=unet,vea", "--forms=eagre", "--batch=0", "--rounds=0", "--steps=0", "--steps=x"]
)
def test_a_wrong_flag_is_reported_in_one_line(capsys, flag):
    assert bench_command.run("bench.peer", flag) == 2
    assert flag.partition("=")[2].split(",")[-1] in capsys.readouterr().err.splitlines()[-1]


def test_sides_on_different_devices_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert bench_command.run("bench.peer") == 2
    assert "JAX is on tpu, PyTorch on" in capsys.readouterr().err


def test_random_models_are_model_folders(tmp_path):
    """Configs are the published ones with fewer channels, which takes less time."""
    unet = {"block_out_channels": [32, 32, 32, 32], "cross_attention_dim": 8}
    vae = {"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1}
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    changes = {"unet": unet, "vae": vae, "text_encoder": text, "vocoder": {"upsample_initial_channel": 16}}
    random_models.write(tmp_path, changes)
    model = pretrained.load_model(str(tmp_path / "audio"), components=registry.DIFFUSION_COMPONENTS, dtype="bfloat16")
    assert model.tokenizer.model_max_length == 77 and model.vae.config.factor == 8
    assert (tmp_path / "image" / "unet" / "config.json").exists()


def test_full_size_is_that_of_stable_diffusion():
    assert random_models.read_config("sd15.unet")["block_out_channels"] == [320, 640, 1280, 1280]
    config = sd15_auffusion.get_config()
    assert (config.height, config.width, config.num_steps) == (256, 1024, 100)
