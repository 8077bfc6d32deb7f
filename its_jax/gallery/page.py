"""The data of the page and its parts -> one HTML file, and the files beside it that it needs."""

import base64
import html
import importlib.resources
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from its_jax import gallery
from its_jax.errors import UserError
from its_jax.gallery import table
from its_jax.media import sounds
from its_jax.storage import files, samples
from its_jax.storage import writers as storage_writers

# One after another they make the page's only script.
SCRIPTS = ("table.js", "stars.js", "player.js", "layout.js", "tiles.js", "detail.js", "export.js", "main.js")
ASSETS = "gallery"  # the folder for what lies in tar files, which a browser cannot look into
_SOUND = storage_writers.FolderWriter.sound
_KINDS = {"png": "image/png", "wav": "audio/wav"}
_WRITERS = 8
_FRAME = '<div><iframe srcdoc="{page}" style="width: 100%; height: {height}px; border: 0"></iframe></div>'


def write(workdir: str | Path, embed: bool) -> Path:
    """See `gallery.write`."""
    workdir = files.to_path(workdir)
    path = workdir / (gallery.EMBEDDED if embed else gallery.PAGE)
    files.write(path, _page(workdir, embed).encode())
    return path


def frame(workdir: str | Path, height: int) -> str:
    """HTML of a frame of so many pixels that holds the whole page."""
    return _FRAME.format(page=html.escape(_page(files.to_path(workdir), embed=True)), height=height)


def _page(workdir, embed):
    found = list(samples.open_samples(workdir).values())
    if not found:
        raise UserError(f"{workdir}: there are no finished samples in it yet")
    data = table.build_table(found, _folder)
    data["workdir"] = files.absolute_path(workdir)
    data["embedded"] = _embedded(found) if embed else {}
    _extract(found, workdir)
    return _filled(_part("page.html"), {"style": _part("page.css"), "data": _json(data), "script": _script()})


def _folder(sample):
    """Of its files, relative to the page."""
    return f"{ASSETS}/{sample.id}" if _is_in_tar(sample) else sample.place.name


def _is_in_tar(sample):
    return sample.place.suffix == ".tar"


def _shown(sample):
    return *(f"{name}.png" for name in (*sample.pictures, *sample.colors)), _SOUND


def _content(sample, name):
    if name == _SOUND and name not in sample.files:  # it is FLAC, in some of which Chromium finds no place to start at
        return sounds.wav(*sample.waveform(), dict(sample.record))
    return sample.read(name)


def _extract(found, workdir):
    """Puts files that lie in tar files beside the page, but for those that are there."""
    wanted = [(sample, workdir / ASSETS / sample.id) for sample in found if _is_in_tar(sample)]
    with ThreadPoolExecutor(_WRITERS) as writers:
        for _ in writers.map(lambda pair: _extract_one(*pair), wanted):
            pass


def _extract_one(sample, folder):
    names = [name for name in _shown(sample) if not (folder / name).exists()]
    if names:
        with files.explain_os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        files.write(folder / name, _content(sample, name))


def _embedded(found):
    """Path, as the page has it -> data: address. UserError: they are too large together."""
    addresses, size = {}, 0
    for sample in found:
        for name in _shown(sample):
            content = _content(sample, name)
            size += len(content)
            if size > gallery.MAX_EMBEDDED:
                most = gallery.MAX_EMBEDDED // 2**20
                raise UserError(
                    f"{sample.place.parent}: pictures and sounds of {len(found)} samples are more than the {most} MiB "
                    f"that one file may hold; without --embed the page links to them"
                )
            kind = _KINDS[name.rpartition(".")[2]]
            addresses[f"{_folder(sample)}/{name}"] = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return addresses


def _script():
    return "".join(map(_part, SCRIPTS))


def _part(name):
    return importlib.resources.files(gallery).joinpath("web", name).read_text(encoding="utf-8")


def _filled(text, parts):
    """Each part in place of its mark; none of them holds another's."""
    for name, part in parts.items():
        text = text.replace(f"<!--{name}-->", part)
    return text


def _json(data):
    """For a script element, which any `</script>` inside a text would end."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
