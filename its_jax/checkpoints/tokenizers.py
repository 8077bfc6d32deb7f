"""Tokenizers of converted models."""

import importlib.util
from typing import Any

from its_jax.checkpoints.model import Model
from its_jax.errors import UserError
from its_jax.models.clap import ClapModel
from its_jax.models.t5 import T5EncoderModel

# DeepFloyd IF was trained on this many tokens, although T5 takes any number, and the file of its tokenizer says 512.
_PIXEL_TOKENS = 77


def load_tokenizer(model: Model) -> Any:
    """Reads the tokenizer of a model, a class of transformers', or returns None if the model encodes no text.

    Raises:
      UserError: the tokenizer is missing or damaged, or needs a package that is not installed.
    """
    encoder = model.text_encoder or model.dual_encoder
    if encoder is None:
        return None
    import transformers

    if isinstance(encoder, T5EncoderModel):
        _check_t5_files(model)
    kinds: dict[type, Any] = {ClapModel: transformers.RobertaTokenizer, T5EncoderModel: transformers.T5Tokenizer}
    kind = kinds.get(type(encoder), transformers.CLIPTokenizer)
    try:
        tokenizer = kind.from_pretrained(model.folder / "tokenizer", local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{model.source}: tokenizer/ is missing or cannot be read ({reason})") from error
    if isinstance(encoder, T5EncoderModel):
        tokenizer.model_max_length = min(tokenizer.model_max_length, _PIXEL_TOKENS)
    return tokenizer


def _check_t5_files(model):
    """Raises `UserError` if the files are missing, because transformers then makes a tokenizer without any tokens."""
    files = {file: (model.folder / "tokenizer" / file).exists() for file in ("tokenizer.json", "spiece.model")}
    if not any(files.values()):
        raise UserError(f"{model.source}: tokenizer/ has neither {' nor '.join(files)}")
    if not files["tokenizer.json"] and importlib.util.find_spec("sentencepiece") is None:
        raise UserError(f"{model.source}: tokenizer/spiece.model needs sentencepiece; pip install 'its_jax[t5]'")
