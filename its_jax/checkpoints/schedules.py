"""Noise schedules of converted models."""

import pathlib

from its_jax.checkpoints.model import Model
from its_jax.diffusion.ddpm import DDPMSchedule
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.errors import UserError
from its_jax.models.if_unet import PixelUNet
from its_jax.storage.files import read_json


def load_schedules(model: Model) -> dict[str, NoiseSchedule | DDPMSchedule]:
    """Reads the noise schedules of a model with a UNet: attribute of `Model` -> schedule; empty without a UNet.

    Raises:
      UserError: a `scheduler_config.json` is missing, or has a setting that is not supported.
    """
    if model.unet is None:
        return {}
    if not isinstance(model.unet, PixelUNet):
        return {"schedule": _read(model, "scheduler", NoiseSchedule)}
    schedules = {"schedule": _read(model, "scheduler", DDPMSchedule)}
    if model.unet.is_upscaler:
        schedules["noising_schedule"] = _read(model, "image_noising_scheduler", DDPMSchedule)
    return schedules


def _read(model, folder, kind):
    file = pathlib.Path(folder) / "scheduler_config.json"
    path = model.folder / file
    if not path.exists():
        raise UserError(f"{model.source}: {file.as_posix()} is missing")
    try:
        return kind.from_dict(read_json(path))
    except UserError as error:
        raise UserError(f"{model.source}: {error}") from error
