"""A program that draws gray pictures and writes captions: the training data of the small image model.

A picture is a strip of 3 to 7 large, light objects of one subject on black. It is also a spectrogram: its height is
frequency, its width is time and its brightness is loudness. Therefore features are bold, gaps are truly black, and no
place along the width is special, so that any crop looks like a whole picture.

A short function draws each subject with a `_Pen` in the object's own frame: y runs from 0 (top) to 1 (bottom, on the
ground) and x from about -aspect / 2 to aspect / 2, in units of the object's height.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFilter

from its_jax.errors import UserError

SUBJECTS: dict[str, tuple[str, ...]] = {
    "castle": ("castle towers", "a castle", "castles"),
    "dog": ("dogs", "a dog"),
    "tiger": ("tigers", "a tiger"),
    "train": ("trains", "a train"),
    "flower": ("flowers", "a flower"),
    "tree": ("trees", "a tree"),
    "fish": ("fish", "a fish"),
    "boat": ("sailing boats", "a boat", "boats"),
    "butterfly": ("butterflies", "a butterfly"),
    "mushroom": ("mushrooms", "a mushroom"),
    "guitar": ("guitars", "a guitar"),
    "elephant": ("elephants", "an elephant"),
}
TEMPLATES = (
    "a painting of {}, grayscale",
    "a drawing of {}, grayscale",
    "a picture of {}, grayscale",
    "a painting of {}",
    "a drawing of {}",
    "a picture of {}",
    "{}, grayscale, black background",
    "{}, grayscale",
)
STYLES = ("filled", "outline")
Tints = Mapping[str, tuple[int, int, int]]  # part -> red, green and blue

_OVERSAMPLING = 2
_BLUR = 1.25 / 128  # standard deviation of the final blur, in picture heights
_MEAN_BRIGHTNESS = np.array([0.12, 0.24])  # The brightness of a picture is scaled towards this range.


def caption(subject: str, rng: np.random.Generator) -> str:
    """Returns a lower-case caption for `subject`, such as "a painting of castle towers, grayscale".

    Raises:
      UserError: `subject` is not in SUBJECTS.
    """
    _check("subject", subject, SUBJECTS)
    return str(rng.choice(TEMPLATES)).format(rng.choice(SUBJECTS[subject]))


def draw(
    subject: str, rng: np.random.Generator, height: int = 128, width: int = 512, style: str | None = None
) -> np.ndarray:
    """Draws a picture of `subject`: float32 `[height, width]` in [0, 1], row 0 on top.

    Args:
      rng: the only source of variation.
      style: "filled" (light shapes with dark details), "outline" (bold light contours), or None for a random one.

    Raises:
      UserError: the subject or the style is unknown.
    """
    _check("subject", subject, SUBJECTS)
    if style is None:
        style = str(rng.choice(STYLES))
    _check("style", style, STYLES)
    canvas, _ = _draw_canvases(subject, rng, height, width, style, {})
    return _brighten(_soften(canvas), rng)


def draw_with_tints(
    subject: str,
    rng: np.random.Generator,
    tints: Tints,
    height: int = 128,
    width: int = 512,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a picture as `draw` does, and the tints of its parts.

    Args:
      tints: red, green and blue in 0 to 255 of parts, which the functions below name. Other parts have the tint of
        "body".

    Returns:
      the picture, float32 `[height, width]` in [0, 1], and the tints, float32 `[height, width, 3]` in [0, 1], which are
      black where the picture is.
    """
    _check("subject", subject, SUBJECTS)
    canvas, tint_canvas = _draw_canvases(subject, rng, height, width, str(rng.choice(STYLES)), tints)
    return _brighten(_soften(canvas), rng), _soften(tint_canvas)


def _draw_canvases(
    subject: str, rng: np.random.Generator, height: int, width: int, style: str, tints: Tints
) -> tuple[Image.Image, Image.Image]:
    """Draws an enlarged picture and its tints."""
    size = width * _OVERSAMPLING, height * _OVERSAMPLING
    canvas, tint_canvas = Image.new("L", size), Image.new("RGB", size)
    _draw_strip(_Pen(canvas, tint_canvas, style, rng, tints), _KINDS[subject], rng)
    return canvas, tint_canvas


