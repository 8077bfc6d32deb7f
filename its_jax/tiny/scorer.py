"""The judges as a scorer for sweeps of the embedded models: --scorers=its_jax.tiny.scorer:right."""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from its_jax.scoring.item import Item
from its_jax.tiny import judges
from its_jax.tiny.data import items, pictures, sounds
from its_jax.tiny.recipe import canvas

# Kind of judge -> phrase -> class.
_CLASSES = {
    kind: {phrase: i for i, phrases in enumerate(classes.values()) for phrase in phrases}
    for kind, classes in (("picture", pictures.SUBJECTS), ("sound", sounds.SOUNDS))
}


def right(samples: Sequence[Item]) -> dict[str, list[float | None]]:
    """Scores how certain the judges are that samples show and sound what their prompts name.

    Returns:
      the columns `picture` and `sound`, 0 to 100. A score is None if the prompt names nothing that the judges know, or
      if the canvas does not have 128 mel bands.
    """
    return {
        "picture": [_certainty("picture", item.spectrogram, item.settings.terms["image"].prompt) for item in samples],
        "sound": [_certainty("sound", _spectrogram(item), item.settings.terms["audio"].prompt) for item in samples],
    }


def named(kind: str, prompt: str) -> int | None:
    """Returns the class of 'picture' or 'sound' that a prompt names, or None.

    If the prompt contains several phrases, the longest counts.
    """
    found = [phrase for phrase in _CLASSES[kind] if f" {phrase}" in f" {prompt.lower()}"]
    return _CLASSES[kind][max(found, key=len)] if found else None


def _spectrogram(item: Item) -> np.ndarray:
    """Returns the spectrogram `[128, frames]` of a sample's waveform."""
    return np.asarray(items.to_spectrogram(item.waveform[None]))[0]


def _certainty(kind: str, image: np.ndarray, prompt: str) -> float | None:
    """Returns the percentage that a judge gives to the class that the prompt names."""
    wanted = named(kind, prompt)
    if wanted is None or len(image) != canvas.HEIGHT:
        return None
    return 100 * float(judges.probabilities(_judge(kind), jnp.asarray(image[None], jnp.float32))[0, wanted])


@functools.cache
def _judge(kind: str) -> judges.Judge:
    """Loads a judge once."""
    return judges.load(kind)
