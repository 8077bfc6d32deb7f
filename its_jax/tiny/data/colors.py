"""Coloured versions of the program's pictures, with captions: what the small model of pixels learns to paint.

A picture's grey is that of `pictures.draw`; its parts have the usual colours of their subject. The mean of the three
channels is the grey at every pixel, so bright places are pale, and black ones black.
"""

from collections.abc import Mapping

import numpy as np

from its_jax.colorize import luminance
from its_jax.tiny.data import pictures

# Red, green and blue of 0 to 255, of which only the proportions count.
COLORS = {
    "red": (235, 40, 30),
    "orange": (255, 130, 15),
    "yellow": (255, 215, 25),
    "green": (50, 190, 40),
    "blue": (40, 95, 255),
    "violet": (150, 50, 230),
    "pink": (255, 110, 180),
    "brown": (160, 95, 45),
    "sand": (235, 180, 115),
    "grey": (205, 215, 230),
}
# What the parts of a subject may be, one by chance for all objects of a picture.
PALETTES: dict[str, Mapping[str, tuple[str, ...]]] = {
    "castle": {"body": ("sand",), "mark": ("yellow",)},
    "dog": {"body": ("brown", "sand"), "ear": ("brown",)},
    "tiger": {"body": ("orange",)},
    "train": {"body": ("red", "green", "blue"), "solid": ("grey",), "ground": ("grey",)},
    "flower": {
        "body": ("red", "pink", "yellow", "violet"),
        "leaf": ("green",),
        "limb": ("green",),
        "mark": ("yellow",),
    },
    "tree": {"body": ("green",), "trunk": ("brown",)},
    "fish": {"body": ("orange", "blue"), "fin": ("orange", "yellow")},
    "boat": {"body": ("red", "yellow"), "hull": ("brown",), "limb": ("brown",), "mark": ("yellow",)},
    "butterfly": {"body": ("blue", "orange", "yellow"), "limb": ("brown",)},
    "mushroom": {"body": ("red",), "stem": ("sand",), "mark": ("grey",)},
    "guitar": {"body": ("brown", "orange"), "limb": ("brown",), "solid": ("brown",)},
    "elephant": {"body": ("grey",)},
}
_SURROUNDINGS = {"waves": ("blue",), "stars": ("yellow",), "ground": ("green",)}
_HUES = {"brown": "orange", "sand": "orange"}  # darker or paler, but of one hue
_FAINTEST = 2 / 255  # of what is left of a tint by blurring
_GREYEST = 0.15  # share of colour in the brightness of a picture that is told from grey
_LARGE = ("body", "hull", "leaf", "fin")
TEMPLATES = (
    "a colorful photo of {}",
    "a colorful painting of {}",
    "a colorful picture of {}",
    "a colorful drawing of {}",
    "a photo of {}",
    "{} in color",
)


def caption(subject: str, rng: np.random.Generator) -> str:
    """Such as "a colorful photo of castle towers"."""
    return str(rng.choice(TEMPLATES)).format(rng.choice(pictures.SUBJECTS[subject]))


def draw(subject: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The grey picture that `pictures.draw` makes of the same state of `rng`, float32 `[128, 512]` in [0, 1], and its
    tints, `[128, 512, 3]`: `coloured` makes a picture of the two."""
    (own,) = rng.spawn(1)
    tints = {part: COLORS[own.choice(names)] for part, names in (_SURROUNDINGS | PALETTES[subject]).items()}
    return pictures.draw_with_tints(subject, rng, tints)


def color_share(grey: np.ndarray, tints: np.ndarray) -> np.ndarray:
    """The picture `[..., h, w, 3]` whose channels' mean is `grey`, `[..., h, w]` in [0, 1]; tints `[..., h, w, 3]`."""
    strength = tints.mean(axis=-1, keepdims=True)
    proportions = np.where(strength > _FAINTEST, tints / np.maximum(strength, _FAINTEST), 1)
    return np.asarray(luminance.clip_to_gamut(grey[..., None], grey[..., None] * proportions))


def usual(subject: str) -> set[str]:
    """The hues that the large parts of a subject may have, of those that `hue` tells apart."""
    return {_HUES.get(name, name) for part, names in PALETTES[subject].items() if part in _LARGE for name in names}


def hue(picture: np.ndarray) -> str:
    """The one that has most of the colour in `[h, w, 3]` in [0, 1]; "grey" where there is little colour."""
    grey = picture.mean(axis=-1, keepdims=True)
    colour = (picture - grey).reshape(-1, 3)
    strength = np.linalg.norm(colour, axis=-1)
    if strength.sum() < _GREYEST * grey.sum():
        return "grey"
    names = [name for name in COLORS if name not in (*_HUES, "grey")]
    nearest = np.argmax(colour @ np.stack([_direction(name) for name in names], axis=1), axis=1)
    return names[np.argmax(np.bincount(nearest, strength))]


def _direction(name):
    colour = np.array(COLORS[name], float)
    colour -= colour.mean()
    return colour / np.linalg.norm(colour)