def _soften(canvas: Image.Image) -> np.ndarray:
    """Reduces and blurs an enlarged canvas: float32 `[height, width, ...]` in [0, 1]."""
    small = canvas.reduce(_OVERSAMPLING)
    return np.asarray(small.filter(ImageFilter.GaussianBlur(_BLUR * small.height)), np.float32) / 255


def _brighten(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scales a picture to a random brightness that keeps the mean in bounds and the peak at most 1."""
    low, high = _MEAN_BRIGHTNESS / picture.mean()
    gain = float(min(np.clip(rng.uniform(0.75, 1.0), low, high), 1 / picture.max()))
    return np.clip(picture * gain, 0, 1)


def _check(what: str, value: str, known: Iterable[str]) -> None:
    """Raises UserError for a value that is not known."""
    if value not in known:
        raise UserError(f"unknown {what} {value!r}: choose one of {', '.join(known)}")


# -------------------------------------------------------------------------------------------------- the strip


@dataclass(frozen=True)
class _Kind:
    """A subject's function, and the placement of its objects on the strip, in picture heights and radians."""

    draw: Callable[["_Pen", np.random.Generator], None]
    aspect: float  # nominal width / height of one object
    size: tuple[float, float] = (0.78, 0.95)
    tilt: float = 0.04  # largest rotation
    ground: str = "ground"  # "ground", "rails", "waves" or "air"
    same_way: bool = False  # whether all objects of a picture face the same way


def _draw_strip(pen: "_Pen", kind: _Kind, rng: np.random.Generator) -> None:
    """Draws the background, then objects from beyond one edge to beyond the other: a window of an endless strip."""
    height, width = pen.canvas.height, pen.canvas.width
    floor = height * (0.97 if kind.ground == "air" else rng.uniform(0.965, 0.985))
    _draw_background(pen, kind.ground, floor, rng)
    base, spread, facing = rng.uniform(*kind.size), rng.uniform(0.02, 0.3), rng.choice((-1, 1))
    left = -rng.uniform(1.5, 3.0) * height
    while left < width:
        size = height * np.clip(base * rng.uniform(0.85, 1.1), *kind.size)
        rise = rng.uniform(0, 1) * (floor - size) if kind.ground == "air" else 0
        way = facing if kind.same_way else rng.choice((-1, 1))
        right = left + kind.aspect * size
        if right > -0.2 * height:
            tilt, shear = rng.uniform(-kind.tilt, kind.tilt), rng.uniform(-0.06, 0.06)
            pen.place((left + right) / 2, floor - rise, size, way, tilt, shear)
            kind.draw(pen, rng)
        left = right + height * (0.06 + spread * rng.uniform(0.2, 1.5))


def _draw_background(pen: "_Pen", ground: str, floor: float, rng: np.random.Generator) -> None:
    """Draws waves or rails for the subjects that have them, and at random a glow, stars or a ground line."""
    height, width = pen.canvas.height, pen.canvas.width
    if ground == "waves":
        x = np.linspace(-8, width + 8, 160)
        pitch, phase = height * rng.uniform(0.25, 0.4), rng.uniform(0, 2 * np.pi)
        swell = 0.018 * height * np.sin(2 * np.pi * x / pitch + phase)
        pen.background(np.stack([x, floor + swell], axis=1), 0.045 * height, 140, "waves")
        return
    if rng.random() < 0.15:
        glow = Image.linear_gradient("L").point(lambda value: max(0, value - 128) // 5)
        pen.canvas.paste(glow.resize((width, height)))
    if rng.random() < 0.2:
        for x in np.arange(rng.uniform(0, 0.5), width / height, 0.5):
            star = height * np.array([x + rng.uniform(-0.2, 0.2), rng.uniform(0.04, 0.45)])
            pen.background(star + [(-1, 0), (1, 0)], 0.045 * height, 150, "stars")
    if ground == "rails" or (ground == "ground" and rng.random() < 0.35):
        pen.background([(-8, floor), (width + 8, floor)], 0.045 * height, 140, "ground")


# ---------------------------------------------------------------------------------------------------- the pen


class _Pen:
    """A pen that draws shapes (`[n, 2]` points in an object's frame) in either style.

    "filled": shapes are light with a dark rim, which separates them from others behind. Marks and lines are dark.
    "outline": shapes are black with a light rim. Marks and lines are light.

    With `tints`, everything light also appears on `tint_canvas` in the tint of its part.
    """

    def __init__(
        self, canvas: Image.Image, tint_canvas: Image.Image, style: str, rng: np.random.Generator, tints: Tints
    ):
        self.canvas = canvas
        self._draw, self._draw_tint, self._tints = ImageDraw.Draw(canvas), ImageDraw.Draw(tint_canvas), tints
        self._filled = style == "filled"
        self._detail = 0 if self._filled else 255
        self._rim = (rng.uniform(0.032, 0.04) if self._filled else rng.uniform(0.042, 0.06)) * canvas.height

    def place(self, center: float, bottom: float, size: float, way: int, tilt: float, shear: float) -> None:
        """Places the frame of the next object, in canvas pixels and radians. `way` -1 mirrors it."""
        if not self._filled:
            size, bottom = size - 2 * self._rim, bottom - self._rim
        cos, sin = np.cos(tilt), np.sin(tilt)
        self._matrix = size * np.array([[way, 0], [-shear, 1]]) @ np.array([[cos, sin], [-sin, cos]])
        self._origin = np.array([center, bottom - size / 2])
        self._size = size

    def shape(self, *shapes: np.ndarray, tone: float = 1.0, part: str = "body") -> None:
        """Draws the union of closed shapes, with a rim around the whole."""
        outlines = [self._to_canvas(shape) for shape in shapes]
        ink = round(255 * tone)
        rim, fill = (0, ink) if self._filled else (ink, 0)
        for points in outlines:
            self._grow(points, self._rim, rim, part)
        for points in outlines:
            self._fill(points, fill, part)

    def limb(self, points: ArrayLike, width: float, part: str = "limb") -> None:
        """Draws a line that is light in either style: stems, masts, feelers."""
        outline, radius = self._to_canvas(_there_and_back(points)), width * self._size / 2
        if self._filled:
            self._grow(outline, radius + self._rim, 0, part)
        self._grow(outline, radius, 255, part)

    def solid(self, *shapes: np.ndarray, part: str = "solid") -> None:
        """Draws shapes that are light in either style and have no rim."""
        for shape in shapes:
            self._fill(self._to_canvas(shape), 255, part)

    def mark(self, *shapes: np.ndarray) -> None:
        """Draws filled details on a shape: eyes, windows, stripes."""
        for shape in shapes:
            self._fill(self._to_canvas(shape), self._detail, "mark")

    def line(self, points: ArrayLike, width: float = 0.05) -> None:
        """Draws a line on a shape."""
        self._grow(self._to_canvas(_there_and_back(points)), width * self._size / 2, self._detail, "mark")

    def background(self, points: ArrayLike, width: float, ink: int, part: str) -> None:
        """Draws a line of the background, in canvas pixels."""
        self._grow(_complex(_there_and_back(points)), width / 2, ink, part)

    def _to_canvas(self, points):
        return _complex((points - _FRAME_CENTER) @ self._matrix + self._origin)

    def _fill(self, points, ink, part):
        corners = points.view(float).tolist()
        self._draw.polygon(corners, fill=ink)
        if self._tints and ink:
            self._draw_tint.polygon(corners, fill=self._tint(part))

    def _tint(self, part):
        return self._tints.get(part, self._tints["body"])

    def _grow(self, points, radius, ink, part):
        """Fills everything within `radius` of a closed outline: bands along its edges, polygons at its corners.

        Pillow's own round joints are a slow Python loop.
        """
        ring = np.concatenate([points, points[:1]])
        line = ring.view(float).tolist()
        self._draw.line(line, fill=ink, width=round(2 * radius))
        if self._tints and ink:
            self._draw_tint.line(line, fill=self._tint(part), width=round(2 * radius))
        self._fill(_offset(ring, radius), ink, part)


_FRAME_CENTER = np.array([0, 0.5])


def _complex(points):
    """Returns coordinates `[n, 2]` as complex numbers `[n]`, so that a quarter turn is a product with 1j."""
    return np.ascontiguousarray(points, float).view(complex)[:, 0]


def _offset(ring, radius):
    """Moves a closed outline (its first point repeated at the end) outwards, with corners cut from a circle."""
    edge = ring[1:] - ring[:-1]
    edge /= np.abs(edge)
    clockwise = np.sign((ring[:-1].conj() * ring[1:]).imag.sum()) or 1
    after = -1j * clockwise * edge
    before = np.concatenate([after[-1:], after[:-1]])
    middle = before + after + 1e-6j * clockwise * before  # Where a line turns back, it goes straight on.
    middle /= np.abs(middle)
    corners = np.stack([before, middle, after], axis=1)
    return (ring[:-1, None] + radius * corners).ravel()


def _there_and_back(points):
    """Returns an open line as a closed outline without area."""
    points = np.asarray(points, float)
    return np.concatenate([points, points[-2:0:-1]])


_CIRCLE = np.exp(2j * np.pi * np.arange(24) / 24).view(float).reshape(-1, 2)


def _oval(x, y, rx, ry=None, turn=0.0):
    cos, sin = np.cos(turn), np.sin(turn)
    return _CIRCLE * (rx, ry or rx) @ np.array([[cos, sin], [-sin, cos]]) + (x, y)


def _box(left, top, right, bottom):
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _arch(x, top, half, tall):
    """Returns a round-headed opening."""
    return np.concatenate([_oval(x, top + half, half)[12:], [(x + half, top + tall), (x - half, top + tall)]])


def _symmetric(right):
    """Mirrors the right half of a closed outline, from top to bottom. Points at x = 0 are its ends."""
    points = np.asarray(right, float)
    return np.concatenate([points, points[points[:, 0] > 0][::-1] * (-1, 1)])


def _spline(points, closed=True, steps=5):
    """Returns a smooth (Catmull-Rom) curve through the points."""
    p = np.asarray(points, float)
    p = np.concatenate([p[-1:], p, p[:2]] if closed else [p[:1], p, p[-1:]])
    t = np.arange(steps)[:, None, None] / steps
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    curve = curve.swapaxes(0, 1).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-1:]])


