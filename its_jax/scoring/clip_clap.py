"""CLIP and CLAP scores: how well a picture and a sound fit their prompts, 100 x max(0, cosine).

As scorers of samples they go by the names `clip` and `clap`, with a model after them where it is another than the
paper's: `--scorers=clip,clap@FOLDER`. They run on the first local device, in float32.
"""

import functools
import logging
import math
from collections.abc import Sequence

import jax
import numpy as np
import scipy.signal

from its_jax import pretrained
from its_jax.diffusion.views import VIEWS
from its_jax.errors import UserError
from its_jax.models.clap import ClapModel
from its_jax.models.clip import CLIPModel
from its_jax.scoring.item import Item
from its_jax.scoring.metrics import cosines
from its_jax.settings.ids import sample_id

CLIP, CLAP = "openai/clip-vit-base-patch16", "laion/clap-htsat-unfused"  # those of the paper's authors
WINDOW_STEPS = 8  # windows begin at every 8th of their side
_AT_ONCE = 32  # windows in a batch
_SHORTEST_TEXT = 16  # tokens that CLAP's texts are filled up to; longer ones to powers of two, for each compiles anew


class _Scorer:
    """A model, and what it has read.

    Attributes:
      name: of its scores. source: as given. identity: of the model, see `its_jax.checkpoints.load.Model`.
    """

    name: str
    kind: type

    def __init__(self, source: str):
        model = pretrained.load_model(source, components=("dual_encoder",), dtype="float32")
        if not isinstance(model.dual_encoder, self.kind):
            found = type(model.dual_encoder).__name__
            raise UserError(f"{source}: is a {found}; {self.name} scores need a {self.kind.__name__}")
        self.source, self.identity = source, model.identity
        self._model, self._features, self._tokenizer = model.dual_encoder, model.processor, model.tokenizer
        self._vectors: dict[str, np.ndarray] = {}

    def text(self, prompt: str) -> np.ndarray:
        """float32 `[d]`, of length 1; each prompt is read once."""
        if prompt not in self._vectors:
            self._vectors[prompt] = np.asarray(_embed_text(self._model, self._ids(prompt)))[0]
        return self._vectors[prompt]

    def _ids(self, prompt):
        longest = self._tokenizer.model_max_length
        length = len(self._tokenizer(prompt, truncation=True, max_length=longest).input_ids)
        length = min(longest, max(_SHORTEST_TEXT, 2 ** math.ceil(math.log2(length))))
        filled = self._tokenizer([prompt], padding="max_length", truncation=True, max_length=length)
        return np.asarray(filled.input_ids, np.int32)


class ClipScorer(_Scorer):
    """Of pictures: the mean of the cosines over square windows, from one edge to the other, floored at 0."""

    name, kind = "clip", CLIPModel

    def __init__(self, source: str = CLIP):
        super().__init__(source)

    def picture(self, grey: np.ndarray) -> np.ndarray:
        """`[h, w]` in [0, 1] -> float32 `[windows, d]`, each of length 1."""
        grey = np.rint(np.asarray(grey, np.float32) * 255).astype(np.uint8)
        inputs = np.stack([self._features(np.repeat(window[..., None], 3, axis=-1)) for window in square_windows(grey)])
        blocks = [inputs[i : i + _AT_ONCE] for i in range(0, len(inputs), _AT_ONCE)]
        return np.concatenate([np.asarray(_embed_picture(self._model, block)) for block in blocks])

    def score(self, grey: np.ndarray, prompt: str) -> float:
        """0 to 100."""
        return percent(cosines(self.picture(grey), self.text(prompt)))

    def __call__(self, items: Sequence[Item]) -> dict[str, list[float | None]]:
        """Column `clip`: the spectrogram, grey, as the term `image` sees it; `clip_TERM` for terms beside."""
        found = [self._of_terms(item) for item in items]
        columns = dict.fromkeys(column for scores in found for column in scores)
        return {column: [scores.get(column) for scores in found] for column in columns}

    def _of_terms(self, item):
        return {
            "clip" if name == "image" else f"clip_{name}": self.score(_apply_view(term.view, item), term.prompt)
            for name, term in item.settings.terms.items()
            if name != "audio"
        }


class ClapScorer(_Scorer):
    """Of sounds, resampled to the rate that the model hears and with their peak at 1.

    One that is longer than it hears (10 s) is heard in stretches of that length, from its beginning to its end, and
    the cosines' mean counts; CLAP's own processor draws one of them by chance.
    """

    name, kind = "clap", ClapModel

    def __init__(self, source: str = CLAP):
        super().__init__(source)

    def sound(self, waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
        """`[samples]` -> float32 `[stretches, d]`, each of length 1. UserError: it is silent or not finite."""
        waveform = np.asarray(waveform, np.float32)
        peak = np.abs(waveform).max(initial=0)
        if not 0 < peak < np.inf:
            raise UserError("the sound is silent" if peak == 0 else "the sound is not finite")
        heard = self._features.sampling_rate
        common = math.gcd(heard, sampling_rate)
        waveform = scipy.signal.resample_poly(waveform / peak, heard // common, sampling_rate // common)
        waveform = waveform / np.abs(waveform).max()
        longest = self._features.max_length_s * heard
        count = max(1, math.ceil(len(waveform) / longest))
        starts = np.linspace(0, max(0, len(waveform) - longest), count).astype(int)
        stretches = [self._features(waveform, start) for start in starts]
        return np.concatenate([np.asarray(_embed_sound(self._model, stretch[None])) for stretch in stretches])

    def score(self, waveform: np.ndarray, sampling_rate: int, prompt: str) -> float:
        """0 to 100. UserError: as `sound`."""
        return percent(cosines(self.sound(waveform, sampling_rate), self.text(prompt)))

    def __call__(self, items: Sequence[Item]) -> dict[str, list[float | None]]:
        """Column `clap`; None for a silent sound."""
        return {"clap": [self._of_item(item) for item in items]}

    def _of_item(self, item):
        try:
            return self.score(item.waveform, item.sampling_rate, item.settings.terms["audio"].prompt)
        except UserError as error:
            logging.warning("%s: no CLAP score, for %s", sample_id(item.settings), error)
            return None


def _apply_view(view, item):
    """Returns the spectrogram `[h, w]` as a term sees it."""
    return np.asarray(VIEWS[view].apply(item.spectrogram[None, ..., None]))[0, ..., 0]


def square_windows(picture: np.ndarray) -> list[np.ndarray]:
    """The squares of a picture `[h, w, ...]`, as large as it allows, at every 8th of their side: 24 at 256 x 992."""
    height, width = picture.shape[:2]
    side = min(height, width)
    step = max(1, side // WINDOW_STEPS)
    rows, columns = (range(0, length - side + 1, step) for length in (height, width))
    return [picture[i : i + side, j : j + side] for i in rows for j in columns]


def percent(cosines_: np.ndarray) -> float:
    """Their mean, floored at 0, times 100."""
    return 100 * max(0.0, float(np.mean(cosines_)))


def _precise(f):
    """Products in float32, also where a device has quicker ones."""

    @functools.wraps(f)
    def precise(*args):
        with jax.default_matmul_precision("float32"):
            return f(*args)

    return jax.jit(precise)


@_precise
def _embed_text(model, ids):
    return model.embed_text(ids)


@_precise
def _embed_picture(model, x):
    return model.embed_picture(x)


@_precise
def _embed_sound(model, log_mel):
    return model.embed_sound(log_mel)
