"""The paper's procedure in PyTorch, with the classes of diffusers and transformers, and HiFi-GAN's generator.

    python -m bench.parity.torch_reference --image=its_jax/tiny/weights/image --audio=its_jax/tiny/weights/audio \\
        --image_prompt="a painting of trees, grayscale" --audio_prompt="train whistling" --height=128 --width=512 \\
        --num_steps=50 --image_start_step=5 --image_guidance_scale=4 --audio_guidance_scale=4 --out=reference

writes `image.png`, `spectrogram.png` and `audio.wav`. The defaults are the settings of the paper's authors, at which a
sample of the real models takes about half an hour on a CPU. Everything except the initial noise is float32.

    h w      latent height and width; the image has H = 8 h rows and W = 8 w columns
    n d      tokens of a text and their features
    k t      step 0, 1, ... and its timestep
    x eps    [1 4 h w] latent and predicted noise
    w        the audio model's share of a step
"""

import inspect
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import numpy as np
import safetensors.torch
import soundfile
import torch
import transformers
from absl import flags
from PIL import Image
from torch import Tensor

from convert.torch_vocoder import TorchGenerator
from its_jax.runtime import cli

LOG_MIN, LOG_MAX = math.log(1e-5), math.log(200)  # of black and white, if the vocoder's config.json has no others


