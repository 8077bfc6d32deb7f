"""Score distillation (SDS; DreamFusion, arXiv 2209.14988): a grey picture is optimised until all models find it likely.

Each sample is a small network of its own that knows the picture by its coordinates. At each iteration each model is
given the picture, noised, and says how it would change it; AdamW follows the sum of that. Numbers are those of the
authors of Images that Sound, who use it as a baseline.

    b        samples; parameters, statistics and moments are each sample's own
    H W      pixels of the spectrogram
    z        [b h w c] the picture's scaled latent, drawn from the encoder's posterior
    t        [b] training timestep, drawn anew at each iteration

What a model asks for is `model.gradient(term, scale, picture, keys)`, `[b H W]`: `LatentModel` is one such, and
`PixelModel` of `crops.py` is another.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array, lax

from its_jax import denoise
from its_jax.models.layers import List
from its_jax.models.unet import Prepared
from its_jax.models.vae import AutoencoderKL

FEATURES, FEATURE_SCALE, WIDTH = 128, 10.0, 256
NORM_EPSILON = 1e-5  # PyTorch's
WEIGHT_DECAY = 1e-3
NOISE_LEVELS = 0.02, 0.98  # of the training timesteps, the first and the last that are drawn


class BatchNorm(nnx.Module):
    """With the statistics of the picture's own pixels, in training and after."""

    def __init__(self, features):
        self.scale, self.bias = nnx.Param(jnp.ones(features)), nnx.Param(jnp.zeros(features))

    def __call__(self, x):
        """`[n, features]`."""
        mean = x.mean(axis=0)
        factor = lax.rsqrt(jnp.square(x - mean).mean(axis=0) + NORM_EPSILON) * self.scale[...]
        return (x - mean) * factor + self.bias[...]


class Network(nnx.Module):
    """Fourier features of pixels `[n, 2 * FEATURES]` -> their brightness `[n]` in [0, 1]; begins as PyTorch's would."""

    def __init__(self, *, rngs):
        def linear(features_in, features_out):
            return nnx.Linear(features_in, features_out, kernel_init=_kernel, bias_init=_bias, rngs=rngs)

        self.convs = List([linear(2 * FEATURES, WIDTH), linear(WIDTH, WIDTH), linear(WIDTH, 1)])
        self.norms = List([BatchNorm(WIDTH) for _ in range(2)])

    def __call__(self, x):
        for conv, norm in zip(self.convs[:-1], self.norms, strict=True):
            x = norm(nnx.relu(conv(x)))
        return nnx.sigmoid(self.convs[-1](x))[:, 0]


_kernel = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # to 1 / sqrt(inputs) on either side


def _bias(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, -(WIDTH**-0.5), WIDTH**-0.5)  # all layers have as many inputs


def draw(network: Network, frequencies: Array, height: int, width: int) -> Array:
    """The picture `[H, W]` in [0, 1] that a network knows, at `frequencies` `[2, FEATURES]` (arXiv 2006.10739)."""
    rows, columns = jnp.arange(height) / height, jnp.arange(width) / width
    places = jnp.stack(jnp.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
    angles = 2 * jnp.pi * jnp.matmul(places, frequencies, precision=lax.Precision.HIGHEST)
    return network(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)).reshape(height, width)


class State(NamedTuple):
    """All that a run needs to go on with the same bits; every leaf begins with `b`."""

    network: Network
    frequencies: Array  # [b 2 FEATURES]
    moments: Any
    failed_at: Array  # [b] int32, first iteration whose picture was not finite, -1 if none


def initial_state(seeds: Array) -> State:
    """From uint32 seeds `[b]`; a sample depends on its own seed only."""

    def of_seed(seed):
        key, frequencies = jax.random.split(_keys(seed)[0])
        network = Network(rngs=nnx.Rngs(key))
        frequencies = FEATURE_SCALE * jax.random.normal(frequencies, (2, FEATURES))
        return State(network, frequencies, _optimizer(0.0).init(network), jnp.int32(-1))

    return jax.vmap(of_seed)(seeds)


def _keys(seed):
    """For the beginning, and for the iterations."""
    return jax.random.split(jax.random.key(seed, impl="threefry2x32"))


def _optimizer(learning_rate):
    return optax.adamw(learning_rate, weight_decay=WEIGHT_DECAY)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LatentModel:
    """A diffusion model of latents, and the encoder that leads there."""

    unet: Prepared
    vae: AutoencoderKL
    alphas_cumprod: Array  # [timesteps] float32

    def gradient(self, term: denoise.Term, scale: Array, picture: Array, keys: Array) -> Array:
        """That of 0.5 |z - stop(z - g)|^2 with g = w(t) (eps_hat - eps), w = 1 - alphas_cumprod, `[b H W]`.

        With respect to z it is g itself, so nothing is differentiated but the encoder.

        Args:
          term: texts, view and windows. scale: `[b]`, of guidance. picture: `[b H W]`. keys: `[b]`.
        """
        of_posterior, of_t, of_eps = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0)
        low, high = noise_range(self.alphas_cumprod)

        def latent(picture, key):
            seen = term.view.look(jnp.repeat(picture[None, :, :, None], 3, axis=-1))
            z = self.vae.encode(seen * 2 - 1).sample(key).astype(jnp.float32) * self.vae.config.scaling_factor
            return term.view.back(z)[0]

        # One sample after the other: what the encoder keeps for its gradient takes much memory.
        z = lax.map(lambda sample: latent(*sample), (picture, of_posterior))
        t = jax.vmap(lambda key: jax.random.randint(key, (), low, high + 1))(of_t)
        eps = jax.vmap(lambda key: jax.random.normal(key, z.shape[1:]))(of_eps)
        g = distilled(self, term, scale, z, t, eps)

        def pulled_back(sample):
            picture, key, g = sample
            return jax.vjp(lambda picture: latent(picture, key), picture)[1](g)[0]

        return lax.map(pulled_back, (picture, of_posterior, g))


