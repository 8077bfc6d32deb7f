"""The metadata of files: the settings of a sample, and the label that says that a model generated it."""

import json
import os
import re
import unicodedata
from typing import Any

from its_jax.errors import UserError

# IPTC's term for generated media, which Adobe, Google and C2PA also use:
# https://cv.iptc.org/newscodes/digitalsourcetype
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
SOFTWARE = "its_jax (made by AI models)"
XMP_KEY = "XML:com.adobe.xmp"  # the keyword of the PNG chunk that holds the XMP packet
XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}" xmp:CreatorTool="{SOFTWARE}"/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


def term_prompts(settings: dict[str, Any]) -> dict[str, str]:
    """Returns the prompt of each term, in one line. A term is a group of settings that has a prompt."""
    return {
        name: one_line(term["prompt"]) for name, term in settings.items() if isinstance(term, dict) and "prompt" in term
    }


def prompts_title(settings: dict[str, Any]) -> str:
    """Returns the prompts of all terms, separated by ` | `."""
    return " | ".join(term_prompts(settings).values())


def a1111_parameters(settings: dict[str, Any]) -> str:
    """Returns prompts and main settings in the form that AUTOMATIC1111's web UI writes into PNG files.

    One line for each prompt is followed by `Steps: .., Sampler: .., Seed: .., Size: ..`, as far as they are set.
    """
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


def _quoted(value: Any) -> str:
    """Quotes a value as the web UI does: in JSON's quotes where the bare text would break the list of values."""
    text = one_line(str(value))
    return json.dumps(text) if re.search('[,:"]', text) else text


def one_line(text: str) -> str:
    """Replaces white space by single spaces and removes invisible, unassigned and ill-formed characters."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(c for c in text if not (unicodedata.category(c)[0] == "C" or "\ufe00" <= c <= "\ufe0f"))


def parse_settings(path: str | os.PathLike, text: str | None) -> dict[str, Any]:
    """Parses the settings that a file's tag holds as JSON. UserError: the tag is missing or is not a JSON object."""
    content = settings_or_none(text)
    if content is None:
        raise UserError(f"{path}: holds no settings; give a .png, .wav or .json file that its_jax wrote")
    return content


def settings_or_none(text: str | None) -> dict[str, Any] | None:
    """Parses a tag as `parse_settings` does; returns None where it raises an error."""
    try:
        content = json.loads(text or "")
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
