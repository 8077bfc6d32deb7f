"""CLIP and CLAP scores: how well an image and a sound match their prompts, 100 x max(0, cosine).

As scorers of samples their names are `clip` and `clap`, with another model than the paper's after an @:
`--scorers=clip,clap@FOLDER`. They run on the first local device in float32.
"""

import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from its_jax import pretrained
from its_jax.diffusion.views import VIEWS
from its_jax.errors import UserError
from its_jax.models.clap import ClapModel
from its_jax.models.clip import CLIPModel
from its_jax.scoring.item import Item
from its_jax.scoring.metrics import cosines
from its_jax.settings.ids import sample_id

CLIP, CLAP = "openai/clip-vit-base-patch16", "laion/clap-htsat-unfused"  # the models of the paper's authors
STRIDES_PER_WINDOW = 8  # Consecutive windows are an eighth of their side apart.
_WINDOWS_PER_BATCH = 32
# CLAP's texts are padded to this many tokens, and longer ones to powers of two, because each length compiles again.
_MIN_TEXT_LENGTH = 16


class _Scorer:
    """A model of image or audio and text, which caches the embeddings of texts.

    Attributes:
      source: as given. identity: of the model, see `its_jax.checkpoints.model.Model`.
    """

    name: str
    kind: type

    def __init__(self, source: str):
        model = pretrained.load_model(source, components=("dual_encoder",), dtype="float32")
        if not isinstance(model.dual_encoder, self.kind):
            found = type(model.dual_encoder).__name__
            raise UserError(f"{source}: is a {found}; {self.name} scores need a {self.kind.__name__}")
        self.source, self.identity = source, model.identity
        self._model, self._tokenizer = model.dual_encoder, model.tokenizer
        self._features: Any = model.processor
        self._text_embeddings: dict[str, np.ndarray] = {}

    def embed_text(self, prompt: str) -> np.ndarray:
        """Returns the embedding of a prompt, float32 `[d]`, of length 1. Each prompt is computed once."""
        if prompt not in self._text_embeddings:
            self._text_embeddings[prompt] = np.asarray(_embed_text(self._model, self._token_ids(prompt)))[0]
        return self._text_embeddings[prompt]

    def _token_ids(self, prompt: str) -> np.ndarray:
        longest = self._tokenizer.model_max_length
        length = len(self._tokenizer(prompt, truncation=True, max_length=longest).input_ids)
        length = min(longest, max(_MIN_TEXT_LENGTH, 2 ** math.ceil(math.log2(length))))
        padded = self._tokenizer([prompt], padding="max_length", truncation=True, max_length=length)
        return np.asarray(padded.input_ids, np.int32)


class ClipScorer(_Scorer):
    """Scores images by the mean of the cosines over square windows, from one edge to the other, at least 0."""

    name = "clip"
    kind = CLIPModel

    def __init__(self, source: str = CLIP):
        super().__init__(source)

    def embed_image(self, gray: np.ndarray) -> np.ndarray:
        """Returns the embeddings of the windows of an image `[h, w]` in [0, 1], float32 `[windows, d]`, of length 1."""
        levels = np.rint(np.asarray(gray, np.float32) * 255).astype(np.uint8)
        windows = [np.repeat(window[..., None], 3, axis=-1) for window in square_windows(levels)]
        inputs = np.stack([self._features(window) for window in windows])
        batches = [inputs[i : i + _WINDOWS_PER_BATCH] for i in range(0, len(inputs), _WINDOWS_PER_BATCH)]
        return np.concatenate([np.asarray(_embed_image(self._model, batch)) for batch in batches])

    def score(self, gray: np.ndarray, prompt: str) -> float:
        """Returns the score of an image `[h, w]` in [0, 1], from 0 to 100."""
        return percent(cosines(self.embed_image(gray), self.embed_text(prompt)))

    def __call__(self, items: Sequence[Item]) -> dict[str, list[float | None]]:
        """Scores spectrograms, in gray, as each term's view shows them.

        Returns:
          Column `clip` for the term `image`, and `clip_TERM` for others.
        """
        rows = [self._score_terms(item) for item in items]
        columns = dict.fromkeys(column for row in rows for column in row)
        return {column: [row.get(column) for row in rows] for column in columns}

    def _score_terms(self, item: Item) -> dict[str, float]:
        scores = {}
        for name, term in item.settings.terms.items():
            if name != "audio":
                view = np.asarray(VIEWS[term.view].apply(item.spectrogram[None, ..., None]))[0, ..., 0]
                scores["clip" if name == "image" else f"clip_{name}"] = self.score(view, term.prompt)
        return scores


