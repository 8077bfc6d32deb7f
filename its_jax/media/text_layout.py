"""Images laid out with text, as Pillow images: the frame of a video, its playhead, and contact sheets.

Any text can be drawn. It is set in the font that has most of its characters: the one inside Pillow, which has little
besides ASCII, or one of the system. Characters that the font lacks are spelled out (symbols) or drawn as boxes.
"""

import bisect
import dataclasses
import functools
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from its_jax.media.metadata import one_line

PAPER, INK, DIM, ACCENT = "#101216", "#eceae4", "#959ba6", (255, 180, 84)

_MIN_WIDTH, _MAX_WIDTH = 1024, 3840  # pixels of a video's image. Many players of H.264 support at most 4096.
# Pillow finds them by name wherever Linux, macOS or Windows keep their fonts.
SYSTEM_FONTS = (
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


def video_frame(image: Image.Image, image_prompt: str, audio_prompt: str) -> tuple[Image.Image, Box]:
    """Draws an image between its prompts. A narrow image is enlarged by an integer to a width of about 1024.

    Returns:
      The frame, of even size, and the image's (left, top, width, height) on it.
    """
    factor = max(1, round(_MIN_WIDTH / image.width))
    width, height = min(_MAX_WIDTH, factor * image.width), factor * image.height
    image = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    size = width // 40
    label_width = round(6 * size)
    above = Paragraph(image_prompt, size, width - label_width, num_lines=2)
    below = Paragraph(audio_prompt, size, width - label_width, num_lines=2)
    margin, gap = round(1.4 * size), round(0.7 * size)
    top = margin + above.height + gap
    canvas = _canvas(width + 2 * margin, top + height + gap + below.height + margin)
    canvas.paste(image, (margin, top))
    for label, prompt, y in (("looks like", above, margin), ("sounds like", below, top + height + gap)):
        Paragraph(label, size, label_width).draw(canvas, margin, y, DIM)
        prompt.draw(canvas, margin + label_width, y, INK)
    return canvas, (margin, top, width, height)


def playhead(height: int) -> Image.Image:
    """Draws a bright line 3 pixels wide between soft dark edges, visible on black and on white. RGBA, 7 pixels wide."""
    line = Image.new("RGBA", (7, height), (0, 0, 0, 50))
    line.paste((0, 0, 0, 110), (1, 0, 6, height))
    line.paste((*ACCENT, 255), (2, 0, 5, height))
    return line


def contact_sheet(images: Sequence[Image.Image], captions: Sequence[str], columns: int) -> Image.Image:
    """Draws images in rows of `columns`, each above the lines of its caption, the first of which is bright."""
    width, height = (max(getattr(image, side) for image in images) for side in ("width", "height"))
    columns = min(columns, len(images))
    size = min(20, max(12, width // 26))
    blocks = [[Paragraph(line, size, width) for line in caption.split("\n")] for caption in captions]
    margin, gap, line_height = round(1.6 * size), round(0.4 * size), blocks[0][0].height
    cell_width = width + margin
    cell_height = height + gap + line_height * max(map(len, blocks)) + margin
    canvas = _canvas(margin + cell_width * columns, margin + cell_height * -(-len(images) // columns))
    for i, (image, lines) in enumerate(zip(images, blocks, strict=True)):
        x, y = margin + cell_width * (i % columns), margin + cell_height * (i // columns)
        canvas.paste(image, (x, y))
        for j, line in enumerate(lines):
            line.draw(canvas, x, y + height + gap + j * line_height, DIM if j else INK)
    return canvas


@dataclasses.dataclass(frozen=True)
class Frame:
    """The sizes on a page of a contact sheet, in pixels: of its images, and of what surrounds them.

    Attributes:
      width, height: of an image. captioned: images have captions. labels_across, labels_down: columns and rows have
        labels.
    """

    width: int
    height: int
    captioned: bool
    labels_across: bool
    labels_down: bool

    SIZE, SMALL, MARGIN, GAP, LABEL = 18, 13, 28, 8, 230

    @property
    def step_x(self) -> int:
        """Returns the distance between the left edges of two images of a cell."""
        return self.width + self.GAP

    @property
    def step_y(self) -> int:
        """Returns the distance between the top edges of two lines of a row."""
        return self.height + self.GAP + self.captioned * round(1.4 * self.SMALL)

    @property
    def top(self) -> int:
        """Returns the height above the first line, which holds the labels of the columns and the names of the axes."""
        lines = 3 if self.labels_across else 1 if self.labels_down else 0
        return self.MARGIN + lines * (round(1.4 * self.SIZE) + self.GAP // 2)

    @property
    def left(self) -> int:
        """Returns the width left of the first column, which holds the labels of the rows."""
        return self.MARGIN + (self.LABEL + self.GAP) * (self.labels_across or self.labels_down)

    @property
    def foot(self) -> int:
        """Returns the height below the last line, which holds the note at the foot."""
        return self.GAP + round(1.4 * self.SMALL) + self.MARGIN

    def fits(self, pixels: int) -> tuple[int, int]:
        """Returns how many images fit on a page of this many pixels, side by side and below each other, at least 1.

        It assumes that each image has a cell of its own, because gaps between cells are the widest.
        """
        across = (pixels - self.left - self.MARGIN) // (self.step_x + self.GAP)
        down = (pixels - self.top - self.foot) // (self.step_y + self.GAP)
        return max(1, across), max(1, down)


Tile = tuple[Image.Image, str]  # an image and its caption


def contact_sheet_page(
    frame: Frame,
    in_cell: int,
    corner: str,
    across: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Sequence[Tile]]]],
    foot: str,
) -> Image.Image:
    """Draws a page of a contact sheet: images along two axes.

    Args:
      in_cell: the number of images of a cell that are side by side. corner: the names of the axes.
      across: labels of the columns.
      rows: for each line its label, which is empty where it continues the row above, and the images of each cell.
      foot: a note below the images.
    """
    column_width = in_cell * frame.step_x + frame.GAP
    new_rows = [bool(label) or n == 0 for n, (label, _) in enumerate(rows)]
    width = frame.left + len(across) * column_width - 2 * frame.GAP + frame.MARGIN
    height = frame.top + len(rows) * frame.step_y + sum(new_rows) * frame.GAP + frame.foot
    canvas = _canvas(width, height)
    for j, line in enumerate(corner.split("\n")):
        Paragraph(line, frame.SMALL, frame.LABEL).draw(canvas, frame.MARGIN, frame.MARGIN + 20 * j, DIM)
    for column, label in enumerate(across):
        paragraph = Paragraph(label, frame.SIZE, column_width - 2 * frame.GAP, num_lines=3)
        # The labels end just above the images.
        paragraph.draw(canvas, frame.left + column * column_width, frame.top - frame.GAP - paragraph.height, INK)
    y = frame.top
    for n, (label, cells) in enumerate(rows):
        y += frame.GAP * new_rows[n] * (n > 0)
        num_lines = max(1, frame.step_y // round(1.4 * frame.SIZE))
        Paragraph(label, frame.SIZE, frame.LABEL, num_lines).draw(canvas, frame.MARGIN, y, INK)
        for column, cell in enumerate(cells):
            for k, tile in enumerate(cell):
                _draw_tile(canvas, frame, tile, frame.left + column * column_width + k * frame.step_x, y)
        y += frame.step_y
    Paragraph(foot, frame.SMALL, width - 2 * frame.MARGIN).draw(canvas, frame.MARGIN, y + frame.GAP, DIM)
    return canvas


def _draw_tile(canvas: Image.Image, frame: Frame, tile: Tile, x: int, y: int) -> None:
    image, caption = tile
    canvas.paste(ImageOps.contain(image.convert("RGB"), (frame.width, frame.height)), (x, y))
    if frame.captioned:
        Paragraph(caption, frame.SMALL, frame.width).draw(canvas, x, y + frame.height + 1, DIM)


class Paragraph:
    """Text in at most `num_lines` lines of `width` pixels. An ellipsis replaces what does not fit.

    Attributes:
      lines: of text, as drawn. font: of the lines.
    """

    def __init__(
        self, text: str, size: int, width: int, num_lines: int = 1, system_fonts: tuple[str, ...] = SYSTEM_FONTS
    ):
        text = one_line(text)[: num_lines * width]  # No character is narrower than a pixel.
        self.font = max(_fonts(size, system_fonts), key=lambda font: sum(_has_glyph(font, c) for c in set(text)))
        self.line_height = round(1.4 * size)
        self.lines = self._wrap("".join(self._spell(c) for c in text), width, num_lines)

    @property
    def height(self) -> int:
        """Returns the height in pixels."""
        return max(1, len(self.lines)) * self.line_height

    def draw(self, canvas: Image.Image, x: int, y: int, fill: str) -> None:
        """Draws the lines on a canvas, with their upper left corner at (x, y)."""
        for i, line in enumerate(self.lines):
            baseline = y + round((i + 0.74) * self.line_height)
            ImageDraw.Draw(canvas).text((x, baseline), line, fill, self.font, anchor="ls")

    def _spell(self, character: str) -> str:
        """Replaces a character without a glyph: letters lose their accents, and symbols become their names."""
        if _has_glyph(self.font, character):
            return character
        if unicodedata.category(character) == "So":
            return f"[{unicodedata.name(character).lower()}]"
        plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
        return plain if all(_has_glyph(self.font, c) for c in plain) else character

    def _wrap(self, text: str, width: int, num_lines: int) -> list[str]:
        """Breaks text into at most `num_lines` lines, at spaces where possible."""
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
def _fonts(size: int, system_fonts: tuple[str, ...]) -> tuple[ImageFont.FreeTypeFont, ...]:
    fonts: list[Any] = [ImageFont.load_default(size)]
    for name in system_fonts:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:  # This system lacks it.
            continue
    return tuple(fonts)


@functools.lru_cache(maxsize=4096)
def _has_glyph(font: ImageFont.FreeTypeFont, character: str) -> bool:
    """Returns whether a character is drawn differently from a code point for which no font has a glyph."""
    missing, mask = (font.getmask(c) for c in ("\U0010ffff", character))
    return mask.size != missing.size or bytes(mask) != bytes(missing)


def _canvas(width: int, height: int) -> Image.Image:
    """Returns an empty image of even size, which yuv420p requires."""
    return Image.new("RGB", (width + width % 2, height + height % 2), PAPER)
