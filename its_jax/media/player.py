"""An image above an audio player in HTML, for the output of notebooks."""

import base64
import html
import io
import wave

from PIL import Image

_HTML = """<figure style="margin: 0 0 1em; width: {width}px; max-width: 100%">
<figcaption style="font: 13px sans-serif">{caption} · {seconds:.1f} s</figcaption>
<img src="data:image/png;base64,{image}" style="display: block; width: 100%">
<audio controls preload="metadata" src="data:audio/wav;base64,{audio}" style="width: 100%"></audio></figure>"""


def player(caption: str, png: bytes, wav: bytes) -> str:
    """Returns HTML that shows an image and, below it and as wide, a player of a sound. Both are embedded.

    Args:
      caption: plain text, to which the duration of the sound is added. png, wav: contents of files.
    """
    image, audio = (base64.b64encode(content).decode() for content in (png, wav))
    with Image.open(io.BytesIO(png)) as opened:
        width = opened.width
    with wave.open(io.BytesIO(wav)) as sound:
        seconds = sound.getnframes() / sound.getframerate()
    return _HTML.format(caption=html.escape(caption), seconds=seconds, width=width, image=image, audio=audio)
