"""Compares each component's results with PyTorch's, in float32 on random inputs: `python -m convert --check`.

PyTorch receives the tensors under the same names as our modules. Other tests show that these names are right.
"""

import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert import names, originals
from convert.lora import Lora
from its_jax.checkpoints import load
from its_jax.errors import UserError
from its_jax.models import registry
from its_jax.models.clip import CLIPModel
from its_jax.models.if_unet import PixelUNet
from its_jax.models.t5 import T5EncoderModel

try:
    import diffusers
    import torch
    import transformers

    from convert.torch_vocoder import TorchGenerator
except ImportError as missing:
    raise UserError(f"--check needs {missing.name}; pip install 'its_jax[convert]'") from missing

log = logging.getLogger(__name__)

TOLERANCE = 1e-4  # the largest difference relative to the largest value; rounding causes about 1e-5

_TOWERS = "text tower", "other tower"
# Small inputs are enough for a comparison: 16 x 16 latents, 64 x 64 and 32 x 32 pixels, 32 frames.
_LATENT, _IMAGE, _PIXELS, _FRAMES = (1, 16, 16), (1, 64, 64), (1, 32, 32), 32
_TOKENS = 77  # of a text for T5, which takes any number


def check(source: str, out: str | os.PathLike, *, loras: Sequence[str] = (), config_from: str | None = None) -> None:
    """Compares a conversion with its source and logs the differences; the arguments are those of `convert`.

    Raises:
      UserError: results differ by more than `TOLERANCE`, relative to the largest value.
    """
    path, in_source = originals.locate(source)
    original = originals.gather(source, path, [*in_source, *map(Lora.parse, loras)], config_from=config_from)
    wrong = []
    for component in original.weights:
        # One model after the other, so that the weights are not in memory twice.
        inputs = _inputs(component, original.config(component))
        expected = _torch_results(component, original, inputs)
        found = _jax_results(component, pathlib.Path(out), inputs)
        for name, value in expected.items():
            difference = np.abs(found[name] - value).max()
            relative = difference / np.abs(value).max()
            message = "%-16s differs from PyTorch's by %.1e at most, %.1e of the largest value"
            log.info(message, name, difference, relative)
            if not relative <= TOLERANCE:
                wrong.append(name)
    if wrong:
        raise UserError(
            f"{out}: {', '.join(wrong)}: results differ from PyTorch's by more than {TOLERANCE:g} of the largest "
            "value; please report this, with versions and source"
        )


def _inputs(component, raw):
    random, (kind, config) = np.random.default_rng(0), registry.component_classes(component, raw)
    sizes = config.from_dict(raw)

    def normal(*shape):
        return random.normal(size=shape).astype(np.float32)

    if component == "text_encoder":
        length = _TOKENS if kind is T5EncoderModel else sizes.max_position_embeddings
        return (random.integers(sizes.vocab_size, size=(1, length)),)
    if kind is PixelUNet:
        level = (np.array([50]),) if sizes.class_embed_type else ()
        return normal(*_PIXELS, sizes.in_channels), np.array([500]), normal(1, 7, sizes.encoder_hid_dim), *level
    if component == "unet":
        return normal(*_LATENT, sizes.in_channels), np.array([500]), normal(1, 7, sizes.cross_attention_dim)
    if component == "vae":
        return normal(*_IMAGE, sizes.in_channels), normal(*_LATENT, sizes.latent_channels)
    if component == "vocoder":
        return (5 * normal(1, _FRAMES, sizes.num_mels),)
    text = random.integers(sizes.text_config.vocab_size, size=(1, 7))
    if kind is CLIPModel:
        return text, normal(1, sizes.vision_config.image_size, sizes.vision_config.image_size, 3)
    return text, 10 * normal(1, sizes.audio_config.frames, sizes.audio_config.num_mel_bins)


def _torch_results(component, original, inputs):
    """Computes PyTorch's results with channels last: name -> array."""
    module = _load_torch_module(component, original)
    x, *rest = (torch.from_numpy(np.moveaxis(v, -1, 1).copy() if v.ndim == 4 else v) for v in inputs)
    with torch.no_grad():
        if component == "text_encoder":
            results = {component: module(x).last_hidden_state}
        elif component == "unet":
            results = {component: module(x, *rest).sample}
        elif component == "vae":
            posterior = module.encode(x).latent_dist
            moments = torch.cat([posterior.mean, posterior.logvar], dim=1)
            results = {"vae, encoding": moments, "vae, decoding": module.decode(*rest).sample}
        elif component == "vocoder":
            results = {component: module(x.mT)[:, 0]}
        else:
            results = dict(zip(_TOWERS, _torch_embeddings(module, x, *rest), strict=True))
    return {name: np.moveaxis(y.numpy(), 1, -1) if y.ndim == 4 else y.numpy() for name, y in results.items()}


def _load_torch_module(component, original):
    module = _empty_torch_module(component, original.config(component))
    state = {key: torch.from_numpy(t.read().astype(np.float32)) for key, t in original.tensors(component).items()}
    missing, unexpected = module.load_state_dict(state, assign=True, strict=False)
    missing = {key for key in missing if key.rpartition(".")[2] not in names.CONSTANTS} - {names.TIED_EMBEDDING}
    if unexpected or missing:
        tensors = [*missing, *unexpected][:3]
        raise UserError(f"{original.name}: {component}: PyTorch's class has other tensors: {tensors}")
    if names.TIED_EMBEDDING in module.state_dict():
        module.tie_weights()
    return module.eval()


def _torch_embeddings(module: Any, text, other):
    """Returns PyTorch's embeddings of a text and of an image or audio, of length 1."""
    if isinstance(module, transformers.ClapModel):
        config: Any = module.config.text_config
        both = module.get_text_features(text, text != config.pad_token_id), module.get_audio_features(other[:, None])
    else:
        both = module.get_text_features(text), module.get_image_features(other)
    return [torch.nn.functional.normalize(one.pooler_output, dim=-1) for one in both]


def _empty_torch_module(component, raw):
    if component in ("text_encoder", "dual_encoder"):
        kind = registry.component_classes(component, raw)[0]
        theirs = getattr(transformers, kind.__name__)
        # The others have constants that are in no file.
        with torch.device("meta" if kind is T5EncoderModel else "cpu"):
            return theirs(theirs.config_class.from_dict(raw))
    with torch.device("meta"):  # the weights are assigned later
        if component == "vocoder":
            return TorchGenerator(raw)
        return {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}[component].from_config(raw)


def _jax_results(component, folder, inputs):
    """Computes our results: name -> array."""
    model = load.abstract_model(folder, str(folder), components=(component,), dtype=jnp.float32)
    module = getattr(load.restore_weights(model), component)
    with jax.default_matmul_precision("highest"):
        if component == "vae":
            moments, decoded = _run(lambda m, x, z: (_moments(m.encode(x)), m.decode(z)), module, *inputs)
            return {"vae, encoding": moments, "vae, decoding": decoded}
        if component == "dual_encoder":
            embed = "embed_image" if isinstance(module, CLIPModel) else "embed_audio"
            both = _run(lambda m, text, x: (m.embed_text(text), getattr(m, embed)(x)), module, *inputs)
            return dict(zip(_TOWERS, both, strict=True))
        return {component: _run(lambda m, *x: m(*x), module, *inputs)}


def _moments(posterior):
    return jnp.concatenate([posterior.mean, posterior.log_variance], axis=-1)


def _run(function, *args):
    """Runs a function once, compiled without optimization, which would take longer than all the rest."""
    results = jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})(*args)
    return jax.tree.map(np.asarray, results)
