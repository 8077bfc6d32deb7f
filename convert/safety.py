"""Stable Diffusion's safety checker as a scorer of sweeps: `--scorers=convert.safety:safe`.

It needs `pip install 'its_jax[convert]'` and a download of 1.2 GB, and runs in PyTorch, on the CPU.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from its_jax.errors import UserError

if TYPE_CHECKING:
    from its_jax.scoring.item import Item

CHECKER = "CompVis/stable-diffusion-safety-checker"
CARE = 0.01  # is added to the cosines of all concepts if one that requires special care is near


class Safe:
    """A scorer with the column `safe`: 100 x how far the image is below the checker's thresholds.

    Below 0, the checker would withhold the image. Of several images of a sample (further views) the worst counts.

    Args:
      source: folder or hub id of a checker.
    """

    def __init__(self, source: str = CHECKER):
        self.source = source

    def __call__(self, items: "Sequence[Item]") -> dict[str, list[float]]:
        """Scores samples: `safe` -> a number for each of them."""
        return {"safe": [min(map(self.margin, item.images.values())) for item in items]}

    def margin(self, image: np.ndarray) -> float:
        """Returns the score of an image `[h, w, 3]` in [0, 1]. UserError: the checker is not available."""
        model, processor, torch = self._loaded
        pixels = processor(images=np.rint(image * 255).astype(np.uint8), return_tensors="pt").pixel_values
        with torch.no_grad():
            found = model.visual_projection(model.vision_model(pixels)[1])[0]
            cosine = functools.partial(torch.nn.functional.cosine_similarity, found[None])
            special = cosine(model.special_care_embeds) - model.special_care_embeds_weights
            above = cosine(model.concept_embeds) - model.concept_embeds_weights + CARE * bool((special > 0).any())
        return -100 * float(above.max())

    @functools.cached_property
    def _loaded(self):
        try:
            import torch
            from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
            from transformers import CLIPImageProcessor

            model = StableDiffusionSafetyChecker.from_pretrained(self.source).eval()
            return model, CLIPImageProcessor.from_pretrained(self.source), torch
        except ImportError as error:
            raise UserError(f"the safety checker needs {error.name}; pip install 'its_jax[convert]'") from error
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{self.source}: the safety checker is not available ({reason})") from error


safe = Safe()
