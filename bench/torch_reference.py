"""The paper's procedure in PyTorch, with the classes of diffusers and transformers, and HiFi-GAN's in PyTorch.

    python -m bench.torch_reference --image=its_jax/tiny/weights/image --audio=its_jax/tiny/weights/audio \\
        --image_prompt="a painting of trees, grayscale" --audio_prompt="train whistling" --height=128 --width=512 \\
        --num_steps=50 --image_start_step=5 --image_guidance_scale=4 --audio_guidance_scale=4 --out=reference

writes `image.png`, `spectrogram.png` and `audio.wav`. Defaults are the settings of the paper's authors, at which a
sample of the real models takes about half an hour on a CPU. All but the initial noise is float32.

    h w      latent height and width; the picture has H = 8 h rows and W = 8 w columns
    n d      tokens of a text and their features
    k t      step 0, 1, ... and its timestep
    x eps    [1 4 h w] latent and predicted noise
    w        the audio model's share of a step
"""

import argparse
import inspect
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import diffusers
import numpy as np
import safetensors.torch
import soundfile
import torch
import transformers
from PIL import Image
from torch import Tensor

from convert.torch_vocoder import TorchGenerator

LOG_MIN, LOG_MAX = math.log(1e-5), math.log(200)  # of black and white, unless the vocoder's config.json has others


class Sample(NamedTuple):
    """What comes out, as float32 arrays."""

    latents: np.ndarray  # [h w 4]
    picture: np.ndarray  # [H W 3] in [0, 1]
    spectrogram: np.ndarray  # [H W] in [0, 1], row 0 the highest mel
    waveform: np.ndarray  # [samples] in [-1, 1]


@torch.no_grad()
def sample(
    image: str,
    audio: str,
    *,
    image_prompt: str,
    audio_prompt: str,
    image_negative_prompt: str = "",
    audio_negative_prompt: str = "",
    seed: int = 0,
    height: int = 256,
    width: int = 1024,
    num_steps: int = 100,
    image_guidance_scale: float = 10.0,
    audio_guidance_scale: float = 10.0,
    image_start_step: int = 10,
    audio_start_step: int = 0,
    audio_weight: float = 0.5,
) -> Sample:
    """One sample of two model folders in diffusers' layout, of which `audio` has a vocoder too.

    Args:
      height, width: of the picture, in pixels = mel bands and frames.
      image_start_step, audio_start_step: the first step, of `num_steps`, at which the model takes part.
      audio_weight: w; the image model's share is 1 - w.
    """
    scheduler = diffusers.DDIMScheduler.from_pretrained(image, subfolder="scheduler")
    scheduler.set_timesteps(num_steps)
    image_vae, audio_vae = (open_part(diffusers.AutoencoderKL, folder, "vae") for folder in (image, audio))
    x = denoise(
        scheduler,
        [open_part(diffusers.UNet2DConditionModel, folder, "unet") for folder in (image, audio)],
        [encode(image, image_negative_prompt, image_prompt), encode(audio, audio_negative_prompt, audio_prompt)],
        initial_noise(seed, height, width, image_vae),
        guidance_scales=(image_guidance_scale, audio_guidance_scale),
        start_steps=(image_start_step, audio_start_step),
        audio_weight=audio_weight,
    )
    spectrogram = decode(audio_vae, x).mean(dim=1)
    waveform = vocode(Path(audio) / "vocoder", spectrogram)
    channels_last = (a.permute(0, 2, 3, 1) for a in (x, decode(image_vae, x)))
    return Sample(*(a[0].numpy() for a in (*channels_last, spectrogram, waveform)))


def open_part(part: type[diffusers.ModelMixin], folder: str, name: str) -> diffusers.ModelMixin:
    """A part of a model folder in float32, whatever it was saved in."""
    return part.from_pretrained(folder, subfolder=name, low_cpu_mem_usage=False).float()


def encode(folder: str, negative_prompt: str, prompt: str) -> Tensor:
    """Text features `[2 n d]` of a model folder's text encoder; no mask hides the padding."""
    tokenizer = transformers.CLIPTokenizer.from_pretrained(Path(folder) / "tokenizer")
    encoder = transformers.CLIPTextModel.from_pretrained(Path(folder) / "text_encoder").float()
    ids = tokenizer([negative_prompt, prompt], padding="max_length", truncation=True, return_tensors="pt").input_ids
    return encoder(ids).last_hidden_state


