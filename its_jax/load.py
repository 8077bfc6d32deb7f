"""A model folder -> modules on the mesh, in the compute dtype."""

import concurrent.futures
import contextlib
import dataclasses
import importlib.resources
import importlib.util
import json
import math
import os
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from flax import nnx

from convert import cache, conversion
from its_jax import fields, machine, weights
from its_jax import parts as model_parts
from its_jax.ddpm import PixelSchedule
from its_jax.denoise import Schedule
from its_jax.errors import UserError
from its_jax.features import PictureFeatures, SoundFeatures
from its_jax.models.clap import ClapModel
from its_jax.models.clip import CLIPModel
from its_jax.models.pixel_unet import PixelUNet
from its_jax.models.t5 import T5EncoderModel
from its_jax.models.text import CLIPTextModel
from its_jax.models.unet import UNet2DConditionModel
from its_jax.models.vae import AutoencoderKL
from its_jax.models.vocoder import Generator

# Models that come with the package, by the name that configs give them.
_EMBEDDED = ("tiny/image", "tiny/audio", "tiny/clip", "tiny/clap", "tiny/color")
# Checkpoints that are read at once, and how many further ones the system is asked for: so the disk need not wait.
_READERS, _AHEAD = 2, 8
_ASKED = 2**20  # bytes; of one that asks for more at once Linux gives the beginning only
_ALIGNMENT = 64  # bytes, at multiples of which JAX takes over an array of NumPy's on a CPU, in place of a copy
_ARRAY = "/zarr.json"  # what describes an array, after its name
# DeepFloyd IF was trained on texts of so many tokens, though T5 takes any number, and its tokenizer says 512.
_PIXEL_TOKENS = 77


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
    schedule: Schedule | PixelSchedule | None = None
    noising_schedule: PixelSchedule | None = None
    text_encoder: CLIPTextModel | T5EncoderModel | None = None
    unet: UNet2DConditionModel | PixelUNet | None = None
    vae: AutoencoderKL | None = None
    vocoder: Generator | None = None
    vocabulary: frozenset[str] | None = None
    dual_encoder: CLIPModel | ClapModel | None = None
    features: PictureFeatures | SoundFeatures | None = None


def mesh():
    """The local devices along the one axis `data`."""
    devices = jax.local_devices()
    axis_types = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(devices),), ("data",), axis_types=axis_types, devices=devices)


def load(
    source: str,
    *,
    parts: Sequence[str] = model_parts.DIFFUSION,
    dtype,
    sharding: jax.sharding.Sharding | None = None,
    share: Sequence[Model] = (),
) -> Model:
    """Loads the parts of a model: `outline`, then `fill`, whose arguments these are."""
    return fill(outline(source, parts=parts, dtype=dtype), sharding=sharding, share=share)


def outline(source: str, *, parts: Sequence[str], dtype) -> Model:
    """A model with shapes in place of its weights: what is wrong with it is said before gigabytes are read.

    Args:
      source: a converted folder; a folder in diffusers' layout, a hub id or a single file of Stable Diffusion
        1.x, each with `+LORA@SCALE` after it for LoRAs, or of a CLIP or CLAP in transformers' layout, converted once
        into the cache folder; or one that comes with the package, such as 'tiny/image'.
      parts: of `text_encoder`, `unet`, `vae`, `vocoder`; or `dual_encoder`.
      dtype: of weights and activations.

    Raises:
      UserError: no such source, no model folder, or a part or file is missing, damaged or misfit.
    """
    check_parts(source, parts)
    folder = cache.converted(_place(source))
    metadata = _checked_metadata(folder, source)
    first = [path for part in parts for path in _checkpoints(folder / part)[:_AHEAD]]
    threading.Thread(target=_read_ahead, args=first, daemon=True).start()  # while Python outlines the modules
    model = Model(
        source=source,
        folder=folder,
        identity=metadata["identity"],
        hashes={part: about["sha256"] for part, about in metadata["parts"].items()},
        vocabulary=_vocabulary(folder),
        **{part: _abstract(folder, part, dtype, source) for part in parts},
    )
    if model.unet:
        model = dataclasses.replace(model, **_schedules(model))
    if model.text_encoder or model.dual_encoder:
        model = dataclasses.replace(model, tokenizer=_tokenizer(model))
    if model.dual_encoder:
        model = dataclasses.replace(model, features=_features(model))
    _check_dual(model) if model.dual_encoder else _check_fit(model)
    return model