def _tube(points, start, end):
    """Returns a round-ended limb along a smooth line, whose radius goes from `start` to `end`."""
    middle = _spline(points, closed=False) if len(points) > 2 else np.asarray(points, float)
    along = np.concatenate([middle[1:], middle[-1:]]) - np.concatenate([middle[:1], middle[:-1]])
    along /= np.hypot(*along.T)[:, None]
    radius = np.linspace(start, end, len(middle))[:, None]
    side = radius * along[:, ::-1] * (-1, 1)
    tip, tail = middle[-1:] + 0.7 * end * along[-1:], middle[:1] - 0.7 * start * along[:1]
    return np.concatenate([middle + side, tip, (middle - side)[::-1], tail])


# ----------------------------------------------------------------------------------------------- the subjects


# Outlines read best with several points on a line.
# fmt: off


def _castle(pen, rng):
    reach, wall = rng.uniform(0.43, 0.48), rng.uniform(0.52, 0.62)
    pen.shape(_box(-reach, wall, reach, 1), tone=0.8)
    for x, half, top in (
        (-reach, 0.12, rng.uniform(0.22, 0.38)),
        (reach, 0.12, rng.uniform(0.22, 0.38)),
        (0, 0.17, rng.uniform(0.0, 0.1)),
    ):
        head, roof, neck = half + 0.055, top + 0.12, top + 0.22
        pen.shape(_symmetric([(head, roof), (head, neck), (half, neck + 0.05), (half, 1)]) + (x, 0))
        tooth = head / 2.5
        for left in (-head, -tooth / 2, head - tooth):
            pen.solid(_box(x + left, top, x + left + tooth, roof + 0.02))
        pen.mark(_arch(x, neck + 0.12, 0.05, 0.15))
    pen.mark(_arch(0, 0.7, 0.09, 0.31))


