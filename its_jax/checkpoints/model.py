"""A loaded model: its components, and what they need to be used."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from its_jax.checkpoints.processors import ClapFeatureExtractor, CLIPImageProcessor
from its_jax.diffusion.ddpm import DDPMSchedule
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.models.clap import ClapModel
from its_jax.models.clip import CLIPModel
from its_jax.models.clip_text import CLIPTextModel
from its_jax.models.hifigan import Generator
from its_jax.models.if_unet import PixelUNet
from its_jax.models.t5 import T5EncoderModel
from its_jax.models.unet import UNet2DConditionModel
from its_jax.models.vae import AutoencoderKL


@dataclasses.dataclass(frozen=True)
class Model:
    """A model's components, abstract or with weights. Those that were not requested are None.

    Attributes:
      source: the source as the user gave it.
      folder: the converted folder.
      identity: twelve hexadecimal digits over the contents of weights, configs and tokenizer.
      hashes: component -> sha256 of its tensors, for all components in the folder.
      text_encoder, unet, vae, vocoder: the components of a diffusion model.
      dual_encoder: the only component of a model that scores.
      tokenizer: the tokenizer of `text_encoder` or `dual_encoder`, a class of transformers', if one of them is loaded.
      vocabulary: the words that the text encoder knows, if the folder lists them.
      schedule: the noise schedule that `unet` was trained on, if that is loaded.
      noising_schedule: the noise schedule of the small image that `unet` enlarges, if it is such a model.
      processor: computes the inputs of `dual_encoder`, if that is loaded.
    """

    source: str
    folder: pathlib.Path
    identity: str
    hashes: Mapping[str, str]
    text_encoder: CLIPTextModel | T5EncoderModel | None = None
    unet: UNet2DConditionModel | PixelUNet | None = None
    vae: AutoencoderKL | None = None
    vocoder: Generator | None = None
    dual_encoder: CLIPModel | ClapModel | None = None
    tokenizer: Any = None
    vocabulary: frozenset[str] | None = None
    schedule: NoiseSchedule | DDPMSchedule | None = None
    noising_schedule: DDPMSchedule | None = None
    processor: CLIPImageProcessor | ClapFeatureExtractor | None = None
