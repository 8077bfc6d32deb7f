"""The authors' factorised colouring in PyTorch, with diffusers' steps."""

import diffusers
import numpy as np
import torch

from its_jax.colorize import factorized
from its_jax.diffusion import ddpm
from tests.helpers.torch_twins import read


def torch_side(a):
    """`[b, h, w, c]` -> `[b, c, h, w]`."""
    return torch.from_numpy(np.moveaxis(np.asarray(a), -1, 1).copy())


def jax_side(a):
    return np.moveaxis(a.numpy(), 1, -1)


def mean(a):
    """L: the mean over channels, on each of them."""
    return a.mean(dim=1, keepdim=True).expand_as(a)


def stage(number, grey, ask, scale, seeds, steps, monkeypatch, *, small=None, start=None):
    """One stage's loop: two views, whose noise predictions are averaged after each took twice its part.

    Args:
      grey: `[b h w 1]` in [-1, 1]. ask: `(x [b h w c], t, which)` -> prediction `[b h w 6]` for the negative (0) or the
        positive (1) prompt. small: noised picture of the first stage, `[b 3 h w]`.
      start: the step at which x is reset to the noised grey picture.
    """
    scheduler = diffusers.DDPMScheduler.from_config(read("configs", f"if_{'i' * number}.scheduler"))
    scheduler.alphas_cumprod = torch.from_numpy(ddpm.DDPMSchedule.from_dict(scheduler.config).alphas_cumprod())
    scheduler.set_timesteps(steps)
    shape = (*grey.shape[1:3], 3)
    drawn = lambda use, k: torch_side(factorized.draw(seeds, number, use, k, shape))  # noqa: E731
    parts = mean, lambda a: a - mean(a)
    grey, scale = torch_side(grey).expand(-1, 3, -1, -1), torch.from_numpy(np.asarray(scale))[:, None, None, None]
    x = drawn(factorized.START, 0)
    for k, t in enumerate(scheduler.timesteps):
        if k == start:
            x = scheduler.add_noise(grey, drawn(factorized.START, 0), t).float()
        reference = scheduler.add_noise(grey, drawn(factorized.GRAY, k), t).float()
        x = parts[0](reference) + parts[1](x)
        eps, v = [], []
        for part in parts:
            seen = jax_side(x if small is None else torch.cat([x, small], dim=1))
            (negative, _), (positive, variance) = (torch_side(ask(seen, int(t), i)).split(3, dim=1) for i in (0, 1))
            eps.append(2 * part(negative + scale * (positive - negative)))
            v.append(variance)
        output = torch.cat([torch.stack(eps).mean(dim=0), torch.stack(v).mean(dim=0)], dim=1)
        noise = drawn(factorized.STEP, k)
        monkeypatch.setattr(diffusers.schedulers.scheduling_ddpm, "randn_tensor", lambda *_, noise=noise, **__: noise)
        x = scheduler.step(output, t, x).prev_sample.float()
    return jax_side(x)