def _dog(pen, rng):
    belly, rear, ear = rng.uniform(0.6, 0.66), rng.uniform(0.44, 0.54), rng.uniform(0.36, 0.46)
    tail_tip = (rear + rng.uniform(0.08, 0.18), rng.uniform(0.1, 0.2))
    feet = (-0.34, -0.13, rear - 0.18, rear + 0.01)
    legs = [_tube([(x, belly), (x - 0.01, 0.95)], 0.07, 0.05) for x in feet]
    tail = _tube([(rear, 0.48), (rear + 0.12, 0.36), tail_tip], 0.05, 0.035)
    body = _spline([(-0.36, 0.45), (-0.1, 0.43), (rear, 0.42), (rear + 0.08, 0.55), (rear, 0.7),
                    (0.1, belly + 0.04), (-0.2, 0.74), (-0.38, 0.64)])
    neck = _tube([(-0.24, 0.55), (-0.36, 0.3)], 0.14, 0.12)
    head = _oval(-0.38, 0.2, 0.17, 0.15)
    snout = _tube([(-0.42, 0.23), (-0.62, 0.27)], 0.1, 0.075)
    pen.shape(*legs, tail, body, neck, head, snout)
    flap = _spline([(-0.34, 0.08), (-0.22, 0.1), (-0.17, ear), (-0.26, ear + 0.04), (-0.33, 0.25)])
    pen.shape(flap, tone=0.7, part="ear")
    pen.mark(_oval(-0.45, 0.16, 0.033), _oval(-0.68, 0.23, 0.05, 0.045))
    pen.line([(-0.68, 0.31), (-0.52, 0.33)], 0.04)
    if rng.random() < 0.6:
        pen.mark(_oval(rng.uniform(0.1, 0.3), 0.54, rng.uniform(0.07, 0.12), 0.07))


