"""Pictures laid out with text, as Pillow images: the slide of a video, its playhead, contact sheets.

Any text may be drawn. It is set in the font that has most of its characters: the one inside Pillow, which has
little beyond ASCII, or one of the system. What that font lacks is spelled out (symbols) or drawn as a box.
"""

import bisect
import dataclasses
import functools
import math
import unicodedata
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

PAPER, INK, DIM, ACCENT = "#101216", "#eceae4", "#959ba6", (255, 180, 84)

_MIN_WIDTH, _MAX_WIDTH = 1024, 3840  # pixels of a slide's picture; players of H.264 often end at 4096
# Found by name wherever the system keeps its fonts: Linux, macOS, Windows.
_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "arial.ttf",
    "msyh.ttc",
    "malgun.ttf",
    "YuGothR.ttc",
)

Box = tuple[int, int, int, int]


def video_frame(picture: Image.Image, image_prompt: str, audio_prompt: str) -> tuple[Image.Image, Box]:
    """Picture between its prompts -> image of even size, and the picture's (left, top, width, height) on it.

    A narrow picture grows by a whole factor, to a width of about 1024.
    """
    factor = max(1, round(_MIN_WIDTH / picture.width))
    width, height = min(_MAX_WIDTH, factor * picture.width), factor * picture.height
    picture = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    size = width // 40
    label_width = round(6 * size)
    above = _Paragraph(image_prompt, size, width - label_width, num_lines=2)
    below = _Paragraph(audio_prompt, size, width - label_width, num_lines=2)
    margin, gap = round(1.4 * size), round(0.7 * size)
    top = margin + above.height + gap
    canvas = _canvas(width + 2 * margin, top + height + gap + below.height + margin)
    canvas.paste(picture, (margin, top))
    for label, prompt, y in (("looks like", above, margin), ("sounds like", below, top + height + gap)):
        _Paragraph(label, size, label_width).draw(canvas, margin, y, DIM)
        prompt.draw(canvas, margin + label_width, y, INK)
    return canvas, (margin, top, width, height)


def playhead(height: int) -> Image.Image:
    """RGBA, 7 pixels wide: a bright line of 3 between soft dark edges, to be seen on black and on white."""
    line = Image.new("RGBA", (7, height), (0, 0, 0, 50))
    line.paste((0, 0, 0, 110), (1, 0, 6, height))
    line.paste((*ACCENT, 255), (2, 0, 5, height))
    return line


