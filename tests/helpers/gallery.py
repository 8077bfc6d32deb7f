"""Samples of the tests of the gallery, and the data of a page."""

import json
import re

from tests.helpers import finished_samples as finished

HOSTILE = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">'

SUBJECTS, SOUNDS = ("a castle", "a dog"), ("bell ringing", HOSTILE)


def records():
    """Returns 16 records, subjects x sounds x weights x two seeds, with a score that decreases from one to the next."""
    settings = [
        {"image.prompt": subject, "audio.prompt": sound, "image.weight": weight, "seed": seed}
        for subject in SUBJECTS
        for sound in SOUNDS
        for weight in (0.4, 0.6)
        for seed in (9, 10)
    ]
    return [finished.record(changes, {"good": -n / 3}) for n, changes in enumerate(settings)]


def data(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1])
