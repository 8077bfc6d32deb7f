"""Both sides of the comparison with PyTorch do the same work, and what it tells is true."""

import argparse
import contextlib
import json
import runpy
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch

from bench import full_size, peer, peer_parts, peer_sample
from its_jax import pretrained
from its_jax.benchmark import measure
from its_jax.errors import UserError
from its_jax.models import registry
from tests.helpers import model_folder

ROOT = Path(__file__).parents[2]
SMALL = "{'num_steps': 4, 'height': 12, 'width': 48, 'image.start_step': 1}"
CONFIG = f"""
import runpy
def get_config():
    config = runpy.run_path({str(ROOT / "configs" / "default.py")!r})["get_config"]()
    config.update_from_flattened_dict({SMALL})
    return config
"""


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    """One device, programs compiled without effort; PyTorch on one thread, as others may keep the cores busy."""
    threads = torch.get_num_threads()
    quick_device = model_folder.one_quick_device(tmp_path_factory.mktemp("cache"))
    with quick_device, jax.default_matmul_precision("highest"):
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def args(tmp_path_factory):
    """Small random models, and a config of four steps of the second-order solver; the image model joins at the next."""
    folder = tmp_path_factory.mktemp("models")
    model_folder.build(folder / "image", vocoder=False)
    model_folder.build(folder / "audio", seed=1)
    (folder / "config.py").write_text(CONFIG)
    return argparse.Namespace(config=folder / "config.py", models=folder, dtype="float32", steps=None)


@pytest.fixture(scope="module")
def sampler(args):
    return peer_sample.Ours(settings(args), 2)


@pytest.fixture
def once(sampler, monkeypatch):
    """Our side is compiled once for all tests."""
    monkeypatch.setattr(peer_sample, "Ours", lambda settings, b: sampler)


def settings(args, steps=None):
    return peer_sample.settings(args.config, args.models, args.dtype, steps)


def test_a_batch_of_samples_is_pytorchs(args, once):
    """Latents after four steps, as both sides' calls of the part give them; and the table's figures."""
    result = peer.contest(peer_parts.sample(2, args), 2, ["eager"])
    assert result["relative_difference"] < 1e-4 and result["failed"] == {}
    assert result["best_of_pytorch"] == "eager" and result["seconds_a_sample"].keys() == {"ours", "eager"}
    ratio = result["ratio"]["eager"]
    assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]


def test_the_authors_loop_is_float16_one_by_one(args, once):
    """Its result is that of our first sample, but for float16."""
    work = peer_parts.sample(2, args, authors=True)
    assert work.samples == (2, 1) and work.forms == ("eager",)
    assert 1e-6 < peer.contest(work, 1, ["eager"])["relative_difference"] < 0.1


def test_prompts_change_from_call_to_call(args):
    """So that texts are encoded each time; the first call is the same on either side."""
    seen = []
    run = peer_parts._in_turn(seen.append, settings(args), 1)
    run(), run()
    (first,), (second,) = seen
    assert first["image"]["prompt"] != second["image"]["prompt"] and first["seed"] == second["seed"]


def test_start_steps_keep_their_share(args):
    assert settings(args, 8)["image"]["start_step"] == 2 and settings(args, 8)["num_steps"] == 8


@pytest.mark.parametrize(
    "change, words", [({"models": Path("/no")}, "full_size"), ({"config": Path("/no")}, "no such")]
)
def test_what_is_not_there_is_said(args, change, words):
    with pytest.raises(UserError, match=words):
        settings(argparse.Namespace(**(vars(args) | change)))


def test_what_pytorchs_side_lacks_is_refused(args):
    with pytest.raises(UserError, match="solver='euler'"):
        peer_sample._check(settings(args) | {"solver": "euler"})


def test_a_form_that_fails_is_told_with_its_reason():
    def theirs(wrap):
        if wrap is peer.FORMS["compiled"]:
            return lambda: 1 / 0
        return lambda: torch.ones(2, 3)

    work = peer_parts.Work(lambda: lambda: np.ones((2, 3)), lambda: theirs, (1, 1), int)
    result = peer.contest(work, 1, ["eager", "compiled"])
    assert result["failed"] == {"compiled": "division by zero"} and result["ratio"].keys() == {"eager"}


