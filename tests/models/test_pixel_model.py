"""Models of DeepFloyd IF: converted, loaded, and sampled step by step, against diffusers' pipelines."""

import copy
import dataclasses
import functools
import json
import pathlib
import shutil

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from convert import check, conversion, layouts
from convert.tensors import open_tensors
from its_jax.checkpoints.compatibility import check_compatibility
from its_jax.checkpoints.format import METADATA
from its_jax.diffusion import ddpm
from its_jax.errors import UserError
from its_jax.models.if_unet import PixelUNet
from its_jax.models.state_dict import to_state_dict
from its_jax.models.t5 import T5EncoderModel
from its_jax.pipeline import prompts
from its_jax.pretrained import load_model
from tests.helpers import pixel_folder
from tests.helpers.model_folder import edit_json
from tests.helpers.torch_twins import jit

PARTS = ("text_encoder", "unet")
STEPS, SCALE, LEVEL = 3, 3.0, 50
PROMPTS = " A cat ", "bells"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Returns folder, PyTorch modules and converted folder by stage; the first text encoder is saved in shards."""
    folder = tmp_path_factory.mktemp("if")
    found = {}
    for stage, shards in ((1, "20KB"), (2, None)):
        source = folder / f"stage{stage}"
        twins = pixel_folder.build(source, stage, shards=shards)
        found[stage] = source, twins, conversion.convert(str(source), folder / f"converted{stage}")
    return found


@pytest.fixture
def source(built, tmp_path):
    return shutil.copytree(built[2][0], tmp_path / "model")


def pipeline(stage, source, twins):
    """Returns diffusers' pipeline of the same modules."""
    kinds = {1: diffusers.IFPipeline, 2: diffusers.IFSuperResolutionPipeline}
    of_scheduler = functools.partial(diffusers.DDPMScheduler.from_pretrained, source)
    more = {"image_noising_scheduler": of_scheduler(subfolder="image_noising_scheduler")} if stage == 2 else {}
    made = kinds[stage](
        tokenizer=transformers.T5Tokenizer.from_pretrained(source / "tokenizer"),
        scheduler=of_scheduler(subfolder="scheduler"),
        safety_checker=None, feature_extractor=None, watermarker=None, requires_safety_checker=False,
        **twins, **more,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


def torch_noise(generator, shape):
    """Draws noise from a PyTorch generator, with channels last."""
    b, h, w, c = shape
    return torch.randn((b, c, h, w), generator=generator).movedim(1, -1).numpy()


@pytest.mark.parametrize("stage", [1, 2])
def test_a_converted_model_gives_the_samples_of_diffusers(stage, built, highest_precision):
    """Includes prompts, padding and its mask, guidance, variance, thresholding and steps, in float32."""
    source, twins, converted = built[stage]
    model = load_model(str(converted), components=PARTS, dtype=jnp.float32)
    ids = prompts.tokenize_for_pixels(model.tokenizer, ["", "", *PROMPTS])
    assert ids.shape == (4, 77)
    texts = prompts.encode_tokens_for_pixels(model.text_encoder, ids).reshape(2, 2, 77, -1)
    size = pixel_folder.STAGES[stage]["sample_size"]
    small = np.random.default_rng(0).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)
    enlarge = dict(image=torch.from_numpy(small).movedim(-1, 1), noise_level=LEVEL) if stage == 2 else {}
    expected = pipeline(stage, source, twins)(
        list(PROMPTS), num_inference_steps=STEPS, guidance_scale=SCALE, output_type="pt",
        clean_caption=False, generator=torch.Generator().manual_seed(0), **enlarge,
    ).images.movedim(1, -1).numpy()  # fmt: skip

    generator = torch.Generator().manual_seed(0)
    x = torch_noise(generator, small.shape)
    level, seen = (), ()
    if stage == 2:
        t = np.full(2, LEVEL)
        level, seen = (
            (np.full(4, LEVEL),),
            ddpm.add_noise(model.noising_schedule, small, t, torch_noise(generator, x.shape)),
        )
    rows = ddpm.ddpm_table(model.schedule, STEPS)
    predict = jit(lambda unet, *inputs: unet(*inputs))
    # The two prompts are innermost in the batch: negative, positive, negative, positive.
    pairs = jnp.swapaxes(texts, 0, 1).reshape(4, 77, -1)
    for k in range(STEPS):
        inputs = np.concatenate([x, seen], axis=-1) if stage == 2 else x
        inputs = np.repeat(inputs, 2, axis=0), np.full(4, rows.t[k]), pairs, *level
        prediction = predict(model.unet, *inputs).reshape(2, 2, size, size, 6)
        noise = torch_noise(generator, x.shape) if rows.t[k] > 0 else np.zeros_like(x)
        row = jax.tree.map(lambda column, k=k: column[k], rows)
        x = ddpm.step(model.schedule, row, x, *ddpm.guided_noise(prediction, np.full(2, SCALE)), noise)
    assert 0.1 < expected.std() < 1
    np.testing.assert_allclose(x, expected, rtol=0, atol=2e-4)  # guidance adds to the rounding of the modules


