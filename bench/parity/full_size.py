"""Compares our modules at full size with PyTorch's, in float32 on a CPU, at 256 x 1024 pixels.

    python -m bench.parity.full_size --out=bench/results/parity_full_size.json

The configs are the published ones. The weights are random and pass through the rule that converts published weights.
The exit status is 1 if the relative error of a component is above 1e-4, which is max
|ours - PyTorch's| / max |PyTorch's|. The command takes 9 GB and, on 2 busy cores, 20 minutes. Set OMP_NUM_THREADS=1 if
other programs keep the cores busy, because PyTorch's threads then spend most of their time waiting for each other.
"""

from collections.abc import Iterator
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from absl import flags

from bench.parity import torch_reference
from bench.parity.compare import channels_first, channels_last, compare, report, to_ours
from bench.published import read_config
from convert.torch_vocoder import TorchGenerator
from its_jax.diffusion import denoise
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.diffusion.solvers import solver_table
from its_jax.diffusion.term_schedule import term_weights
from its_jax.pipeline import prompts
from its_jax.runtime import cli
from tests.helpers.random_weights import randomize

HEIGHT, WIDTH = 256, 1024
STEPS, GUIDANCE, AUDIO_WEIGHT, SEED = 3, 10.0, 0.5, 1234
# CLIP's token ids of the negative and positive prompts: "", "a castle with bell towers, grayscale, lithograph style",
# and "", "bell ringing". They are padded to 77 with their last id.
PROMPTS = {
    "image": ([49406, 49407], [49406, 320, 3540, 593, 3718, 12701, 267, 12703, 5879, 267, 49022, 1844, 49407]),
    "audio": ([49406, 49407], [49406, 3718, 26035, 49407]),
}
UNETS = {"image": "sd15.unet", "audio": "auffusion.unet"}
FACTS = {
    "what": "random weights at full size, float32, ours against PyTorch's",
    "weights": " ".join((randomize.__doc__ or "").split("\n\n")[1].split()),
    "error": "max |ours - PyTorch's| / max |PyTorch's|",
    "height": HEIGHT,
    "width": WIDTH,
}


def main():
    report(measure(), flags.FLAGS.out, "parts", **FACTS)


@torch.no_grad()
def measure() -> Iterator[tuple[str, dict[str, float]]]:
    """Compares one component after another, so that at most two UNets are in memory."""
    yield from vocoder()
    yield from vae()
    texts = {}
    for seed, term in enumerate(PROMPTS):
        theirs, ours = text_features(term, seed)
        texts[term] = theirs, ours
        yield f"{term}_text_encoder", compare(theirs, ours)
    yield from unets_and_loop(texts)


def vocoder():
    raw = read_config("auffusion.vocoder")
    twin: Any = randomize(TorchGenerator(raw))
    log_mel = np.random.default_rng(0).uniform(-3, 3, (1, WIDTH, raw["num_mels"])).astype(np.float32)
    theirs = twin(torch.from_numpy(log_mel).mT)[:, 0]
    yield "vocoder", compare(theirs, jax.jit(lambda m, x: m(x))(to_ours("vocoder", raw, twin), log_mel))


def vae():
    raw = read_config("sd15.vae")
    twin: Any = randomize(diffusers.AutoencoderKL.from_config(raw))
    model = to_ours("vae", raw, twin)
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (1, HEIGHT, WIDTH, 3)).astype(np.float32)
    latents = rng.normal(size=(1, HEIGHT // 8, WIDTH // 8, 4)).astype(np.float32)
    theirs = twin.encode(channels_first(image)).latent_dist.mean
    yield "vae_encoder", compare(channels_last(theirs), jax.jit(lambda m, x: m.encode(x).mean)(model, image))
    theirs = twin.decode(channels_first(latents)).sample
    yield "vae_decoder", compare(channels_last(theirs), jax.jit(lambda m, z: m.decode(z))(model, latents))


def text_features(term, seed):
    """Returns PyTorch's text features and ours, `[2 77 768]`."""
    raw = read_config("sd15.text_encoder")
    ids = np.array([prompt + prompt[-1:] * (77 - len(prompt)) for prompt in PROMPTS[term]])
    twin = randomize(transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(raw)), seed)
    theirs = twin(torch.from_numpy(ids)).last_hidden_state
    return theirs, prompts.encode_tokens(to_ours("text_encoder", raw, twin), ids)


def unets_and_loop(texts):
    """Compares each UNet once on PyTorch's text features, and the loop on each framework's own."""
    scheduler = diffusers.DDIMScheduler.from_config(read_config("sd15.scheduler"))
    scheduler.set_timesteps(STEPS)
    shape = (1, 4, HEIGHT // 8, WIDTH // 8)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(SEED), dtype=torch.float16).float()
    twins = {
        term: randomize(diffusers.UNet2DConditionModel.from_config(read_config(name)), seed)
        for seed, (term, name) in enumerate(UNETS.items())
    }
    pair, t = torch.cat([x, x]), scheduler.timesteps[0]
    single = {term: channels_last(twin(pair, t, texts[term][0]).sample) for term, twin in twins.items()}
    settings: dict[str, Any] = dict(guidance_scales=(GUIDANCE,) * 2, start_steps=(0, 0), audio_weight=AUDIO_WEIGHT)
    fused = torch_reference.denoise(scheduler, list(twins.values()), [texts[term][0] for term in twins], x, **settings)
    models = {term: to_ours("unet", read_config(name), twins.pop(term)) for term, name in UNETS.items()}
    x, pair = channels_last(x), channels_last(pair)
    for term, model in models.items():
        eps = jax.jit(lambda m, *inputs: m(*inputs))(model, pair, np.full(2, t), texts[term][0].numpy())
        yield f"{term}_unet", compare(single[term], eps)
    yield f"loop_of_{STEPS}_steps", compare(channels_last(fused), run_loop(list(models.values()), texts, x))


def run_loop(models, texts, x):
    """Returns our latents `[1 h w 4]` after `STEPS` steps of DDIM."""
    schedule = NoiseSchedule.from_dict(read_config("sd15.scheduler"))
    weights, active = term_weights([[1 - AUDIO_WEIGHT], [AUDIO_WEIGHT]], [[0], [0]], STEPS, schedule)
    terms = [
        denoise.Term(ours[None], jnp.full(1, GUIDANCE, jnp.float32), w)
        for (_, ours), w in zip(texts.values(), weights, strict=True)
    ]
    table = solver_table(schedule, STEPS, "ddim")
    state = denoise.initial_state(jnp.asarray(x))
    return denoise.denoise(models, terms, table, active, state, np.int32(0), np.int32(STEPS)).x


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "JSON file for the results.")
    cli.run(main)
