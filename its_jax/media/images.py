"""PNG files and other images."""

import io
import os
import pathlib

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from its_jax.media import metadata, text_layout
from its_jax.media.metadata import a1111_parameters, explain_unreadable, parse_tag, quantize
from its_jax.storage import files
from its_jax.storage.files import to_json

_PNG_KEY = "its_jax"
_LINE = 64  # between pictures, of so many times its height


def write_png(path: str | os.PathLike, picture: np.ndarray, settings: dict) -> None:
    """See `png`. UserError: cannot write."""
    files.write(path, png(picture, settings))


def png(picture: np.ndarray, settings: dict) -> bytes:
    """8-bit PNG; value = round(255 x), ties to even.

    `settings` go as JSON into an iTXt chunk `its_jax`; for other programs a chunk `parameters` tells prompts
    and main settings in the form of AUTOMATIC1111's web UI, and XMP marks it as made by models.
    """
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", a1111_parameters(settings))
    info.add_itxt(_PNG_KEY, to_json(settings))
    info.add_itxt(metadata.XMP_KEY, metadata.XMP)
    file = io.BytesIO()
    to_pillow(picture).save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def read_png(path: str | os.PathLike) -> tuple[np.ndarray, dict]:
    """-> float32 picture, settings. UserError: cannot read, or no settings in it."""
    image, text = open_png(path)
    image = image if image.mode == "L" else image.convert("RGB")
    return np.asarray(image, np.float32) / 255, parse_tag(path, text)


def read_image(path: str | os.PathLike, height: int | None = None, width: int | None = None) -> np.ndarray:
    """Any picture -> float32 `[height, width, 3]`. UserError: cannot read.

    What is transparent is black, which is silent.

    Args:
      height, width: of a canvas that it is scaled to fill, and cut to; None: as it is.
    """
    with explain_unreadable(path), Image.open(pathlib.Path(path).expanduser()) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode[0] in "IF":  # of more than 8 bits, at which Pillow would cut
            upright = Image.fromarray(_eight_bits(np.asarray(upright)))
        if upright.has_transparency_data:
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "black"), upright.convert("RGBA"))
        picture = upright.convert("RGB")
        if height is not None and width is not None:
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(picture, np.float32) / 255


def _eight_bits(values):
    """Grey of 16 or 32 bits, or real numbers: white is the first of these that no value exceeds."""
    white = {"u": (65535,), "i": (255, 65535), "f": (1, 255, 65535)}[values.dtype.kind]
    white = next((white for white in white if values.max() <= white), None)
    if white is None or not values.min() >= 0:
        raise ValueError(f"its values are {values.min():g} to {values.max():g}, which is no shade of grey")
    return np.round(values * (255 / white)).astype(np.uint8)


def stack_vertically(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """One picture above another of its width, with a dark line between them -> `[h, w, 3]`."""
    upper, lower = (np.repeat(x[..., None], 3, axis=-1) if x.ndim == 2 else x for x in (upper, lower))
    line = np.zeros((max(1, len(lower) // _LINE), *lower.shape[1:]), lower.dtype)
    return np.concatenate([upper, line, lower])


def contact_sheet(pictures: list[np.ndarray], captions: list[str], columns: int) -> np.ndarray:
    """Pictures in rows of `columns`, each above its caption -> RGB picture.

    A caption's lines are cut to the width of a picture; the first is bright, those after a newline dim.
    """
    sheet = text_layout.contact_sheet([to_pillow(picture) for picture in pictures], captions, columns)
    return np.asarray(sheet, np.float32) / 255


def to_pillow(picture: np.ndarray) -> Image.Image:
    return Image.fromarray(quantize(picture, 0, 255, 255).astype(np.uint8))


def open_png(path: str | os.PathLike) -> tuple[Image.Image, str | None]:
    with explain_unreadable(path), Image.open(path, formats=["PNG"]) as image:
        image.load()
        return image, getattr(image, "text", {}).get(_PNG_KEY)
