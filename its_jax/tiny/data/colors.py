"""A program that colors the images of `pictures.py` and writes captions: the training data of the small pixel model.

The gray of an image is that of `pictures.draw`, and its parts have the usual colors of their subject. The mean of the
three channels is the gray at every pixel. Bright places are therefore pale, and black places stay black.
"""

from typing import Any

import numpy as np

from its_jax.colorize import luminance
from its_jax.tiny.data import pictures

# Red, green and blue in 0 to 255. Only their proportions count.
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
    "gray": (205, 215, 230),
}
# The colors that each part of a subject may have. All objects of an image have the same color, drawn at random.
PALETTES: dict[str, dict[str, tuple[str, ...]]] = {
    "castle": {"body": ("sand",), "mark": ("yellow",)},
    "dog": {"body": ("brown", "sand"), "ear": ("brown",)},
    "tiger": {"body": ("orange",)},
    "train": {"body": ("red", "green", "blue"), "solid": ("gray",), "ground": ("gray",)},
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
    "mushroom": {"body": ("red",), "stem": ("sand",), "mark": ("gray",)},
    "guitar": {"body": ("brown", "orange"), "limb": ("brown",), "solid": ("brown",)},
    "elephant": {"body": ("gray",)},
}
_SURROUNDINGS: dict[str, tuple[str, ...]] = {"waves": ("blue",), "stars": ("yellow",), "ground": ("green",)}
_HUES = {"brown": "orange", "sand": "orange"}  # darker or paler shades of the same hue
_FAINTEST_TINT = 2 / 255  # Blurring leaves fainter tints, which have no reliable proportions.
_LEAST_CHROMA = 0.15  # of the brightness of an image; below it the image counts as gray
_LARGE_PARTS = ("body", "hull", "leaf", "fin")
TEMPLATES = (
    "a colorful photo of {}",
    "a colorful painting of {}",
    "a colorful picture of {}",
    "a colorful drawing of {}",
    "a photo of {}",
    "{} in color",
)


def caption(subject: str, rng: np.random.Generator) -> str:
    """Returns a caption such as "a colorful photo of castle towers"."""
    return str(rng.choice(TEMPLATES)).format(rng.choice(pictures.SUBJECTS[subject]))


def draw(subject: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws a gray image and the tints of its parts. `apply_tints` joins the two.

    Returns:
      the image that `pictures.draw` draws from the same state of `rng`, float32 `[128, 512]` in [0, 1], and its tints,
      float32 `[128, 512, 3]` in [0, 1].
    """
    # A generator of its own leaves the random numbers of the gray image as they are.
    (own,) = rng.spawn(1)
    tints = {part: COLORS[own.choice(names)] for part, names in (_SURROUNDINGS | PALETTES[subject]).items()}
    return pictures.draw_with_tints(subject, rng, tints)


def apply_tints(gray: np.ndarray, tints: np.ndarray) -> np.ndarray:
    """Returns the image `[..., h, w, 3]` whose channels have the mean `gray`, `[..., h, w]` in [0, 1].

    Args:
      tints: `[..., h, w, 3]` in [0, 1].
    """
    strength = tints.mean(axis=-1, keepdims=True)
    proportions = np.where(strength > _FAINTEST_TINT, tints / np.maximum(strength, _FAINTEST_TINT), 1)
    # The array stays NumPy's, because JAX would round the mean of the channels differently.
    column: Any = gray[..., None]
    return np.asarray(luminance.clip_to_gamut(column, column * proportions))


def usual_hues(subject: str) -> set[str]:
    """Returns the hues that the large parts of a subject may have, among those that `dominant_hue` returns."""
    palette = PALETTES[subject].items()
    return {_HUES.get(name, name) for part, names in palette if part in _LARGE_PARTS for name in names}


def dominant_hue(image: np.ndarray) -> str:
    """Returns the hue with the largest share of the color in `[h, w, 3]` in [0, 1], or "gray" if there is little."""
    gray = image.mean(axis=-1, keepdims=True)
    chroma = (image - gray).reshape(-1, 3)
    strength = np.linalg.norm(chroma, axis=-1)
    if strength.sum() < _LEAST_CHROMA * gray.sum():
        return "gray"
    names = [name for name in COLORS if name not in (*_HUES, "gray")]
    nearest = np.argmax(chroma @ np.stack([_direction(name) for name in names], axis=1), axis=1)
    return names[np.argmax(np.bincount(nearest, strength))]


def _direction(name: str) -> np.ndarray:
    """Returns the unit vector `[3]` from gray towards a color."""
    chroma = np.array(COLORS[name], float)
    chroma -= chroma.mean()
    return chroma / np.linalg.norm(chroma)