class ClapScorer(_Scorer):
    """Scores sounds, resampled to the model's sampling rate and scaled to a peak of 1.

    A sound longer than the model's input (10 s) is cut into segments of that length, from its beginning to its end, and
    the mean of their cosines counts. CLAP's own processor takes a random segment instead.
    """

    name = "clap"
    kind = ClapModel

    def __init__(self, source: str = CLAP):
        super().__init__(source)

    def embed_audio(self, waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
        """Returns the embeddings of the segments of a waveform `[samples]`, float32 `[segments, d]`, of length 1.

        Raises:
          UserError: the sound is silent or not finite.
        """
        import scipy.signal  # It is slow to import, and is needed only here.

        waveform = np.asarray(waveform, np.float32)
        peak = np.abs(waveform).max(initial=0)
        if not 0 < peak < np.inf:
            raise UserError("the sound is silent" if peak == 0 else "the sound is not finite")
        rate = self._features.sampling_rate
        common = math.gcd(rate, sampling_rate)
        waveform = scipy.signal.resample_poly(waveform / peak, rate // common, sampling_rate // common)
        waveform = waveform / np.abs(waveform).max()
        longest = self._features.max_length_s * rate
        count = max(1, math.ceil(len(waveform) / longest))
        starts = np.linspace(0, max(0, len(waveform) - longest), count).astype(int)
        segments = [self._features(waveform, start) for start in starts]
        return np.concatenate([np.asarray(_embed_audio(self._model, segment[None])) for segment in segments])

    def score(self, waveform: np.ndarray, sampling_rate: int, prompt: str) -> float:
        """Returns the score of a waveform `[samples]`, from 0 to 100. UserError: as `embed_audio`."""
        return percent(cosines(self.embed_audio(waveform, sampling_rate), self.embed_text(prompt)))

    def __call__(self, items: Sequence[Item]) -> dict[str, list[float | None]]:
        """Scores waveforms. Column `clap` is None for a silent sound."""
        return {"clap": [self._score(item) for item in items]}

    def _score(self, item: Item) -> float | None:
        try:
            return self.score(item.waveform, item.sampling_rate, item.settings.terms["audio"].prompt)
        except UserError as error:
            logging.warning("%s: no CLAP score, for %s", sample_id(item.settings), error)
            return None


def square_windows(image: np.ndarray) -> list[np.ndarray]:
    """Returns the largest squares of an image `[h, w, ...]`, an eighth of their side apart: 24 at 256 x 992."""
    height, width = image.shape[:2]
    side = min(height, width)
    stride = max(1, side // STRIDES_PER_WINDOW)
    rows, columns = (range(0, length - side + 1, stride) for length in (height, width))
    return [image[i : i + side, j : j + side] for i in rows for j in columns]


def percent(cosines: np.ndarray) -> float:
    """Returns the mean of cosines, at least 0, times 100."""
    return 100 * max(0.0, float(np.mean(cosines)))


def _precise(f: Callable) -> Callable:
    """Jits a function with matrix products in float32, also on devices with faster ones."""

    @functools.wraps(f)
    def precise(*args: Any) -> jax.Array:
        with jax.default_matmul_precision("float32"):
            return f(*args)

    return jax.jit(precise)


@_precise
def _embed_text(model: CLIPModel | ClapModel, ids: jax.Array) -> jax.Array:
    return model.embed_text(ids)


@_precise
def _embed_image(model: CLIPModel, x: jax.Array) -> jax.Array:
    return model.embed_image(x)


@_precise
def _embed_audio(model: ClapModel, log_mel: jax.Array) -> jax.Array:
    return model.embed_audio(log_mel)
