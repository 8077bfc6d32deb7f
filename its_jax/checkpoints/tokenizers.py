"""Tokenizers of converted models."""

import importlib.util

from its_jax.errors import UserError
from its_jax.models.clap import ClapModel
from its_jax.models.t5 import T5EncoderModel

# DeepFloyd IF was trained on texts of so many tokens, though T5 takes any number, and its tokenizer says 512.
_PIXEL_TOKENS = 77


def load_tokenizer(model):
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
