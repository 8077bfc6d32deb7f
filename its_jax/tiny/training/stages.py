"""The stages of the training, in order, and the figures that each leaves behind."""

import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from its_jax.errors import UserError
from its_jax.runtime import hardware
from its_jax.storage.files import write_json
from its_jax.tiny import judges
from its_jax.tiny.training import clap, clip, color, judge, unet, vae, vocoder
from its_jax.tiny.training.export import export
from its_jax.tiny.training.loop import Result, save_result
from its_jax.tiny.training.schedule import STAGES

# Stage -> the models that it trains.
_TRAIN: Mapping[str, Mapping[str, Callable[[Path], Result]]] = {
    "vae": {"vae": vae.train},
    "image": {"image": functools.partial(unet.train, "image")},
    "audio": {"audio": functools.partial(unet.train, "audio")},
    "vocoder": {"vocoder": vocoder.train},
    "judges": {f"judge_{kind}": functools.partial(judge.train, kind) for kind in judges.KINDS},
    "clip": {"clip": clip.train},
    "clap": {"clap": clap.train},
    "color": {"color": color.train},
}


def run(workdir: Path, stage: str = "all") -> None:
    """Runs one stage, or all of them and the export.

    Raises:
      UserError: the files of an earlier stage are missing, or `workdir` cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        for name in (*_TRAIN, "export") if stage == "all" else (stage,):
            if name == "export":
                export(workdir)
            else:
                _train(name, workdir)
    except OSError as error:
        reason = f"{error.filename or workdir}: {error.strerror or error}"
        raise UserError(f"{reason}; run the earlier stages first, see --stage") from error


def _train(stage: str, workdir: Path) -> None:
    """Trains the models of a stage, and writes their parameters and figures to `workdir`."""
    for model, train in _TRAIN[stage].items():
        params, seconds, figures = train(workdir)
        steps = STAGES[model.partition("_")[0]].steps
        record = figures | {"steps": steps, "seconds": round(seconds), "machine": hardware.describe()}
        save_result(workdir / model, params)
        write_json(workdir / f"{model}.json", record)
        logging.info("%s: %s", model, record)
