"""Compares CLIP and CLAP at full size with PyTorch's, in float32 on a CPU.

    python -m bench.parity.dual --out=bench/results/parity_dual.json

The configs are the published ones (openai/clip-vit-base-patch16, laion/clap-htsat-unfused). The weights are random and
pass through the rule that converts published weights. The exit status is 1 if the relative error of a tower is above
1e-4, which is max |ours - PyTorch's| / max |PyTorch's| over its vectors of length 1. It takes 5 GB and two minutes.
"""

from collections.abc import Iterator

import jax
import numpy as np
import torch
import transformers
from absl import flags

from bench.parity import compare
from bench.published import read_config
from its_jax.checkpoints.processors import ClapFeatureExtractor
from its_jax.runtime import cli
from tests.helpers.random_weights import randomize

ITEMS = 3


def main():
    compare.report(measure(), flags.FLAGS.out, "towers", what="CLIP and CLAP at full size, ours against PyTorch's")


@torch.no_grad()
def measure() -> Iterator[tuple[str, dict[str, float]]]:
    """Compares the four towers one after another."""
    rng = np.random.default_rng(0)
    twin, ours = make_pair(transformers.CLIPModel, "clip_vit_base_patch16")
    size, vocabulary = ours.config.vision_config.image_size, ours.config.text_config.vocab_size
    ids = random_ids(rng, 77, vocabulary, end=vocabulary - 1, fill=vocabulary - 1)
    theirs = normalize(twin.get_text_features(torch.from_numpy(ids)))
    yield "clip_text", compare.compare(theirs, embed_text(ours, ids))
    images = rng.normal(size=(ITEMS, size, size, 3)).astype(np.float32)
    found = jax.jit(lambda model, x: model.embed_image(x))(ours, images)
    theirs = normalize(twin.get_image_features(compare.channels_first(images)))
    yield "clip_picture", compare.compare(theirs, found)
    twin, ours = make_pair(transformers.ClapModel, "clap_htsat_unfused")
    pad = ours.config.text_config.pad_token_id
    ids = random_ids(rng, 32, ours.config.text_config.vocab_size, end=2, fill=pad)
    theirs = normalize(twin.get_text_features(torch.from_numpy(ids), torch.from_numpy(ids != pad).long()))
    yield "clap_text", compare.compare(theirs, embed_text(ours, ids))
    log_mel = np.stack([ClapFeatureExtractor()(random_audio(rng)) for _ in range(ITEMS)])
    found = jax.jit(lambda model, x: model.embed_audio(x))(ours, log_mel)
    theirs = normalize(twin.get_audio_features(torch.from_numpy(log_mel)[:, None]))
    yield "clap_sound", compare.compare(theirs, found)


def make_pair(kind, name):
    """Returns PyTorch's model with random weights, and ours with the same weights."""
    raw = read_config(name)
    twin = randomize(kind(kind.config_class.from_dict(raw))).eval()
    return twin, compare.to_ours_by_file("dual_encoder", raw, twin)


def random_ids(rng, length, vocabulary, *, end, fill):
    """Returns token ids `[ITEMS, length]` of texts of different lengths, padded with `fill`."""
    ids = rng.integers(3, vocabulary - 2, (ITEMS, length))
    for row, stop in zip(ids, (5, length // 2, length - 1), strict=True):
        row[stop:], row[stop] = fill, end
    return ids


def random_audio(rng, seconds=5.12, rate=48000):
    """Returns a rising tone in noise, `[samples]`."""
    t = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * t * rng.uniform(200, 2000) * (1 + rng.uniform(0, 2) * t))
    return tone / 2 + 0.1 * rng.normal(size=len(t))


def normalize(features):
    return torch.nn.functional.normalize(features.pooler_output, dim=-1).numpy()


embed_text = jax.jit(lambda model, ids: model.embed_text(ids))


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "JSON file for the results.")
    cli.run(main)
