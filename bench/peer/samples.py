"""A batch of samples, from prompts to audio, by our pipeline and by the same procedure in PyTorch.

Both sides read the same folders in diffusers' layout, start from the same noise, and end with arrays on the host. All
uses of our pipeline in `bench/peer` and in `bench.device.trace` are in `Ours`.
"""

import copy
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from bench.command import ROOT
from bench.parity import torch_reference
from bench.parity.torch_reference import open_component
from its_jax import Pipeline
from its_jax.benchmark import measure
from its_jax.diffusion import denoise
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.diffusion.torch_noise import torch_noise
from its_jax.errors import UserError
from its_jax.settings.parse import expand
from its_jax.settings.schema import TERMS, SampleSettings, term_names

EMBEDDED = ROOT / "its_jax" / "tiny" / "weights"
SCHEDULERS = {"ddim": diffusers.DDIMScheduler, "dpmpp_2m": diffusers.DPMSolverMultistepScheduler}


def comparable_settings(
    config: Mapping[str, Any], models: Path, dtype: str, num_steps: int | None = None
) -> dict[str, Any]:
    """Returns the settings of a config with the models MODELS/image and MODELS/audio, if PyTorch's side supports them.

    Args:
      num_steps: replaces the config's number of steps. Start steps keep their proportion.
    """
    for path in (models / "image", models / "audio"):
        if not path.exists():
            raise UserError(f"{path}: no such folder; python -m bench.peer.random_models writes models")
    settings = {**config, "dtype": dtype}
    steps = num_steps or settings["num_steps"]
    for term in term_names(settings):
        start = round(settings[term]["start_step"] * steps / settings["num_steps"])
        settings[term] = settings[term] | {"start_step": start, "model": str((models / term).absolute())}
    check_comparable(settings)
    return settings | {"num_steps": steps}


def check_comparable(settings: Mapping[str, Any]) -> None:
    """Raises UserError for a setting that PyTorch's procedure here does not support."""
    if 0 < settings["window"] < settings["width"]:
        raise UserError(f"window={settings['window']}: PyTorch's procedure has no windows; set it to the width or more")
    supported: dict[str, tuple[Any, ...]] = {"wrap": (False,), "cutoff_latent": (False,), "vocoder": ("hifigan",)}
    supported |= {"solver": tuple(SCHEDULERS), "init_image": ("",), "init_audio": ("",)}
    for name, values in supported.items():
        if settings[name] not in values:
            raise UserError(f"{name}={settings[name]!r}: PyTorch's procedure has {' or '.join(map(repr, values))} only")
    for term in term_names(settings):
        group = settings[term]
        if term not in TERMS or group["view"] != "identity" or group["guidance_scale"] == 1:
            raise UserError(f"{term}: PyTorch's procedure has only the terms image and audio, guided and without views")


def batch(settings: Mapping[str, Any], b: int, number: int) -> list[SampleSettings]:
    """Returns the settings of the samples of a batch. Other numbers give other prompts, so that they are encoded."""
    terms = {term: settings[term] | {"prompt": f"{settings[term]['prompt']} {number}"} for term in TERMS}
    return expand({**settings, **terms}, b)


class Ours:
    """Our pipeline, loaded and compiled for batches of `b` samples."""

    def __init__(self, settings: Mapping[str, Any], b: int):
        self._program = Pipeline(settings).compile(batch(settings, b, 0)[0], batch_size=b)
        if self._program.batch_size != b:
            raise UserError(f"--batch={b}: must be a multiple of the number of devices, {jax.local_device_count()}")

    def __call__(self, batch: Sequence[SampleSettings]) -> np.ndarray:
        """Generates images and audio, and returns the latents `[b h w c]`."""
        return np.stack([sample.latents for sample in self._program(batch)])

    def count_flops(self, settings: SampleSettings) -> int:
        """Counts the floating-point operations of all stages of a sample."""
        return sum(measure.stage_flops(self._program.components, settings).values())

    def loop_text(self) -> str:
        """Returns the text of the compiled denoising program."""
        return self._program.programs["denoise"].as_text() or ""


