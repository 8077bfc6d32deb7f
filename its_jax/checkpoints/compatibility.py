"""Checks that the components of a model were made for each other."""

from its_jax.checkpoints.model import Model
from its_jax.checkpoints.processors import CLIPImageProcessor
from its_jax.errors import UserError
from its_jax.models.clip_text import CLIPTextModel
from its_jax.models.if_unet import PixelUNet
from its_jax.models.t5 import T5EncoderModel


def check_compatibility(model: Model) -> None:
    """Raises `UserError` if components do not fit together; those that are not loaded are not checked."""
    if model.dual_encoder is not None:
        problems = _dual_encoder_problems(model.dual_encoder.config, model.tokenizer, model.processor)
    else:
        problems = _diffusion_problems(model)
    if problem := next(problems, None):
        raise UserError(f"{model.source}: {problem}")


def _diffusion_problems(model):
    """Yields what does not fit in a diffusion model."""
    text, unet, vae = model.text_encoder, model.unet, model.vae
    if vae and not vae.config.in_channels == vae.config.out_channels == 3:
        yield (
            "the vae must take and give images of 3 channels; "
            f"it takes {vae.config.in_channels} and gives {vae.config.out_channels}"
        )
    if text and unet:
        yield from _text_problems(text, unet)
    if isinstance(unet, PixelUNet):
        yield from _pixel_unet_problems(unet, vae)
    elif unet and vae and not unet.config.in_channels == unet.config.out_channels == vae.config.latent_channels:
        yield (
            f"the unet must take and give the vae's {vae.config.latent_channels} channels; "
            f"it takes {unet.config.in_channels} and gives {unet.config.out_channels}"
        )
    if text:
        yield from _tokenizer_problems(text.config, model.tokenizer)


def _text_problems(text, unet):
    pixels = isinstance(unet, PixelUNet)
    if pixels != isinstance(text, T5EncoderModel):
        expected, found = (T5EncoderModel if pixels else CLIPTextModel).__name__, type(text).__name__
        yield f"the unet takes the texts of a {expected}, the text_encoder is a {found}"
        return
    width = unet.config.encoder_hid_dim if pixels else unet.config.cross_attention_dim
    if text.config.hidden_size != width:
        yield f"the unet takes text of width {width}, the text_encoder gives {text.config.hidden_size}"


def _pixel_unet_problems(unet, vae):
    channels = unet.config.in_channels, unet.config.out_channels
    if channels != (6 if unet.is_upscaler else 3, 6):
        yield (
            "a unet of pixels must take 3 channels, or 6 with a small image that it enlarges, and "
            f"give 6, noise and variance; it takes {channels[0]} and gives {channels[1]}"
        )
    if vae:
        yield "has a vae, but its unet is a model of pixels, not of latents"


def _tokenizer_problems(config, tokenizer):
    positions = getattr(config, "max_position_embeddings", None)  # T5 has none
    if positions and tokenizer.model_max_length > positions:
        yield (
            f"the tokenizer gives up to {tokenizer.model_max_length} tokens, the text_encoder has {positions} "
            "positions; set model_max_length in tokenizer/tokenizer_config.json"
        )
    if len(tokenizer) > config.vocab_size:
        yield f"the tokenizer has {len(tokenizer)} tokens, the text_encoder knows {config.vocab_size}"


def _dual_encoder_problems(config, tokenizer, processor):
    """Yields where tokenizer or processor do not fit a CLIP or CLAP."""
    positions = config.text_config.max_position_embeddings
    if isinstance(processor, CLIPImageProcessor):
        given, taken = (f"images of {size} pixels" for size in (processor.size, config.vision_config.image_size))
        fits = given == taken
    else:
        positions -= config.text_config.pad_token_id + 1  # RoBERTa counts from after the id of the padding
        audio = config.audio_config
        given = f"{processor.num_frames} frames of {processor.feature_size} mels"
        taken = f"{audio.frames} frames of {audio.num_mel_bins} mels at most"
        fits = processor.feature_size == audio.num_mel_bins and processor.num_frames <= audio.frames
    if not fits:
        yield f"its processor gives {given}, the model takes {taken}"
    if tokenizer.model_max_length > positions or len(tokenizer) > config.text_config.vocab_size:
        yield (
            f"the tokenizer has {len(tokenizer)} tokens and gives up to {tokenizer.model_max_length}, "
            f"the model knows {config.text_config.vocab_size} and has {positions} positions"
        )
