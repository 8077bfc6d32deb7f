"""Compares DeepFloyd IF's modules at full size with PyTorch's, in float32 on a CPU.

    python -m bench.parity.pixel --out=bench/results/parity_pixel.json

The modules are the UNets of IF-I-M and IF-II-M, and the encoder of T5 v1.1 XXL with its 24 layers. The weights are
random and pass through the rule that converts published weights. The widths of IF-I-M are quoted from memory and those
of IF-II-M are derived, so the published widths may differ. T5 takes 19 GB in float32. Therefore it is compared layer by
layer: in either framework each layer receives the output of the layer before it, so that differences accumulate as in
the whole encoder. The exit status is 1 if the relative error of a module is above 1e-4, which is max |ours - PyTorch's|
/ max |PyTorch's|. The command takes 7 GB and, on 2 busy cores, half an hour.
"""

from collections.abc import Iterator

import diffusers
import jax
import numpy as np
import torch
import transformers
from absl import flags

from bench.parity.compare import channels_first, channels_last, compare, report, to_ours, to_ours_by_file
from bench.published import read_config
from its_jax.runtime import cli
from tests.helpers.random_weights import randomize, randomize_t5

# Height and width at which 256 x 1024 pixels are colorized: the first stage works at a quarter of them.
SIZES = {"if_i_m": (64, 256), "if_ii_m": (256, 1024)}
TOKENS, LEVEL = 77, 50
LENGTHS = (1, 12, 77)  # of T5's texts, which are padded to TOKENS


def main():
    what = "DeepFloyd IF's modules at full size, ours against PyTorch's"
    report(measure(), flags.FLAGS.out, "modules", what=what, sizes=SIZES)


@torch.no_grad()
def measure() -> Iterator[tuple[str, dict[str, float]]]:
    """Compares one module after another."""
    for name in SIZES:
        yield f"{name}_unet", unet(name)
    yield from t5()


def unet(name):
    raw, rng = read_config(f"{name}.unet"), np.random.default_rng(0)
    twin = randomize(diffusers.UNet2DConditionModel.from_config(raw))
    x = rng.normal(size=(1, *SIZES[name], raw["in_channels"])).astype(np.float32)
    text = rng.normal(size=(1, TOKENS, raw["encoder_hid_dim"])).astype(np.float32)
    t, level = np.array([957]), np.array([LEVEL])
    more = (level,) if raw["class_embed_type"] else ()
    theirs = twin(channels_first(x), *map(torch.from_numpy, (t, text, *more))).sample
    ours = to_ours("unet", raw, twin)
    return compare(channels_last(theirs), jax.jit(lambda m, *inputs: m(*inputs))(ours, x, t, text, *more))


def t5():
    """Compares the features after every fourth layer, and at the end."""
    raw = read_config("if.text_encoder")
    ids = np.random.default_rng(0).integers(3, raw["vocab_size"], (len(LENGTHS), TOKENS))
    for row, length in zip(ids, LENGTHS, strict=True):
        row[length - 1], row[length:] = raw["eos_token_id"], raw["pad_token_id"]
    mask = ids != raw["pad_token_id"]
    their_mask = torch.from_numpy(np.where(mask, 0, np.finfo(np.float32).min).astype(np.float32))[:, None, None]
    for layer in range(raw["num_layers"]):
        twin, model = make_layer(raw, seed=layer)
        if layer == 0:
            theirs, ours = twin.shared(torch.from_numpy(ids)), model.shared(ids)
            their_bias = twin.encoder.block[0].layer[0].SelfAttention.compute_bias(TOKENS, TOKENS)
            our_bias = model.encoder.position_bias(TOKENS)
        theirs = twin.encoder.block[0](theirs, attention_mask=their_mask, position_bias=their_bias)[0]
        ours = run_layer(model.encoder.block[0], ours, our_bias, mask[:, None, None])
        if (layer + 1) % 4 == 0:
            yield f"t5_xxl_layer_{layer + 1}", compare(theirs, ours)
    yield "t5_xxl", compare(twin.encoder.final_layer_norm(theirs), model.encoder.final_layer_norm(ours))


def make_layer(raw, seed):
    """Returns PyTorch's T5 with a single layer of full width, and ours with the same weights."""
    raw = raw | {"num_layers": 1}
    twin = randomize_t5(transformers.T5EncoderModel(transformers.T5Config.from_dict(raw)), seed)
    return twin, to_ours_by_file("text_encoder", raw, twin)


run_layer = jax.jit(lambda block, x, bias, mask: block(x, bias, mask))


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "JSON file for the results.")
    cli.run(main)
