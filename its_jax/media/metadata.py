"""The settings inside files."""

import contextlib
import json
import os
import re
from collections.abc import Iterator

import numpy as np
import soundfile
from PIL import Image

from its_jax.errors import UserError
from its_jax.media import text_layout
from its_jax.storage import files


def quantize(values: np.ndarray, low: int, high: int, scale: int) -> np.ndarray:
    values = np.asarray(values, np.float32)
    if not np.isfinite(values).all():
        raise ValueError("non-finite values cannot be written")
    return np.clip(np.rint(values * scale), low, high)


def term_prompts(settings: dict) -> dict[str, str]:
    """The prompt of each term: a term is a dict that has one."""
    return {
        name: text_layout.one_line(term["prompt"])
        for name, term in settings.items()
        if isinstance(term, dict) and "prompt" in term
    }


def prompts_title(settings: dict) -> str:
    return " | ".join(term_prompts(settings).values())


def a1111_parameters(settings: dict) -> str:
    """A line for each prompt, then `Steps: .., Sampler: .., Seed: .., Size: ..`, as far as they are set."""
    lines = [f"{name}: {prompt}" for name, prompt in term_prompts(settings).items()]
    values = {
        label: settings[key]
        for label, key in (("Steps", "num_steps"), ("Sampler", "solver"), ("Seed", "seed"))
        if key in settings
    }
    if {"width", "height"} <= settings.keys():
        values["Size"] = f"{settings['width']}x{settings['height']}"
    for name in term_prompts(settings):
        term = settings[name]
        values |= {
            f"{label} {name}": term[key]
            for label, key in (("CFG scale", "guidance_scale"), ("Weight", "weight"), ("Model", "model"))
            if key in term
        }
    return "\n".join([*lines, ", ".join(f"{label}: {_quoted(value)}" for label, value in values.items())])


def _quoted(value) -> str:
    """As the web UI does: in JSON's quotes where the bare text would break the list of values."""
    text = text_layout.one_line(str(value))
    return json.dumps(text) if re.search('[,:"]', text) else text


def parse_tag(path: str | os.PathLike, text: str | None) -> dict:
    try:
        content = json.loads(text or "")
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no settings; give a .png, .wav or .json file that its_jax wrote")
    return content


@contextlib.contextmanager
def explain_unreadable(path: str | os.PathLike) -> Iterator[None]:
    """Errors of missing and damaged files (Pillow: SyntaxError) become a UserError with path and reason."""
    try:
        yield
    except (
        OSError,
        RuntimeError,
        ValueError,
        SyntaxError,
        soundfile.LibsndfileError,
        Image.DecompressionBombError,
    ) as error:
        raise UserError(f"{path}: cannot read: {files.describe(error)}") from error


# IPTC's word for it, which Adobe, Google and C2PA use too: https://cv.iptc.org/newscodes/digitalsourcetype
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
SOFTWARE = "its_jax (made by AI models)"
XMP_KEY = "XML:com.adobe.xmp"  # of the chunk that holds it in a PNG
XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}" xmp:CreatorTool="{SOFTWARE}"/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""
