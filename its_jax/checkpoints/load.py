"""Converted model folder -> modules on devices, in the compute dtype."""

import concurrent.futures
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import tensorstore as ts
from flax import nnx

from convert import conversion
from its_jax.checkpoints.processors import ClapFeatureExtractor, CLIPImageProcessor
from its_jax.checkpoints.reader import (
    AHEAD,
    READERS,
    cast_like,
    checkpoint_paths,
    empty_aligned,
    explain_damage,
    open_arrays,
    read_ahead,
)
from its_jax.diffusion.ddpm import DDPMSchedule
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.errors import UserError
from its_jax.models import registry, state_dict
from its_jax.models.clap import ClapModel
from its_jax.models.clip import CLIPModel
from its_jax.models.clip_text import CLIPTextModel
from its_jax.models.hifigan import Generator
from its_jax.models.if_unet import PixelUNet
from its_jax.models.t5 import T5EncoderModel
from its_jax.models.unet import UNet2DConditionModel
from its_jax.models.vae import AutoencoderKL
from its_jax.runtime import hardware
from its_jax.storage.files import read_json


@dataclasses.dataclass(frozen=True)
class Model:
    """A model's modules and what belongs to them; a part that was not asked for is None.

    Attributes:
      source: as given to `load`. folder: of its conversion.
      identity: twelve hexadecimal digits over the contents of weights, configs and tokenizer.
      hashes: part -> sha256 of its tensors, of all parts in the folder.
      tokenizer: transformers' CLIPTokenizer or T5Tokenizer, with `text_encoder`; that of `dual_encoder`, with it.
      schedule: of the noise that the UNet was trained on, with `unet`.
      noising_schedule: of the noise in the small picture that a UNet of pixels enlarges, if it does.
      vocabulary: the words that the text encoder knows, where the folder lists them.
      dual_encoder: of a model that scores; features: makes what it is given.
    """

    source: str
    folder: pathlib.Path
    identity: str
    hashes: Mapping[str, str]
    tokenizer: Any = None
    schedule: NoiseSchedule | DDPMSchedule | None = None
    noising_schedule: DDPMSchedule | None = None
    text_encoder: CLIPTextModel | T5EncoderModel | None = None
    unet: UNet2DConditionModel | PixelUNet | None = None
    vae: AutoencoderKL | None = None
    vocoder: Generator | None = None
    vocabulary: frozenset[str] | None = None
    dual_encoder: CLIPModel | ClapModel | None = None
    features: CLIPImageProcessor | ClapFeatureExtractor | None = None


def restore_weights(
    model: Model,
    *,
    sharding: jax.sharding.Sharding | Mapping[str, jax.sharding.Sharding] | None = None,
    share: Sequence[Model] = (),
) -> Model:
    """The weights of an `outline`.

    Args:
      sharding: of every weight, replicated on the mesh as a rule, or part -> sharding; None is the first local device.
      share: models loaded before with the same dtype: a part that equals one of theirs, tensors, config and
        sharding, is that very module, so that it is held once.

    Raises:
      UserError: a tensor is missing, damaged or misfit.
    """
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = {part: getattr(model, part) for part in registry.COMPONENTS if getattr(model, part) is not None}
    places = sharding if isinstance(sharding, Mapping) else dict.fromkeys(wanted, sharding)
    filled = {
        part: _shared(model, part, module, places[part], share) or _restored(model, part, module, places[part])
        for part, module in wanted.items()
    }
    return dataclasses.replace(model, **filled)


def _checked_metadata(folder, source):
    """What the conversion says about itself, once its files are known to be all there, at their full size."""
    metadata = read_json(folder / conversion.METADATA)
    if metadata.get("format") != conversion.FORMAT:
        raise UserError(
            f"{source}: converted in format {metadata.get('format')}, not {conversion.FORMAT}; convert it again"
        )
    if not all(isinstance(metadata.get(key), dict) for key in ("files", "parts")):
        raise UserError(f"{folder / conversion.METADATA}: damaged; delete {folder} and convert again")
    for name, size in metadata["files"].items():
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            what = "missing from the converted model" if found is None else f"has {found} bytes in place of {size}"
            raise UserError(f"{file}: {what}; delete {folder} and convert again")
    return metadata


