"""What samples are worth: whether judges find in them what was asked for, and how likely each model finds them.

Samples are a dict of arrays: `spectrogram` uint8 `[n, 128, 512]`, `latents`, `waveform`, and the classes asked for,
`subject` and `sound`, `[n]`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.pipeline import decoding
from its_jax.pipeline import prompts as pipeline_prompts
from its_jax.tiny import judges
from its_jax.tiny.data import items, pictures, sounds

NOISE_LEVELS = (100, 300, 500)  # training timesteps of the denoising error
BATCH = 12  # samples at once


def judged(sampler, judge, samples):
    """Per sample: whether picture and sound are right, how each model denoises it, how well the sound is vocoded."""
    spectrogram = samples["spectrogram"] / np.float32(255)
    rows = range(0, len(spectrogram), BATCH)
    griffin_lim = np.concatenate(
        [decoding.vocode(sampler.audio.vocoder, spectrogram[i : i + BATCH], sampler.mel, "griffin_lim") for i in rows]
    )
    heard, heard_gl = (
        np.concatenate([items.to_spectrogram(w[i : i + BATCH]) for i in rows])
        for w in (samples["waveform"], griffin_lim)
    )
    return {
        "subject": samples["subject"],
        "sound": samples["sound"],
        "picture_right": judges.classify(judge["picture"], spectrogram) == samples["subject"],
        "sound_right": judges.classify(judge["sound"], heard) == samples["sound"],
        "sound_right_griffin_lim": judges.classify(judge["sound"], heard_gl) == samples["sound"],
        "error_picture_model": denoising_error(sampler.image, samples, "image"),
        "error_sound_model": denoising_error(sampler.audio, samples, "audio"),
        "vocoder_error": np.abs(heard - spectrogram).mean(axis=(1, 2)),
        "griffin_lim_error": np.abs(heard_gl - spectrogram).mean(axis=(1, 2)),
    }


def denoising_error(model, samples, kind, *, prompted=True):
    """Mean squared error of the predicted noise `[n]` at `NOISE_LEVELS`, with the same noise for all samples.

    Args:
      prompted: with the name of what each sample was to be, or without a prompt.
    """
    source, names, labels = (
        (pictures.SUBJECTS, items.SUBJECTS, samples["subject"])
        if kind == "image"
        else (sounds.SOUNDS, items.SOUNDS, samples["sound"])
    )
    template = "a painting of {}, grayscale" if kind == "image" else "{}"
    prompts = [template.format(source[name][0]) if prompted else "" for name in names]
    ids = pipeline_prompts.tokenize(model.tokenizer, prompts)
    texts = pipeline_prompts.encode_tokens(model.text_encoder, ids)
    signal = model.schedule.alphas_cumprod()
    eps = jax.random.normal(jax.random.key(0), samples["latents"].shape[1:])

    @jax.jit
    def error(unet, z, text, t, alpha, sigma):
        predicted = unet(alpha * z + sigma * eps, jnp.full(len(z), t), text)
        return jnp.mean((predicted - eps) ** 2, axis=(1, 2, 3))

    errors = []
    for i in range(0, len(labels), BATCH):
        z, text = samples["latents"][i : i + BATCH], texts[labels[i : i + BATCH]]
        errors.append(
            np.mean(
                [error(model.unet, z, text, t, signal[t] ** 0.5, (1 - signal[t]) ** 0.5) for t in NOISE_LEVELS],
                axis=0,
            )
        )
    return np.concatenate(errors)


def figures(result):
    """Means over all samples; the accuracies also by subject and by sound."""
    both = result["picture_right"] & result["sound_right"]
    accuracies = {"picture": result["picture_right"], "sound": result["sound_right"], "both": both}
    means = {name: round(float(np.mean(values)), 4) for name, values in accuracies.items()}
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
