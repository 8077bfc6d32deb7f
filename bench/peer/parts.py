"""The work that `bench.peer` times: each part as a call of ours and one of PyTorch's, with the same weights and inputs.

unet      one UNet on pairs of negative and positive prompt, as each side's loop calls it. Ours receives the texts' keys
          and values and the timesteps' features, which are computed once for all steps. PyTorch's call computes them.
vae       decoding of latents vocoder   conversion of spectrograms to audio embedded  samples of configs/default.py with
the embedded models, from prompts to arrays of images and audio sample    the same with `--config` and the models of
`--models` authors   the same on our side, against the authors' loop: float16, one sample at a time
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from bench.command import ROOT
from bench.parity.compare import to_ours
from bench.peer import samples
from bench.published import read_config
from configs import default
from convert.torch_vocoder import TorchGenerator
from its_jax.benchmark import measure
from its_jax.benchmark.flops import count_flops
from its_jax.diffusion.feature_cache import Mode
from its_jax.models import backends, registry
from its_jax.pipeline import prompts
from tests.helpers.random_weights import randomize

HEIGHT, WIDTH, TOKENS = 256, 1024, 77
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FULL_SIZE = ROOT / "configs" / "sd15_auffusion.py"

Run = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the command that a part may need.

    Attributes:
      config: settings of whole samples. models: folder of their models. steps: replaces the config's number, if given.
    """

    config: Mapping[str, Any]
    models: Path
    dtype: str
    steps: int | None = None


@dataclasses.dataclass(frozen=True)
class Work:
    """A part at one batch size. Nothing is loaded before it is called.

    Attributes:
      ours: makes our call. theirs: makes PyTorch's, as a function of what wraps modules, such as `torch.compile`.
      samples: how many samples a call of ours and one of PyTorch's make.
      count_flops: counts the floating-point operations of a sample in products, with plain layers.
      forms: the forms of PyTorch that the part has; None means all.
    """

    ours: Callable[[], Run]
    theirs: Callable[[], Callable[[Callable], Run]]
    samples: tuple[int, int]
    count_flops: Callable[[], int]
    forms: tuple[str, ...] | None = None


