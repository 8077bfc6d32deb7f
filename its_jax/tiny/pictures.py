"""Program-made grey pictures with captions: what the small image model learns to paint.

A picture is a strip of 3 to 7 large, light objects of one subject on black.  It is made to be heard as well as seen: its
height is frequency, its width is time and its brightness is loudness, so features are bold, gaps are truly black, and no
place along the width is special (any crop of it is again such a picture).

An object is drawn by its own short function with a `Pen`, in a frame of its own: y runs from 0 (top) to 1 (bottom, on the
ground), x from about -aspect / 2 to aspect / 2, in units of the object's height.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
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

_OVERSAMPLING = 2
_BLUR = 1.1 / 128  # standard deviation of the final softening, in picture heights
_MEAN_BRIGHTNESS = (0.12, 0.235)  # a picture's brightness is scaled towards this range


def caption(subject: str, rng: np.random.Generator) -> str:
    """A lower-case caption for `subject`, such as "a painting of castle towers, grayscale".

    Raises UserError for a subject that is not in SUBJECTS.
    """
    _check("subject", subject, SUBJECTS)
    return str(rng.choice(TEMPLATES)).format(rng.choice(SUBJECTS[subject]))


def draw(
    subject: str, rng: np.random.Generator, height: int = 128, width: int = 512, style: str | None = None
) -> np.ndarray:
    """A new picture of `subject`: float32 [height, width] in [0, 1], row 0 on top, the same for the same state of `rng`.

    `style` is "filled" (light shapes with dark details), "outline" (light bold contours), or None for one of them by chance.
    Raises UserError for an unknown subject or style.
    """
    _check("subject", subject, SUBJECTS)
    if style is None:
        style = str(rng.choice(STYLES))
    _check("style", style, STYLES)

    canvas = Image.new("L", (width * _OVERSAMPLING, height * _OVERSAMPLING))
    _draw_strip(Pen(canvas, style, rng), _KINDS[subject], rng)
    soft = canvas.reduce(_OVERSAMPLING).filter(ImageFilter.GaussianBlur(_BLUR * height))
    picture = np.asarray(soft, np.float32) / 255
    return np.clip(picture * _gain(picture, rng), 0, 1)


def _check(what, value, known):
    if value not in known:
        raise UserError(f"unknown {what} {value!r}: choose one of {', '.join(known)}")


def _gain(picture, rng):
    """A random brightness that keeps the mean in bounds and the peak at most 1."""
    low, high = _MEAN_BRIGHTNESS / picture.mean()
    return min(np.clip(rng.uniform(0.8, 1.0), low, high), 1 / picture.max())


# ---------------------------------------------------------------------------------------------------------- the strip


@dataclass(frozen=True)
class _Kind:
    """How the objects of a subject stand on the strip; sizes in picture heights, angles in radians."""

    draw: Callable
    aspect: float  # nominal width / height of one object
    size: tuple[float, float] = (0.78, 0.95)
    tilt: float = 0.04  # largest rotation
    ground: str = "ground"  # "ground", "rails", "waves" or "air"
    same_way: bool = False  # all objects of a picture face the same way


def _draw_strip(pen, kind, rng):
    """Background, then objects from beyond the left edge to beyond the right edge: a window of an endless strip."""
    height, width = pen.canvas.height, pen.canvas.width
    floor = 0.5 + 0.5 * rng.uniform(0.93, 0.97) if kind.ground != "air" else 0.97
    _draw_background(pen, kind.ground, floor, rng)
    base = rng.uniform(*kind.size)
    spread = rng.uniform(0.02, 0.3)
    facing = rng.choice((-1, 1))
    left = -rng.uniform(1.5, 3.0) * height
    while left < width:
        size = np.clip(base * rng.uniform(0.85, 1.1), *kind.size) * height
        span = kind.aspect * size
        rise = rng.uniform(0, 1) * (floor * height - size) if kind.ground == "air" else 0
        if left + span > -0.2 * height:
            way = facing if kind.same_way else rng.choice((-1, 1))
            centre, bottom = left + span / 2, floor * height - rise
            pen.place(centre, bottom, size, way, rng.uniform(-kind.tilt, kind.tilt), rng.uniform(-0.06, 0.06))
            kind.draw(pen, rng)
        left += span + (0.06 + spread * rng.uniform(0.2, 1.5)) * height


def _draw_background(pen, ground, floor, rng):
    height, width = pen.canvas.height, pen.canvas.width
    if ground != "waves" and rng.random() < 0.2:
        for x in np.arange(rng.uniform(0, 0.5), width / height, 0.5):
            pen.dot((x + rng.uniform(-0.2, 0.2)) * height, rng.uniform(0.03, 0.45) * height, 0.022 * height, 150)
    if ground == "rails" or (ground == "ground" and rng.random() < 0.35):
        pen.band(np.array([0, width]), np.full(2, (floor + 0.02) * height), 0.04 * height, 130)
    if ground == "waves":
        x = np.linspace(0, width, 160)
        pitch, phase = rng.uniform(0.25, 0.4) * height, rng.uniform(0, 2 * np.pi)
        pen.band(x, (floor + 0.0) * height + 0.018 * height * np.sin(2 * np.pi * x / pitch + phase), 0.04 * height, 150)


# ------------------------------------------------------------------------------------------------------------ the pen


class Pen:
    """Draws shapes ([n, 2] points in an object's frame) in one of two styles, so that a subject is described once.

    "filled": shapes are light with a dark rim (which parts them from what lies behind), marks and lines are dark.
    "outline": shapes are black with a light rim, marks and lines are light.
    """

    def __init__(self, canvas: Image.Image, style: str, rng: np.random.Generator):
        self.canvas = canvas
        self._draw = ImageDraw.Draw(canvas)
        self._filled = style == "filled"
        self._rim = (rng.uniform(0.032, 0.04) if self._filled else rng.uniform(0.045, 0.065)) * canvas.height

    def place(self, centre: float, bottom: float, size: float, way: int, tilt: float, shear: float):
        """Puts the frame of the next object: canvas pixels, `way` -1 mirrors it, `tilt` in radians."""
        cos, sin = np.cos(tilt), np.sin(tilt)
        self._matrix = size * np.array([[cos, -sin], [sin, cos]]) @ np.array([[way, -shear], [0, 1]])
        self._origin = np.array([centre, bottom - size / 2])
        self._size = size

    def shape(self, *shapes: np.ndarray, tone: float = 1.0):
        """The union of closed shapes, with a rim around the whole."""
        shapes = [self._to_canvas(shape) for shape in shapes]
        ink = round(255 * tone)
        rim, fill = (0, ink) if self._filled else (ink, 0)
        for points in shapes:
            self._stroke(points + points[:2], 2 * self._rim, rim)
        for points in shapes:
            self._draw.polygon(points, fill=fill)

    def limb(self, points, width: float):
        """A light line in either style: stems, masts, feelers."""
        points = self._to_canvas(np.asarray(points))
        width *= self._size
        self._stroke(points, width + 2 * self._rim, 0)
        self._stroke(points, width, 255)

    def mark(self, *shapes: np.ndarray):
        """Filled details on a shape: eyes, windows, stripes."""
        for shape in shapes:
            self._draw.polygon(self._to_canvas(shape), fill=0 if self._filled else 255)

    def line(self, points, width: float = 0.05):
        """A detail that is a line on a shape."""
        self._stroke(self._to_canvas(np.asarray(points)), width * self._size, 0 if self._filled else 255)

    def dot(self, x: float, y: float, radius: float, ink: int):
        """A disc of the background, in canvas pixels."""
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)

    def band(self, x: np.ndarray, y: np.ndarray, width: float, ink: int):
        """A line of the background, in canvas pixels."""
        self._stroke(list(zip(x.tolist(), y.tolist())), width, ink)

    def _to_canvas(self, points):
        points = (points - (0, 0.5)) @ self._matrix.T + self._origin
        return list(map(tuple, points.tolist()))

    def _stroke(self, points, width, ink):
        self._draw.line(points, fill=ink, width=round(width), joint="curve")


_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 25)[:-1]), np.sin(np.linspace(0, 2 * np.pi, 25)[:-1])], axis=1)


def _oval(x, y, rx, ry=None, turn=0.0):
    cos, sin = np.cos(turn), np.sin(turn)
    return _CIRCLE * (rx, ry or rx) @ np.array([[cos, sin], [-sin, cos]]) + (x, y)


def _box(left, top, right, bottom):
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _spline(points, closed=True, steps=5):
    """A smooth (Catmull-Rom) curve through the points."""
    p = np.asarray(points, float)
    p = np.concatenate([p[-1:], p, p[:2]] if closed else [p[:1], p, p[-1:]])
    t = np.arange(steps)[:, None, None] / steps
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    curve = curve.swapaxes(0, 1).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-1:]])


def _tube(points, start, end):
    """A round-ended limb along a smooth line, its radius going from `start` to `end`."""
    middle = _spline(points, closed=False) if len(points) > 2 else np.asarray(points, float)
    along = np.gradient(middle, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    radius = np.linspace(start, end, len(middle))[:, None]
    side = radius * along[:, ::-1] * (-1, 1)
    tip, tail = middle[-1:] + 0.7 * end * along[-1:], middle[:1] - 0.7 * start * along[:1]
    return np.concatenate([middle + side, tip, (middle - side)[::-1], tail])


def _mirror(shape):
    return shape * (-1, 1)


# ------------------------------------------------------------------------------------------------------- the subjects


def _castle(pen, rng):
    def tower(x, half, top):
        """Straight sides, a wider head with three battlements."""
        head, tooth = half + 0.045, (half + 0.045) / 2.5
        teeth = [(i * tooth - head, top + 0.09 * down) for i in range(5) for down in ((i % 2),)]
        crown = [(px + dx, py) for px, py in teeth for dx in (0, tooth)]
        crown += [(head, top + 0.2), (half, top + 0.25), (half, 1), (-half, 1), (-half, top + 0.25), (-head, top + 0.2)]
        return np.array(crown) + (x, 0)

    def window(x, y, half=0.04):
        pen.mark(np.concatenate([_oval(x, y, half, 0.06)[12:], _box(x - half, y, x + half, y + 0.1)[1:][:2][:, :] + 0]))

    reach = rng.uniform(0.4, 0.46)
    tops = rng.uniform(0.18, 0.35, 2)
    wall = rng.uniform(0.5, 0.6)
    pen.shape(_box(-reach, wall, reach, 1), tone=0.85)
    middle = rng.uniform(0.0, 0.06)
    pen.shape(tower(0, 0.15, middle + 0.0))
    pen.shape(tower(-reach, 0.12, tops[0]))
    pen.shape(tower(reach, 0.12, tops[1]))
    window(0, middle + 0.34)
    window(-reach, tops[0] + 0.36)
    window(reach, tops[1] + 0.36)
    pen.mark(np.concatenate([_oval(0, 0.78, 0.09, 0.1)[12:], [(0.09, 1.0), (-0.09, 1.0)]]))


def _dog(pen, rng):
    belly, rear = rng.uniform(0.6, 0.66), rng.uniform(0.44, 0.54)
    legs = [_tube([(x, belly), (x - 0.01, 0.95)], 0.07, 0.05) for x in (-0.3, -0.14, rear - 0.14, rear)]
    tail = _tube([(rear, 0.48), (rear + 0.12, 0.36), (rear + rng.uniform(0.08, 0.18), rng.uniform(0.1, 0.2))], 0.05, 0.035)
    body = _spline([(-0.36, 0.45), (-0.1, 0.43), (rear, 0.42), (rear + 0.08, 0.55), (rear, 0.7), (0.1, belly + 0.04),
                    (-0.2, 0.74), (-0.38, 0.64)])
    neck = _tube([(-0.24, 0.55), (-0.36, 0.3)], 0.14, 0.12)
    head = _oval(-0.38, 0.2, 0.17, 0.15)
    snout = _tube([(-0.42, 0.23), (-0.62, 0.27)], 0.1, 0.075)
    pen.shape(*legs, tail, body, neck, head, snout)
    ear = rng.uniform(0.36, 0.46)
    pen.shape(_spline([(-0.34, 0.08), (-0.22, 0.1), (-0.17, ear), (-0.26, ear + 0.04), (-0.33, 0.25)]), tone=0.7)
    pen.mark(_oval(-0.45, 0.16, 0.033), _oval(-0.68, 0.23, 0.05, 0.045))
    pen.line([(-0.68, 0.31), (-0.52, 0.33)], 0.04)
    if rng.random() < 0.6:
        pen.mark(_oval(rng.uniform(0.1, 0.3), 0.54, rng.uniform(0.07, 0.12), 0.07))


def _tiger(pen, rng):
    wide = rng.uniform(0.46, 0.52)
    for side in (-1, 1):
        pen.shape(_oval(side * (wide - 0.12), 0.17, 0.16))
        pen.mark(_oval(side * (wide - 0.12), 0.17, 0.075))
    right = [(0, 0.08), (0.25, 0.11), (wide - 0.04, 0.32), (wide, 0.55), (wide + 0.06, 0.74), (wide - 0.12, 0.8),
             (0.22, 0.95), (0, 0.99)]
    pen.shape(_spline(right + [(-x, y) for x, y in right[-2:0:-1]]))
    pen.mark(np.array([(-0.045, 0.08), (0.045, 0.08), (0, 0.36)]))
    long = rng.uniform(0.13, 0.2)
    for side in (-1, 1):
        flip = (side, 1)
        pen.mark(np.array([(0.12, 0.08), (0.21, 0.09), (0.12, 0.3)]) * flip)
        for y, drop in ((0.4, 0.06), (0.55, 0.04), (0.69, 0.0)):
            pen.mark(np.array([(wide + 0.06, y - 0.045), (wide + 0.06, y + 0.045), (wide - long, y + drop)]) * flip)
        pen.mark(_oval(0.18, 0.46, 0.065, 0.05, 0.3) * flip)
        pen.line(_spline([(0, 0.8), (0.08, 0.86), (0.19, 0.82)], closed=False) * flip, 0.045)
    pen.mark(_spline([(-0.1, 0.63), (0, 0.61), (0.1, 0.63), (0, 0.74)]))
    pen.line([(0, 0.7), (0, 0.81)], 0.045)


def _train(pen, rng):
    stack = rng.uniform(0.12, 0.2)
    for i, radius in enumerate((0.045, 0.06, 0.075)):
        pen.shape(_oval(-0.5 + 0.15 * i, 0.1 - 0.02 * i, radius), tone=0.6)
    pen.shape(np.array([(-0.58, stack), (-0.36, stack), (-0.42, 0.32), (-0.42, 0.5), (-0.53, 0.5), (-0.53, 0.32)]))
    pen.shape(_oval(-0.12, 0.4, 0.09, 0.1))
    pen.shape(_box(-0.64, 0.42, 0.2, 0.74))
    pen.shape(_box(0.16, 0.22, 0.6, 0.8))
    pen.shape(_box(0.1, 0.14, 0.66, 0.22))
    pen.mark(_box(0.27, 0.32, 0.5, 0.52))
    pen.line([(-0.48, 0.42), (-0.48, 0.74)], 0.05)
    pen.line([(-0.02, 0.42), (-0.02, 0.74)], 0.05)
    pen.shape(np.array([(-0.64, 0.76), (-0.56, 0.97), (-0.8, 0.97)]))
    for x, radius in ((-0.42, 0.12), (-0.13, 0.12), (0.33, 0.18)):
        pen.shape(_oval(x, 0.98 - radius, radius))
        pen.mark(_oval(x, 0.98 - radius, 0.4 * radius))


def _flower(pen, rng):
    x, y = rng.uniform(-0.05, 0.05), 0.34
    count = rng.integers(6, 9)
    bend = rng.uniform(-0.1, 0.1)
    pen.limb(_spline([(x, y), (bend, 0.7), (0, 1)], closed=False), 0.055)
    for side in (-1, 1):
        top = rng.uniform(0.72, 0.8)
        pen.shape(_spline([(side * 0.04, 0.94), (side * 0.12, top + 0.02), (side * 0.34, top - 0.06), (side * 0.26, 0.88)]),
                  tone=0.8)
    start = rng.uniform(0, 2 * np.pi)
    for turn in start + 2 * np.pi * np.arange(count) / count:
        pen.shape(_oval(x + 0.21 * np.cos(turn), y + 0.21 * np.sin(turn), 0.13, 0.085 * 7 / count, turn))
    pen.shape(_oval(x, y, 0.1))
    pen.mark(_oval(x, y, 0.045))


def _tree(pen, rng):
    pen.shape(_box(-0.07, 0.8, 0.07, 1), tone=0.7)
    tiers = rng.integers(3, 5)
    wide = rng.uniform(0.34, 0.42)
    for i in range(tiers)[::-1]:
        low = 0.36 + (0.86 - 0.36) * i / (tiers - 1)
        half = wide * (0.55 + 0.45 * i / (tiers - 1))
        top = max(0.0, low - 0.42)
        pen.shape(np.array([(0, top), (half, low), (half * 0.45, low - 0.035), (0, low + 0.02), (-half * 0.45, low - 0.035),
                            (-half, low)]))


def _fish(pen, rng):
    tall = rng.uniform(0.34, 0.42)
    pen.shape(np.array([(0.38, 0.5), (0.74, 0.14), (0.66, 0.5), (0.74, 0.86)]), tone=0.8)
    pen.shape(_spline([(-0.15, 0.56 - tall), (0.05, 0.02), (0.28, 0.1), (0.24, 0.4)]), tone=0.8)
    pen.shape(_spline([(-0.05, 0.5 + tall - 0.06), (0.2, 0.98), (0.2, 0.7)]), tone=0.8)
    pen.shape(_spline([(-0.68, 0.52), (-0.45, 0.56 - 0.8 * tall), (-0.1, 0.52 - tall), (0.25, 0.36), (0.5, 0.5), (0.25, 0.66),
                       (-0.1, 0.5 + tall), (-0.45, 0.46 + 0.8 * tall)]))
    pen.mark(_oval(-0.45, 0.42, 0.06))
    for x in (-0.24, -0.02, 0.2):
        bow = tall * (0.75 - 0.6 * abs(x + 0.1))
        pen.line(_spline([(x, 0.5 - bow), (x + 0.09, 0.5), (x, 0.5 + bow)], closed=False), 0.055)
    pen.line([(-0.66, 0.57), (-0.54, 0.6)], 0.04)


def _boat(pen, rng):
    pen.limb([(0, 0.02), (0, 0.8)], 0.05)
    pen.shape(_spline([(0.06, 0.06), (0.3, 0.35), (0.44, 0.66), (0.25, 0.67), (0.06, 0.66)]))
    pen.shape(np.array([(-0.07, 0.16), (-0.07, 0.66), (-0.42, 0.66)]))
    pen.shape(np.array([(-0.52, 0.75), (0.52, 0.75), (0.36, 0.97), (-0.36, 0.97)]))
    if rng.random() < 0.6:
        pen.line([(0.06, 0.42), (0.34, 0.42)], 0.05)
    for x in (-0.2, 0, 0.2):
        pen.mark(_oval(x, 0.86, 0.035))


def _butterfly(pen, rng):
    upper, lower = rng.uniform(0.5, 0.58), rng.uniform(0.4, 0.48)
    for side in (-1, 1):
        flip = (side, 1)
        pen.limb(_spline([(0.02, 0.28), (0.09, 0.1), (0.2, 0.04)], closed=False) * flip, 0.04)
        pen.shape(_spline([(0.04, 0.52), (0.16, 0.62), (lower, 0.66), (lower - 0.04, 0.92), (0.22, 0.97), (0.08, 0.74)]) * flip,
                  tone=0.8)
        pen.shape(_spline([(0.04, 0.48), (0.16, 0.22), (upper, 0.08), (upper + 0.06, 0.3), (upper - 0.08, 0.54), (0.2, 0.58)])
                  * flip)
        pen.mark(_oval(upper - 0.14, 0.3, 0.11, 0.09, -0.4) * flip, _oval(lower - 0.14, 0.8, 0.07) * flip)
    pen.shape(_oval(0, 0.54, 0.05, 0.3))


def _mushroom(pen, rng):
    wide, brim = rng.uniform(0.46, 0.56), rng.uniform(0.5, 0.58)
    pen.shape(_spline([(-0.11, 0.45), (0.11, 0.45), (0.13, 0.8), (0.19, 0.97), (0, 1.0), (-0.19, 0.97), (-0.13, 0.8)]), tone=0.75)
    pen.shape(_spline([(-wide, brim), (-0.8 * wide, 0.22), (-0.35 * wide, 0.04), (0.35 * wide, 0.04), (0.8 * wide, 0.22),
                       (wide, brim), (0, brim + 0.05)]))
    for x, y, r in ((-0.26, 0.34, 0.075), (0.0, 0.2, 0.085), (0.26, 0.36, 0.08), (0.02, 0.43, 0.06)):
        pen.mark(_oval(x + rng.uniform(-0.02, 0.02), y, r * rng.uniform(0.85, 1.1)))


def _guitar(pen, rng):
    pen.shape(_box(-0.045, 0.1, 0.045, 0.6), tone=0.8)
    pen.shape(np.array([(-0.08, 0.0), (0.08, 0.0), (0.06, 0.16), (-0.06, 0.16)]), tone=0.8)
    right = [(0.06, 0.45), (0.2, 0.49), (0.19, 0.62), (0.15, 0.68), (0.28, 0.82), (0.2, 0.97), (0, 1.0)]
    pen.shape(_spline(right + [(-x, y) for x, y in right[-2::-1]]))
    pen.mark(_oval(0, 0.66, 0.07))
    pen.line([(-0.1, 0.86), (0.1, 0.86)], 0.05)


def _elephant(pen, rng):
    curl = rng.uniform(-0.72, -0.62)
    legs = [_tube([(x, 0.6), (x, 0.93)], 0.1, 0.09) for x in (-0.14, 0.06, 0.3, 0.48)]
    tail = _tube([(0.55, 0.36), (0.64, 0.46), (0.66, 0.62)], 0.035, 0.03)
    trunk = _tube([(-0.48, 0.3), (-0.6, 0.5), (-0.6, 0.76), (curl, 0.92)], 0.12, 0.05)
    pen.shape(*legs, tail, _oval(0.2, 0.42, 0.42, 0.32), _oval(-0.36, 0.3, 0.23, 0.24), trunk)
    pen.shape(_spline([(-0.3, 0.08), (-0.1, 0.06), (0.03, 0.26), (-0.04, 0.5), (-0.18, 0.58), (-0.3, 0.4)]), tone=0.75)
    pen.mark(_oval(-0.43, 0.24, 0.035))
    pen.limb(_spline([(-0.44, 0.5), (-0.5, 0.62), (-0.66, 0.62)], closed=False), 0.05)


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
    "guitar": _Kind(_guitar, aspect=0.9, size=(0.95, 1.05), tilt=0.6, ground="air"),
    "elephant": _Kind(_elephant, aspect=1.4, size=(0.75, 0.92)),
}
