"""Stable Diffusion's safety checker as a scorer of sweeps: --scorers=convert.safety:safe.

It needs `pip install 'its_jax[convert]'` and a download of 1.2 GB, and runs in PyTorch, on the CPU.
"""

import functools
from collections.abc import Sequence

import numpy as np

from its_jax.errors import UserError
from its_jax.scoring.item import Item

CHECKER = "CompVis/stable-diffusion-safety-checker"
CARE = 0.01  # by which concepts' cosines count more where one that asks for special care is near


class Safe:
    """Column `safe`: 100 x how far the picture stays below the checker's thresholds; below 0 the checker would
    withhold it.

    Of several pictures of a sample (further views) the worst counts.

    Args:
      source: folder or hub id of a checker.
    """

    def __init__(self, source: str = CHECKER):
        self.source = source

    def __call__(self, items: Sequence[Item]) -> dict[str, list[float]]:
        return {"safe": [min(map(self.margin, item.images.values())) for item in items]}

    def margin(self, picture: np.ndarray) -> float:
        """Of a picture `[h, w, 3]` in [0, 1]. UserError: the checker cannot be had."""
        model, processor, torch = self._loaded
        pixels = processor(images=np.rint(picture * 255).astype(np.uint8), return_tensors="pt").pixel_values
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
            raise UserError(f"{self.source}: the safety checker cannot be had ({reason})") from error


safe = Safe()
