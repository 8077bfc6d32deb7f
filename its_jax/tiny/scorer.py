"""The judges as a scorer for sweeps of the embedded models: --scorers=its_jax.tiny.scorer:right."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.tiny import judges
from its_jax.tiny.data import items as data_items
from its_jax.tiny.data import pictures, sounds


def right(items):
    """How sure the judges are that a sample shows and sounds what it was asked for: columns `picture` and `sound`, 0 to
    100; none, where the prompt names nothing that they know, or the canvas is not of 128 mel bands."""
    found = {"picture": [], "sound": []}
    for item in items:
        heard = np.asarray(data_items.to_spectrogram(item.waveform[None]))[0]
        found["picture"].append(
            _sure("picture", item.spectrogram, named("picture", item.settings.terms["image"].prompt))
        )
        found["sound"].append(_sure("sound", heard, named("sound", item.settings.terms["audio"].prompt)))
    return found


# Phrase -> class; of several in a prompt the longest counts.
_PHRASES = {
    kind: {phrase: i for i, name in enumerate(names) for phrase in phrases[name]}
    for kind, names, phrases in (
        ("picture", data_items.SUBJECTS, pictures.SUBJECTS),
        ("sound", data_items.SOUNDS, sounds.SOUNDS),
    )
}


def named(kind, prompt):
    """The class, of pictures or of sounds, that a prompt names; None if it names none."""
    there = [phrase for phrase in _PHRASES[kind] if f" {phrase}" in f" {prompt.lower()}"]
    return _PHRASES[kind][max(there, key=len)] if there else None


def _sure(kind, picture, wanted):
    if wanted is None or len(picture) != 128:
        return None
    return 100 * float(_chances(_judge(kind), jnp.asarray(picture[None], jnp.float32))[0, wanted])


@jax.jit
def _chances(judge, x):
    return jax.nn.softmax(judge(x))


@functools.cache
def _judge(kind):
    return judges.load(kind)
