"""The work that `bench.peer` times, each part as a call of ours and one of PyTorch's, from the same weights and inputs.

unet      one UNet on pairs of negative and positive prompt, as each side's loop calls it: ours with the texts' keys
          and values and with the timesteps' features made beforehand, once for all steps; PyTorch's whole call
vae       decoding latents
vocoder   spectrograms to sound
embedded  samples of configs/default.py with the embedded models, prompts to arrays of pictures and sounds
sample    samples of `--config` with the models of `--models`, likewise
authors   the same of ours, against the authors' loop: float16, one sample at a time
"""

import dataclasses
import functools
import itertools
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from bench import peer_sample
from bench.parity import ours_of
from bench.published import config
from convert.torch_vocoder import TorchGenerator
from its_jax.benchmark import measure
from its_jax.benchmark.flops import count_flops
from its_jax.diffusion.feature_cache import Mode
from its_jax.models import backends, registry
from its_jax.pipeline import prompts
from tests.helpers.random_weights import randomize

HEIGHT, WIDTH, TOKENS = 256, 1024, 77
DEFAULT = peer_sample.ROOT / "configs" / "default.py"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

Run = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Work:
    """A part at one size, not loaded yet.

    Attributes:
      ours: makes our call. theirs: makes PyTorch's, as a function of what wraps modules, such as `torch.compile`.
      samples: that a call of ours and one of PyTorch's make.
      flops: counts the floating-point operations of a sample in products, as the plain layers have them.
      forms: of PyTorch that it has; None is all.
    """

    ours: Callable[[], Run]
    theirs: Callable[[], Callable[[Callable], Run]]
    samples: tuple[int, int]
    count_flops: Callable[[], int]
    forms: tuple[str, ...] | None = None


def module(part, name, dtype):
    """PyTorch's class with random weights."""
    classes = {"unet": diffusers.UNet2DConditionModel.from_config, "vae": diffusers.AutoencoderKL.from_config}
    torch.set_default_dtype(getattr(torch, dtype))  # so that it is never larger than that
    twin = randomize((classes | {"vocoder": TorchGenerator})[part](config(name)))
    torch.set_default_dtype(torch.float32)
    return twin


def ours(part, name, dtype):
    model = ours_of(part, config(name), module(part, name, dtype), jnp.dtype(dtype))
    backends.specialize(model, prepare=part == "unet")  # as its_jax.pipeline.sampler does
    return model


def theirs(part, name, dtype):
    return module(part, name, dtype).to(DEVICE, memory_format=torch.channels_last)


def on_ours(function, *inputs):
    """A call of a jitted function with inputs on the device, which waits for the result."""
    jitted, inputs = jax.jit(function), jax.device_put(inputs)
    return lambda: jax.block_until_ready(jitted(*inputs))


def on_theirs(function, *inputs):
    """A wrapper -> a call without gradients with inputs on the device, which waits for the result."""
    inputs = [a.to(DEVICE) for a in inputs]

    def wrapped(wrap):
        wrapped_function = wrap(function)

        @torch.inference_mode()
        def run():
            result = wrapped_function(*inputs)
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            return result

        return run

    return wrapped


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def plain(part, name):
    return registry.abstract_module(part, config(name), jnp.dtype("float32"), name=part)


