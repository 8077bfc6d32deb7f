"""Samples of every subject with every sound, samples of each model alone, and plain blends of those."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from its_jax.pipeline import decoding
from its_jax.pipeline.program import Program
from its_jax.settings.parse import expand
from its_jax.settings.schema import TERMS, SampleSettings
from its_jax.tiny.data import items, pictures, sounds
from its_jax.tiny.evaluation import scores

Pair = tuple[int, int, int]  # subject, sound, seed
Samples = dict[str, np.ndarray]  # see `scores`
Blend = Callable[[np.ndarray, np.ndarray], np.ndarray]


class SampleCache:
    """A folder that keeps the samples of one set of models and settings, batch by batch.

    It does not notice a change of the code that generates them. Use a new folder after such a change.

    Args of the constructor:
      program: generates a batch of at most `program.batch_size` samples.
      settings: the settings of all samples, except their prompts, weights and seeds.
    """

    def __init__(self, workdir: Path, program: Program, settings: Mapping[str, Any]):
        self.program, self.settings = program, settings
        key = [settings, *(program.components.identities[term] for term in TERMS)]
        self.folder = workdir / "samples" / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:10]
        self.folder.mkdir(parents=True, exist_ok=True)

    def samples(self, kind: str, pairs: Sequence[Pair]) -> Samples:
        """Returns the samples of all pairs, and generates missing ones.

        Args:
          kind: 'fused', or 'image' or 'audio' for that model alone.
        """
        size = self.program.batch_size
        batches = []
        for start in range(0, len(pairs), size):
            batches.append(self._batch(kind, pairs[start : start + size]))
            logging.info("%s: %d of %d samples", kind, min(start + size, len(pairs)), len(pairs))
        arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        return arrays | _classes(pairs)

    def _batch(self, kind: str, pairs: Sequence[Pair]) -> Samples:
        """Returns the samples of one batch, and generates them if they are missing."""
        name = hashlib.sha256(json.dumps([kind, pairs]).encode()).hexdigest()[:10]
        path = self.folder / f"{kind}_{name}.npz"
        if not path.exists():
            made = self.program([sample_settings(self.settings, pair, kind) for pair in pairs])
            with open(path.with_suffix(".tmp"), "wb") as file:
                np.savez(
                    file,
                    spectrogram=np.stack([items.to_bytes(sample.spectrogram) for sample in made]),
                    latents=np.stack([sample.latents for sample in made]),
                    waveform=np.stack([sample.audio for sample in made]),
                )
            path.with_suffix(".tmp").replace(path)
        return dict(np.load(path))


def _classes(pairs: Sequence[Pair]) -> Samples:
    """Returns the requested classes of pairs."""
    return {"subject": np.array([pair[0] for pair in pairs]), "sound": np.array([pair[1] for pair in pairs])}


def sample_settings(settings: Mapping[str, Any], pair: Pair, kind: str) -> SampleSettings:
    """Returns the settings of one sample, with a held-out caption of the subject and one of the sound.

    Args:
      kind: 'fused', or 'image' or 'audio' for that model alone.
    """
    subject, sound, seed = pair
    number = (subject * len(items.SOUNDS) + sound) * 1000 + seed
    rng = items.generator("captions", "held_out", number)
    prompts = {
        "image": pictures.caption(items.SUBJECTS[subject], rng),
        "audio": sounds.caption(items.SOUNDS[sound], rng),
    }
    changed = dict(settings) | {"seed": number}
    for term in TERMS:
        changed[term] = settings[term] | {"prompt": prompts[term]}
        if kind == term:
            changed[term] |= {"weight": 1.0, "start_step": 0}
        elif kind in TERMS:
            changed[term] |= {"weight": 0.0}
    return expand(changed, 1)[0]


def blend(
    program: Program,
    alone: Mapping[str, Samples],
    pairs: Sequence[Pair],
    singles: int,
    function: Blend,
) -> Samples:
    """Blends samples of the two models alone by `function`, for every pair.

    Args:
      alone: samples of 'image' and of 'audio' alone, `singles` of each class.
    """
    images, audio = partners(pairs, singles)
    spectrogram = function(
        alone["image"]["spectrogram"][images] / np.float32(255), alone["audio"]["spectrogram"][audio] / np.float32(255)
    )
    vae, vocoder = program.components.models["image"].vae, program.components.vocoder
    blocks = [spectrogram[i : i + scores.BATCH] for i in range(0, len(spectrogram), scores.BATCH)]
    return {
        "spectrogram": items.to_bytes(spectrogram),
        "latents": np.concatenate([decoding.encode_image(vae, np.repeat(x[..., None], 3, -1)) for x in blocks]),
        "waveform": np.concatenate([decoding.vocode(vocoder, x, program.mel, "hifigan") for x in blocks]),
    } | _classes(pairs)


def partners(pairs: Sequence[Pair], singles: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of the samples alone, of images and of audio, that each pair combines.

    A subject has a different sample with each of up to `singles` sounds, and a sound with each of as many subjects.
    """
    images = np.array([subject * singles + sound % singles for subject, sound, _ in pairs])
    audio = np.array([sound * singles + subject % singles for subject, sound, _ in pairs])
    return images, audio