def initial_noise(seed: int, height: int, width: int, vae: diffusers.AutoencoderKL) -> Tensor:
    """x of step 0, drawn in float16 as the authors do."""
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    shape = (1, vae.config.latent_channels, height // factor, width // factor)
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float16).float()


def denoise(
    scheduler: diffusers.SchedulerMixin,
    unets: Sequence[diffusers.UNet2DConditionModel],
    texts: Sequence[Tensor],
    x: Tensor,
    *,
    guidance_scales: Sequence[float],
    start_steps: Sequence[int],
    audio_weight: float,
) -> Tensor:
    """The latents that the image and the audio model (all pairs are in this order) find together.

    Args:
      scheduler: after `set_timesteps`, of DDIM or another whose `step` returns `prev_sample`.
      texts: of each model `[2b n d]`, the negative ones first, in its dtype.
      x: noise `[b 4 h w]`, in the dtype that the solver computes in.

    Raises:
      ValueError: a step at which neither takes part.
    """
    x = x * scheduler.init_noise_sigma
    terms = list(zip(unets, texts, guidance_scales, start_steps, strict=True))
    for k, t in enumerate(scheduler.timesteps):
        eps = [guided_noise(unet, x, t, text, s) if k >= start else None for unet, text, s, start in terms]
        if eps == [None, None]:
            raise ValueError(f"no model takes part at step {k}: one must start by then")
        x = scheduler.step(fused_noise(*eps, audio_weight), t, x).prev_sample
    return x


def guided_noise(unet: diffusers.UNet2DConditionModel, x: Tensor, t: Tensor, text: Tensor, s: float) -> Tensor:
    """eps(negative) + s (eps(positive) - eps(negative))."""
    pair = torch.cat([x, x]).to(text.dtype)
    # The scheduler indexes its tables, which are on the host, without waiting for the device: t stays there for it.
    negative, positive = unet(pair, t.to(x.device), text, return_dict=False)[0].to(x.dtype).chunk(2)
    return negative + s * (positive - negative)


def fused_noise(image: Tensor | None, audio: Tensor | None, w: float) -> Tensor:
    """(1 - w) image + w audio, or the one that takes part alone."""
    if image is None or audio is None:
        return audio if image is None else image
    return (1 - w) * image + w * audio


def decode(vae: diffusers.AutoencoderKL, x: Tensor) -> Tensor:
    """Latents -> pictures `[b 3 H W]` in [0, 1]."""
    return (vae.decode(x / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def vocode(folder: str | Path, spectrogram: Tensor) -> Tensor:
    """Grey pictures `[b H W]` in [0, 1] -> waveforms `[b samples]`, with the vocoder of a folder.

    The spectrogram is vocoded as it comes. Ours is rounded to 256 levels before, so that its PNG holds what is heard.
    """
    return open_generator(folder)(log_mel(spectrogram, *log_range(folder)))[:, 0]


def log_range(folder: str | Path) -> tuple[float, float]:
    """The log-mel values of black and white, as the vocoder in a folder has them."""
    raw = json.loads((Path(folder) / "config.json").read_text())
    return raw.get("log_min", LOG_MIN), raw.get("log_max", LOG_MAX)


def log_mel(spectrogram: Tensor, low: float, high: float) -> Tensor:
    """Grey pictures `[b H W]` in [0, 1] -> log-mel spectrograms, whose row 0 is the lowest mel."""
    return spectrogram.flip(dims=[1]) * (high - low) + low


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


def write(made: Sample, folder: Path, sampling_rate: int) -> None:
    """`image.png`, `spectrogram.png` and `audio.wav`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in (("image", made.picture), ("spectrogram", made.spectrogram)):
        Image.fromarray(np.round(picture * 255).astype(np.uint8)).save(folder / f"{name}.png")
    soundfile.write(folder / "audio.wav", made.waveform, sampling_rate)


def main():
    parser = argparse.ArgumentParser(description=sample.__doc__.partition("\n")[0])
    for name, parameter in inspect.signature(sample).parameters.items():
        given = {"required": True} if parameter.default is parameter.empty else {"default": parameter.default}
        parser.add_argument(f"--{name}", type=parameter.annotation, **given)
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    settings = vars(parser.parse_args())
    out = settings.pop("out")
    rate = json.loads((Path(settings["audio"]) / "vocoder" / "config.json").read_text())["sampling_rate"]
    write(sample(**settings), out, rate)


if __name__ == "__main__":
    main()