def fill(
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
    wanted = {part: getattr(model, part) for part in model_parts.PARTS if getattr(model, part) is not None}
    places = sharding if isinstance(sharding, Mapping) else dict.fromkeys(wanted, sharding)
    filled = {
        part: _shared(model, part, module, places[part], share) or _restored(model, part, module, places[part])
        for part, module in wanted.items()
    }
    return dataclasses.replace(model, **filled)


def check_parts(source: str, parts: Sequence[str]) -> None:
    """Raises `UserError` if a model or one of these parts of it is not there; one on the hub is downloaded."""
    there = cache.parts_of(_place(source))
    for part in parts:
        if part not in there:
            raise UserError(f"{source}: has no {part}; the parts of this model are {', '.join(there)}")


def _place(source):
    if source not in _EMBEDDED:
        if source.startswith("tiny/") and not pathlib.Path(source).exists():
            raise UserError(
                f"{source}: no such model in the package; it has {', '.join(_EMBEDDED)}; a LoRA is merged into a "
                "model that is given as a folder, a file or a hub id"
            )
        return source
    return str(importlib.resources.files("its_jax").joinpath("tiny", "weights", source.removeprefix("tiny/")))


def _checked_metadata(folder, source):
    """What the conversion says about itself, once its files are known to be all there, at their full size."""
    metadata = fields.read_json(folder / conversion.METADATA)
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
    raw = fields.read_json(folder / part / "config.json")
    return model_parts.abstract_module(part, raw, jnp.dtype(dtype), name=f"{source}: {part}")


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
    paths = _checkpoints(model.folder / part)  # `outline` has asked for the first of them
    with _reading_checkpoint(model.folder / part / conversion.WEIGHTS):
        pieces = [_stored(path) for path in paths]
    leaves = model_parts.parameters(module)
    wanted = {name: weights.array_of(leaf) for name, (_, leaf) in leaves.items()}
    stored = {name: tuple(array.shape) for piece in pieces for name, array in piece.items()}
    _check_shapes({name: tuple(array.shape) for name, array in wanted.items()}, stored, f"{model.source}: {part}")
    # A replicated array is put on one device, and copied from device to device.
    first = min(sharding.addressable_devices, key=lambda device: device.id)

    def read(number):
        _read_ahead(*paths[number + _AHEAD : number + _AHEAD + 1])
        arrays = {name: _empty(stored[name], wanted[name].dtype) for name in pieces[number]}
        with _reading_checkpoint(paths[number].parent):
            reading = [ts.array(arrays[name]).write(_as(array, arrays[name])) for name, array in pieces[number].items()]
            for one in reading:
                one.result()
        placed = jax.device_put(jax.device_put(arrays, first), sharding)
        return jax.block_until_ready(placed)

    with concurrent.futures.ThreadPoolExecutor(_READERS) as readers:
        filled = {name: array for piece in readers.map(read, range(len(paths))) for name, array in piece.items()}
    machine.release_memory()
    state = [(position, leaf.replace(filled[name])) for name, (position, leaf) in leaves.items()]
    return nnx.merge(nnx.graphdef(module), nnx.from_flat_state(state))


def _as(array, like):
    return array if array.dtype.numpy_dtype == like.dtype else ts.cast(array, like.dtype.name)


def _empty(shape, dtype):
    """An array of NumPy's, not filled yet, that JAX takes over on a CPU."""
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)


def _checkpoints(folder):
    """Those of a part, in the order of their numbers."""
    with _reading_checkpoint(folder / conversion.WEIGHTS):
        return sorted((folder / conversion.WEIGHTS).iterdir())


