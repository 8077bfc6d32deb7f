"""Reads converted folders, and makes single files with the names of Stable Diffusion 1.x."""

import json

import torch

from convert import single_file
from its_jax.checkpoints.format import METADATA

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.text_model.",
}


def metadata(folder):
    """Reads what a conversion records about itself."""
    return json.loads((folder / METADATA).read_text())


def hashes(folder):
    """Returns the hash of each component of a conversion."""
    return {component: about["sha256"] for component, about in metadata(folder)["parts"].items()}


def single_file_state(twins):
    """Renames the tensors of PyTorch modules as in a single file, and adds leftovers of training."""
    state = {}
    for component, prefix in PREFIXES.items():
        if component not in twins:
            continue
        tensors = twins[component].state_dict()
        for name, old in single_file.old_names(component, tensors).items():
            value = tensors[name].clone()
            if ".attn_1." in old and value.ndim == 2:  # these were convolutions
                value = value[:, :, None, None]
            state[prefix + old] = value.contiguous()
    leftovers = ["model_ema.decay", "betas", "sqrt_recipm1_alphas_cumprod", "posterior_mean_coef2", "logvar",
                 "first_stage_model.loss.logvar", "cond_stage_model.logit_scale"]  # fmt: skip
    state.update({key: torch.ones(3) for key in leftovers})
    if "text_encoder" in twins:
        state[PREFIXES["text_encoder"] + "embeddings.position_ids"] = torch.arange(77)[None]
    return state
