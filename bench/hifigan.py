"""HiFi-GAN's generator in PyTorch, as its paper (Kong, Kim, Bae 2020) and its published state dict describe it."""

import json
from pathlib import Path

import numpy as np
import safetensors.torch
import torch


class TorchResBlock(torch.nn.Module):
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
    """The generator of a parsed `config.json`: log-mel `[b mels frames]` -> waveform `[b 1 samples]` in [-1, 1]."""

    def __init__(self, c):
        super().__init__()
        width = c["upsample_initial_channel"]
        self.conv_pre = torch.nn.Conv1d(c["num_mels"], width, 7, padding=3)
        self.ups, self.resblocks = torch.nn.ModuleList(), torch.nn.ModuleList()
        for rate, kernel in zip(c["upsample_rates"], c["upsample_kernel_sizes"], strict=True):
            up = torch.nn.ConvTranspose1d(width, width // 2, kernel, rate, padding=(kernel - rate) // 2)
            self.ups.append(up)
            width //= 2
            for k, dilations in zip(c["resblock_kernel_sizes"], c["resblock_dilation_sizes"], strict=True):
                self.resblocks.append(TorchResBlock(c["resblock"], width, k, dilations))
        self.conv_post = torch.nn.Conv1d(width, 1, 7, padding=3)

    def forward(self, x):
        x = self.conv_pre(x)
        stages = np.array_split(np.arange(len(self.resblocks)), len(self.ups))
        for up, stage in zip(self.ups, stages, strict=True):
            x = up(torch.nn.functional.leaky_relu(x, 0.1))
            x = torch.stack([self.resblocks[j](x) for j in stage]).mean(dim=0)
        return torch.tanh(self.conv_post(torch.nn.functional.leaky_relu(x)))


def open_generator(folder: str | Path) -> TorchGenerator:
    """The generator in a folder with `config.json` and `vocoder.pt` or `vocoder.safetensors`."""
    folder = Path(folder)
    generator = TorchGenerator(json.loads((folder / "config.json").read_text()))
    checkpoint = folder / "vocoder.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["generator"]
    else:
        state = safetensors.torch.load_file(folder / "vocoder.safetensors")
    for key in [key for key in state if key.endswith(".weight_g")]:  # magnitude; the direction is "weight_v"
        name = key.removesuffix("_g")
        magnitude, direction = state.pop(key), state.pop(f"{name}_v")
        state[name] = magnitude * direction / direction.norm(dim=(1, 2), keepdim=True)
    generator.load_state_dict(state)
    return generator.eval()
