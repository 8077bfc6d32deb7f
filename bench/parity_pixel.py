"""DeepFloyd IF's modules at their full size against PyTorch's, in float32 on a CPU.

    python -m bench.parity_pixel --out=bench/results/parity_pixel.json

The UNets are IF-I-M's and IF-II-M's, T5 v1.1 is XXL's encoder with its 24 layers; the weights are random (see
tests/helpers/random_weights.py), handed over by the weight rule that converts published ones. IF-I-M's widths are from memory
and IF-II-M's were derived: what is compared is as large as they are, whatever the published ones turn out to be. T5 is
taken layer by layer, for in float32 it has 19 GB: each layer is given what the one before made, in either framework,
so that differences add up as in the whole. The exit status is 1 if a module's relative error is above 1e-4, which is
max |ours - PyTorch's| / max |PyTorch's|. It takes 7 GB and, on 2 busy cores, half an hour.
"""

from collections.abc import Iterator

import diffusers
import jax
import numpy as np
import torch
import transformers

from bench.parity import channels_first, channels_last, compared, ours_by_file, ours_of, run
from bench.published import config
from tests.helpers.random_weights import randomize, randomize_t5

# Height and width at which 256 x 1024 pixels are coloured: a quarter of them first.
SIZES = {"if_i_m": (64, 256), "if_ii_m": (256, 1024)}
TOKENS, LEVEL = 77, 50
LENGTHS = (1, 12, 77)  # of the texts that T5 is given, padded to TOKENS


def main():
    run(__doc__.partition("\n")[0], measure, {"sizes": SIZES}, "modules")


@torch.no_grad()
def measure() -> Iterator[tuple[str, dict[str, float]]]:
    for name in SIZES:
        yield f"{name}_unet", unet(name)
    yield from t5()


def unet(name):
    raw, rng = config(f"{name}.unet"), np.random.default_rng(0)
    twin = randomize(diffusers.UNet2DConditionModel.from_config(raw))
    x = rng.normal(size=(1, *SIZES[name], raw["in_channels"])).astype(np.float32)
    text = rng.normal(size=(1, TOKENS, raw["encoder_hid_dim"])).astype(np.float32)
    t, level = np.array([957]), np.array([LEVEL])
    more = (level,) if raw["class_embed_type"] else ()
    theirs = twin(channels_first(x), *map(torch.from_numpy, (t, text, *more))).sample
    theirs = channels_last(theirs)
    return compared(theirs, jax.jit(lambda m, *a: m(*a))(ours_of("unet", raw, twin), x, t, text, *more))


def t5():
    """After every fourth layer, and at the end."""
    raw = config("if.text_encoder")
    ids = np.random.default_rng(0).integers(3, raw["vocab_size"], (len(LENGTHS), TOKENS))
    for row, length in zip(ids, LENGTHS, strict=True):
        row[length - 1], row[length:] = raw["eos_token_id"], raw["pad_token_id"]
    mask = ids != raw["pad_token_id"]
    theirs = ours = None
    for layer in range(raw["num_layers"]):
        twin, model = one_layer(raw, seed=layer)
        if layer == 0:
            theirs, ours = twin.shared(torch.from_numpy(ids)), model.shared(ids)
            their_bias = twin.encoder.block[0].layer[0].SelfAttention.compute_bias(TOKENS, TOKENS)
            our_bias = model.encoder.bias(TOKENS)
        their_mask = torch.from_numpy(np.where(mask, 0, np.finfo(np.float32).min).astype(np.float32))[:, None, None]
        theirs = twin.encoder.block[0](theirs, attention_mask=their_mask, position_bias=their_bias)[0]
        ours = run_layer(model.encoder.block[0], ours, our_bias, mask[:, None, None])
        if (layer + 1) % 4 == 0:
            yield f"t5_xxl_layer_{layer + 1}", compared(theirs, ours)
    yield "t5_xxl", compared(twin.encoder.final_layer_norm(theirs), model.encoder.final_layer_norm(ours))


def one_layer(raw, seed):
    """PyTorch's T5 with one layer, of full width, and ours."""
    raw = raw | {"num_layers": 1}
    twin = randomize_t5(transformers.T5EncoderModel(transformers.T5Config.from_dict(raw)), seed)
    return twin, ours_by_file("text_encoder", raw, twin)


run_layer = jax.jit(lambda block, x, bias, mask: block(x, bias, mask))


if __name__ == "__main__":
    main()