def test_sharded_weights_are_converted_exactly(built):
    source, twins, converted = built[1]
    shards = sorted((source / "text_encoder").glob("model-*.safetensors"))
    assert len(shards) > 2 and (source / "text_encoder" / "model.safetensors.index.json").exists()
    model = load_model(str(converted), components=PARTS, dtype=jnp.float32)
    assert isinstance(model.text_encoder, T5EncoderModel) and isinstance(model.unet, PixelUNet)
    for part in PARTS:
        state = {k: v.numpy() for k, v in twins[part].state_dict().items() if k != "encoder.embed_tokens.weight"}
        found = to_state_dict(getattr(model, part))
        assert found.keys() == state.keys()
        for key, value in state.items():
            np.testing.assert_array_equal(found[key], value)


def test_a_16_bit_model_keeps_wo_in_float32(built, tmp_path):
    source = shutil.copytree(built[2][0], tmp_path / "model")
    file = source / "text_encoder" / "model.safetensors"
    state = {k: v if ".wo." in k else v.half() for k, v in safetensors.torch.load_file(file).items()}
    safetensors.torch.save_file(state, file)
    out = conversion.convert(str(source), tmp_path / "out")
    about = json.loads((out / METADATA).read_text())["parts"]["text_encoder"]
    assert about["dtype"] == "float16"
    for dtype in (jnp.float16, jnp.bfloat16):
        found = to_state_dict(load_model(str(out), components=("text_encoder",), dtype=dtype).text_encoder)
        for key, value in found.items():
            assert value.dtype == (jnp.float32 if ".wo." in key else dtype), key
            np.testing.assert_array_equal(value, state[key].numpy().astype(value.dtype))


def test_the_second_stage_has_a_schedule_for_the_noise_in_the_small_image(built):
    model = load_model(str(built[2][2]), components=PARTS, dtype=jnp.float32)
    assert model.unet.is_upscaler and model.noising_schedule.beta_schedule == "squaredcos_cap_v2"
    assert model.schedule.sample_max_value == 1.0 and model.schedule.variance_type == "learned_range"
    first = load_model(str(built[1][2]), components=("unet",), dtype=jnp.float32)
    assert not first.unet.is_upscaler and first.noising_schedule is None and first.schedule.sample_max_value == 1.5


def test_prompts_are_cut_at_77_tokens(built, caplog):
    model = load_model(str(built[1][2]), components=("text_encoder",), dtype=jnp.float32)
    assert model.tokenizer.model_max_length == 77  # though the file says 512
    long = "cat " * 80
    ids = prompts.tokenize_for_pixels(model.tokenizer, [long])
    assert ids.shape == (1, 77) and ids[0, -1] == 1  # the end of a text
    prompts.warn_about_prompts(model.tokenizer, [long.strip(), "cat"])
    (record,) = caplog.records
    assert record.getMessage().endswith("is longer than 76 tokens: 'cat cat cat cat' is cut off")


def test_check_compares_with_pytorch(built, caplog):
    for stage in (1, 2):
        source, _, converted = built[stage]
        with caplog.at_level("INFO"):
            check.check(str(source), converted)
        assert sum("differs from PyTorch's by" in record.getMessage() for record in caplog.records) == 2 * stage


@pytest.mark.skipif(not pathlib.Path("/proc/self/maps").exists(), reason="only Linux lists the mapped files")
def test_shards_do_not_stay_in_memory(built):
    """Otherwise the whole model would be in memory by the end of a conversion."""
    index = built[1][0] / "text_encoder" / "model.safetensors.index.json"
    tensors = open_tensors(index)
    read = {key: tensor.read() for key, tensor in tensors.items()}
    assert len(read) > 20 and ".safetensors" not in pathlib.Path("/proc/self/maps").read_text()


def test_published_tokenizers_are_read_by_sentencepiece(built, tmp_path, monkeypatch):
    folder = shutil.copytree(built[1][2], tmp_path / "converted")
    metadata = json.loads((folder / METADATA).read_text())
    (folder / "tokenizer" / "tokenizer.json").unlink()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        del metadata["files"][f"tokenizer/{name}"]
    (folder / METADATA).write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="tokenizer/ has neither tokenizer.json nor spiece.model"):
        load_model(str(folder), components=("text_encoder",), dtype=jnp.float32)
    spm = pytest.importorskip("sentencepiece")
    training = dict(sentence_iterator=iter(["a bell rings", "a cat", "bells"] * 9), vocab_size=30, minloglevel=2)
    ids = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False)
    spm.SentencePieceTrainer.train(model_prefix=str(folder / "tokenizer" / "spiece"), **training, **ids)
    edit_json(folder / "tokenizer" / "tokenizer_config.json", extra_ids=0)
    tokenizer = load_model(str(folder), components=("text_encoder",), dtype=jnp.float32).tokenizer
    own = spm.SentencePieceProcessor(model_file=str(folder / "tokenizer" / "spiece.model"))
    for prompt in ("a cat", "bells  ring"):
        (found,) = prompts.tokenize_for_pixels(tokenizer, [prompt])
        expected = [*own.encode(prompt), 1]
        assert list(found) == expected + [0] * (77 - len(expected))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs sentencepiece; pip install 'its_jax\[t5\]'"):
        load_model(str(folder), components=("text_encoder",), dtype=jnp.float32)


