"""Other steps of two models than by the weighted average of their guided noises: what `bench.success` tries.

Arrays of terms are `[terms b ...]`: n, the noise without a prompt; d, what the prompt adds to it; w, weights that
sum to 1; s, guidance scales.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from its_jax.diffusion import denoise


def parts(model, x, t, term):
    """n and d of one model, float32 like x `[b h w c]`."""
    texts = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), term.texts)
    eps = model(jnp.repeat(x, 2, axis=0), jnp.full(2 * len(x), t), texts)
    eps = eps.astype(jnp.float32).reshape(len(x), 2, *x.shape[1:])
    return eps[:, 0], eps[:, 1] - eps[:, 0]


def fusing(combine):
    """`denoise.denoise` with the parts joined by `combine(n, d, w, s)`; terms of weight 0 are not evaluated."""

    def fuse(models, x, t, terms, k, chosen, inner=None):
        zeros = jnp.zeros_like(x), jnp.zeros_like(x)
        found = [
            lax.cond(way > 0, functools.partial(parts, model, x, t, term), lambda: zeros)
            for model, term, way in zip(models, terms, chosen, strict=True)
        ]
        n, d = (jnp.stack(of) for of in zip(*found, strict=True))
        w = jnp.stack([term.weights[:, k] for term in terms])
        s = jnp.stack([term.guidance_scale[:, k] for term in terms])
        return combine(n, d, w / w.sum(axis=0), s), inner

    return functools.partial(denoise.denoise, fuse=fuse)


def spread(a):
    return a[..., None, None, None]


def norm(a):
    return jnp.sqrt(jnp.sum(a**2, axis=(-3, -2, -1)))


def plain(n, d, w, s):
    return jnp.sum(spread(w) * (n + spread(s) * d), axis=0)


def balanced(power, n, d, w, s):
    """Directions whose norms are alike at power 1; at -1 the longer one is made longer."""
    size = norm(d)
    mean = jnp.sum(w * size, axis=0)
    return plain(n, d, w, s * jnp.where(size > 0, mean / jnp.maximum(size, 1e-12), 1) ** power)


def restored(power, n, d, w, s):
    """An average that has the mean norm of what it averages, at power 1."""
    total, size = plain(n, d, w, s), jnp.sum(w * norm(n + spread(s) * d), axis=0)
    return total * spread((size / norm(total)) ** power)


def agreeing(n, d, w, s):
    """Of directions that oppose each other, without what does (arXiv 2001.06782); of two terms."""
    dot = jnp.sum(d[0] * d[1], axis=(-3, -2, -1))
    share = jnp.minimum(dot, 0) / jnp.maximum(norm(d[::-1]) ** 2, 1e-12)
    return plain(n, d - spread(share) * d[::-1], w, s)


def local(power, n, d, w, s):
    """Weights that differ from place to place: more to the model whose direction is longer there."""
    energy = jnp.sqrt(jnp.mean(d**2, axis=-1, keepdims=True)) ** power
    share = spread(w) * energy
    total = jnp.sum(share, axis=0)
    share = jnp.where(total > 0, share / jnp.maximum(total, 1e-12), spread(w))
    return jnp.sum(share * (n + spread(s) * d), axis=0)


def _keys(x, k):
    """A key for each sample and step, from its own latent."""
    seeds = lax.bitcast_convert_type(x[:, 0, 0, 0], jnp.uint32)
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), k))(seeds)


def _noise(x, k):
    return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(_keys(x, k))


def langevin(size, noise, x, k, sigma, eps_of):
    """Replaces a share of the noise in x by fresh noise: a step of annealed Langevin dynamics, of step size
    `size` sigma^2, whose fresh noise is `noise` times what keeps the variance."""
    fresh = noise * (2 * size - size**2) ** 0.5
    return x - size * sigma * eps_of(x) + fresh * sigma * _noise(x, k)


def hamiltonian(size, leaps, x, k, sigma, eps_of):
    """Leapfrog steps of size `size` sigma from a fresh momentum, none refused; one evaluation each."""
    v = _noise(x, k) - size / 2 * eps_of(x)
    for i in range(leaps):
        x = x + size * sigma * v
        v = v - size * eps_of(x) if i < leaps - 1 else v
    return x


def corrected(correct, count, first_share=0.0, last_share=1.0):
    """`denoise.denoise` with `count` corrections before each step of a stretch of the steps."""

    def program(models, terms, rows, chosen, state, first, last, known):
        steps = jnp.sum(jnp.isfinite(rows.alpha))

        def step(k, state):
            row = jax.tree.map(lambda column: column[k], rows)

            def eps_of(x):
                return denoise.fused_noise(models, x, row.t, terms, k, chosen[:, k])[0]

            def once(i, x):
                return correct(x, k * 16 + i, row.sigma, eps_of)

            inside = (k >= first_share * steps) & (k < last_share * steps)
            x = lax.fori_loop(0, jnp.where(inside, count, 0), once, state.x)
            return denoise.denoise(models, terms, rows, chosen, state._replace(x=x), k, k + 1, known)

        return lax.fori_loop(first, last, step, state)

    return program