def _tiger(pen, rng):
    wide, stripe = rng.uniform(0.46, 0.52), rng.uniform(0.14, 0.2)
    for side in (-1, 1):
        pen.shape(_oval(side * (wide - 0.12), 0.17, 0.16))
        pen.mark(_oval(side * (wide - 0.12), 0.17, 0.075))
    pen.shape(_spline(_symmetric([
        (0, 0.08), (0.25, 0.11), (wide - 0.04, 0.32), (wide, 0.55), (wide + 0.06, 0.74), (wide - 0.12, 0.8),
        (0.22, 0.95), (0, 0.99)])))
    pen.mark(np.array([(-0.05, 0.08), (0.05, 0.08), (0, 0.37)]))
    for flip in ((-1, 1), (1, 1)):
        pen.mark(np.array([(0.12, 0.08), (0.22, 0.09), (0.12, 0.31)]) * flip)
        for y, drop in ((0.4, 0.06), (0.55, 0.04), (0.69, 0.0)):
            base = wide + 0.06
            pen.mark(np.array([(base, y - 0.05), (base, y + 0.05), (wide - stripe, y + drop)]) * flip)
        pen.mark(_oval(0.18, 0.46, 0.065, 0.05, 0.3) * flip)
        pen.line(_spline([(0, 0.8), (0.08, 0.86), (0.19, 0.82)], closed=False) * flip, 0.045)
    pen.mark(_spline([(-0.1, 0.63), (0, 0.61), (0.1, 0.63), (0, 0.74)]))
    pen.line([(0, 0.7), (0, 0.81)], 0.045)


def _train(pen, rng):
    stack = rng.uniform(0.14, 0.22)
    for i in range(3):
        pen.solid(_oval(-0.46 + 0.17 * i, 0.08 - 0.01 * i, 0.05 + 0.015 * i))
    chimney = _symmetric([(0.12, stack), (0.06, 0.32), (0.06, 0.5)]) - (0.48, 0)
    dome, boiler, cab = _oval(-0.14, 0.42, 0.1), _box(-0.66, 0.42, 0.2, 0.78), _box(0.12, 0.24, 0.6, 0.82)
    pen.shape(chimney, dome, boiler, cab)
    pen.shape(_box(0.05, 0.15, 0.68, 0.23))
    pen.mark(_box(0.26, 0.36, 0.48, 0.54))
    for x in (-0.46, -0.04):
        pen.line([(x, 0.44), (x, 0.74)], 0.05)
    pen.solid(np.array([(-0.68, 0.8), (-0.62, 0.97), (-0.86, 0.97)]))
    for x, radius in ((-0.42, 0.13), (-0.1, 0.13), (0.36, 0.19)):
        pen.shape(_oval(x, 0.98 - radius, radius))
        pen.mark(_oval(x, 0.98 - radius, 0.4 * radius))