def removed(path):
    return lambda folder: shutil.rmtree(folder / path)


def with_fields(path, **change):
    return lambda folder: edit_json(folder / path, **change)


def other_text_encoder(folder):
    from tests.helpers.model_folder import TEXT_WIDTH, small_text_encoder

    assert TEXT_WIDTH == pixel_folder.WIDTH
    shutil.rmtree(folder / "text_encoder")
    small_text_encoder(40).save_pretrained(folder / "text_encoder")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (removed("scheduler"), "model: scheduler/scheduler_config.json is missing"),
        (removed("image_noising_scheduler"), "model: image_noising_scheduler/scheduler_config.json is missing"),
        (
            with_fields("scheduler/scheduler_config.json", prediction_type="sample"),
            "model: DDPMSchedule: prediction_type='sample' is not supported",
        ),
        (with_fields("unet/config.json", act_fn="silu"), "model: unet: PixelUNetConfig: act_fn='silu'"),
        (with_fields("text_encoder/config.json", d_ff=41), r"text_encoder: tensor .*wi_0.weight' has shape \[40, 24\]"),
        (
            with_fields("unet/config.json", in_channels=3),
            r"unet: tensor 'conv_in.weight' has shape \[8, 6, 3, 3\], the config asks for \[8, 3, 3, 3\]",
        ),
        (other_text_encoder, "the unet takes the texts of a T5EncoderModel, the text_encoder is a CLIPTextModel"),
    ],
)
def test_bad_input_is_reported_in_one_line(spoil, message, source, tmp_path, monkeypatch):
    monkeypatch.setenv("ITS_JAX_CACHE", str(tmp_path / "cache"))
    spoil(source)
    with pytest.raises(UserError, match=message) as error:
        load_model(str(source), components=PARTS, dtype=jnp.float32)
    assert "\n" not in str(error.value)


def test_components_that_do_not_fit_together_are_refused(built):
    model = load_model(str(built[1][2]), components=PARTS, dtype=jnp.float32)

    def with_sizes(part, **change):
        module = copy.copy(getattr(model, part))
        module.config = dataclasses.replace(module.config, **change)
        return dataclasses.replace(model, **{part: module})

    for wrong, message in (
        (with_sizes("unet", encoder_hid_dim=32), "the unet takes text of width 32, the text_encoder gives 24"),
        (with_sizes("unet", out_channels=3), "a unet of pixels must take 3 channels, or 6 .*; it takes 3 and gives 3"),
        (with_sizes("text_encoder", vocab_size=20), "the tokenizer has 32 tokens, the text_encoder knows 20"),
    ):
        with pytest.raises(UserError, match=message):
            check_compatibility(wrong)


def test_a_missing_shard_is_reported(built, tmp_path):
    source = shutil.copytree(built[1][0], tmp_path / "model")
    last = sorted((source / "text_encoder").glob("model-*.safetensors"))[-1]
    last.unlink()
    with pytest.raises(UserError, match=f"its shard {last.name} is missing beside it"):
        conversion.convert(str(source), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_published_repositories_are_reduced_to_the_needed_files():
    """Mirrors have several copies of all weights, and components that are not used here."""
    shards = [f"-0000{i}-of-00002.safetensors" for i in (1, 2)]
    wide = [f"text_encoder/model{shard}" for shard in shards] + ["text_encoder/model.safetensors.index.json"]
    half = [f"text_encoder/model.fp16{shard}" for shard in shards] + ["text_encoder/model.safetensors.index.fp16.json"]
    plain = ["image_noising_scheduler/scheduler_config.json", "model_index.json", "scheduler/scheduler_config.json",
             "text_encoder/config.json", "tokenizer/spiece.model", "unet/config.json"]  # fmt: skip
    other = ["config.yml", "pytorch_model.bin", "safety_checker/config.json", "text_encoder/model.8bit.safetensors",
             "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors",
             "watermarker/config.json"]  # fmt: skip
    unet = "unet/diffusion_pytorch_model.safetensors"
    for text_encoder in (wide + half, half):
        layout = layouts.find_layout([*text_encoder, *plain, *other, unet], source="hub")
        taken = wide if "model-" in text_encoder[0] else half
        assert layout.weights == {"text_encoder": (taken[-1], *taken[:-1]), "unet": (unet,)}
        assert sorted(layout.plain) == plain