def _stored(path):
    """A checkpoint's arrays, not read yet, by name. Orbax's own reading copies each several times, at a fraction of
    a disk's rate; they lie in a database of TensorStore's, whose files need only be mapped."""
    context = ts.Context({"file_io_mode": {"mode": "memmap"}})
    database = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{path}/state/"}}
    keys = ts.KvStore.open(database, context=context).result().list().result()
    names = [key.removesuffix(_ARRAY) for key in map(bytes.decode, keys) if key.endswith(_ARRAY)]
    opening = {
        name: ts.open({"driver": "zarr3", "kvstore": {**database, "path": f"{name}/"}}, context=context, open=True)
        for name in names
    }
    return {name: array.result() for name, array in opening.items()}


def _read_ahead(*paths):
    """Asks the system for the files of checkpoints: those that are mapped come a few pages at a time."""
    if not hasattr(os, "posix_fadvise"):  # as on macOS
        return
    for file in (file for path in paths for file in path.rglob("*") if file.is_file()):
        with contextlib.suppress(OSError), open(file, "rb") as opened:  # reading itself will tell
            for start in range(0, file.stat().st_size, _ASKED):
                os.posix_fadvise(opened.fileno(), start, _ASKED, os.POSIX_FADV_WILLNEED)


@contextlib.contextmanager
def _reading_checkpoint(path):
    """What TensorStore makes of damaged files, errors of many classes, becomes a `UserError`."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: damaged; delete {path.parents[1]} and convert again ({reason})") from error


def _check_shapes(expected, found, name):
    weights.check_names(expected, found, name=name)
    for key, shape in expected.items():
        if found[key] != shape:
            shapes = f"has shape {list(found[key])}, the config asks for {list(shape)}"
            raise UserError(f"{name}: tensor {key!r} {shapes}")


def _tokenizer(model):
    import transformers

    encoder = model.text_encoder or model.dual_encoder
    if isinstance(encoder, T5EncoderModel):
        _check_t5_tokenizer(model)
    kinds = {ClapModel: transformers.RobertaTokenizer, T5EncoderModel: transformers.T5Tokenizer}
    kind = kinds.get(type(encoder), transformers.CLIPTokenizer)
    try:
        tokenizer = kind.from_pretrained(model.folder / "tokenizer", local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{model.source}: tokenizer/ is missing or cannot be read ({reason})") from error
    if isinstance(encoder, T5EncoderModel):
        tokenizer.model_max_length = min(tokenizer.model_max_length, _PIXEL_TOKENS)
    return tokenizer


def _check_t5_tokenizer(model):
    """Where its file is missing, transformers makes a tokenizer that knows nothing."""
    files = {file: (model.folder / "tokenizer" / file).exists() for file in ("tokenizer.json", "spiece.model")}
    if not any(files.values()):
        raise UserError(f"{model.source}: tokenizer/ has no {' nor '.join(files)}")
    if not files["tokenizer.json"] and importlib.util.find_spec("sentencepiece") is None:
        raise UserError(f"{model.source}: tokenizer/spiece.model needs sentencepiece: pip install sentencepiece")


def _features(model):
    """What makes the inputs of a CLIP or CLAP; `processor_config.json` has that of pictures or sounds within it."""
    folder = model.folder / "dual_encoder"
    whole, part = folder / "processor_config.json", folder / "preprocessor_config.json"
    raw = fields.read_json(part if part.exists() else whole)
    kind, name = (
        (PictureFeatures, "image_processor")
        if isinstance(model.dual_encoder, CLIPModel)
        else (SoundFeatures, "feature_extractor")
    )
    try:
        return kind.from_dict(raw.get(name, raw))
    except UserError as error:
        raise UserError(f"{model.source}: {error}") from error


def _schedules(model):
    """Attribute of a model with a UNet -> schedule."""
    kind, names = Schedule, {"schedule": "scheduler"}
    if isinstance(model.unet, PixelUNet):
        kind = PixelSchedule
        if model.unet.enlarges:
            names["noising_schedule"] = "image_noising_scheduler"
    return {attribute: _schedule(model, name, kind) for attribute, name in names.items()}


def _schedule(model, name, kind):
    path = model.folder / name / "scheduler_config.json"
    if not path.exists():
        raise UserError(f"{model.source}: {name}/scheduler_config.json is missing")
    try:
        return kind.from_dict(fields.read_json(path))
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
    if isinstance(features, PictureFeatures):
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
