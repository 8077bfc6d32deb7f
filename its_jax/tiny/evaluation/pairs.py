"""Samples of every subject with every sound, of each model alone, and plain blends of those."""

import hashlib
import json
import logging

import numpy as np

from its_jax.pipeline import decoding
from its_jax.settings.parse import expand
from its_jax.settings.schema import TERMS
from its_jax.tiny.data import items, pictures, sounds
from its_jax.tiny.evaluation import scores


class Store:
    """Samples of one sampler and one set of settings, kept in a folder batch by batch.

    It does not see a change of the code that makes them: take a fresh folder after one.
    """

    def __init__(self, workdir, sampler, settings):
        self.sampler, self.settings = sampler, settings
        of = [settings, sampler.image.identity, sampler.audio.identity]
        self.folder = workdir / "samples" / hashlib.sha256(json.dumps(of).encode()).hexdigest()[:10]
        self.folder.mkdir(parents=True, exist_ok=True)

    def samples(self, kind, wanted):
        """Arrays of all wanted (subject, sound, seed); `kind` 'image' or 'audio' leaves the other model out."""
        size = self.sampler.batch_size
        batches = []
        for start in range(0, len(wanted), size):
            batches.append(self._batch(kind, wanted[start : start + size]))
            logging.info("%s: %d of %d samples", kind, min(start + size, len(wanted)), len(wanted))
        arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        return arrays | {"subject": np.array([w[0] for w in wanted]), "sound": np.array([w[1] for w in wanted])}

    def _batch(self, kind, wanted):
        name = hashlib.sha256(json.dumps([kind, wanted]).encode()).hexdigest()[:10]
        path = self.folder / f"{kind}_{name}.npz"
        if not path.exists():
            made = self.sampler([sample_settings(self.settings, *what, kind) for what in wanted])
            with open(path.with_suffix(".tmp"), "wb") as file:
                np.savez(
                    file,
                    spectrogram=np.stack([items.to_bytes(sample.spectrogram) for sample in made]),
                    latents=np.stack([sample.latents for sample in made]),
                    waveform=np.stack([sample.waveform for sample in made]),
                )
            path.with_suffix(".tmp").replace(path)
        return dict(np.load(path))


def sample_settings(settings, subject, sound, seed, kind):
    """Returns the settings of one sample; `kind` 'image' or 'audio' leaves the other model out."""
    number = (subject * len(items.SOUNDS) + sound) * 1000 + seed
    rng = items.generator("captions", "held_out", number)
    prompts = {
        "image": pictures.caption(items.SUBJECTS[subject], rng),
        "audio": sounds.caption(items.SOUNDS[sound], rng),
    }
    one = settings | {"seed": number}
    for term in TERMS:
        one[term] = settings[term] | {"prompt": prompts[term]}
        if kind == term:
            one[term] |= {"weight": 1.0, "start_step": 0}
        elif kind in TERMS:
            one[term] |= {"weight": 0.0}
    return expand(one, 1)[0]


def blended(sampler, alone, pairs, singles, blend):
    """What a plain blend of the two single-model samples gives; with each partner another of the samples alone."""
    a = np.array([subject * singles + sound % singles for subject, sound, _ in pairs])
    b = np.array([sound * singles + subject % singles for subject, sound, _ in pairs])
    spectrogram = blend(
        alone["image"]["spectrogram"][a] / np.float32(255), alone["audio"]["spectrogram"][b] / np.float32(255)
    )
    vae, vocoder = sampler.image.vae, sampler.audio.vocoder
    blocks = [spectrogram[i : i + scores.BATCH] for i in range(0, len(spectrogram), scores.BATCH)]
    return {
        "spectrogram": items.to_bytes(spectrogram),
        "latents": np.concatenate([decoding.encode_image(vae, np.repeat(x[..., None], 3, -1)) for x in blocks]),
        "waveform": np.concatenate([decoding.vocode(vocoder, x, sampler.mel, "hifigan") for x in blocks]),
        "subject": np.array([pair[0] for pair in pairs]),
        "sound": np.array([pair[1] for pair in pairs]),
    }
