"""A batch of samples, prompts to sound, by our sampler and by the same procedure in PyTorch: what `bench.peer` times.

Both take the same folders in diffusers' layout, start from the same noise, and end with arrays on the host.
"""

import copy
import functools
import json
import runpy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import jax
import numpy as np
import torch
import transformers

from bench import torch_reference
from its_jax.diffusion import denoise
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.diffusion.torch_noise import torch_noise
from its_jax.errors import UserError
from its_jax.pipeline.sampler import Sampler
from its_jax.settings.parse import expand
from its_jax.settings.schema import TERMS, SampleSettings, term_names

ROOT = Path(__file__).parents[1]
EMBEDDED = ROOT / "its_jax" / "tiny" / "weights"
SCHEDULERS = {"ddim": diffusers.DDIMScheduler, "dpmpp_2m": diffusers.DPMSolverMultistepScheduler}


def settings(config: Path, models: Path, dtype: str, num_steps: int | None = None) -> dict[str, Any]:
    """A config's settings with the models MODELS/image and MODELS/audio.

    Args:
      num_steps: in place of the config's; start steps keep their share.

    Raises:
      UserError: the config or a model is not there, or PyTorch's procedure here lacks what the config asks for.
    """
    for path in (config, models / "image", models / "audio"):
        if not path.exists():
            raise UserError(f"{path}: there is no such file or folder; python -m bench.full_size makes models")
    made = runpy.run_path(str(config))["get_config"]().to_dict() | {"dtype": dtype}
    steps = num_steps or made["num_steps"]
    for term in term_names(made):
        start = round(made[term]["start_step"] * steps / made["num_steps"])
        made[term] |= {"start_step": start, "model": str((models / term).absolute())}
    _check(made)
    return made | {"num_steps": steps}


def _check(made):
    if 0 < made["window"] < made["width"]:
        raise UserError(f"window={made['window']}: PyTorch's procedure has none; give one of the width or more")
    plain = {"wrap": (False,), "cutoff_latent": (False,), "vocoder": ("hifigan",), "solver": tuple(SCHEDULERS)}
    plain |= {"init_image": ("",), "init_audio": ("",)}
    for name, values in plain.items():
        if made[name] not in values:
            raise UserError(f"{name}={made[name]!r}: PyTorch's procedure has {' or '.join(map(repr, values))} only")
    for term in term_names(made):
        if term not in TERMS or made[term]["view"] != "identity" or made[term]["guidance_scale"] == 1:
            raise UserError(f"{term}: PyTorch's procedure has the terms image and audio only, as they are, guided")


def batch(settings: Mapping[str, Any], b: int, number: int) -> list[SampleSettings]:
    """The settings of a batch; other numbers give other prompts, so that these have to be encoded."""
    terms = {term: settings[term] | {"prompt": f"{settings[term]['prompt']} {number}"} for term in TERMS}
    return expand({**settings, **terms}, b)


class Ours:
    """Our sampler, loaded and compiled for batches of `b`."""

    def __init__(self, settings: Mapping[str, Any], b: int):
        first = batch(settings, b, 0)[0]
        self.sampler = Sampler(first, pending=b, batch_size=b)
        if self.sampler.batch_size != b:
            raise UserError(f"batch {b}: {jax.local_device_count()} devices take a multiple of that")

    def __call__(self, batch: Sequence[SampleSettings]) -> np.ndarray:
        """Latents `[b h w c]`; pictures and sounds are made too."""
        return np.stack([sample.latents for sample in self.sampler(batch)])


