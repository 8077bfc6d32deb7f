"""Which files of a folder or repository make up a model."""

import pytest

from convert.layouts import find_layout


def test_full_precision_and_safetensors_take_precedence():
    names = ["vae/config.json", "vae/diffusion_pytorch_model.fp16.safetensors", "unet/config.json",
             "vae/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.non_ema.bin",
             "unet/diffusion_pytorch_model.fp16.bin", "text_encoder/config.json",
             "text_encoder/pytorch_model.bin", "text_encoder/model.safetensors",
             "safety_checker/model.safetensors", "tokenizer/vocab.json",
             "v1-5-pruned.safetensors", "README.md"]  # fmt: skip
    layout = find_layout(names, source="hub")
    assert layout.weights == {
        "text_encoder": ("text_encoder/model.safetensors",),
        "unet": ("unet/diffusion_pytorch_model.fp16.bin",),
        "vae": ("vae/diffusion_pytorch_model.bin",),
    }
    configs = {f"{component}/config.json" for component in layout.weights}
    assert set(layout.plain) == configs | {"tokenizer/vocab.json"}


@pytest.mark.parametrize(
    "index, shard",
    [
        ("model.safetensors.index.json", "model-0000{}-of-00002.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model-0000{}-of-00002.bin"),
        ("model.fp16.safetensors.index.json", "model.fp16-0000{}-of-00002.safetensors"),
        ("model.safetensors.index.fp16.json", "model.fp16-0000{}-of-00002.safetensors"),
        ("model.safetensors.index.fp16.json", "model-0000{}-of-00002.fp16.safetensors"),
        ("diffusion_pytorch_model.fp16.bin.index.json", "diffusion_pytorch_model.fp16-0000{}-of-00002.bin"),
    ],
)
def test_shards_are_found_under_all_names(index, shard):
    shards = [f"unet/{shard.format(i)}" for i in (1, 2)]
    others = ["unet/other-00001-of-00002.safetensors", "unet/model.non_ema-00001-of-00002.safetensors"]
    layout = find_layout(["unet/config.json", f"unet/{index}", *shards, *others], source="hub")
    assert layout.weights == {"unet": (f"unet/{index}", *shards)}
    assert set(shards) < set(layout.names)


def test_shards_in_full_precision_take_precedence_over_one_file_in_half():
    names = ["unet/config.json", "unet/model.safetensors.index.json", "unet/model-00001-of-00001.safetensors"]
    layout = find_layout([*names, "unet/model.fp16.safetensors"], source="hub")
    assert layout.weights == {"unet": tuple(names[1:])}