def test_results_that_differ_make_the_comparison_void(monkeypatch, tmp_path, capsys):
    work = peer_parts.Work(
        lambda: lambda: np.ones((1, 3)), lambda: lambda wrap: lambda: torch.full((1, 3), 2.0), (1, 1), lambda: 6 * 10**9
    )
    monkeypatch.setattr(peer, "matrix_rates", lambda dtype: {"ours": 2e12, "pytorch": 3e12})
    monkeypatch.setitem(peer.WORK, "vae", (lambda b, args: work, 1))
    monkeypatch.setattr(peer, "measured_apart", lambda *_: None)
    out = tmp_path / "new" / "out.json"
    command(monkeypatch, "--parts=vae", "--rounds=1", "--forms=eager", f"--out={out}")
    assert "void" in capsys.readouterr().err
    told = json.loads(out.read_text())
    result = told["results"]["vae, batch 1"]
    assert result["relative_difference"] == 0.5
    assert told["matrix_product_gflops"] == {"ours": 2000, "pytorch": 3000}
    assert (result["gflop"], result["limit_seconds"]) == (6, 0.002)


@pytest.mark.parametrize("part, gflop", [("unet", 1600.5), ("vae", 2514.5), ("vocoder", 308.6)])
def test_arithmetic_is_that_of_a_sample_of_full_size(part, gflop):
    work, _ = peer_parts.WORK[part]
    assert work(2, argparse.Namespace(dtype="bfloat16")).flops() / 1e9 == pytest.approx(gflop, abs=0.1)


def test_arithmetic_of_samples_is_that_of_all_stages(args, once, sampler):
    work = measure.stage_flops(sampler.sampler, peer_sample.batch(settings(args), 1, 0)[0])
    assert peer_parts.sample(2, args).flops() == sum(work.values())


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
def test_what_rounding_does_not_explain_is_void(part, dtype, apart, agree):
    with contextlib.nullcontext() if agree else pytest.raises(UserError, match="void"):
        peer.check_agreement(part, dtype, apart)


def test_results_that_are_not_finite_do_not_agree():
    good, bad = np.ones((1, 2)), np.array([[1, np.nan]])
    assert peer.furthest(good, [good]) == 0
    assert peer.furthest(good, [good, bad]) is None and peer.furthest(bad, [good]) is None


@pytest.mark.parametrize(
    "flag", ["--parts=unet,vea", "--forms=eagre", "--batch=0", "--rounds=0", "--steps=0", "--steps=x"]
)
def test_a_wrong_flag_is_one_line(monkeypatch, capsys, flag):
    command(monkeypatch, flag)
    assert flag.partition("=")[2].split(",")[-1] in capsys.readouterr().err.splitlines()[-1]


def test_sides_on_different_devices_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(UserError, match="JAX is on tpu, PyTorch on"):
        peer.check_device()


def command(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["peer", *flags])
    with pytest.raises(SystemExit) as end:
        peer.main()
    assert end.value.code == 2


def test_models_of_full_size_are_model_folders(tmp_path):
    """With fewer channels, for time; configs are otherwise the published ones."""
    unet = {"block_out_channels": [32, 32, 32, 32], "cross_attention_dim": 8}
    vae = {"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1}
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    full_size.write(
        tmp_path, {"unet": unet, "vae": vae, "text_encoder": text, "vocoder": {"upsample_initial_channel": 16}}
    )
    model = pretrained.load_model(str(tmp_path / "audio"), components=registry.DIFFUSION_COMPONENTS, dtype="bfloat16")
    assert model.tokenizer.model_max_length == 77 and model.vae.config.factor == 8
    assert (tmp_path / "image" / "unet" / "config.json").exists()


def test_full_size_is_stable_diffusions():
    assert full_size.config("sd15.unet")["block_out_channels"] == [320, 640, 1280, 1280]
    made = runpy.run_path(str(ROOT / peer_parts.FULL_SIZE))["get_config"]()
    assert (made.height, made.width, made.num_steps) == (256, 1024, 100)
