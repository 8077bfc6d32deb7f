"""Trains the embedded CLIP on captions and on windows of images, disturbed so that they resemble fused samples."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jax import Array

from its_jax.models.clip import CLIPModel
from its_jax.pipeline.prompts import tokenize
from its_jax.tiny.data import items, pictures
from its_jax.tiny.recipe import canvas, dual_encoder
from its_jax.tiny.training import augment, contrastive
from its_jax.tiny.training.loop import Result, fit
from its_jax.tiny.training.schedule import STAGES

TRAIN_ITEMS, HELD_OUT_ITEMS = 1800, 240
_CROP = 2 * canvas.HEIGHT  # columns of an image that are disturbed at once
_WINDOWS = 2  # windows per crop


def train(workdir: Path) -> Result:
    """Trains CLIP."""
    stage, processor, tokenizer = STAGES["clip"], dual_encoder.image_processor(), dual_encoder.tokenizer("clip")
    images = items.make_pictures("contrast_train", TRAIN_ITEMS)
    others = items.make_spectrograms("contrast_train", TRAIN_ITEMS)

    def batches(step):
        rng = items.generator("clip", "contrast_train", step)
        chosen = contrastive.rounds(rng, TRAIN_ITEMS, stage.batch // _WINDOWS)
        crops = [augment.disturb(rng, _crop(rng, images[i]), _crop(rng, rng.choice(others))) for i in chosen]
        windows = [_crop(rng, crop, canvas.HEIGHT) for _ in range(_WINDOWS) for crop in crops]
        captions = [pictures.caption(items.SUBJECTS[i % 12], rng) for _ in range(_WINDOWS) for i in chosen]
        return {"x": preprocess(processor, windows), "tokens": tokenize(tokenizer, captions)}

    graph, params = nnx.split(dual_encoder.random_clip())

    def batch_loss(params, batch, key):
        return loss(nnx.merge(graph, params), batch)

    params, seconds = fit(batch_loss, params, batches, stage, workdir / "clip")
    return Result(params, seconds, _held_out(nnx.merge(graph, params)))


def loss(model: CLIPModel, batch: Mapping[str, Any]) -> Array:
    """Computes the contrastive loss of a batch, in rounds, of images "x" and the "tokens" of their captions."""
    embeddings, texts = model.embed_image(batch["x"]), model.embed_text(batch["tokens"])
    return contrastive.info_nce(embeddings, texts, model.logit_scale[...], model.logit_scale[...])


def _crop(rng: np.random.Generator, image: np.ndarray, width: int = _CROP) -> np.ndarray:
    """Returns a random crop `[h, width]`."""
    start = rng.integers(image.shape[1] - width + 1)
    return image[:, start : start + width]


def preprocess(processor: Callable[[np.ndarray], np.ndarray], windows: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Returns gray windows `[n, h, h]` in [0, 1] as CLIP's input, `[n, image_size, image_size, 3]`."""
    return np.stack([processor(np.repeat(items.to_bytes(window)[..., None], 3, axis=-1)) for window in windows])


def embed_canvases(model: CLIPModel, canvases: np.ndarray) -> np.ndarray:
    """Returns the mean embeddings `[n, d]` of square windows, which are an eighth of their width apart.

    Args:
      canvases: gray `[n, 128, w]` in [0, 1], n a multiple of 12.
    """
    processor, height = dual_encoder.image_processor(), canvases.shape[1]
    starts = range(0, canvases.shape[2] - height + 1, height // 8)
    x = np.concatenate([preprocess(processor, canvases[:, :, start : start + height]) for start in starts])
    embeddings = contrastive.embed(lambda model, x: model.embed_image(x), model, x)
    return embeddings.reshape(len(starts), len(canvases), -1).mean(axis=0)


def _held_out(model: CLIPModel) -> dict[str, float]:
    """Returns the retrieval of clean and of disturbed images."""
    clean = items.make_pictures("contrast_held_out", HELD_OUT_ITEMS)
    others = items.make_spectrograms("contrast_held_out", HELD_OUT_ITEMS)
    rng = items.generator("clip", "contrast_held_out", 0)
    disturbed = np.stack([augment.disturb(rng, x, rng.choice(others)) for x in clean])
    texts = contrastive.embed_captions(
        model, dual_encoder.tokenizer("clip"), pictures.caption, items.SUBJECTS, HELD_OUT_ITEMS
    )
    return {
        "held_out": contrastive.retrieval(embed_canvases(model, clean / np.float32(255)), texts),
        "held_out_disturbed": contrastive.retrieval(embed_canvases(model, disturbed), texts),
    }