def _abstract(folder, part, dtype, source):
    raw = read_json(folder / part / "config.json")
    return registry.abstract_module(part, raw, jnp.dtype(dtype), name=f"{source}: {part}")


def _shared(model, part, module, sharding, share):
    """The module of a model loaded before that equals this one, or None."""
    for other in share:
        loaded = getattr(other, part)
        if loaded is not None and other.hashes[part] == model.hashes[part] and loaded.config == module.config:
            if jax.tree.leaves(nnx.state(loaded, nnx.Param))[0].sharding == sharding:
                return loaded
    return None


def _restored(model, part, module, sharding):
    """Fills an abstract module from its checkpoints, a few at a time: little of it is ever held twice."""
    paths = checkpoint_paths(model.folder / part)  # `outline` has asked for the first of them
    with explain_damage(model.folder / part / conversion.WEIGHTS):
        pieces = [open_arrays(path) for path in paths]
    leaves = registry.parameters(module)
    wanted = {name: state_dict.array_of(leaf) for name, (_, leaf) in leaves.items()}
    stored = {name: tuple(array.shape) for piece in pieces for name, array in piece.items()}
    _check_shapes({name: tuple(array.shape) for name, array in wanted.items()}, stored, f"{model.source}: {part}")
    # A replicated array is put on one device, and copied from device to device.
    first = min(sharding.addressable_devices, key=lambda device: device.id)

    def read(number):
        read_ahead(*paths[number + AHEAD : number + AHEAD + 1])
        arrays = {name: empty_aligned(stored[name], wanted[name].dtype) for name in pieces[number]}
        with explain_damage(paths[number].parent):
            reading = [
                ts.array(arrays[name]).write(cast_like(array, arrays[name])) for name, array in pieces[number].items()
            ]
            for one in reading:
                one.result()
        placed = jax.device_put(jax.device_put(arrays, first), sharding)
        return jax.block_until_ready(placed)

    with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
        filled = {name: array for piece in readers.map(read, range(len(paths))) for name, array in piece.items()}
    hardware.release_memory()
    state = [(position, leaf.replace(filled[name])) for name, (position, leaf) in leaves.items()]
    return nnx.merge(nnx.graphdef(module), nnx.from_flat_state(state))


def _check_shapes(expected, found, name):
    state_dict.check_names(expected, found, name=name)
    for key, shape in expected.items():
        if found[key] != shape:
            shapes = f"has shape {list(found[key])}, the config asks for {list(shape)}"
            raise UserError(f"{name}: tensor {key!r} {shapes}")


def _features(model):
    """What makes the inputs of a CLIP or CLAP; `processor_config.json` has that of pictures or sounds within it."""
    folder = model.folder / "dual_encoder"
    whole, part = folder / "processor_config.json", folder / "preprocessor_config.json"
    raw = read_json(part if part.exists() else whole)
    kind, name = (
        (CLIPImageProcessor, "image_processor")
        if isinstance(model.dual_encoder, CLIPModel)
        else (ClapFeatureExtractor, "feature_extractor")
    )
    try:
        return kind.from_dict(raw.get(name, raw))
    except UserError as error:
        raise UserError(f"{model.source}: {error}") from error


def _schedules(model):
    """Attribute of a model with a UNet -> schedule."""
    kind, names = NoiseSchedule, {"schedule": "scheduler"}
    if isinstance(model.unet, PixelUNet):
        kind = DDPMSchedule
        if model.unet.enlarges:
            names["noising_schedule"] = "image_noising_scheduler"
    return {attribute: _schedule(model, name, kind) for attribute, name in names.items()}