def _flower(pen, rng):
    y, top = 0.34, rng.uniform(0.7, 0.8)
    for flip in ((-1, 1), (1, 1)):
        pen.shape(_spline([(0.05, 0.95), (0.12, top), (0.36, top - 0.06), (0.28, 0.9)]) * flip, tone=0.8, part="leaf")
    pen.limb(_spline([(0, y), (rng.uniform(-0.1, 0.1), 0.7), (0, 1)], closed=False), 0.06)
    petals, reach = rng.integers(5, 8), rng.uniform(0.29, 0.33)
    turn = np.linspace(0, 2 * np.pi, 12 * petals, endpoint=False)
    radius = reach * (0.45 + 0.55 * np.abs(np.sin(petals * turn / 2)) ** 0.6)
    turn += rng.uniform(0, 2 * np.pi)
    pen.shape(np.stack([radius * np.cos(turn), y + radius * np.sin(turn)], axis=1))
    pen.mark(_oval(0, y, 0.1))


def _tree(pen, rng):
    tiers, wide = rng.integers(3, 5), rng.uniform(0.34, 0.42)
    pen.shape(_box(-0.07, 0.8, 0.07, 1), tone=0.7, part="trunk")
    for down in np.linspace(1, 0, tiers):
        low, half = 0.36 + 0.5 * down, wide * (0.55 + 0.45 * down)
        top = max(0.0, low - 0.42)
        pen.shape(_symmetric([(0, top), (half, low), (0.45 * half, low - 0.035), (0, low + 0.02)]))


def _fish(pen, rng):
    tall = rng.uniform(0.34, 0.42)
    pen.shape(np.array([(0.38, 0.5), (0.74, 0.14), (0.66, 0.5), (0.74, 0.86)]), tone=0.8, part="fin")
    pen.shape(_spline([(-0.15, 0.56 - tall), (0.05, 0.02), (0.28, 0.1), (0.24, 0.4)]), tone=0.8, part="fin")
    pen.shape(_spline([(-0.05, 0.44 + tall), (0.2, 0.98), (0.2, 0.7)]), tone=0.8, part="fin")
    pen.shape(_spline([(-0.68, 0.52), (-0.45, 0.56 - 0.8 * tall), (-0.1, 0.52 - tall), (0.25, 0.36),
                       (0.5, 0.5), (0.25, 0.66), (-0.1, 0.5 + tall), (-0.45, 0.46 + 0.8 * tall)]))
    pen.mark(_oval(-0.45, 0.42, 0.06))
    for x in (-0.24, -0.02, 0.2):
        bow = tall * (0.75 - 0.6 * abs(x + 0.1))
        pen.line(_spline([(x, 0.5 - bow), (x + 0.09, 0.5), (x, 0.5 + bow)], closed=False), 0.055)
    pen.line([(-0.66, 0.57), (-0.54, 0.6)], 0.04)


def _boat(pen, rng):
    pen.limb([(0, 0.02), (0, 0.8)], 0.05)
    pen.shape(_spline([(0.06, 0.06), (0.3, 0.35), (0.44, 0.66), (0.25, 0.67), (0.06, 0.66)]))
    pen.shape(np.array([(-0.07, 0.16), (-0.07, 0.66), (-0.42, 0.66)]))
    pen.shape(_symmetric([(0.52, 0.75), (0.36, 0.97)]), part="hull")
    if rng.random() < 0.6:
        pen.line([(0.06, 0.42), (0.34, 0.42)], 0.05)
    for x in (-0.2, 0, 0.2):
        pen.mark(_oval(x, 0.86, 0.035))


def _butterfly(pen, rng):
    upper, lower = rng.uniform(0.5, 0.58), rng.uniform(0.4, 0.48)
    feeler = _spline([(0.02, 0.28), (0.09, 0.1), (0.2, 0.04)], closed=False)
    hind = _spline([(0.04, 0.52), (0.16, 0.62), (lower, 0.66), (lower - 0.04, 0.92), (0.22, 0.97),
                    (0.08, 0.74)])
    fore = _spline([(0.04, 0.48), (0.16, 0.22), (upper, 0.08), (upper + 0.06, 0.3), (upper - 0.08, 0.54),
                    (0.2, 0.58)])
    for flip in ((-1, 1), (1, 1)):
        pen.limb(feeler * flip, 0.04)
        pen.shape(hind * flip, tone=0.8)
        pen.shape(fore * flip)
        pen.mark(_oval(upper - 0.14, 0.3, 0.11, 0.09, -0.4) * flip, _oval(lower - 0.14, 0.8, 0.07) * flip)
    pen.shape(_oval(0, 0.54, 0.05, 0.3), part="limb")


