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

from ml_collections import ConfigDict

import its_jax
from its_jax import gallery
from its_jax import sample as sample_command
from its_jax.errors import UserError
from its_jax.evaluate import score_cache
from its_jax.media import sounds, videos
from its_jax.runtime import cli
from its_jax.scoring import ranking
from its_jax.storage import files, samples
from its_jax.sweep.run import run_sweep

_CLONE = Path(its_jax.__file__).parents[1]
_DRIVE = Path("/content/drive")  # where Colab shows it
# Settings that a grid has as an argument of its own.
_OF_GRIDS = {"image.prompt": "image_prompts", "audio.prompt": "audio_prompts", "seed": "seeds", "num_samples": "seeds"}
_ROW = """<figure style="margin: 0 0 1em"><figcaption style="font: 13px sans-serif">{caption}</figcaption>
<img src="data:image/png;base64,{picture}" style="display: block; max-width: 100%">
<audio controls preload="none" src="data:audio/wav;base64,{sound}" style="width: 100%"></audio></figure>"""


def workdir(name: str, on_drive: bool) -> Path:
    """The folder of that name, on Google Drive (which asks for leave) or here: on a Drive it outlives the machine.

    Raises:
      UserError: no Drive, outside of Colab, or none that was allowed; a name that is not of a folder in it.
    """
    if not on_drive:
        return Path(name).expanduser()
    if name.startswith(("/", "~")):
        raise UserError(f"{name}: on the Drive, give a folder in it, such as images_that_sound")
    try:
        from google.colab import drive
    except ImportError as error:
        raise UserError("on_drive: only Colab has a Drive to mount; switch it off") from error
    try:
        drive.mount(str(_DRIVE))
    except Exception as error:  # declined, or timed out
        raise UserError(f"on_drive: the Drive is not there ({error}); allow it, or switch it off") from error
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
      UserError: as `sample`; a setting that the grid has an argument for.
    """
    settings = settings or {}
    for name in _OF_GRIDS.keys() & settings.keys():
        raise UserError(f"settings: {name} is what {_OF_GRIDS[name]} is for")
    prompts = {"image.prompt": _parts(image_prompts), "audio.prompt": _parts(audio_prompts)}
    asked = _read(config, settings).to_dict() | {"grid": prompts | {"seed": seeds}, "scorers": scorers}
    with _told():
        run_sweep(asked, Path(workdir), plan_only=plan_only)


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
    made = samples.open_samples(workdir)
    columns = [column.strip() for column in by.split(",") if column.strip()]
    if not columns:
        return list(made.values())
    return [made[name] for name in ranking.best_on_all(score_cache.scores(Path(workdir), made), columns, share)]


def _read(config, settings):
    name, _, argument = config.partition(":")
    path = next((path for path in (Path(name), _CLONE / name) if path.is_file()), None)
    if path is None:
        raise UserError(f"{config}: no such file; give one such as configs/default.py, of a clone of its_jax")
    try:
        made = runpy.run_path(str(path)).get("get_config", dict)(*[argument] * bool(argument))
    except Exception as error:  # a config file is a program, which may fail in any way
        raise UserError(f"{config}: {cli.describe(error)}") from error
    if not isinstance(made, ConfigDict):
        raise UserError(f"{config}: must have a function get_config that returns a ConfigDict")
    made.lock()
    for setting, value in settings.items():
        try:
            made[setting]  # of an unknown one it says which was meant
            made.update_from_flattened_dict({setting: value})
        except KeyError as error:
            raise UserError(f"{setting}={value!r}: {cli.unknown_setting(error)}") from error
        except (TypeError, ValueError) as error:
            raise UserError(f"{setting}={value!r}: {cli.describe(error)}") from error
    return made


def _parts(prompts):
    parts = prompts.split(";") if isinstance(prompts, str) else prompts
    return tuple(part.strip() for part in parts if part.strip())


def _told():
    cli.silence_libraries()
    return cli.log_to_stdout()


def _player(found):
    scores = " · ".join(f"{name} {value:.1f}" for name, value in found.record.get("scores", {}).items())
    prompts = " | ".join(found.record[term]["prompt"] for term in ("image", "audio"))
    picture, sound = found.read("spectrogram.png"), sounds.wav(*found.read_audio(), dict(found.record))
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
            video = videos.video(found.read_image(), *found.read_audio(), *prompts, settings=dict(found.record))
            yield "video.mp4", video
        except OSError as error:
            logging.warning("%s: no video of it (%s)", found.id, files.describe(error))