def _schedule(model, name, kind):
    path = model.folder / name / "scheduler_config.json"
    if not path.exists():
        raise UserError(f"{model.source}: {name}/scheduler_config.json is missing")
    try:
        return kind.from_dict(read_json(path))
    except UserError as error:
        raise UserError(f"{model.source}: {error}") from error


def _vocabulary(folder):
    path = folder / "vocabulary.json"
    if not path.exists():
        return None
    try:
        return frozenset(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: expected a JSON list of words ({error})") from error


def _check_fit(model):
    """The parts of one model must be made for each other."""
    text, unet, vae = model.text_encoder, model.unet, model.vae
    if vae and not vae.config.in_channels == vae.config.out_channels == 3:
        raise UserError(
            f"{model.source}: the vae must take and give pictures of 3 channels; "
            f"it takes {vae.config.in_channels} and gives {vae.config.out_channels}"
        )
    pixels = isinstance(unet, PixelUNet)
    if text and unet and pixels != isinstance(text, T5EncoderModel):
        wanted, found = (T5EncoderModel if pixels else CLIPTextModel).__name__, type(text).__name__
        raise UserError(f"{model.source}: the unet takes the texts of a {wanted}, the text_encoder is a {found}")
    width = unet and (unet.config.encoder_hid_dim if pixels else unet.config.cross_attention_dim)
    if text and unet and text.config.hidden_size != width:
        raise UserError(
            f"{model.source}: the unet takes text of width {width}, the text_encoder gives {text.config.hidden_size}"
        )
    if pixels and (unet.config.in_channels, unet.config.out_channels) != (6 if unet.enlarges else 3, 6):
        raise UserError(
            f"{model.source}: a unet of pixels must take 3 channels, or 6 with a small picture that it enlarges, and "
            f"give 6, noise and variance; it takes {unet.config.in_channels} and gives {unet.config.out_channels}"
        )
    if pixels and vae:
        raise UserError(f"{model.source}: has a vae, but its unet is of pixels, not of latents")
    if unet and vae and not unet.config.in_channels == unet.config.out_channels == vae.config.latent_channels:
        raise UserError(
            f"{model.source}: the unet must take and give the vae's {vae.config.latent_channels} channels; "
            f"it takes {unet.config.in_channels} and gives {unet.config.out_channels}"
        )
    positions = getattr(text and text.config, "max_position_embeddings", None)  # T5 has none
    if positions and model.tokenizer.model_max_length > positions:
        raise UserError(
            f"{model.source}: the tokenizer gives up to {model.tokenizer.model_max_length} tokens, "
            f"the text_encoder has {positions} positions; "
            "set model_max_length in tokenizer/tokenizer_config.json"
        )
    if text and len(model.tokenizer) > text.config.vocab_size:
        raise UserError(
            f"{model.source}: the tokenizer has {len(model.tokenizer)} tokens, "
            f"the text_encoder knows {text.config.vocab_size}"
        )


def _check_dual(model):
    """A CLIP or CLAP must be given what it was made for."""
    config, tokenizer, features = model.dual_encoder.config, model.tokenizer, model.features
    positions = config.text_config.max_position_embeddings
    if isinstance(features, CLIPImageProcessor):
        given, taken = (f"pictures of {size} pixels" for size in (features.size, config.vision_config.image_size))
        wrong = given != taken
    else:
        positions -= config.text_config.pad_token_id + 1  # RoBERTa counts from behind the padding's id
        audio = config.audio_config
        given = f"{features.frames} frames of {features.feature_size} mels"
        taken = f"{audio.frames} frames of {audio.num_mel_bins} mels at most"
        wrong = features.feature_size != audio.num_mel_bins or features.frames > audio.frames
    if wrong:
        raise UserError(f"{model.source}: its processor gives {given}, the model takes {taken}")
    if tokenizer.model_max_length > positions or len(tokenizer) > config.text_config.vocab_size:
        raise UserError(
            f"{model.source}: the tokenizer has {len(tokenizer)} tokens and gives up to {tokenizer.model_max_length}, "
            f"the model knows {config.text_config.vocab_size} and has {positions} positions"
        )