class Theirs:
    """PyTorch's side: diffusers' models and scheduler, with both prompts of a guided term in one call.

    Args of the constructor:
      tuned: store weights, and hence activations, channels last, and decode only once if the VAEs are equal.
    """

    def __init__(self, settings: Mapping[str, Any], device: str, dtype: torch.dtype, *, tuned: bool = True):
        self.device, self.dtype = torch.device(device), dtype
        to: dict[str, Any] = {"device": device, "dtype": dtype}
        images = to | {"memory_format": torch.channels_last if tuned else torch.preserve_format}
        folders = {term: Path(settings[term]["model"]) for term in TERMS}
        self.tokenizers: dict[str, Any] = {}
        self.encoders: dict[str, Any] = {}
        self.unets: dict[str, Any] = {}
        self.vaes: dict[str, Any] = {}
        for term, folder in folders.items():
            self.tokenizers[term] = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
            encoder: Any = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder")
            self.encoders[term] = encoder.to(**to).eval()
            self.unets[term] = open_component(diffusers.UNet2DConditionModel, folder, "unet").to(**images)
            self.vaes[term] = open_component(diffusers.AutoencoderKL, folder, "vae").to(**images)
        if tuned and are_equal(*self.vaes.values()):
            self.vaes["image"] = self.vaes["audio"]
        self.decoders = {term: vae.decode for term, vae in self.vaes.items()}
        self.vocoder: Any = torch_reference.open_generator(folders["audio"] / "vocoder").to(**to)
        self.log_range = torch_reference.log_range(folders["audio"] / "vocoder")

    def wrapped(self, wrap: Callable[[Callable], Callable]) -> "Theirs":
        """Returns the same models with `wrap` (such as `torch.compile`) around the parts that take time."""
        other, wrap = copy.copy(self), functools.cache(wrap)
        other.unets = {term: wrap(unet) for term, unet in self.unets.items()}
        other.decoders = {term: wrap(decode) for term, decode in self.decoders.items()}
        other.vocoder = wrap(self.vocoder)
        return other

    @torch.inference_mode()
    def __call__(self, batch: Sequence[SampleSettings], noise: torch.Tensor) -> torch.Tensor:
        """Generates images and audio on the host, and returns the latents `[b c h w]`, like `noise`."""
        settings, b = batch[0], len(batch)
        x = torch_reference.denoise(
            make_scheduler(settings),
            list(self.unets.values()),
            [self._encode(term, settings).repeat_interleave(b, dim=0) for term in TERMS],
            noise.to(self.device),
            guidance_scales=[settings.terms[term].guidance_scale for term in TERMS],
            start_steps=[settings.terms[term].start_step for term in TERMS],
            audio_weight=settings.terms["audio"].weight / sum(settings.terms[term].weight for term in TERMS),
        )
        images: dict[Callable, torch.Tensor] = {}
        for term, decode in self.decoders.items():
            if decode not in images:
                z = x.to(self.dtype) / self.vaes[term].config.scaling_factor
                images[decode] = (decode(z, return_dict=False)[0].float() / 2 + 0.5).clamp(0, 1)
        image, audio = (images[self.decoders[term]] for term in TERMS)
        spectrogram = audio.mean(dim=1)
        log_mel = torch_reference.log_mel(spectrogram, *self.log_range)
        waveform = self.vocoder(log_mel.to(self.dtype))[:, 0].float()
        on_host = [a.cpu() for a in (x, image, spectrogram, waveform)]
        return on_host[0]

    def noise(self, batch: Sequence[SampleSettings]) -> torch.Tensor:
        """Draws x of step 0 as our pipeline does, `[b c h w]` float32."""
        vae, settings = self.vaes["image"].config, batch[0]
        factor = 2 ** (len(vae.block_out_channels) - 1)
        shape = (settings.height // factor, settings.width // factor, vae.latent_channels)
        seeds = [one.seed for one in batch]
        if settings.noise == "torch":
            drawn = np.stack([torch_noise(seed, shape) for seed in seeds])
        else:
            drawn = np.asarray(denoise.initial_noise(jnp.array(seeds, jnp.uint32), shape))
        return torch.from_numpy(drawn.transpose(0, 3, 1, 2).copy())

    def _encode(self, term, settings):
        """Returns features `[2 n d]`. All samples of a batch have the same prompts."""
        prompts = [settings.terms[term].negative_prompt, settings.terms[term].prompt]
        ids = self.tokenizers[term](prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return self.encoders[term](ids.to(self.device)).last_hidden_state


def are_equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def make_scheduler(settings: SampleSettings) -> diffusers.SchedulerMixin:
    """Returns diffusers' scheduler for the solver of a sample, at our timesteps."""
    raw = json.loads((Path(settings.terms["image"].model) / "scheduler" / "scheduler_config.json").read_text())
    made = SCHEDULERS[settings.solver].from_config({"timestep_spacing": "leading"} | raw)
    if settings.solver == "ddim":
        made.set_timesteps(settings.num_steps)
    else:  # its own leading timesteps begin lower, as if there were one step more
        made.set_timesteps(timesteps=NoiseSchedule.from_dict(raw).timesteps(settings.num_steps).tolist())
    return made