def unet(b, args):
    x, text, t = normal(2 * b, HEIGHT // 8, WIDTH // 8, 4), normal(2 * b, TOKENS, 768, seed=1), np.full(2 * b, 501)

    def make_ours():
        model = prompts.precompute_unet(ours("unet", "sd15.unet", args.dtype), 1000)
        texts = jax.jit(lambda model, text: model.unet.project_text(text))(model, text)
        return on_ours(lambda model, *inputs: model(*inputs), model, x, t, texts)

    def make_theirs():
        twin = theirs("unet", "sd15.unet", args.dtype)
        x_, text_ = (torch.from_numpy(a).to(twin.dtype) for a in (x.transpose(0, 3, 1, 2), text))
        x_ = x_.contiguous(memory_format=torch.channels_last)
        return on_theirs(lambda x, t, text: twin(x, t, text, return_dict=False), x_, torch.from_numpy(t), text_)

    def count():
        model = plain("unet", "sd15.unet")
        texts = jax.eval_shape(lambda model, text: model.project_text(text), model, text[:2])
        return measure.evaluation_flops(model, Mode(guided=True, cached=False), x[:2], texts)

    return Work(make_ours, make_theirs, (b, b), count)


def vae(b, args):
    z = normal(b, HEIGHT // 8, WIDTH // 8, 4)

    def make_ours():
        return on_ours(lambda model, z: model.decode(z), ours("vae", "sd15.vae", args.dtype), z)

    def make_theirs():
        twin = theirs("vae", "sd15.vae", args.dtype)
        z_ = torch.from_numpy(z.transpose(0, 3, 1, 2)).to(twin.dtype).contiguous(memory_format=torch.channels_last)
        return on_theirs(lambda z: twin.decode(z, return_dict=False), z_)

    def count():
        return count_flops(lambda model, z: model.decode(z), plain("vae", "sd15.vae"), z[:1])

    return Work(make_ours, make_theirs, (b, b), count)


def vocoder(b, args):
    mel = np.random.default_rng(0).uniform(-3, 3, (b, WIDTH, HEIGHT)).astype(np.float32)

    def make_ours():
        return on_ours(lambda model, mel: model(mel), ours("vocoder", "auffusion.vocoder", args.dtype), mel)

    def make_theirs():
        twin = module("vocoder", "auffusion.vocoder", args.dtype).to(DEVICE)
        return on_theirs(twin, torch.from_numpy(mel).mT.to(next(twin.parameters()).dtype).contiguous())

    def count():
        return count_flops(lambda model, mel: model(mel), plain("vocoder", "auffusion.vocoder"), mel[:1])

    return Work(make_ours, make_theirs, (b, b), count)


def sample(b, args, *, authors=False):
    settings = peer_sample.settings(args.config, args.models, args.dtype, args.steps)
    ours_once = functools.cache(lambda: peer_sample.Ours(settings, b))

    def make_ours():
        return _in_turn(ours_once(), settings, b)

    def make_theirs():
        dtype = torch.float16 if authors else getattr(torch, args.dtype)
        peer = peer_sample.Theirs(settings, DEVICE, dtype, channels_last=not authors, once=not authors)
        many = 1 if authors else b
        noise = peer.noise(peer_sample.batch(settings, many, 0)).to(dtype if authors else torch.float32)
        return lambda wrap: _in_turn(functools.partial(peer.wrapped(wrap), noise=noise), settings, many)

    def count():
        return sum(measure.stage_flops(ours_once().sampler, peer_sample.batch(settings, 1, 0)[0]).values())

    return Work(make_ours, make_theirs, (b, 1 if authors else b), count, ("eager",) if authors else None)


def _in_turn(run, settings, b):
    """A call that has prompts of its own each time, the first call's being the same on either side."""
    numbers = itertools.count()
    return lambda: run(peer_sample.batch(settings, b, next(numbers)))


def embedded(b, args):
    given = {"config": DEFAULT, "models": peer_sample.EMBEDDED, "dtype": args.dtype, "steps": args.steps}
    return sample(b, Namespace(**given))


# Part -> its work, and samples at once where none are given.
WORK: dict[str, tuple[Callable[..., Work], int]] = {
    "unet": (unet, 1),
    "vae": (vae, 1),
    "vocoder": (vocoder, 1),
    "embedded": (embedded, 4),
    "sample": (sample, 1),
    "authors": (functools.partial(sample, authors=True), 1),
}
FULL_SIZE = Path("configs/sd15_auffusion.py")
