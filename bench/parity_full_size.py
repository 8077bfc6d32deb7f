"""Our modules at their full size against PyTorch's, in float32 on a CPU, at 256 x 1024 pixels.

    python -m bench.parity_full_size --out=bench/results/parity_full_size.json

The configs are the published ones, the weights random (see bench/random_weights.py), handed over by the weight rule
that converts published ones. The exit status is 1 if a part's relative error is above 1e-4, which is
max |ours - PyTorch's| / max |PyTorch's|. It takes 9 GB and, on 2 busy cores, 20 minutes; where other programs keep the
cores busy, PyTorch needs OMP_NUM_THREADS=1, or its threads wait for each other more than they compute.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from bench import torch_reference
from bench.about import about
from bench.published import config
from bench.random_weights import randomised
from convert.torch_vocoder import TorchGenerator
from its_jax import denoise, parts, stages
from its_jax.weights import load_state_dict

BOUND = 1e-4
HEIGHT, WIDTH = 256, 1024
STEPS, GUIDANCE, AUDIO_WEIGHT, SEED = 3, 10.0, 0.5, 1234
# CLIP's token ids of the negative and positive prompts "", "a castle with bell towers, grayscale, lithograph style",
# and "", "bell ringing", before they are padded to 77 with the last.
PROMPTS = {
    "image": ([49406, 49407], [49406, 320, 3540, 593, 3718, 12701, 267, 12703, 5879, 267, 49022, 1844, 49407]),
    "audio": ([49406, 49407], [49406, 3718, 26035, 49407]),
}
UNETS = {"image": "sd15.unet", "audio": "auffusion.unet"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    out = parser.parse_args().out
    # Else the thousands of products of a UNet may be taken in less than float32.
    jax.config.update("jax_default_matmul_precision", "highest")
    start, results = time.perf_counter(), {}
    for name, result in measure():
        results[name] = result
        print(f"{name:22} relative error {result['relative_error']:.1e}, std {result['std']:.3f}", flush=True)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record(results, time.perf_counter() - start), indent=2) + "\n")
    missed = [name for name, result in results.items() if not result["relative_error"] <= BOUND]
    raise SystemExit(f"above {BOUND}: {', '.join(missed)}" if missed else 0)


def record(results: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """What the file says: the results, and what was measured with what."""
    return {
        "what": "random weights at full size, float32, ours against PyTorch's",
        "weights": " ".join(randomised.__doc__.split("\n\n")[1].split()),
        "error": "max |ours - PyTorch's| / max |PyTorch's|",
        "bound": BOUND,
        "height": HEIGHT,
        "width": WIDTH,
        "parts": results,
        "seconds": round(seconds),
        **about(),
    }


@torch.no_grad()
def measure() -> Iterator[tuple[str, dict[str, float]]]:
    """The parts one after the other, so that no more than two UNets are in memory."""
    yield from vocoder()
    yield from vae()
    texts = {}
    for seed, term in enumerate(PROMPTS):
        theirs, ours = text_features(term, seed)
        texts[term] = theirs, ours
        yield f"{term}_text_encoder", compared(theirs, ours)
    yield from unets_and_loop(texts)


def vocoder():
    raw = config("auffusion.vocoder")
    twin = randomised(TorchGenerator(raw))
    log_mel = np.random.default_rng(0).uniform(-3, 3, (1, WIDTH, raw["num_mels"])).astype(np.float32)
    theirs = twin(torch.from_numpy(log_mel).mT)[:, 0]
    yield "vocoder", compared(theirs, call(ours_of("vocoder", raw, twin), log_mel))


def vae():
    raw = config("sd15.vae")
    twin = randomised(diffusers.AutoencoderKL.from_config(raw))
    model = ours_of("vae", raw, twin)
    rng = np.random.default_rng(0)
    picture = rng.uniform(-1, 1, (1, HEIGHT, WIDTH, 3)).astype(np.float32)
    latents = rng.normal(size=(1, HEIGHT // 8, WIDTH // 8, 4)).astype(np.float32)
    theirs = twin.encode(channels_first(picture)).latent_dist.mean
    yield "vae_encoder", compared(channels_last(theirs), jax.jit(lambda m, x: m.encode(x).mean)(model, picture))
    theirs = twin.decode(channels_first(latents)).sample
    yield "vae_decoder", compared(channels_last(theirs), jax.jit(lambda m, z: m.decode(z))(model, latents))


def text_features(term, seed):
    """Theirs and ours, `[2 77 768]`."""
    raw = config("sd15.text_encoder")
    ids = np.array([prompt + prompt[-1:] * (77 - len(prompt)) for prompt in PROMPTS[term]])
    twin = randomised(transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(raw)), seed)
    theirs = twin(torch.from_numpy(ids)).last_hidden_state
    return theirs, stages.encode_texts(ours_of("text_encoder", raw, twin), ids)


def unets_and_loop(texts):
    """Each UNet once on PyTorch's text features, and the loop on each framework's own."""
    scheduler = diffusers.DDIMScheduler.from_config(config("sd15.scheduler"))
    scheduler.set_timesteps(STEPS)
    shape = (1, 4, HEIGHT // 8, WIDTH // 8)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(SEED), dtype=torch.float16).float()
    twins = {
        term: randomised(diffusers.UNet2DConditionModel.from_config(config(name)), seed)
        for seed, (term, name) in enumerate(UNETS.items())
    }
    pair, t = torch.cat([x, x]), scheduler.timesteps[0]
    alone = {term: channels_last(twin(pair, t, texts[term][0]).sample) for term, twin in twins.items()}
    settings = dict(guidance_scales=(GUIDANCE, GUIDANCE), start_steps=(0, 0), audio_weight=AUDIO_WEIGHT)
    fused = torch_reference.denoise(scheduler, list(twins.values()), [texts[term][0] for term in twins], x, **settings)
    models = {term: ours_of("unet", config(name), twins.pop(term)) for term, name in UNETS.items()}
    x, pair = channels_last(x), channels_last(pair)
    for term, model in models.items():
        eps = jax.jit(lambda m, *inputs: m(*inputs))(model, pair, np.full(2, t), texts[term][0].numpy())
        yield f"{term}_unet", compared(alone[term], eps)
    yield f"loop_of_{STEPS}_steps", compared(channels_last(fused), loop(list(models.values()), texts, x))


def loop(models, texts, x):
    schedule = denoise.Schedule.from_dict(config("sd15.scheduler"))
    weights, active = denoise.term_weights([[1 - AUDIO_WEIGHT], [AUDIO_WEIGHT]], [[0], [0]], STEPS, schedule)
    terms = [
        denoise.Term(ours[None], np.full(1, GUIDANCE, np.float32), w)
        for (_, ours), w in zip(texts.values(), weights, strict=True)
    ]
    rows = denoise.solver_rows(schedule, STEPS, "ddim")
    state = denoise.initial_state(jnp.asarray(x))
    return denoise.denoise(models, terms, rows, active, state, np.int32(0), np.int32(STEPS)).x


def ours_of(part: str, raw: Mapping[str, Any], twin: torch.nn.Module, dtype=jnp.float32):
    """Our module with the twin's weights, each of which is freed as it is taken if the caller keeps no twin."""
    tensors = Draining(twin.state_dict())
    del twin
    return load_state_dict(parts.abstract_module(part, raw, dtype, name=part), tensors)


class Draining(dict):
    """PyTorch's tensors as arrays, each of which can be taken once."""

    def __getitem__(self, key):
        return self.pop(key).float().numpy()


def compared(theirs, ours) -> dict[str, float]:
    """The relative error, and the deviation of PyTorch's result: neither zero nor infinite, if the scale is right."""
    theirs, ours = np.asarray(theirs), np.asarray(ours)
    assert theirs.shape == ours.shape, (theirs.shape, ours.shape)
    return {"relative_error": float(np.abs(ours - theirs).max() / np.abs(theirs).max()), "std": float(theirs.std())}


def channels_first(array):
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def channels_last(tensor):
    return tensor.permute(0, 2, 3, 1).numpy()


call = jax.jit(lambda model, x: model(x))


if __name__ == "__main__":
    main()
