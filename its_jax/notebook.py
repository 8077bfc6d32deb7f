"""What a notebook calls, one function for a cell (`colab/`): what is made is shown, or its place is.

    from its_jax import notebook

    notebook.sample("configs/default.py", "out", {"image.prompt": "a drawing of a castle, grayscale"})
    notebook.sweep("configs/default.py", "sweep", image_prompts="dogs; trees", audio_prompts="siren", seeds="0..3")

The same call again makes only what is missing, so that a notebook whose machine has gone is run again from its top.
"""

import base64
import html
import io
import logging
import runpy
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from its_jax import cli, files, gallery, media, ranking, samples
from its_jax import sample as sample_command
from its_jax import sweep as sweep_command
from its_jax.errors import UserError

_DRIVE = Path("/content/drive")  # where Colab shows it
_ROW = """<figure style="margin: 0 0 1em"><figcaption style="font: 13px sans-serif">{caption}</figcaption>
<img src="data:image/png;base64,{picture}" style="display: block; max-width: 100%">
<audio controls preload="none" src="data:audio/wav;base64,{sound}" style="width: 100%"></audio></figure>"""


def workdir(name: str, on_drive: bool) -> Path:
    """The folder of that name, on Google Drive (which asks for leave) or here: on a Drive it outlives the machine.

    Raises:
      UserError: no Drive, outside of Colab.
    """
    if not on_drive:
        return Path(name)
    try:
        from google.colab import drive
    except ImportError as error:
        raise UserError("on_drive: only Colab has a Drive to mount; switch it off") from error
    drive.mount(str(_DRIVE))
    return _DRIVE / "MyDrive" / name


def sample(config: str, workdir: str | Path, settings: Mapping[str, Any] | None = None) -> Any:
    """Makes the samples of a config that are missing, and shows the work folder as `gallery.show` does.

    Args:
      config: 'FILE.py' or 'FILE.py:ARGUMENT'. settings: by name, as 'image.prompt', in place of its own.

    Raises:
      UserError: a config or setting that is wrong; samples that could not be made.
    """
    made = _read(config, settings or {})
    with _told():
        sample_command.run(made, Path(workdir))
    return gallery.show(workdir)


def sweep(
    config: str,
    workdir: str | Path,
    *,
    image_prompts: str | Sequence[str],
    audio_prompts: str | Sequence[str],
    seeds: str,
    scorers: str = "",
    settings: Mapping[str, Any] | None = None,
    plan_only: bool = False,
) -> None:
    """Makes what is missing of a grid, with scores, after it has told its plan.

    Args:
      config, settings: as of `sample`. image_prompts, audio_prompts: a list, or one text with semicolons between.
      seeds: '0..7'. scorers: see `its_jax.scoring`. plan_only: makes nothing.

    Raises:
      UserError: as `sample`.
    """
    prompts = {"image.prompt": _parts(image_prompts), "audio.prompt": _parts(audio_prompts)}
    asked = _read(config, settings or {}).to_dict() | {"grid": prompts | {"seed": seeds}, "scorers": scorers}
    with _told():
        sweep_command.run(asked, Path(workdir), plan_only=plan_only)


def best(workdir: str | Path, by: str, share: float = 0.2, count: int = 12) -> Any:
    """The first `count` of `chosen`, each with a player and its scores: an IPython.display.HTML.

    Raises:
      UserError: as `chosen`.
    """
    from IPython.display import HTML

    return HTML("".join(map(_player, chosen(workdir, by, share)[:count])))


def export(workdir: str | Path, out: str | Path, by: str, share: float = 0.2) -> Path:
    """Puts the files of `chosen`, and a video of each, into one zip file, and returns its path.

    Raises:
      UserError: as `chosen`; it cannot be written.
    """
    packed, out = io.BytesIO(), Path(out)
    with zipfile.ZipFile(packed, "w") as file:
        for found in chosen(workdir, by, share):
            for name, content in _content(found):
                file.writestr(f"{found.id}/{name}", content)
    files.write(out, packed.getvalue())
    return out


def chosen(workdir: str | Path, by: str, share: float = 0.2) -> list[samples.Sample]:
    """The samples that are among the best on every one of some scores, the best first.

    Args:
      by: names of scores with commas between; without any, all samples in the order of their ids.
      share: see `ranking.top`.

    Raises:
      UserError: no sample has these scores.
    """
    made = samples.open(workdir)
    columns = [column.strip() for column in by.split(",") if column.strip()]
    if not columns:
        return list(made.values())
    scores = {name: found.record.get("scores", {}) for name, found in made.items()}
    return [made[name] for name in ranking.top(scores, columns, share)]


def _read(config, settings):
    path, _, argument = config.partition(":")
    try:
        made = runpy.run_path(path)["get_config"](*[argument] * bool(argument)).lock()
        made.update_from_flattened_dict(settings)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{config}: {files.reason(error)}") from error
    return made


def _parts(prompts):
    parts = prompts.split(";") if isinstance(prompts, str) else prompts
    return tuple(part.strip() for part in parts if part.strip())


def _told():
    cli.quieten()
    return cli.news_on_stdout()


def _player(found):
    scores = " · ".join(f"{name} {value:.1f}" for name, value in found.record.get("scores", {}).items())
    prompts = " | ".join(found.record[term]["prompt"] for term in ("image", "audio"))
    picture, sound = found.read("spectrogram.png"), media.wav(*found.waveform(), dict(found.record))
    return _ROW.format(
        caption=html.escape(f"{prompts} · seed {found.record['seed']} · {scores}"),
        picture=base64.b64encode(picture).decode(),
        sound=base64.b64encode(sound).decode(),
    )


def _content(found):
    """Of a sample, with a video of it, as (name, bytes)."""
    yield from ((name, found.read(name)) for name in found.files)
    if "video.mp4" not in found.files:
        prompts = (found.record[term]["prompt"] for term in ("image", "audio"))
        try:
            video = media.video(found.picture(), *found.waveform(), *prompts, settings=dict(found.record))
            yield "video.mp4", video
        except OSError as error:
            logging.warning("%s: no video of it (%s)", found.id, files.reason(error))
