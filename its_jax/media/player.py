"""An image above an audio player in HTML, for the output of notebooks."""

import base64
import html

_HTML = """<figure style="margin: 0 0 1em"><figcaption style="font: 13px sans-serif">{caption}</figcaption>
<img src="data:image/png;base64,{image}" style="display: block; max-width: 100%">
<audio controls preload="none" src="data:audio/wav;base64,{audio}" style="width: 100%"></audio></figure>"""


def player(caption: str, png: bytes, wav: bytes) -> str:
    """Returns HTML that shows an image and plays a sound; both are embedded.

    Args:
      caption: plain text. png, wav: contents of files.
    """
    image, audio = (base64.b64encode(content).decode() for content in (png, wav))
    return _HTML.format(caption=html.escape(caption), image=image, audio=audio)