def _mushroom(pen, rng):
    wide, brim = rng.uniform(0.46, 0.56), rng.uniform(0.5, 0.58)
    pen.shape(_spline(_symmetric([(0.11, 0.45), (0.13, 0.8), (0.19, 0.97), (0, 1)])), tone=0.75, part="stem")
    pen.shape(_spline(_symmetric([(0.35 * wide, 0.04), (0.8 * wide, 0.22), (wide, brim), (0, brim + 0.05)])))
    for x, y, radius in ((-0.26, 0.34, 0.075), (0.0, 0.2, 0.085), (0.26, 0.36, 0.08), (0.02, 0.43, 0.06)):
        pen.mark(_oval(x + rng.uniform(-0.02, 0.02), y, radius * rng.uniform(0.85, 1.1)))


def _guitar(pen, rng):
    waist = rng.uniform(0.14, 0.17)
    pen.limb([(0, 0.1), (0, 0.6)], 0.085)
    pen.solid(_symmetric([(0.1, 0), (0.07, 0.17)]))
    pen.shape(_spline(_symmetric([
        (0.07, 0.46), (0.21, 0.48), (0.23, 0.58), (waist, 0.68), (0.29, 0.82), (0.22, 0.97), (0, 1)])))
    pen.mark(_oval(0, 0.66, 0.075))
    pen.line([(-0.1, 0.86), (0.1, 0.86)], 0.055)


def _elephant(pen, rng):
    curl = rng.uniform(-0.78, -0.66)
    legs = [_box(x - 0.085, 0.55, x + 0.085, 0.99) for x in (-0.1, 0.1, 0.36, 0.56)]
    tail = _tube([(0.6, 0.36), (0.7, 0.46), (0.71, 0.62)], 0.035, 0.03)
    body, head = _oval(0.22, 0.4, 0.44, 0.31), _oval(-0.36, 0.29, 0.24, 0.24)
    trunk = _tube([(-0.5, 0.28), (-0.62, 0.5), (-0.6, 0.76), (curl, 0.92)], 0.12, 0.05)
    pen.shape(*legs, tail, body, head, trunk)
    ear = _spline([(-0.3, 0.08), (-0.1, 0.04), (0.05, 0.24), (-0.02, 0.5), (-0.18, 0.6), (-0.3, 0.4)])
    pen.shape(ear, tone=0.75, part="ear")
    for x in (0.0, 0.46):
        pen.line([(x, 0.78), (x, 0.97)], 0.045)
    pen.mark(_oval(-0.43, 0.22, 0.035))
    pen.limb(_spline([(-0.42, 0.52), (-0.5, 0.66), (-0.7, 0.64)], closed=False), 0.055)


# fmt: on
_KINDS = {
    "castle": _Kind(_castle, aspect=1.2, tilt=0.0),
    "dog": _Kind(_dog, aspect=1.35, size=(0.75, 0.92)),
    "tiger": _Kind(_tiger, aspect=1.15, tilt=0.08),
    "train": _Kind(_train, aspect=1.45, tilt=0.0, ground="rails", same_way=True),
    "flower": _Kind(_flower, aspect=0.72, size=(0.82, 0.97), tilt=0.08),
    "tree": _Kind(_tree, aspect=0.8, size=(0.8, 0.97)),
    "fish": _Kind(_fish, aspect=1.5, size=(0.62, 0.85), tilt=0.15, ground="air", same_way=True),
    "boat": _Kind(_boat, aspect=1.05, tilt=0.08, ground="waves"),
    "butterfly": _Kind(_butterfly, aspect=1.2, size=(0.7, 0.92), tilt=0.25, ground="air"),
    "mushroom": _Kind(_mushroom, aspect=1.05, size=(0.7, 0.95), tilt=0.08),
    "guitar": _Kind(_guitar, aspect=0.8, size=(0.86, 0.97), tilt=0.5, ground="air"),
    "elephant": _Kind(_elephant, aspect=1.4, size=(0.75, 0.92)),
}
