"""What T5 makes of prompts, each of them once: it is kept in the cache folder, for T5-XXL fills a device alone.

CACHE/texts/<identity of the model>-<dtype>-<digits of the prompt>.npy, float32 `[77 d]`
"""

import dataclasses
import hashlib
import io
import logging
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.checkpoints import load
from its_jax.checkpoints.model import Model
from its_jax.pipeline import prompts as pipeline_prompts
from its_jax.runtime.cache import cache_folder
from its_jax.storage import files

FOLDER = "texts"


def embed(outline: Model, prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Prompt -> float32 `[77 d]`; the text encoder is loaded if one of them is new, and let go again.

    Args:
      outline: of `load.outline`, with `text_encoder`, a T5.

    Raises:
      UserError: the weights, or the cache folder, cannot be had.
    """
    texts = {prompt: _kept(_path(outline, prompt)) for prompt in dict.fromkeys(prompts)}
    if missing := [prompt for prompt, text in texts.items() if text is None]:
        logging.info("encoding %d prompts by %s", len(missing), outline.source)
        texts |= _encoded(outline, missing)
    return texts


def _encoded(outline, prompts):
    model, texts = load.restore_weights(dataclasses.replace(outline, unet=None)), {}
    for prompt in prompts:
        ids = jax.device_put(pipeline_prompts.tokenize_for_pixels(model.tokenizer, [prompt]), jax.local_devices()[0])
        text = pipeline_prompts.encode_tokens_for_pixels(model.text_encoder, ids)
        texts[prompt] = np.asarray(text[0].astype(jnp.float32))
        _keep(_path(outline, prompt), texts[prompt])
    return texts


def _path(outline, prompt):
    dtype = jnp.dtype(outline.text_encoder.encoder.final_layer_norm.dtype).name
    digits = hashlib.sha256(prompt.encode()).hexdigest()[:16]
    return cache_folder() / FOLDER / f"{outline.identity}-{dtype}-{digits}.npy"


def _kept(path):
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # it is not there, or damaged
        return None


def _keep(path, text):
    with files.explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.save(content, text)
    files.write(path, content.getvalue())