class Theirs:
    """PyTorch's side: diffusers' models and scheduler, batches of `b`, each guided pair in one call.

    Args of the constructor:
      channels_last: of the weights, which activations follow. once: VAEs that are equal decode once, as ours do.
    """

    def __init__(self, settings, device: str, dtype: torch.dtype, *, channels_last: bool = True, once: bool = True):
        self.device, self.dtype = torch.device(device), dtype
        to = dict(device=device, dtype=dtype)
        pictures = to | {"memory_format": torch.channels_last if channels_last else torch.preserve_format}
        folders = {term: Path(settings[term]["model"]) for term in TERMS}
        open_part = torch_reference.open_part
        self.tokenizers = {
            term: transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer") for term, folder in folders.items()
        }
        self.encoders = {
            term: transformers.CLIPTextModel.from_pretrained(folder / "text_encoder").to(**to).eval()
            for term, folder in folders.items()
        }
        self.unets = {
            term: open_part(diffusers.UNet2DConditionModel, folder, "unet").to(**pictures)
            for term, folder in folders.items()
        }
        self.vaes = {
            term: open_part(diffusers.AutoencoderKL, folder, "vae").to(**pictures) for term, folder in folders.items()
        }
        if once and _equal(*self.vaes.values()):
            self.vaes["image"] = self.vaes["audio"]
        self.decoders = {term: vae.decode for term, vae in self.vaes.items()}
        self.vocoder = torch_reference.open_generator(folders["audio"] / "vocoder").to(**to)
        self.log_range = torch_reference.log_range(folders["audio"] / "vocoder")

    def wrapped(self, wrap: Callable[[Callable], Callable]) -> "Theirs":
        """The same models, with `wrap` (such as `torch.compile`) around what takes the time."""
        other, wrap = copy.copy(self), functools.cache(wrap)
        other.unets = {term: wrap(unet) for term, unet in self.unets.items()}
        other.decoders = {term: wrap(decode) for term, decode in self.decoders.items()}
        other.vocoder = wrap(self.vocoder)
        return other

    @torch.inference_mode()
    def __call__(self, batch: Sequence[SampleSettings], noise: torch.Tensor) -> torch.Tensor:
        """Latents `[b c h w]` on the host, as `noise` is; pictures and sounds come to the host too."""
        settings, b = batch[0], len(batch)
        x = torch_reference.denoise(
            scheduler(settings),
            list(self.unets.values()),
            [self._encode(term, settings).repeat_interleave(b, dim=0) for term in TERMS],
            noise.to(self.device),
            guidance_scales=[settings.terms[term].guidance_scale for term in TERMS],
            start_steps=[settings.terms[term].start_step for term in TERMS],
            audio_weight=settings.terms["audio"].weight / sum(settings.terms[term].weight for term in TERMS),
        )
        pictures = {}
        for term, decode in self.decoders.items():
            if decode not in pictures:
                z = x.to(self.dtype) / self.vaes[term].config.scaling_factor
                pictures[decode] = (decode(z, return_dict=False)[0].float() / 2 + 0.5).clamp(0, 1)
        picture, sounding = (pictures[self.decoders[term]] for term in TERMS)
        spectrogram = sounding.mean(dim=1)
        log_mel = torch_reference.log_mel(spectrogram, *self.log_range)
        waveform = self.vocoder(log_mel.to(self.dtype))[:, 0].float()
        on_host = [a.cpu() for a in (x, picture, spectrogram, waveform)]
        return on_host[0]

    def noise(self, batch: Sequence[SampleSettings]) -> torch.Tensor:
        """x of step 0 as our sampler draws it, `[b c h w]` float32."""
        vae, settings = self.vaes["image"].config, batch[0]
        factor = 2 ** (len(vae.block_out_channels) - 1)
        shape = (settings.height // factor, settings.width // factor, vae.latent_channels)
        seeds = [one.seed for one in batch]
        if settings.noise == "torch":
            drawn = np.stack([torch_noise(seed, shape) for seed in seeds])
        else:
            drawn = np.asarray(denoise.initial_noise(np.array(seeds, np.uint32), shape))
        return torch.from_numpy(drawn.transpose(0, 3, 1, 2).copy())

    def _encode(self, term, settings):
        """`[2 n d]`, as all samples of a batch have the same prompts."""
        prompts = [settings.terms[term].negative_prompt, settings.terms[term].prompt]
        ids = self.tokenizers[term](prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return self.encoders[term](ids.to(self.device)).last_hidden_state


def _equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def scheduler(settings: SampleSettings):
    """diffusers' scheduler for a sample's solver, at our timesteps."""
    raw = json.loads((Path(settings.terms["image"].model) / "scheduler" / "scheduler_config.json").read_text())
    made = SCHEDULERS[settings.solver].from_config({"timestep_spacing": "leading"} | raw)
    if settings.solver == "ddim":
        made.set_timesteps(settings.num_steps)
    else:  # its own leading timesteps begin lower, as if one step more were taken
        made.set_timesteps(timesteps=NoiseSchedule.from_dict(raw).timesteps(settings.num_steps).tolist())
    return made
