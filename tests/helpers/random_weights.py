"""Random weights under which no activation vanishes or explodes, however deep the module is."""

import torch


def randomize(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Fills a module so that every branch and nonlinearity matters, including norms' scales and all biases.

    Weights are normal with variance 1 / fan-in, so that each layer keeps the scale of its input; norms' scales
    are 1 and biases 0, plus normal noise of standard deviation 0.2.
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


def randomize_t5(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Calls `randomize` with the scales of T5's initialization.

    T5 does not divide its attention scores by the root of a head's size, and it does not scale token embeddings.
    """
    config = randomize(module, seed).config
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name.endswith("SelfAttention.q.weight"):
                p /= config.d_kv**0.5
            elif name == "shared.weight":
                p *= config.d_model**0.5
    return module
