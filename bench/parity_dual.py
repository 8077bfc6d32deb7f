"""CLIP and CLAP at their full size against PyTorch's, in float32 on a CPU.

    python -m bench.parity_dual --out=bench/results/parity_dual.json

The configs are the published ones (openai/clip-vit-base-patch16, laion/clap-htsat-unfused), the weights random (see
tests/helpers/random_weights.py), handed over by the weight rule that converts published ones. The exit status is 1 if a
tower's relative error is above 1e-4: max |ours - PyTorch's| / max |PyTorch's| of its vectors of length 1. It takes 5 GB
and, on 2 cores, two minutes.
"""

from collections.abc import Iterator

import jax
import numpy as np
import torch
import transformers

from bench.parity import channels_first, compared, ours_by_file, run
from bench.published import config
from its_jax.checkpoints.processors import ClapFeatureExtractor
from tests.helpers.random_weights import randomize

ITEMS = 3


def main():
    run(__doc__.partition("\n")[0], measure, {}, "towers")


@torch.no_grad()
def measure() -> Iterator[tuple[str, dict[str, float]]]:
    rng = np.random.default_rng(0)
    twin, ours = both(transformers.CLIPModel, "clip_vit_base_patch16")
    size, vocabulary = ours.config.vision_config.image_size, ours.config.text_config.vocab_size
    ids = texts(rng, 77, vocabulary, end=vocabulary - 1, fill=vocabulary - 1)
    yield "clip_text", compared(unit(twin.get_text_features(torch.from_numpy(ids))), embed_text(ours, ids))
    pictures = rng.normal(size=(ITEMS, size, size, 3)).astype(np.float32)
    found = jax.jit(lambda model, x: model.embed_picture(x))(ours, pictures)
    yield "clip_picture", compared(unit(twin.get_image_features(channels_first(pictures))), found)
    twin, ours = both(transformers.ClapModel, "clap_htsat_unfused")
    pad = ours.config.text_config.pad_token_id
    ids = texts(rng, 32, ours.config.text_config.vocab_size, end=2, fill=pad)
    mask = torch.from_numpy(ids != pad).long()
    yield "clap_text", compared(unit(twin.get_text_features(torch.from_numpy(ids), mask)), embed_text(ours, ids))
    log_mel = np.stack([ClapFeatureExtractor()(sound(rng)) for _ in range(ITEMS)])
    found = jax.jit(lambda model, x: model.embed_sound(x))(ours, log_mel)
    yield "clap_sound", compared(unit(twin.get_audio_features(torch.from_numpy(log_mel)[:, None])), found)


def both(kind, name):
    """PyTorch's model with random weights, and ours with the same."""
    raw = config(name)
    twin = randomize(kind(kind.config_class.from_dict(raw))).eval()
    return twin, ours_by_file("dual_encoder", raw, twin)


def texts(rng, length, vocabulary, *, end, fill):
    """Token ids `[ITEMS, length]` of texts that fill a part of it."""
    ids = rng.integers(3, vocabulary - 2, (ITEMS, length))
    for row, stop in zip(ids, (5, length // 2, length - 1), strict=True):
        row[stop:], row[stop] = fill, end
    return ids


def sound(rng, seconds=5.12, rate=48000):
    """A tone that rises, in noise."""
    t = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * t * rng.uniform(200, 2000) * (1 + rng.uniform(0, 2) * t))
    return tone / 2 + 0.1 * rng.normal(size=len(t))


def unit(features):
    return torch.nn.functional.normalize(features.pooler_output, dim=-1).numpy()


embed_text = jax.jit(lambda model, ids: model.embed_text(ids))


if __name__ == "__main__":
    main()
