"""Random weights under which no activation fades out or explodes, however deep the module."""

import torch


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The module, filled so that every branch and nonlinearity counts, norms' scales and all biases included.

    Weights are normal with variance 1 / fan-in, so that each layer keeps the scale of what it is given; norms' scales
    are 1 and biases 0, but for normal noise of deviation 0.2.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim > 1:
                p.copy_(noise / p[0].numel() ** 0.5)
            else:
                p.copy_(0.2 * noise + ("norm" in name and name.endswith("weight")))
    return module.eval()


def randomised_t5(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """`randomised`, with the scales that T5 begins with: its scores are not divided by the root of a head's size, and
    tokens go into the sum as they are."""
    config = randomised(module, seed).config
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name.endswith("SelfAttention.q.weight"):
                p /= config.d_kv**0.5
            elif name == "shared.weight":
                p *= config.d_model**0.5
    return module
