"""The base class of colorizers: gray images and prompts -> colored images, on all devices at once."""

import abc
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec as P

from its_jax.colorize import luminance
from its_jax.colorize.settings import ColorSettings
from its_jax.diffusion.views import VIEWS
from its_jax.diffusion.windows import Windows
from its_jax.errors import UserError
from its_jax.pipeline import progress
from its_jax.pipeline.placement import DataParallel
from its_jax.pipeline.progress import OnProgress, Progress, split_range

WHOLE, SPLIT = P(), P("data")  # an argument that all devices hold, and one that is divided by images


class Batch(NamedTuple):
    """The inputs of one batch."""

    gray: Array  # [b H W 1] in [0, 1]
    texts: Any  # embedded negative and positive prompts, leaves [b 2 ...]
    guidance_scale: Array  # [b]
    seeds: Array  # [b] uint32
    wrap: bool  # whether the image is a loop: its last column continues at the first one
    on_steps: Callable[[int], None]  # called with the number of steps since the last call


class Colorizer(abc.ABC):
    """Colorizes batches of gray images with models that are loaded once.

    Args of the constructor:
      placement: of models and images; by default each local device holds all models and colorizes its own images.

    Attributes:
      identities: for each setting that names a model, the identity of that model.
      at_once: the number of images that the devices colorize at once; a batch is a multiple of it.
      multiple: heights and widths are padded to multiples of it, in pixels.
      num_steps: the number of denoising steps of an image.
    """

    multiple: int
    num_steps: int

    def __init__(self, settings: ColorSettings, placement: DataParallel | None = None):
        self._settings, self._placement = settings, placement or DataParallel()
        self.at_once = self._placement.at_once
        self.identities: dict[str, str] = {}
        self._programs: dict[Any, Callable] = {}

    @abc.abstractmethod
    def encode(self, prompts: Sequence[str]) -> Any:
        """Embeds the negative prompt and each of the prompts, leaves `[b 2 ...]`."""

    @abc.abstractmethod
    def generate(self, batch: Batch) -> Array:
        """Generates images `[b H W 3]`, about [0, 1], of which only the colors count."""

    def __call__(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        view: str = "identity",
        wrap: bool = False,
        on_progress: OnProgress = progress.ignore,
    ) -> np.ndarray:
        """Colorizes gray images.

        Args:
          images: `[b H W]` in [0, 1]; b is a multiple of `at_once`.
          prompts, seeds: one for each image.
          view: a key of `VIEWS`; the images show their subjects through this view.
          wrap: whether images are loops.
          on_progress: called about 20 times per model. There are no previews.

        Returns:
          float32 `[b H W 3]` in [0, 1]; the mean of the channels is `images`. An image is not finite if the model's
          result is not.
        """
        viewed = np.asarray(VIEWS[view].apply(images[..., None].astype(np.float32)))
        height, width = viewed.shape[1:3]
        padding = -height % self.multiple, -width % self.multiple
        padded = np.pad(viewed, ((0, 0), *((0, n) for n in padding), (0, 0)), mode="edge")
        guidance_scale = np.full(len(images), self._settings.guidance_scale, np.float32)
        inputs = padded, guidance_scale, np.array(seeds, np.uint32)
        gray, scale, seeds_on_device = self._placement.put(inputs, sharded=True)
        wrap = wrap and view == "identity" and not padding[1]
        batch = Batch(gray, self.encode(prompts), scale, seeds_on_device, wrap, self._step_counter(on_progress))
        colored = self._program(luminance.clip_to_gamut, (SPLIT, SPLIT))(gray, self.generate(batch))
        return np.asarray(VIEWS[view].invert(np.asarray(colored)[:, :height, :width]))

    def _step_counter(self, on_progress):
        """Returns a function that adds to the number of steps and reports it."""
        done = 0

        def count(steps):
            nonlocal done
            done += steps
            on_progress(Progress(done, self.num_steps, list))  # an empty list in place of previews

        return count

    def _check_window(self):
        if self._settings.window % self.multiple:
            raise UserError(
                f"colorize.window={self._settings.window}: must be a multiple of {self.multiple} for these models"
            )

    def _windows(self, columns, column_pixels, wrap):
        """Returns the windows on a canvas of `columns` columns of `column_pixels` pixels each, or None."""
        if not (self._settings.window or wrap):
            return None
        return Windows.cover(columns, self._settings.window // column_pixels or columns, wrap)

    def _program(self, function, specs, **static):
        """Returns a program that applies `function` on each device, the same one for the same static arguments."""
        key = (function, *static.items())
        if key not in self._programs:
            self._programs[key] = self._placement.jit_per_device(functools.partial(function, **static), specs)
        return self._programs[key]

    def _run_steps(self, program, state, first, last, on_steps):
        """Runs `program(state, first, last)` in several calls, and reports progress after each of them."""
        bounds = split_range(first, last)
        for begin, end in zip(bounds, bounds[1:], strict=False):
            state = jax.block_until_ready(program(state, *self._placement.put((np.int32(begin), np.int32(end)))))
            on_steps(end - begin)
        return state