def contact_sheet(pictures: list[Image.Image], captions: list[str], columns: int) -> Image.Image:
    """Pictures in rows of `columns`, each above the lines of its caption, the first of them bright."""
    width, height = (max(getattr(picture, side) for picture in pictures) for side in ("width", "height"))
    columns = min(columns, len(pictures))
    size = min(20, max(12, width // 26))
    blocks = [[_Paragraph(line, size, width) for line in caption.split("\n")] for caption in captions]
    margin, gap, line_height = round(1.6 * size), round(0.4 * size), blocks[0][0].height
    cell_width = width + margin
    cell_height = height + gap + line_height * max(map(len, blocks)) + margin
    canvas = _canvas(margin + cell_width * columns, margin + cell_height * -(-len(pictures) // columns))
    for i, (picture, lines) in enumerate(zip(pictures, blocks, strict=True)):
        x, y = margin + cell_width * (i % columns), margin + cell_height * (i // columns)
        canvas.paste(picture, (x, y))
        for j, line in enumerate(lines):
            line.draw(canvas, x, y + height + gap + j * line_height, DIM if j else INK)
    return canvas


@dataclasses.dataclass(frozen=True)
class Frame:
    """Sizes on a page of `grid`, in pixels: of pictures `[height, width]`, and of all that is around them."""

    width: int
    height: int
    captioned: bool
    labels_across: bool
    labels_down: bool

    SIZE, SMALL, MARGIN, GAP, LABEL = 18, 13, 28, 8, 230

    @property
    def step_x(self) -> int:
        return self.width + self.GAP

    @property
    def step_y(self) -> int:
        return self.height + self.GAP + self.captioned * round(1.4 * self.SMALL)

    @property
    def top(self) -> int:
        """Above the first line: the labels of the columns, and beside them what the axes are."""
        lines = 3 if self.labels_across else 1 if self.labels_down else 0
        return self.MARGIN + lines * (round(1.4 * self.SIZE) + self.GAP // 2)

    @property
    def left(self) -> int:
        return self.MARGIN + (self.LABEL + self.GAP) * (self.labels_across or self.labels_down)

    @property
    def foot(self) -> int:
        return self.GAP + round(1.4 * self.SMALL) + self.MARGIN

    def fits(self, pixels: int) -> tuple[int, int]:
        """How many pictures fit side by side, and one above the other, on a page of so many pixels; 1 at least.

        As if each were a cell of its own, which has the widest gaps.
        """
        across = (pixels - self.left - self.MARGIN) // (self.step_x + self.GAP)
        down = (pixels - self.top - self.foot) // (self.step_y + self.GAP)
        return max(1, across), max(1, down)


Tile = tuple[Image.Image, str]  # and its caption


def contact_sheet_page(
    frame: Frame, in_cell: int, corner: str, across: list[str], rows: list[tuple[str, list[list[Tile]]]], foot: str
) -> Image.Image:
    """A page of a contact sheet: pictures along two axes.

    Args:
      in_cell: how many pictures of a cell are side by side. across: labels of the columns.
      rows: label, which is empty where the row above goes on, and for each column the pictures of its cell.
    """
    column_width = in_cell * frame.step_x + frame.GAP
    new_rows = [bool(label) or n == 0 for n, (label, _) in enumerate(rows)]
    width = frame.left + len(across) * column_width - 2 * frame.GAP + frame.MARGIN
    height = frame.top + len(rows) * frame.step_y + sum(new_rows) * frame.GAP + frame.foot
    canvas = _canvas(width, height)
    for j, line in enumerate(corner.split("\n")):
        _Paragraph(line, frame.SMALL, frame.LABEL).draw(canvas, frame.MARGIN, frame.MARGIN + 20 * j, DIM)
    for column, label in enumerate(across):
        paragraph = _Paragraph(label, frame.SIZE, column_width - 2 * frame.GAP, num_lines=3)
        # They stand on the pictures.
        paragraph.draw(canvas, frame.left + column * column_width, frame.top - frame.GAP - paragraph.height, INK)
    y = frame.top
    for n, (label, cells) in enumerate(rows):
        y += frame.GAP * new_rows[n] * (n > 0)
        num_lines = max(1, frame.step_y // round(1.4 * frame.SIZE))
        _Paragraph(label, frame.SIZE, frame.LABEL, num_lines).draw(canvas, frame.MARGIN, y, INK)
        for column, cell in enumerate(cells):
            for k, tile in enumerate(cell):
                _draw_tile(canvas, frame, tile, frame.left + column * column_width + k * frame.step_x, y)
        y += frame.step_y
    _Paragraph(foot, frame.SMALL, width - 2 * frame.MARGIN).draw(canvas, frame.MARGIN, y + frame.GAP, DIM)
    return canvas


def _draw_tile(canvas, frame, tile, x, y):
    picture, caption = tile
    canvas.paste(ImageOps.contain(picture.convert("RGB"), (frame.width, frame.height)), (x, y))
    if frame.captioned:
        _Paragraph(caption, frame.SMALL, frame.width).draw(canvas, x, y + frame.height + 1, DIM)


def one_line(text: str) -> str:
    """White space becomes single spaces; invisible, unassigned and ill-formed characters go."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(c for c in text if not (unicodedata.category(c)[0] == "C" or "\ufe00" <= c <= "\ufe0f"))


class _Paragraph:
    """Text in at most `num_lines` lines of `width` pixels, the last cut with an ellipsis if need be."""

    def __init__(self, text: str, size: int, width: int, num_lines: int = 1):
        text = one_line(text)[: num_lines * width]  # no character is narrower than a pixel
        self.font = max(_fonts(size), key=lambda font: sum(_has_glyph(font, c) for c in set(text)))
        self.line_height = round(1.4 * size)
        self.lines = self._wrap("".join(self._spell(c) for c in text), width, num_lines)

    @property
    def height(self) -> int:
        return max(1, len(self.lines)) * self.line_height

    def draw(self, canvas: Image.Image, x: int, y: int, fill: str) -> None:
        for i, line in enumerate(self.lines):
            baseline = y + round((i + 0.74) * self.line_height)
            ImageDraw.Draw(canvas).text((x, baseline), line, fill, self.font, anchor="ls")

    def _spell(self, character: str) -> str:
        """Without a glyph, a letter loses its accents, a symbol becomes its name, the rest stay, as boxes."""
        if _has_glyph(self.font, character):
            return character
        if unicodedata.category(character) == "So":
            return f"[{unicodedata.name(character).lower()}]"
        plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
        return plain if all(_has_glyph(self.font, c) for c in plain) else character

    def _wrap(self, text: str, width: int, num_lines: int) -> list[str]:
        if self.font.getlength(text) <= width:
            return [text]
        tail = "" if num_lines > 1 else "…"
        lengths = range(1, len(text))
        fitting = bisect.bisect_right(lengths, width, key=lambda n: math.ceil(self.font.getlength(text[:n] + tail)))
        if num_lines == 1:
            return [text[:fitting].rstrip() + tail]
        end = text.rfind(" ", 1, fitting + 1)
        end = end if end > 0 else max(1, fitting)
        return [text[:end], *self._wrap(text[end:].lstrip(), width, num_lines - 1)]


@functools.lru_cache
def _fonts(size: int) -> tuple[ImageFont.FreeTypeFont, ...]:
    fonts: list[Any] = [ImageFont.load_default(size)]
    for name in _SYSTEM_FONTS:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:  # not on this system
            continue
    return tuple(fonts)


@functools.lru_cache(maxsize=4096)
def _has_glyph(font: ImageFont.FreeTypeFont, character: str) -> bool:
    """Whether it is drawn otherwise than a code point that no font may give a glyph to."""
    missing, mask = (font.getmask(c) for c in ("\U0010ffff", character))
    return mask.size != missing.size or bytes(mask) != bytes(missing)


def _canvas(width: int, height: int) -> Image.Image:
    """Of even size, as yuv420p asks for."""
    return Image.new("RGB", (width + width % 2, height + height % 2), PAPER)
