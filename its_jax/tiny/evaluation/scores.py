"""Scores of samples: whether the judges recognize what was requested, and how likely the models find the samples.

Samples are a dict of arrays: `spectrogram` uint8 `[n, 128, 512]`, `latents` `[n, 16, 64, 4]`, `waveform`
`[n, samples]`, and the requested classes, `subject` and `sound`, `[n]` each.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.audio.mel import MelConfig
from its_jax.checkpoints.model import Model
from its_jax.pipeline import decoding
from its_jax.pipeline import prompts as pipeline_prompts
from its_jax.tiny import judges
from its_jax.tiny.data import items, pictures, sounds

NOISE_LEVELS = (100, 300, 500)  # training timesteps of the denoising error
BATCH = 12  # samples that are scored at once


def evaluate_samples(
    models: Mapping[str, Model], mel: MelConfig, judge: Mapping[str, judges.Judge], samples: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the classes, the judges' verdicts, the denoising errors and the errors of the vocoder, `[n]` each.

    Args:
      models: the models 'image' and 'audio'.
      mel: the vocoder's mel front end.
      judge: the judges of 'picture' and of 'sound'.
    """
    spectrogram = samples["spectrogram"] / np.float32(255)
    rows = range(0, len(spectrogram), BATCH)
    griffin_lim = np.concatenate(
        [decoding.vocode(models["audio"].vocoder, spectrogram[i : i + BATCH], mel, "griffin_lim") for i in rows]
    )
    heard, heard_griffin_lim = (
        np.concatenate([items.to_spectrogram(waveform[i : i + BATCH]) for i in rows])
        for waveform in (samples["waveform"], griffin_lim)
    )
    return {
        "subject": samples["subject"],
        "sound": samples["sound"],
        "picture_right": judges.classify(judge["picture"], spectrogram) == samples["subject"],
        "sound_right": judges.classify(judge["sound"], heard) == samples["sound"],
        "sound_right_griffin_lim": judges.classify(judge["sound"], heard_griffin_lim) == samples["sound"],
        "error_picture_model": denoising_error(models["image"], samples, "image"),
        "error_sound_model": denoising_error(models["audio"], samples, "audio"),
        "vocoder_error": np.abs(heard - spectrogram).mean(axis=(1, 2)),
        "griffin_lim_error": np.abs(heard_griffin_lim - spectrogram).mean(axis=(1, 2)),
    }


def denoising_error(model: Model, samples: Mapping[str, np.ndarray], kind: str, *, prompted: bool = True) -> np.ndarray:
    """Computes the mean squared error `[n]` of the predicted noise at `NOISE_LEVELS`, with the same noise for all.

    Args:
      kind: 'image' or 'audio'.
      prompted: whether the prompt names the requested class, or is empty.
    """
    prompts, labels = _prompts(kind), samples["subject" if kind == "image" else "sound"]
    ids = pipeline_prompts.tokenize(model.tokenizer, prompts if prompted else [""] * len(prompts))
    texts = pipeline_prompts.encode_tokens(model.text_encoder, ids)
    assert model.schedule is not None, "a diffusion model has a schedule"
    signal = model.schedule.alphas_cumprod()
    eps = jax.random.normal(jax.random.key(0), samples["latents"].shape[1:])

    @jax.jit
    def error(unet, z, text, t, alpha, sigma):
        predicted = unet(alpha * z + sigma * eps, jnp.full(len(z), t), text)
        return jnp.mean((predicted - eps) ** 2, axis=(1, 2, 3))

    errors = []
    for i in range(0, len(labels), BATCH):
        z, text = samples["latents"][i : i + BATCH], texts[labels[i : i + BATCH]]
        levels = [error(model.unet, z, text, t, signal[t] ** 0.5, (1 - signal[t]) ** 0.5) for t in NOISE_LEVELS]
        errors.append(np.mean(levels, axis=0))
    return np.concatenate(errors)


def _prompts(kind: str) -> list[str]:
    """Returns a prompt for each class."""
    if kind == "image":
        return [f"a painting of {phrases[0]}, grayscale" for phrases in pictures.SUBJECTS.values()]
    return [phrases[0] for phrases in sounds.SOUNDS.values()]


def summarize(result: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns means over all samples, and the accuracies also by subject and by sound."""
    both = result["picture_right"] & result["sound_right"]
    accuracies = {"picture": result["picture_right"], "sound": result["sound_right"], "both": both}
    means: dict[str, Any] = {name: round(float(np.mean(values)), 4) for name, values in accuracies.items()}
    means["sound_griffin_lim"] = round(float(np.mean(result["sound_right_griffin_lim"])), 4)
    for name in ("error_picture_model", "error_sound_model", "vocoder_error", "griffin_lim_error"):
        means[name] = round(float(np.mean(result[name])), 4)
    means["error_mean"] = round((means["error_picture_model"] + means["error_sound_model"]) / 2, 4)
    for axis, names in (("subject", items.SUBJECTS), ("sound", items.SOUNDS)):
        means[f"by_{axis}"] = {
            name: {key: round(float(np.mean(values[result[axis] == i])), 3) for key, values in accuracies.items()}
            for i, name in enumerate(names)
        }
    return means
