"""The networks that define FID and FAD. They need `pip install 'its_jax[eval]'`, and download their weights.

Both are PyTorch's, and run on the CPU or on a GPU that PyTorch finds.
"""

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from its_jax.errors import UserError


@functools.cache
def inception() -> Callable[[np.ndarray], np.ndarray]:
    """Loads the network of FID (Heusel et al. 2017): images, uint8 `[n, h, w, 3]` -> features `[n, 2048]`.

    Raises:
      UserError: the network is not installed, or its weights are not available.
    """
    torch, fidelity = _import("torch"), _import("torch_fidelity.feature_extractor_inceptionv3")
    network = _load("Inception", fidelity.FeatureExtractorInceptionV3, "inception-v3-compat", ["2048"]).eval()

    def extract(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(np.moveaxis(images, -1, 1).copy()))[0].cpu().numpy()

    return extract


@functools.cache
def vggish() -> Callable[[np.ndarray, int], np.ndarray]:
    """Loads the network of FAD (Kilgour et al. 2019): a waveform and its rate -> features `[n, 128]`, one per 0.96 s.

    Raises:
      UserError: the network is not installed, or its weights are not available.
    """
    torch, package = _import("torch"), _import("torchvggish")
    network = _load("VGGish", package.vggish, postprocess=False).eval()

    def extract(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
        with torch.no_grad():
            examples = package.vggish_input.waveform_to_examples(waveform, sampling_rate)
            if not len(examples):
                raise UserError("the sound is shorter than 0.96 s, which VGGish needs")
            return np.atleast_2d(network(examples).cpu().numpy())

    return extract


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"this needs {error.name}; pip install 'its_jax[eval]'") from error
    except RuntimeError as error:  # raised by a torchvision for another build of PyTorch
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name} cannot be imported ({reason}); are torch and torchvision of the same build?"
        ) from error


def _load(name: str, make: Callable, *args: Any, **options: Any) -> Any:
    try:
        return make(*args, **options)
    except Exception as error:  # several libraries download, each with its own exceptions
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name}'s weights are not available ({reason})") from error
