"""A small random model in diffusers' layout, as diffusers and transformers save it, and its modules."""

import contextlib
import json

import diffusers
import jax
import pytest
import safetensors.torch
import torch
import transformers
from jax.sharding import AxisType

from convert.torch_vocoder import TorchGenerator
from its_jax.pipeline import placement
from tests.helpers.compilation import few_optimizations
from tests.helpers.random_weights import randomize

TEXT_WIDTH = 24
VOCODER = dict(
    resblock="1", upsample_rates=[5, 4], upsample_kernel_sizes=[11, 8], hop_size=20, num_mels=12,
    upsample_initial_channel=16, resblock_kernel_sizes=[3, 7], resblock_dilation_sizes=[[1, 3], [1, 3]],
    sampling_rate=16000, n_fft=256, win_size=128, fmin=0, fmax=None, learning_rate=2e-4,
)  # fmt: skip


@contextlib.contextmanager
def one_quick_device(cache):
    """One device, a cache folder, and programs compiled without effort; gives a patch that ends with it."""
    with few_optimizations(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITS_JAX_CACHE", str(cache))
        patch.setattr(placement, "data_mesh", lambda: jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,)))
        yield patch


def small_unet(seed=0, **change):
    return randomize(
        diffusers.UNet2DConditionModel(
            block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=TEXT_WIDTH, **change,
        ),
        seed,
    )  # fmt: skip


def small_vae(seed=0):
    return randomize(
        diffusers.AutoencoderKL(
            block_out_channels=(8, 16), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        ),
        seed,
    )  # fmt: skip


def small_text_encoder(vocab_size, seed=0, *, width=TEXT_WIDTH):
    config = transformers.CLIPTextConfig(
        vocab_size=vocab_size, hidden_size=width, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return randomize(transformers.CLIPTextModel(config), seed)


def small_vocoder(seed=0):
    return randomize(TorchGenerator(VOCODER), seed)


def weight_normed(module, norm=torch.nn.utils.weight_norm):
    """A copy of the state dict with every convolution's weight taken apart by PyTorch."""
    twin = type(module)(VOCODER)
    twin.load_state_dict(module.state_dict())
    for child in list(twin.modules()):
        if isinstance(child, torch.nn.Conv1d | torch.nn.ConvTranspose1d):
            norm(child)
            for name, p in child.named_parameters():  # so that direction and gain are not trivially related
                if name.endswith(("weight_v", "original1")):
                    p.data *= 3
    return twin.state_dict()


def save_tokenizer(folder):
    """vocab.json and merges.txt of a byte-pair tokenizer that knows letters, and two words whole."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    merges = ["c a", "ca t</w>", "d o", "do g</w>"]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(c + "</w>" for c in letters)]
    tokens += [merge.replace(" ", "") for merge in merges]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"})
    )
    return len(tokens)


def build(folder, *, seed=0, safe=True, vocoder=True):
    """Writes the model, with safetensors or (`safe` off) .bin files, and returns its modules by part."""
    folder.mkdir(parents=True, exist_ok=True)
    twins = {
        "text_encoder": small_text_encoder(save_tokenizer(folder / "tokenizer"), seed),
        "unet": small_unet(seed),
        "vae": small_vae(seed),
    }
    for part, twin in twins.items():
        if part != "text_encoder":
            twin.save_pretrained(folder / part, safe_serialization=safe)
    save_text_encoder(twins["text_encoder"], folder / "text_encoder", safe=safe)
    diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    if vocoder:
        twins["vocoder"] = small_vocoder(seed)
        (folder / "vocoder").mkdir()
        (folder / "vocoder" / "config.json").write_text(json.dumps(VOCODER))
        torch.save({"generator": weight_normed(twins["vocoder"])}, folder / "vocoder" / "vocoder.pt")
    return twins


def save_text_encoder(twin, folder, *, safe):
    """As transformers 4 saved it: with a prefix and the positions; transformers 5 saves safetensors only."""
    twin.save_pretrained(folder)
    if safe:
        return
    (folder / "model.safetensors").unlink()
    state = {f"text_model.{key}": value for key, value in twin.state_dict().items()}
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    torch.save(state, folder / "pytorch_model.bin")


def edit(path, change):
    """Changes the state dict in a safetensors file."""
    state = safetensors.torch.load_file(path)
    change(state)
    safetensors.torch.save_file(state, path)


def edit_json(path, **change):
    """Changes fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
