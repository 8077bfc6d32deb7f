"""Functions for notebooks, one for each cell of those in `colab/`. They show their results, or return where these are.

    from its_jax import notebook

    notebook.sample("configs/default.py", "out", {"image.prompt": "a drawing of a castle, grayscale"})
    notebook.sweep("configs/default.py", "sweep", image_prompts="dogs; trees", audio_prompts="siren", seeds="0..3")

The same call again generates only the missing samples. After a machine is lost, run its notebook again from the top.
"""

import contextlib
import functools
import io
import logging
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from its_jax import deprecated, gallery
from its_jax import sample as sample_command
from its_jax.errors import UserError
from its_jax.evaluate import score_cache
from its_jax.media import sounds, videos
from its_jax.media.player import player
from its_jax.runtime import cli, hardware
from its_jax.runtime.config_files import load_config
from its_jax.scoring import ranking
from its_jax.settings.records import VIDEO
from its_jax.settings.schema import TERMS
from its_jax.storage import files, samples
from its_jax.sweep import defaults
from its_jax.sweep.run import run_sweep

if TYPE_CHECKING:
    from its_jax.pipeline.pipeline import Pipeline

_DRIVE = Path("/content/drive")  # Colab mounts it here.
# Settings that are arguments of `sweep`.
_ARGUMENTS = {"image.prompt": "image_prompts", "audio.prompt": "audio_prompts", "seed": "seeds", "num_samples": "seeds"}

__getattr__ = deprecated.package_getattr(__name__)


def workdir(name: str, on_drive: bool) -> Path:
    """Returns the folder of this name, on Google Drive or on this machine. A Drive outlives the machine.

    Args:
      on_drive: whether to mount the Drive of Colab, which asks for permission.

    Raises:
      UserError: the Drive is not available or not permitted, or the name is not that of a folder in it.
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
        raise UserError(f"on_drive: the Drive cannot be mounted ({error}); allow it, or switch it off") from error
    return _DRIVE / "MyDrive" / name


def sample(config: str, workdir: str | Path, settings: Mapping[str, Any] | None = None) -> Any:
    """Generates the missing samples of a config, and shows the work folder as `gallery.show` does.

    Args:
      config: 'FILE.py' or 'FILE.py:ARGUMENT'.
      settings: by full name, such as 'image.prompt', in place of those of the config.

    Raises:
      UserError: the config or a setting is wrong, or some samples could not be generated.
    """
    with _logging():
        sample_command.run(load_config(config, settings), Path(workdir), _pipeline())
    return gallery.show(workdir)


def dtype(name: str = "auto") -> str:
    """Displays and returns the dtype of this name, or for 'auto' the one that suits the accelerator."""
    import jax

    device = jax.local_devices()[0]
    chosen = hardware.suitable_dtype(device) if name == "auto" else name
    print(f"dtype: {chosen} ({device.device_kind})")
    return chosen


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
    confirmed: bool = False,
) -> None:
    """Logs the plan of a grid, then generates and scores the missing samples.

    Args:
      config, settings: see `sample`.
      image_prompts, audio_prompts: a list, or a text with semicolons between the prompts.
      seeds: such as '0..7'. scorers: names, see `its_jax.scoring.registry`.
      plan_only, confirmed: see `its_jax.sweep.run.run_sweep`.

    Raises:
      UserError: see `sample`; or a setting is given that is an argument of this function.
    """
    for name in _ARGUMENTS.keys() & (settings or {}).keys():
        raise UserError(f"settings: remove {name}, and use the argument {_ARGUMENTS[name]}")
    prompts = {"image.prompt": _split(image_prompts), "audio.prompt": _split(audio_prompts)}
    own = load_config(config, settings).to_dict()
    origins = defaults.find_origins(own, settings or {})
    requested = own | {"grid": prompts | {"seed": seeds}, "scorers": scorers}
    options: dict[str, Any] = dict(plan_only=plan_only, confirmed=confirmed, origins=origins)
    with _logging():
        run_sweep(requested, Path(workdir), pipeline=None if plan_only else _pipeline(), **options)


def best(workdir: str | Path, by: str, share: float = 0.2, count: int = 12) -> Any:
    """Returns the first `count` of `best_samples`, each with a player and its scores, as an IPython.display.HTML.

    Raises:
      UserError: see `best_samples`.
    """
    from IPython.display import HTML

    return HTML("".join(map(_player, best_samples(workdir, by, share)[:count])))


def export(workdir: str | Path, out: str | Path, by: str, share: float = 0.2) -> Path:
    """Writes the files of `best_samples`, and a video of each, to a zip file, and returns its path.

    Raises:
      UserError: see `best_samples`; or the file cannot be written.
    """
    packed, out = io.BytesIO(), Path(out)
    with zipfile.ZipFile(packed, "w") as file:
        for found in best_samples(workdir, by, share):
            for name, content in _contents(found):
                file.writestr(f"{found.id}/{name}", content)
    files.write(out, packed.getvalue())
    return out


def best_samples(workdir: str | Path, by: str, share: float = 0.2) -> list[samples.Sample]:
    """Returns the samples that are among the best on each of some scores, best first.

    Args:
      by: names of scores with commas between. Without any, all samples are returned in the order of their ids.
      share: of the samples that count as the best, in (0, 1], see `its_jax.scoring.ranking.best_on_all`.

    Raises:
      UserError: none of the samples has these scores.
    """
    finished = samples.open_samples(workdir)
    columns = [column.strip() for column in by.split(",") if column.strip()]
    if not columns:
        return list(finished.values())
    scores = score_cache.scores(Path(workdir), finished)
    return [finished[name] for name in ranking.best_on_all(scores, columns, share)]


@functools.cache
def _pipeline() -> "Pipeline":
    """Returns the pipeline that all cells share, so that a second cell loads and compiles only what is new."""
    from its_jax.pipeline.pipeline import Pipeline  # It imports JAX.

    return Pipeline()


def _split(prompts: str | Sequence[str]) -> tuple[str, ...]:
    """Splits a text at semicolons; empty prompts are left out."""
    parts = prompts.split(";") if isinstance(prompts, str) else prompts
    return tuple(part.strip() for part in parts if part.strip())


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """Logs to the output of the cell."""
    cli.silence_libraries()
    with cli.log_to_stdout():
        yield


def _player(found: samples.Sample) -> str:
    """Returns the spectrogram of a sample with its prompts, scores and an audio player as HTML."""
    scores = " · ".join(f"{name} {value:.1f}" for name, value in found.record.get("scores", {}).items())
    caption = f"{' | '.join(_prompts(found))} · seed {found.record['seed']} · {scores}"
    waveform, sampling_rate = found.read_audio()
    return player(caption, found.read("spectrogram.png"), sounds.wav(waveform, sampling_rate, dict(found.record)))


def _contents(found: samples.Sample) -> Iterator[tuple[str, bytes]]:
    """Yields the files of a sample as (name, bytes), with a video."""
    yield from ((name, found.read(name)) for name in found.files)
    if VIDEO not in found.files:
        image, (waveform, sampling_rate) = found.read_image(), found.read_audio()
        image_prompt, audio_prompt = _prompts(found)
        about = dict(found.record)
        try:
            yield VIDEO, videos.video(image, waveform, sampling_rate, image_prompt, audio_prompt, settings=about)
        except OSError as error:
            logging.warning("%s: without a video (%s)", found.id, files.describe(error))


def _prompts(found: samples.Sample) -> list[str]:
    return [found.record[term]["prompt"] for term in TERMS]
