"""Our modules at their full size against PyTorch's, in float32 on a CPU, at 256 x 1024 pixels.

    python -m bench.parity_full_size --out=bench/results/parity_full_size.json

The configs are the published ones, the weights random (see tests/helpers/random_weights.py), handed over by the weight rule
that converts published ones. The exit status is 1 if a part's relative error is above 1e-4, which is
max |ours - PyTorch's| / max |PyTorch's|. It takes 9 GB and, on 2 busy cores, 20 minutes; where other programs keep the
cores busy, PyTorch needs OMP_NUM_THREADS=1, or its threads wait for each other more than they compute.
"""

from collections.abc import Iterator
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from bench import torch_reference
from bench.parity import channels_first, channels_last, compared, ours_of, run
from bench.published import config
from convert.torch_vocoder import TorchGenerator
from its_jax.diffusion import denoise
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.diffusion.solvers import solver_table
from its_jax.diffusion.term_schedule import term_weights
from its_jax.pipeline import prompts
from tests.helpers.random_weights import randomize

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
    run(__doc__.partition("\n")[0], measure, facts(), "parts")


def facts() -> dict[str, Any]:
    """What was measured, and with what."""
    return {
        "what": "random weights at full size, float32, ours against PyTorch's",
        "weights": " ".join(randomize.__doc__.split("\n\n")[1].split()),
        "error": "max |ours - PyTorch's| / max |PyTorch's|",
        "height": HEIGHT,
        "width": WIDTH,
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
    twin = randomize(TorchGenerator(raw))
    log_mel = np.random.default_rng(0).uniform(-3, 3, (1, WIDTH, raw["num_mels"])).astype(np.float32)
    theirs = twin(torch.from_numpy(log_mel).mT)[:, 0]
    yield "vocoder", compared(theirs, call(ours_of("vocoder", raw, twin), log_mel))


def vae():
    raw = config("sd15.vae")
    twin = randomize(diffusers.AutoencoderKL.from_config(raw))
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
    twin = randomize(transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(raw)), seed)
    theirs = twin(torch.from_numpy(ids)).last_hidden_state
    return theirs, prompts.encode_tokens(ours_of("text_encoder", raw, twin), ids)


def unets_and_loop(texts):
    """Each UNet once on PyTorch's text features, and the loop on each framework's own."""
    scheduler = diffusers.DDIMScheduler.from_config(config("sd15.scheduler"))
    scheduler.set_timesteps(STEPS)
    shape = (1, 4, HEIGHT // 8, WIDTH // 8)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(SEED), dtype=torch.float16).float()
    twins = {
        term: randomize(diffusers.UNet2DConditionModel.from_config(config(name)), seed)
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
    schedule = NoiseSchedule.from_dict(config("sd15.scheduler"))
    weights, active = term_weights([[1 - AUDIO_WEIGHT], [AUDIO_WEIGHT]], [[0], [0]], STEPS, schedule)
    terms = [
        denoise.Term(ours[None], np.full(1, GUIDANCE, np.float32), w)
        for (_, ours), w in zip(texts.values(), weights, strict=True)
    ]
    rows = solver_table(schedule, STEPS, "ddim")
    state = denoise.initial_state(jnp.asarray(x))
    return denoise.denoise(models, terms, rows, active, state, np.int32(0), np.int32(STEPS)).x


call = jax.jit(lambda model, x: model(x))


if __name__ == "__main__":
    main()
