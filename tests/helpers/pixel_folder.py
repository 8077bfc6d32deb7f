"""Small random models of both stages of DeepFloyd IF in diffusers' layout, and their modules."""

import json

import diffusers
import transformers

from tests.helpers.random_weights import randomize, randomize_t5
from tests.helpers.torch_twins import read

WIDTH = 24
# Of one resolution more than stage I has, so that their configs differ.
SMALL = dict(act_fn="gelu", addition_embed_type="text", cross_attention_norm="group_norm", cross_attention_dim=32,
             encoder_hid_dim=WIDTH, encoder_hid_dim_type="text_proj", mid_block_type="UNetMidBlock2DSimpleCrossAttn",
             resnet_time_scale_shift="scale_shift", addition_embed_type_num_heads=4, out_channels=6,
             norm_num_groups=4, layers_per_block=1, attention_head_dim=8)  # fmt: skip
STAGES = {
    1: SMALL | dict(
        down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"], block_out_channels=[8, 16],
        up_block_types=["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"], in_channels=3, sample_size=8,
    ),
    2: SMALL | dict(
        down_block_types=["ResnetDownsampleBlock2D"] * 2 + ["SimpleCrossAttnDownBlock2D"], in_channels=6,
        up_block_types=["SimpleCrossAttnUpBlock2D"] + ["ResnetUpsampleBlock2D"] * 2, sample_size=16,
        block_out_channels=[8, 8, 16], class_embed_type="timestep", time_embedding_act_fn="gelu",
        resnet_skip_time_act=True, resnet_out_scale_factor=1.4142271248762552,
        mid_block_scale_factor=1.4142271248762552,
    ),
}  # fmt: skip


def build(folder, stage=1, *, shards=None):
    """Writes the model and returns its modules by part; `shards`: their largest size, as transformers takes it."""
    tokens = save_tokenizer(folder / "tokenizer")
    config = transformers.T5Config(vocab_size=tokens, d_model=WIDTH, d_kv=8, d_ff=40, num_layers=2, num_heads=3,
                                   feed_forward_proj="gated-gelu")  # fmt: skip
    text_encoder = randomize_t5(transformers.T5EncoderModel(config), stage)
    text_encoder.save_pretrained(folder / "text_encoder", **({"max_shard_size": shards} if shards else {}))
    unet = randomize(diffusers.UNet2DConditionModel(**STAGES[stage]), stage)
    unet.save_pretrained(folder / "unet")
    scheduler = read("configs", f"if_{'i' * stage}.scheduler")
    diffusers.DDPMScheduler.from_config(scheduler).save_pretrained(folder / "scheduler")
    if stage == 2:
        noising = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
        noising.save_pretrained(folder / "image_noising_scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "IFPipeline"}))
    return {"text_encoder": text_encoder, "unet": unet}


def save_tokenizer(folder):
    """tokenizer.json of a unigram tokenizer that knows letters, and two words whole; like T5's, it asks for 512."""
    words = ["<pad>", "</s>", "<unk>", "▁", *map(chr, range(ord("a"), ord("z") + 1)), "▁bell", "▁cat"]
    vocab = [(word, -float(i > 2) * (3 if len(word) < 2 else 1)) for i, word in enumerate(words)]
    tokenizer = transformers.T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=512)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)
