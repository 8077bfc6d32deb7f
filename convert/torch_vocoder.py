"""HiFi-GAN's generator in PyTorch, the reference for ours, because no package that we require contains it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


class TorchResBlock(torch.nn.Module):
    """A residual block of HiFi-GAN, of kind "1" (pairs of convolutions) or "2"."""

    def __init__(self, kind, width, kernel, dilations):
        super().__init__()

        def convs(spacings):
            return torch.nn.ModuleList(
                torch.nn.Conv1d(width, width, kernel, dilation=d, padding="same") for d in spacings
            )

        self.paired = kind == "1"
        if self.paired:
            self.convs1, self.convs2 = convs(dilations), convs([1] * len(dilations))
        else:
            self.convs = convs(dilations)

    def forward(self, x):
        branches = zip(self.convs1, self.convs2, strict=True) if self.paired else zip(self.convs, strict=True)
        for branch in branches:
            h = x
            for conv in branch:
                h = conv(torch.nn.functional.leaky_relu(h, 0.1))
            x = x + h
        return x


class TorchGenerator(torch.nn.Module):
    """HiFi-GAN's generator as its paper and state dict describe it: `[b, mels, frames]` -> `[b, 1, samples]`."""

    def __init__(self, sizes: Mapping[str, Any]):
        super().__init__()
        width = sizes["upsample_initial_channel"]
        self.conv_pre = torch.nn.Conv1d(sizes["num_mels"], width, 7, padding=3)
        self.ups, self.resblocks = torch.nn.ModuleList(), torch.nn.ModuleList()
        for rate, kernel in zip(sizes["upsample_rates"], sizes["upsample_kernel_sizes"], strict=True):
            up = torch.nn.ConvTranspose1d(width, width // 2, kernel, rate, padding=(kernel - rate) // 2)
            self.ups.append(up)
            width //= 2
            for k, dilations in zip(sizes["resblock_kernel_sizes"], sizes["resblock_dilation_sizes"], strict=True):
                self.resblocks.append(TorchResBlock(sizes["resblock"], width, k, dilations))
        self.conv_post = torch.nn.Conv1d(width, 1, 7, padding=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_pre(x)
        stages = np.array_split(np.arange(len(self.resblocks)), len(self.ups))
        for up, stage in zip(self.ups, stages, strict=True):
            x = up(torch.nn.functional.leaky_relu(x, 0.1))
            x = torch.stack([self.resblocks[j](x) for j in stage]).mean(dim=0)
        return torch.tanh(self.conv_post(torch.nn.functional.leaky_relu(x)))
