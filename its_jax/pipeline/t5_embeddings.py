"""Embeds prompts with a T5 encoder, each prompt once, and keeps the results in the cache folder.

T5-XXL fills a device, so it is not loaded for prompts that are known.

CACHE/texts/<identity of the model>-<dtype>-<digits of the prompt>.npy, float32 `[77 d]`
"""

import dataclasses
import hashlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.checkpoints import load
from its_jax.checkpoints.model import Model
from its_jax.pipeline.prompts import encode_tokens_for_pixels, tokenize_for_pixels
from its_jax.runtime.cache import cache_folder
from its_jax.storage import files

FOLDER = "texts"


def embed(model: Model, prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the text features of prompts, float32 `[77 d]` each.

    The text encoder is loaded if one of the prompts is new, and released again.

    Args:
      model: of `checkpoints.load.abstract_model`, with a T5 as its `text_encoder`.

    Raises:
      UserError: the weights cannot be read, or the cache folder cannot be written.
    """
    texts = {prompt: _read(_path(model, prompt)) for prompt in dict.fromkeys(prompts)}
    if missing := [prompt for prompt, text in texts.items() if text is None]:
        logging.info("encoding %d prompts by %s", len(missing), model.source)
        texts |= _encode(model, missing)
    return {prompt: text for prompt, text in texts.items() if text is not None}


def _encode(model, prompts):
    loaded, texts = load.restore_weights(dataclasses.replace(model, unet=None)), {}
    for prompt in prompts:
        ids = jax.device_put(tokenize_for_pixels(loaded.tokenizer, [prompt]), jax.local_devices()[0])
        text = encode_tokens_for_pixels(loaded.text_encoder, ids)
        texts[prompt] = np.asarray(text[0].astype(jnp.float32))
        _write(_path(model, prompt), texts[prompt])
    return texts


def _path(model, prompt):
    dtype = jnp.dtype(model.text_encoder.encoder.final_layer_norm.dtype).name
    digits = hashlib.sha256(prompt.encode()).hexdigest()[:16]
    return cache_folder() / FOLDER / f"{model.identity}-{dtype}-{digits}.npy"


def _read(path: Path) -> np.ndarray | None:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # it does not exist, or is damaged
        return None


def _write(path: Path, text: np.ndarray) -> None:
    with files.explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.save(content, text)
    files.write(path, content.getvalue())