def distilled(model: LatentModel, term: denoise.Term, scale: Array, z: Array, t: Array, eps: Array) -> Array:
    """w(t) (eps_hat - eps), `[b h w c]`, where eps_hat is the guided noise in sqrt(a) z + sqrt(1 - a) eps.

    Args:
      scale: `[b]`, of guidance. z, eps: `[b h w c]`. t: `[b]` int32.
    """
    a = model.alphas_cumprod[t][:, None, None, None]
    x = jnp.sqrt(a) * z + jnp.sqrt(1 - a) * eps

    def predict(x, _, text):
        return model.unet.each(x, jnp.repeat(t, len(x) // len(t)), text)

    term = dataclasses.replace(term, guidance_scale=scale)
    predicted, _ = denoise.guided_noise(predict, x, jnp.int32(0), term)
    return weighted(a, predicted, eps)


def weighted(a: Array, predicted: Array, eps: Array) -> Array:
    """w(t) (eps_hat - eps), `[b h w c]`, of which numbers that are not finite count as zero.

    Args:
      a: alphas_cumprod at t, `[]` or `[b 1 1 1]`. predicted, eps: `[b h w c]`.
    """
    g = (1 - a) * (predicted - eps)
    # A model that gives nothing finite at all is broken: that must not pass for a gradient of zero.
    return jnp.where(jnp.isfinite(predicted).any(axis=(1, 2, 3), keepdims=True), jnp.nan_to_num(g), jnp.nan)


def noise_range(alphas_cumprod: Array) -> tuple[int, int]:
    """The first and the last timestep that are drawn."""
    low, high = (round(level * len(alphas_cumprod)) for level in NOISE_LEVELS)
    return low, high


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guide:
    """What one model is asked, and when; the model itself stands at the same place in `models`."""

    term: denoise.Term
    weight: Array  # [b]
    guidance_scale: Array  # [b]
    steps: Array  # [b 2] int32, first iteration and the one after the last
    guided_steps: Array  # [b 2], of them those with guidance


def optimise(
    models: Sequence[Any],
    guides: Sequence[Guide],
    state: State,
    learning_rate: Array,
    seeds: Array,
    first: Array,
    last: Array,
    *,
    size: tuple[int, int],
) -> State:
    """Runs iterations first, ..., last - 1; cut into several calls it keeps its bits.

    Args:
      learning_rate: `[b]`. seeds: uint32 `[b]`. size: height and width.
    """

    def iteration(k, state):
        picture = pictures(state, size=size)
        gradient = jnp.zeros_like(picture)
        keys = jax.vmap(lambda seed: jax.random.fold_in(_keys(seed)[1], k))(seeds)
        for i, (model, guide) in enumerate(zip(models, guides, strict=True)):
            own = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys)
            gradient = gradient + _share(model, guide, picture, own, k)
        return _step(state, picture, gradient, learning_rate, k)

    return lax.fori_loop(first, last, iteration, state)


def pictures(state: State, *, size: tuple[int, int]) -> Array:
    """What the networks know, `[b H W]`."""
    return lax.map(lambda sample: draw(*sample, *size), (state.network, state.frequencies))


def _share(model, guide, picture, keys, k):
    """Of one model in the gradient; it is not asked where it takes no part in any sample."""
    weight = jnp.where(_within(guide.steps, k), guide.weight, 0.0)
    scale = jnp.where(_within(guide.guided_steps, k), guide.guidance_scale, 1.0)

    def share():
        gradient = model.gradient(guide.term, scale, picture, keys)
        w = weight[:, None, None]
        # A weight of zero times what is not finite would still spoil the sample.
        return jnp.where(w > 0, w * gradient, 0.0)

    return lax.cond((weight > 0).any(), share, lambda: jnp.zeros_like(picture))


def _within(steps, k):
    return (steps[:, 0] <= k) & (k < steps[:, 1])


def _step(state, picture, gradient, learning_rate, k):
    height, width = picture.shape[1:]

    def of_sample(sample):
        network, frequencies, moments, gradient, learning_rate = sample
        _, pull_back = jax.vjp(lambda network: draw(network, frequencies, height, width), network)
        updates, moments = _optimizer(learning_rate).update(*pull_back(gradient), moments, network)
        return optax.apply_updates(network, updates), moments

    network, moments = lax.map(of_sample, (state.network, state.frequencies, state.moments, gradient, learning_rate))
    fails = ~jnp.isfinite(picture).all(axis=(1, 2))
    failed_at = jnp.where(fails & (state.failed_at < 0), k, state.failed_at)
    return State(network, state.frequencies, moments, failed_at)
