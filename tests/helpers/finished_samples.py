"""Work folders of finished samples with tiny pictures and a short tone, for tests of what looks at them."""

import pathlib
import runpy

import numpy as np

from its_jax.media import images, sounds
from its_jax.settings.ids import sample_id
from its_jax.settings.parse import read_settings
from its_jax.settings.records import RECORD, recorded_image_terms
from its_jax.storage import writers
from its_jax.storage.files import json_bytes

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "default.py"
RATE = 16000


def record(changes=None, scores=None, gain_db=None):
    """The record of a sample of the default config, with some of its settings changed (`image.prompt`, ...).

    With a gain, its sound is written at that gain, as younger versions do.
    """
    config = runpy.run_path(str(CONFIG))["get_config"]()
    config.update_from_flattened_dict(changes or {})
    (settings, *_), options = read_settings(config.to_dict())
    run = {"batch_size": 1, "position": 0, "video": False, "devices_per_sample": 1}
    run |= {} if gain_db is None else {"loudness": options.loudness, "gain_db": gain_db}
    made = settings.to_dict() | {"id": sample_id(settings), "run": run, "models": {}, "versions": {}}
    return made | ({"scores": scores} if scores else {})


def content(record, sound, width=48, height=16, seconds=1.0):
    """The files of a sample; the left half of its spectrogram is bright, as its seed says."""
    gray = np.zeros((height, width))
    gray[:, : width // 2] = 0.3 + record["seed"] % 8 / 10
    tone = 0.2 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)
    for term in recorded_image_terms(record):
        yield f"{term}.png", images.png(np.stack([gray, gray, gray * 0.5], -1), record)
    yield "spectrogram.png", images.png(gray, record)
    yield sound, (sounds.flac if sound.endswith(".flac") else sounds.wav)(tone, RATE, record)
    yield RECORD, json_bytes(record)


def write(workdir, records, layout="folders", **size):
    """Adds finished samples to a work folder; returns their ids."""
    kept = writers.open_writer(layout, workdir)
    for made in records:
        kept.add(made["id"], content(made, type(kept).audio_file, **size))
    kept.close()
    return [made["id"] for made in records]
