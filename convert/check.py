"""Each part's results against PyTorch's, in float32 on random inputs: `python -m convert --check`.

That tensors get the right names is proven elsewhere: here PyTorch takes them under the names that we do.
"""

import logging

import jax
import jax.numpy as jnp
import numpy as np

from convert import names, originals
from convert.lora import Lora
from its_jax import pretrained
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
    raise UserError(f"--check needs {missing.name}: pip install 'its_jax[convert]'") from missing

log = logging.getLogger(__name__)

TOLERANCE = 1e-4  # largest difference relative to the largest value: rounding takes about 1e-5

# Small, for these are only to be compared: 16 x 16 latents, 64 x 64 pixels, 32 frames.
_TOWERS = "text tower", "other tower"
_LATENT, _PICTURE, _PIXELS, _FRAMES = (1, 16, 16), (1, 64, 64), (1, 32, 32), 32
_TOKENS = 77  # of a text for a T5, which takes any number


def check(source: str, out, *, loras=(), config_from=None) -> None:
    """Compares a conversion with its source and logs the differences; the arguments are those of `convert`.

    Raises:
      UserError: results differ by more than `TOLERANCE`, relative to the largest value.
    """
    path, written = originals.locate(source)
    original = originals.gather(source, path, [*written, *map(Lora.parse, loras)], config_from=config_from)
    too_far = []
    for part in original.weights:
        # One after the other, so that the weights are not held twice.
        inputs = _inputs(part, original.config(part))
        expected = _of_torch(part, original, inputs)
        found = _of_jax(part, out, inputs)
        for what, value in expected.items():
            difference = np.abs(found[what] - value).max()
            relative = difference / np.abs(value).max()
            log.info(
                "%-16s differs from PyTorch's by %.1e at most, %.1e of the largest value", what, difference, relative
            )
            if not relative <= TOLERANCE:
                too_far.append(what)
    if too_far:
        raise UserError(f"{out}: {', '.join(too_far)}: results differ from PyTorch's by more than {TOLERANCE:g} of the "
                        "largest value; please report this, with versions and source")  # fmt: skip


def _inputs(part, raw):
    random, (kind, config) = np.random.default_rng(0), registry.component_classes(part, raw)
    sizes = config.from_dict(raw)

    def normal(*shape):
        return random.normal(size=shape).astype(np.float32)

    if part == "text_encoder":
        length = _TOKENS if kind is T5EncoderModel else sizes.max_position_embeddings
        return (random.integers(sizes.vocab_size, size=(1, length)),)
    if kind is PixelUNet:
        level = (np.array([50]),) if sizes.class_embed_type else ()
        return normal(*_PIXELS, sizes.in_channels), np.array([500]), normal(1, 7, sizes.encoder_hid_dim), *level
    if part == "unet":
        return normal(*_LATENT, sizes.in_channels), np.array([500]), normal(1, 7, sizes.cross_attention_dim)
    if part == "vae":
        return normal(*_PICTURE, sizes.in_channels), normal(*_LATENT, sizes.latent_channels)
    if part == "vocoder":
        return (5 * normal(1, _FRAMES, sizes.num_mels),)
    text = random.integers(sizes.text_config.vocab_size, size=(1, 7))
    if kind is CLIPModel:
        return text, normal(1, sizes.vision_config.image_size, sizes.vision_config.image_size, 3)
    return text, 10 * normal(1, sizes.audio_config.frames, sizes.audio_config.num_mel_bins)


def _of_torch(part, original, inputs):
    """What is compared -> result, channels last as ours are."""
    module = _torch_module(part, original.config(part))
    state = {key: torch.from_numpy(t.read().astype(np.float32)) for key, t in original.tensors(part).items()}
    missing, unexpected = module.load_state_dict(state, assign=True, strict=False)
    missing = {key for key in missing if key.rpartition(".")[2] not in names.CONSTANTS} - {names.TABLE_AGAIN}
    if unexpected or missing:
        raise UserError(f"{original.name}: {part}: PyTorch's class has other tensors: {[*missing, *unexpected][:3]}")
    if names.TABLE_AGAIN in module.state_dict():
        module.tie_weights()
    module.eval()
    x, *rest = (torch.from_numpy(np.moveaxis(v, -1, 1).copy() if v.ndim == 4 else v) for v in inputs)
    with torch.no_grad():
        if part == "text_encoder":
            results = {part: module(x).last_hidden_state}
        elif part == "unet":
            results = {part: module(x, *rest).sample}
        elif part == "vae":
            posterior = module.encode(x).latent_dist
            moments = torch.cat([posterior.mean, posterior.logvar], dim=1)
            results = {"vae, encoding": moments, "vae, decoding": module.decode(*rest).sample}
        elif part == "vocoder":
            results = {part: module(x.mT)[:, 0]}
        else:
            results = dict(zip(_TOWERS, _embedded(module, x, *rest), strict=True))
    return {what: np.moveaxis(y.numpy(), 1, -1) if y.ndim == 4 else y.numpy() for what, y in results.items()}


def _embedded(module, text, seen):
    """PyTorch's embeddings of a text, and of a picture or a sound, of length 1."""
    if isinstance(module, transformers.ClapModel):
        mask = text != module.config.text_config.pad_token_id
        both = module.get_text_features(text, mask), module.get_audio_features(seen[:, None])
    else:
        both = module.get_text_features(text), module.get_image_features(seen)
    return [torch.nn.functional.normalize(one.pooler_output, dim=-1) for one in both]


def _torch_module(part, raw):
    if part in ("text_encoder", "dual_encoder"):
        kind = registry.component_classes(part, raw)[0]
        theirs = getattr(transformers, kind.__name__)
        with torch.device("meta" if kind is T5EncoderModel else "cpu"):  # the others have constants, in no file
            return theirs(theirs.config_class.from_dict(raw))
    with torch.device("meta"):  # the weights come afterwards
        if part == "vocoder":
            return TorchGenerator(raw)
        return {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}[part].from_config(raw)


def _of_jax(part, out, inputs):
    module = getattr(pretrained.load_model(str(out), parts=(part,), dtype=jnp.float32), part)
    with jax.default_matmul_precision("highest"):
        if part == "vae":
            moments, decoded = _once(lambda m, x, z: (_moments(m.encode(x)), m.decode(z)), module, *inputs)
            return {"vae, encoding": moments, "vae, decoding": decoded}
        if part == "dual_encoder":
            see = "embed_picture" if isinstance(module, CLIPModel) else "embed_sound"
            both = _once(lambda m, text, x: (m.embed_text(text), getattr(m, see)(x)), module, *inputs)
            return dict(zip(_TOWERS, both, strict=True))
        return {part: _once(lambda m, *x: m(*x), module, *inputs)}


def _moments(posterior):
    return jnp.concatenate([posterior.mean, posterior.log_variance], axis=-1)


def _once(f, *args):
    """Compiled in a hurry: with effort, that takes longer than all the rest."""
    results = jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})(*args)
    return jax.tree.map(np.asarray, results)