class Sample(NamedTuple):
    """The result, as float32 arrays."""

    latents: np.ndarray  # [h w 4]
    image: np.ndarray  # [H W 3] in [0, 1]
    spectrogram: np.ndarray  # [H W] in [0, 1], row 0 is the highest mel band
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
    """Generates one sample with two model folders in diffusers' layout.

    Args:
      image: folder of the image model. audio: folder of the audio model, which also has a vocoder.
      height: pixels and mel bands. width: pixels and frames.
      image_start_step: the first of `num_steps` at which the image model is active. audio_start_step: likewise.
      audio_weight: w. The image model's share is 1 - w.
    """
    scheduler = diffusers.DDIMScheduler.from_pretrained(image, subfolder="scheduler")
    scheduler.set_timesteps(num_steps)
    image_vae, audio_vae = (open_component(diffusers.AutoencoderKL, folder, "vae") for folder in (image, audio))
    x = denoise(
        scheduler,
        [open_component(diffusers.UNet2DConditionModel, folder, "unet") for folder in (image, audio)],
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


def open_component(kind: Any, folder: str | Path, name: str) -> Any:
    """Loads a component of a model folder in float32, whatever its stored dtype."""
    return kind.from_pretrained(folder, subfolder=name, low_cpu_mem_usage=False).float()


def encode(folder: str, negative_prompt: str, prompt: str) -> Tensor:
    """Returns text features `[2 n d]` of a model folder's text encoder. No mask hides the padding."""
    tokenizer = transformers.CLIPTokenizer.from_pretrained(Path(folder) / "tokenizer")
    encoder = transformers.CLIPTextModel.from_pretrained(Path(folder) / "text_encoder").float()
    ids = tokenizer([negative_prompt, prompt], padding="max_length", truncation=True, return_tensors="pt").input_ids
    return encoder(ids).last_hidden_state


def initial_noise(seed: int, height: int, width: int, vae: Any) -> Tensor:
    """Draws x of step 0 in float16, as the authors do."""
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    shape = (1, vae.config.latent_channels, height // factor, width // factor)
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float16).float()


def denoise(
    scheduler: Any,
    unets: Sequence[Any],
    texts: Sequence[Tensor],
    x: Tensor,
    *,
    guidance_scales: Sequence[float],
    start_steps: Sequence[int],
    audio_weight: float,
) -> Tensor:
    """Returns the latents that the image and the audio model reach together. All pairs are in this order.

    Args:
      scheduler: DDIM or another one whose `step` returns `prev_sample`, after `set_timesteps`.
      texts: features of each model `[2b n d]` in its dtype, the negative ones first.
      x: noise `[b 4 h w]`, in the dtype in which the solver computes.

    Raises:
      ValueError: neither model is active at some step.
    """
    x = x * scheduler.init_noise_sigma
    terms = list(zip(unets, texts, guidance_scales, start_steps, strict=True))
    for k, t in enumerate(scheduler.timesteps):
        image, audio = (guided_noise(unet, x, t, text, s) if k >= start else None for unet, text, s, start in terms)
        if image is None and audio is None:
            raise ValueError(f"no model is active at step {k}: one must start by then")
        x = scheduler.step(fused_noise(image, audio, audio_weight), t, x).prev_sample
    return x


def guided_noise(unet: Any, x: Tensor, t: Tensor, text: Tensor, s: float) -> Tensor:
    """Computes eps(negative) + s (eps(positive) - eps(negative))."""
    pair = torch.cat([x, x]).to(text.dtype)
    # The scheduler indexes its tables on the host. It gets t from there, so that it does not wait for the device.
    negative, positive = unet(pair, t.to(x.device), text, return_dict=False)[0].to(x.dtype).chunk(2)
    return negative + s * (positive - negative)


def fused_noise(image: Tensor | None, audio: Tensor | None, w: float) -> Tensor | None:
    """Computes (1 - w) image + w audio, or returns the noise of the only active model."""
    if image is None or audio is None:
        return audio if image is None else image
    return (1 - w) * image + w * audio


def decode(vae: Any, x: Tensor) -> Tensor:
    """Decodes latents to images `[b 3 H W]` in [0, 1]."""
    return (vae.decode(x / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def vocode(folder: str | Path, spectrogram: Tensor) -> Tensor:
    """Converts spectrogram images `[b H W]` in [0, 1] to waveforms `[b samples]` with the vocoder of a folder.

    The spectrogram is vocoded unrounded. Ours is first rounded to 256 levels, so that its PNG contains what is vocoded.
    """
    return open_generator(folder)(log_mel(spectrogram, *log_range(folder)))[:, 0]


def log_range(folder: str | Path) -> tuple[float, float]:
    """Returns the log-mel values of black and white for the vocoder of a folder."""
    raw = json.loads((Path(folder) / "config.json").read_text())
    return raw.get("log_min", LOG_MIN), raw.get("log_max", LOG_MAX)


def log_mel(spectrogram: Tensor, low: float, high: float) -> Tensor:
    """Converts spectrogram images `[b H W]` in [0, 1] to log-mel spectrograms, whose row 0 is the lowest mel band."""
    return spectrogram.flip(dims=[1]) * (high - low) + low


def open_generator(folder: str | Path) -> TorchGenerator:
    """Loads the generator of a folder with `config.json` and `vocoder.pt` or `vocoder.safetensors`."""
    folder = Path(folder)
    generator = TorchGenerator(json.loads((folder / "config.json").read_text()))
    checkpoint = folder / "vocoder.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["generator"]
    else:
        state = safetensors.torch.load_file(folder / "vocoder.safetensors")
    for key in [key for key in state if key.endswith(".weight_g")]:  # the magnitude; "weight_v" is the direction
        name = key.removesuffix("_g")
        magnitude, direction = state.pop(key), state.pop(f"{name}_v")
        state[name] = magnitude * direction / direction.norm(dim=(1, 2), keepdim=True)
    generator.load_state_dict(state)
    return generator.eval()


def write(made: Sample, folder: Path, sampling_rate: int) -> None:
    """Writes `image.png`, `spectrogram.png` and `audio.wav`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in (("image", made.image), ("spectrogram", made.spectrogram)):
        Image.fromarray(np.round(image * 255).astype(np.uint8)).save(folder / f"{name}.png")
    soundfile.write(folder / "audio.wav", made.waveform, sampling_rate)


def main():
    settings: dict[str, Any] = {name: flags.FLAGS[name].value for name in inspect.signature(sample).parameters}
    rate = json.loads((Path(settings["audio"]) / "vocoder" / "config.json").read_text())["sampling_rate"]
    write(sample(**settings), Path(flags.FLAGS.out), rate)


if __name__ == "__main__":
    DEFINE: dict[type, Any] = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float}
    for name, parameter in inspect.signature(sample).parameters.items():
        required = parameter.default is parameter.empty
        default = None if required else parameter.default
        DEFINE[parameter.annotation](name, default, "A parameter of `sample`.", required=required)
    flags.DEFINE_string("out", None, "Folder for the files.", required=True)
    cli.run(main)
