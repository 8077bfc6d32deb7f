"""Networks whose features FID and FAD are known by; they come with `pip install 'its_jax[eval]'`, their weights by net.

Both are PyTorch's, and run on the CPU or on a GPU that PyTorch sees.
"""

import functools
import importlib
from collections.abc import Callable

import numpy as np

from its_jax.errors import UserError


@functools.cache
def inception() -> Callable[[np.ndarray], np.ndarray]:
    """FID's (Heusel et al. 2017): uint8 `[n, h, w, 3]` -> `[n, 2048]`. UserError: it cannot be had."""
    torch, fidelity = _import("torch"), _import("torch_fidelity.feature_extractor_inceptionv3")
    network = _had("Inception", fidelity.FeatureExtractorInceptionV3, "inception-v3-compat", ["2048"]).eval()

    def extract(pictures):
        with torch.no_grad():
            return network(torch.from_numpy(np.moveaxis(pictures, -1, 1).copy()))[0].cpu().numpy()

    return extract


@functools.cache
def vggish() -> Callable[[np.ndarray, int], np.ndarray]:
    """FAD's (Kilgour et al. 2019): a waveform and its rate -> `[n, 128]`, one for 0.96 s. UserError: as `inception`."""
    torch, package = _import("torch"), _import("torchvggish")
    network = _had("VGGish", package.vggish, postprocess=False).eval()

    def extract(waveform, sampling_rate):
        with torch.no_grad():
            examples = package.vggish_input.waveform_to_examples(waveform, sampling_rate)
            if not len(examples):
                raise UserError("the sound is shorter than the 0.96 s that VGGish hears")
            return np.atleast_2d(network(examples).cpu().numpy())

    return extract


def _import(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"this needs {error.name}; pip install 'its_jax[eval]'") from error
    except RuntimeError as error:  # torchvision's, beside a PyTorch of another build
        raise UserError(
            f"{name} cannot be imported ({' '.join(str(error).split())[:200]}); are torch and torchvision of one build?"
        ) from error


def _had(name, make, *args, **options):
    try:
        return make(*args, **options)
    except Exception as error:  # downloads fail in ways of several libraries
        raise UserError(f"{name}'s weights cannot be had ({' '.join(str(error).split())[:200]})") from error