def unet(b: int, options: Options) -> Work:
    """Returns the work of one UNet on `b` pairs."""
    x, text, t = normal(2 * b, HEIGHT // 8, WIDTH // 8, 4), normal(2 * b, TOKENS, 768, seed=1), np.full(2 * b, 501)

    def make_ours():
        model = prompts.precompute_unet(our_module("unet", "sd15.unet", options.dtype), 1000)
        texts = jax.jit(lambda model, text: model.unet.project_text(text))(model, text)
        return our_call(lambda model, *inputs: model(*inputs), model, x, t, texts)

    def make_theirs():
        twin = their_module("unet", "sd15.unet", options.dtype)
        inputs = to_theirs(x, twin.dtype), torch.from_numpy(t), torch.from_numpy(text).to(twin.dtype)
        return their_call(lambda x, t, text: twin(x, t, text, return_dict=False), *inputs)

    def count():
        model = plain_module("unet", "sd15.unet")
        texts = jax.eval_shape(lambda model, text: model.project_text(text), model, text[:2])
        return measure.evaluation_flops(model, Mode(guided=True, cached=False), x[:2], texts)

    return Work(make_ours, make_theirs, (b, b), count)


def vae(b: int, options: Options) -> Work:
    """Returns the work of decoding `b` latents."""
    z = normal(b, HEIGHT // 8, WIDTH // 8, 4)

    def make_theirs():
        twin = their_module("vae", "sd15.vae", options.dtype)
        return their_call(lambda z: twin.decode(z, return_dict=False), to_theirs(z, twin.dtype))

    return module_work(b, options, "vae", "sd15.vae", lambda model, z: model.decode(z), z, make_theirs)


def vocoder(b: int, options: Options) -> Work:
    """Returns the work of vocoding `b` spectrograms."""
    mel = np.random.default_rng(0).uniform(-3, 3, (b, WIDTH, HEIGHT)).astype(np.float32)

    def make_theirs():
        twin = their_module("vocoder", "auffusion.vocoder", options.dtype)
        return their_call(twin, to_theirs(mel, getattr(torch, options.dtype)))

    return module_work(b, options, "vocoder", "auffusion.vocoder", lambda model, x: model(x), mel, make_theirs)


def module_work(b, options, part, name, function, x, make_theirs):
    """Returns the work of one call of our module."""
    return Work(
        lambda: our_call(function, our_module(part, name, options.dtype), x),
        make_theirs,
        (b, b),
        lambda: count_flops(function, plain_module(part, name), x[:1]),
    )


def sample(b: int, options: Options, *, authors: bool = False, pipeline: Callable = samples.Ours) -> Work:
    """Returns the work of `b` whole samples, against PyTorch's best or against the authors' loop."""
    settings = samples.comparable_settings(options.config, options.models, options.dtype, options.steps)
    ours = functools.cache(lambda: pipeline(settings, b))

    def make_ours():
        return with_new_prompts(ours(), settings, b)

    def make_theirs():
        dtype = torch.float16 if authors else getattr(torch, options.dtype)
        theirs = samples.Theirs(settings, DEVICE, dtype, tuned=not authors)
        size = 1 if authors else b
        noise = theirs.noise(samples.batch(settings, size, 0)).to(dtype if authors else torch.float32)
        return lambda wrap: with_new_prompts(functools.partial(theirs.wrapped(wrap), noise=noise), settings, size)

    def count():
        return ours().count_flops(samples.batch(settings, 1, 0)[0])

    return Work(make_ours, make_theirs, (b, 1 if authors else b), count, ("eager",) if authors else None)


def embedded(b: int, options: Options) -> Work:
    """Returns the work of `b` whole samples with the embedded models."""
    config = default.get_config().to_dict()
    return sample(b, dataclasses.replace(options, config=config, models=samples.EMBEDDED))


# Part -> its work, and the batch size if none is given.
WORK: dict[str, tuple[Callable[[int, Options], Work], int]] = {
    "unet": (unet, 1),
    "vae": (vae, 1),
    "vocoder": (vocoder, 1),
    "embedded": (embedded, 4),
    "sample": (sample, 1),
    "authors": (functools.partial(sample, authors=True), 1),
}


def with_new_prompts(run: Callable, settings: Mapping[str, Any], b: int) -> Run:
    """Returns a call that has new prompts each time. The first call's prompts are the same on either side."""
    numbers = itertools.count()
    return lambda: run(samples.batch(settings, b, next(numbers)))


def random_module(part, name, dtype):
    """Returns PyTorch's module with random weights."""
    classes = {"unet": diffusers.UNet2DConditionModel.from_config, "vae": diffusers.AutoencoderKL.from_config}
    torch.set_default_dtype(getattr(torch, dtype))  # so that it never takes more memory than in that dtype
    twin: Any = randomize((classes | {"vocoder": TorchGenerator})[part](read_config(name)))
    torch.set_default_dtype(torch.float32)
    return twin


def their_module(part, name, dtype):
    return random_module(part, name, dtype).to(DEVICE, memory_format=torch.channels_last)


def our_module(part, name, dtype):
    """Returns our module with the same weights, specialized for the device as in a pipeline."""
    model = to_ours(part, read_config(name), random_module(part, name, dtype), jnp.dtype(dtype))
    backends.specialize(model, prepare=part == "unet")
    return model


def plain_module(part, name):
    return registry.abstract_module(part, read_config(name), jnp.dtype("float32"), name=part)


def our_call(function, *inputs):
    """Returns a call of the jitted function that waits for the result, with inputs on the device."""
    jitted, inputs = jax.jit(function), jax.device_put(inputs)
    return lambda: jax.block_until_ready(jitted(*inputs))


def their_call(function, *inputs):
    """Returns a function of a wrapper that makes a call like `our_call`, without gradients."""
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


def to_theirs(array, dtype):
    """Moves the last axis to the second place; images stay channels last in memory."""
    tensor = torch.from_numpy(np.moveaxis(array, -1, 1)).to(dtype)
    return tensor.contiguous(memory_format=torch.channels_last if array.ndim == 4 else torch.contiguous_format)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)
