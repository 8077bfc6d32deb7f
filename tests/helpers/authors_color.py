"""The authors' factorized colorization in PyTorch, with the steps of diffusers."""

import diffusers
import numpy as np
import torch

from its_jax.colorize import factorized
from its_jax.diffusion import ddpm
from tests.helpers.torch_twins import read


def torch_side(a):
    """Converts `[b, h, w, c]` to `[b, c, h, w]`."""
    return torch.from_numpy(np.moveaxis(np.asarray(a), -1, 1).copy())


def jax_side(a):
    """Converts `[b, c, h, w]` to `[b, h, w, c]`."""
    return np.moveaxis(a.numpy(), 1, -1)


def mean(a):
    """Computes L: the mean over channels, on each of them."""
    return a.mean(dim=1, keepdim=True).expand_as(a)


def stage(number, gray, predict, scale, seeds, steps, monkeypatch, *, small=None, start=None):
    """Runs one stage with two components; each contributes twice its part of the noise, and the mean counts.

    Args:
      gray: `[b h w 1]` in [-1, 1].
      predict: `(x [b h w c], t, prompt)` -> prediction `[b h w 6]` for the negative (0) or the positive (1) prompt.
      small: the noised image of the first stage, `[b 3 h w]`.
      start: the step at which x is reset to the noised gray image.
    """
    scheduler = diffusers.DDPMScheduler.from_config(read("configs", f"if_{'i' * number}.scheduler"))
    scheduler.alphas_cumprod = torch.from_numpy(ddpm.DDPMSchedule.from_dict(scheduler.config).alphas_cumprod())
    scheduler.set_timesteps(steps)
    shape = (*gray.shape[1:3], 3)
    components = mean, lambda a: a - mean(a)

    def draw(use, k):
        return torch_side(factorized.draw(seeds, number, use, k, shape))

    gray, scale = torch_side(gray).expand(-1, 3, -1, -1), torch.from_numpy(np.asarray(scale))[:, None, None, None]
    x = draw(factorized.START, 0)
    for k, t in enumerate(scheduler.timesteps):
        if k == start:
            x = scheduler.add_noise(gray, draw(factorized.START, 0), t).float()
        reference = scheduler.add_noise(gray, draw(factorized.GRAY, k), t).float()
        x = components[0](reference) + components[1](x)
        eps, v = [], []
        for component in components:
            inputs = jax_side(x if small is None else torch.cat([x, small], dim=1))
            predictions = [torch_side(predict(inputs, int(t), prompt)).split(3, dim=1) for prompt in (0, 1)]
            (negative, _), (positive, variance) = predictions
            eps.append(2 * component(negative + scale * (positive - negative)))
            v.append(variance)
        output = torch.cat([torch.stack(eps).mean(dim=0), torch.stack(v).mean(dim=0)], dim=1)
        noise = draw(factorized.STEP, k)
        monkeypatch.setattr(diffusers.schedulers.scheduling_ddpm, "randn_tensor", lambda *_, noise=noise, **__: noise)
        x = scheduler.step(output, t, x).prev_sample.float()
    return jax_side(x)
