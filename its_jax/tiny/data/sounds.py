"""A program that synthesizes twelve kinds of sounds and writes captions: the training data of the small audio models.

A sound is an endless recording: a generator of events (short waveforms) and of the seconds until the next event, from
which `synthesize` takes a stretch. Events are tones, chirps and clicks with sharp onsets, and digital silence lies
between them. Noise would leave a grain in the spectrogram that a small autoencoder cannot keep, and an image needs
black. The rhythm and the movement in pitch distinguish the sounds, because both survive when an image reshapes the
spectrum. Units are seconds and Hz, and waveforms are float32 `[samples]`.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from its_jax.errors import UserError

Recording = Iterator[tuple[np.ndarray, float]]  # events, each with the seconds to the next onset

# The sounds, and the phrases of their captions.
SOUNDS: dict[str, tuple[str, ...]] = {
    "bell": ("bell ringing", "a bell ringing", "church bells ringing"),
    "birds": ("birds singing", "birds chirping", "a bird singing"),
    "cat": ("cat meowing", "a cat meowing", "cats meowing"),
    "clock": ("clock ticking", "a clock ticking", "clocks ticking"),
    "dog": ("dog barking", "a dog barking", "dogs barking"),
    "engine": ("engine running", "an engine running", "a car engine running"),
    "frog": ("frog croaking", "a frog croaking", "frogs croaking"),
    "knocking": ("knocking", "knocking on a door", "knocking on wood"),
    "laser": ("laser firing", "a laser firing", "lasers firing"),
    "rain": ("rain falling", "rain drops falling", "drops of rain falling"),
    "siren": ("siren wailing", "a siren wailing", "a police siren wailing"),
    "train": ("train whistling", "a train whistling", "a train whistle blowing"),
}
TEMPLATES = ("{}", "{}", "the sound of {}", "{} loudly")
_PEAK = (0.0375, 0.119)  # An image that is played at the same level has ten times the energy.
_LEAD_IN = (0.5, 2.5)  # seconds of the recording before the stretch, which may ring into it
_SILENCE = 1e-3  # A decay ends here, at -60 dB.
_HIGHEST = 0.475  # highest partial, as a share of the sampling rate, to avoid aliasing
_FADE = 200  # Hz below the highest partial in which partials fade


def caption(sound: str, rng: np.random.Generator) -> str:
    """Returns a phrase of `SOUNDS[sound]`, sometimes in a template: "the sound of a bell ringing".

    Raises:
      UserError: `sound` is not in `SOUNDS`.
    """
    _check(sound)
    return str(rng.choice(TEMPLATES)).format(rng.choice(SOUNDS[sound]))


def synthesize(
    sound: str, rng: np.random.Generator, num_samples: int = 81920, sampling_rate: int = 16000
) -> np.ndarray:
    """Synthesizes a stretch of an endless recording: float32 `[num_samples]` with a peak between 0.0375 and 0.119.

    Args:
      rng: pitch, timbre, tempo and loudness are drawn from it.

    Raises:
      UserError: `sound` is not in `SOUNDS`.
    """
    _check(sound)
    stretch = np.zeros(num_samples, np.float32)
    onset = -rng.uniform(*_LEAD_IN)
    for event, until_next in _RECORDINGS[sound](rng, sampling_rate):
        _add(stretch, event, round(onset * sampling_rate))
        onset += until_next
        if onset * sampling_rate >= num_samples:
            break
    peak = np.abs(stretch).max(initial=1e-9)  # A very short stretch may be silent.
    return stretch * np.float32(rng.uniform(*_PEAK) / peak)


def _check(sound: str) -> None:
    """Raises UserError for a sound that is not in `SOUNDS`."""
    if sound not in SOUNDS:
        raise UserError(f"unknown sound {sound!r}: choose one of {', '.join(SOUNDS)}")


def _add(stretch: np.ndarray, event: np.ndarray, start: int) -> None:
    """Adds the part of `event` that falls inside `stretch`, where the event begins at sample `start`."""
    inside = event[max(0, -start) : max(0, len(stretch) - start)]
    start = max(0, start)
    stretch[start : start + len(inside)] += inside


# The recordings. Each first draws its constants (the bell, the dog), then yields one event after the other.


def _bell(rng: np.random.Generator, rate: int) -> Recording:
    """Yields strokes of a church bell: partials from hum to superquint and above, of which higher ones decay faster."""
    ratios = np.array([0.5, 1, 1.19, 1.5, 2, 2.65, 3.4, 4.2, 5.4, 6.8, 8.3]) * rng.uniform(0.99, 1.01, 11)
    levels = rng.uniform(0.5, 1, 11) * ratios**-0.5
    decays = rng.uniform(0.16, 0.26) * ratios**-0.4
    stroke = _strike(rng.uniform(420, 880) * ratios, levels, decays, rate)
    period = rng.uniform(0.6, 1.0)
    while True:
        yield rng.uniform(0.6, 1) * stroke, period * rng.uniform(0.95, 1.05)


def _birds(rng: np.random.Generator, rate: int) -> Recording:
    """Yields phrases of a few quick whistled sweeps by a low and a high bird."""
    birds = [(center, float(rng.uniform(0.35, 0.6) * rng.choice([-1, 1])), rng.uniform(0.07, 0.13))
             for center in (rng.uniform(1700, 2500), rng.uniform(3000, 4600))]  # fmt: skip
    while True:
        center, octaves, length = birds[rng.integers(2)]
        center, level = center * rng.uniform(0.9, 1.1), rng.uniform(0.5, 1)
        for last in _flag_last(rng.integers(2, 6)):
            time = _unit_time(length * rng.uniform(0.8, 1.2), rate)
            pitch = center * np.exp2(octaves * (2 * time - 1))
            chirp = _harmonics(pitch, lambda k, hz: 0.1 ** (k - 1), _first(3), rate) * _swell(time, 0.2, 0.4)
            yield level * chirp, length * 1.2 + 0.02 + last * rng.uniform(0.1, 0.3)


def _cat(rng: np.random.Generator, rate: int) -> Recording:
    """Yields meows: the pitch rises and falls in an arch while the mouth opens and closes, which moves the formant."""
    pitch_of_cat, length = rng.uniform(480, 700), rng.uniform(0.5, 0.75)
    while True:
        time = _unit_time(length * rng.uniform(0.85, 1.15), rate)
        pitch = pitch_of_cat * rng.uniform(0.92, 1.08) * (0.8 + 0.45 * np.sin(np.pi * time**0.75))
        formant = 1000 + 1700 * np.sin(np.pi * time**0.8)
        meow = _harmonics(pitch, lambda k, hz, formant=formant: 0.02 + _resonance(hz, formant, 1100), _first(8), rate)
        yield meow * _swell(time, 0.15, 0.4), time.size / rate + rng.uniform(0.25, 0.7)


def _clock(rng: np.random.Generator, rate: int) -> Recording:
    """Yields ticks and tocks: strictly even single clicks of small gears and their case."""
    ticks = []
    for pitch in rng.uniform(2200, 3200) * np.array([1, 0.75]):
        partials = pitch * np.array([0.31, 0.62, 1, 1.31, 1.74, 2.2]) * rng.uniform(0.97, 1.03, 6)
        ticks.append(_strike(partials, rng.uniform(0.3, 1, 6), rng.uniform(0.008, 0.02, 6), rate))
    period = rng.uniform(0.25, 0.4)
    for tick in itertools.cycle(ticks):
        yield rng.uniform(0.8, 1) * tick, period


def _dog(rng: np.random.Generator, rate: int) -> Recording:
    """Yields groups of short barks: harmonic bursts whose pitch jumps up and falls."""
    pitch_of_dog, length, formant = rng.uniform(300, 520), rng.uniform(0.11, 0.17), rng.uniform(900, 1500)
    while True:
        for last in _flag_last(rng.integers(1, 4)):
            time = _unit_time(length * rng.uniform(0.9, 1.1), rate)
            bend = 1.35 * np.minimum(1, 0.7 + 2 * time) - 0.75 * time**2
            pitch = pitch_of_dog * rng.uniform(0.93, 1.07) * bend
            bark = _harmonics(pitch, lambda k, hz: 0.03 + _resonance(hz, formant, 900) / k**0.4, _first(14), rate)
            pause = rng.uniform(0.09, 0.16) + last * rng.uniform(0.25, 0.55)
            yield rng.uniform(0.8, 1) * bark * _swell(time, 0.08, 0.6), length + pause


def _engine(rng: np.random.Generator, rate: int) -> Recording:
    """Yields revs: a low buzz of a few engine orders that rises and falls, cut into strokes that follow its pitch."""
    idle, length, turns_per_stroke = rng.uniform(80, 120), rng.uniform(0.9, 1.5), rng.uniform(16, 20)
    orders = {1: 1.0, 2: 0.9, 4: 0.6, 7: 0.4, 12: 0.2, 20: 0.1}
    while True:
        time = _unit_time(length * rng.uniform(0.85, 1.15), rate)
        pitch = idle * (1 + rng.uniform(0.6, 1.1) * np.sin(np.pi * time**0.7) ** 2)
        turns = np.cumsum(pitch, dtype=np.float64) / rate
        strokes = turns / turns[-1] * round(turns[-1] / turns_per_stroke)
        buzz = _harmonics(pitch, lambda k, hz: orders[k], orders, rate)
        yield buzz * _pulses(strokes), time.size / rate + rng.uniform(0.05, 0.25)


def _frog(rng: np.random.Generator, rate: int) -> Recording:
    """Yields croaks: trains of pulses of a low note with two resonances, which rises a little."""
    note, pulse_rate, count = rng.uniform(280, 400), rng.uniform(9, 11), rng.integers(3, 6)
    throat, mouth = rng.uniform(500, 800), rng.uniform(1700, 2500)
    while True:
        time = _unit_time(count / pulse_rate * rng.uniform(0.95, 1.05), rate)
        pitch = note * rng.uniform(0.95, 1.05) * (1 + 0.35 * time)
        croak = _harmonics(
            pitch, lambda k, hz: _resonance(hz, throat, 300) + _resonance(hz, mouth, 500), _first(8), rate
        )
        yield croak * _pulses(count * time), time.size / rate + rng.uniform(0.25, 0.5)


def _knocking(rng: np.random.Generator, rate: int) -> Recording:
    """Yields groups of three to five dull knocks: the low modes of a board, which decay at once."""
    ratios = np.array([1, 1.8, 2.7, 4.1, 6.2, 9.3, 13.5]) * rng.uniform(0.95, 1.05, 7)
    partials = rng.uniform(140, 240) * ratios
    levels, decays = np.geomspace(1, 0.15, 7), np.geomspace(0.03, 0.008, 7)
    period = rng.uniform(0.15, 0.22)
    while True:
        for last in _flag_last(rng.integers(3, 6)):
            knock = _strike(partials, levels * rng.uniform(0.7, 1, 7), decays, rate)
            yield rng.uniform(0.7, 1) * knock, period * rng.uniform(0.95, 1.05) + last * rng.uniform(0.4, 0.8)


def _laser(rng: np.random.Generator, rate: int) -> Recording:
    """Yields shots: a tone with harmonics that falls from several kHz to the bottom."""
    top, bottom, length = rng.uniform(4000, 7000), rng.uniform(150, 400), rng.uniform(0.18, 0.35)
    period = length + rng.uniform(0.1, 0.4)
    while True:
        time = _unit_time(length, rate)
        pitch = bottom * (top / bottom) ** ((1 - time) ** 1.5)
        shot = _harmonics(pitch, lambda k, hz: k**-1.5, _first(3), rate) * _swell(time, 0.03, 0.4)
        yield rng.uniform(0.6, 1) * shot, period * rng.uniform(0.9, 1.1)


def _rain(rng: np.random.Generator, rate: int) -> Recording:
    """Yields drops at random times: a click and the plink of its bubble, whose pitch rises as the bubble closes."""
    gap = 1 / rng.uniform(6, 9)
    while True:
        time = _unit_time(rng.uniform(0.04, 0.07), rate)
        pitch = np.exp2(rng.uniform(9.3, 12.4)) * (1 + 0.3 * time**2)
        plink = _harmonics(pitch, lambda k, hz: 0.15 ** (k - 1), _first(2), rate)
        yield rng.uniform(0.3, 1) * plink * np.exp(-5 * time) * _swell(time, 0.01, 0.3), rng.gamma(2, gap / 2)


def _siren(rng: np.random.Generator, rate: int) -> Recording:
    """Yields wails: a tone with a few harmonics that sweeps up and down over more than an octave."""
    low, octaves, length = rng.uniform(450, 650), rng.uniform(1.1, 1.5), rng.uniform(1.0, 2.0)
    levels = np.array([1, *rng.uniform(0.1, 0.5, 3)], np.float32)
    while True:
        time = _unit_time(length, rate)
        pitch = low * np.exp2(octaves * np.sin(np.pi * time) ** 2)
        wail = _harmonics(pitch, lambda k, hz: levels[k - 1], _first(4), rate)
        yield wail * _swell(time, 0.04, 0.04), length + 0.04


def _train(rng: np.random.Generator, rate: int) -> Recording:
    """Yields whistles: a steady chord of three pipes, blown long and short."""
    pipes = rng.uniform(440, 640) * np.array([1, 1.26, 1.68], np.float32)
    brightness = rng.uniform(-1.6, -1.0)
    while True:
        time = _unit_time(rng.choice([0.35, 1.0]) * rng.uniform(0.8, 1.2), rate)
        scoop = 1 - np.float32(0.06) * np.exp(-time * np.float32(time.size / rate / 0.04))
        chord = sum(_harmonics(pipe * scoop, lambda k, hz: k**brightness, _first(4), rate) for pipe in pipes)
        yield chord * _swell(time, 0.05, 0.1), time.size / rate + rng.uniform(0.15, 0.35)


_RECORDINGS: dict[str, Callable[[np.random.Generator, int], Recording]] = {
    "bell": _bell, "birds": _birds, "cat": _cat, "clock": _clock, "dog": _dog, "engine": _engine,
    "frog": _frog, "knocking": _knocking, "laser": _laser, "rain": _rain, "siren": _siren, "train": _train,
}  # fmt: skip


# The building blocks of events.


def _unit_time(seconds: float, rate: int) -> np.ndarray:
    """Returns the time of an event as a fraction of its length: float32 `[samples]` from 0 to 1."""
    return np.linspace(0, 1, max(2, round(seconds * rate)), dtype=np.float32)


def _swell(time: np.ndarray, attack: float, release: float) -> np.ndarray:
    """Returns a loudness that rises from 0 to 1 and falls back in half cosines over these fractions of the event."""
    edge = np.clip(np.minimum(time / attack, (1 - time) / release), 0, 1)
    return 0.5 - 0.5 * np.cos(np.float32(np.pi) * edge)


def _first(count: int) -> range:
    """Returns the numbers of the first harmonics."""
    return range(1, count + 1)


def _pulses(cycles: np.ndarray) -> np.ndarray:
    """Returns a gate `[samples]` that opens and shuts smoothly in the first 60 % of each cycle."""
    return np.sin(np.pi * np.minimum(1, cycles % 1 / 0.6)).astype(np.float32)


def _harmonics(pitch: np.ndarray, gain: Callable, harmonics: Iterable[int], rate: int) -> np.ndarray:
    """Returns the sum of harmonics of a moving pitch `[samples]`.

    Args:
      gain: returns the amplitude of harmonic k at the frequencies hz.
    """
    # The phase is summed in float64 and wrapped because float32 would lose it within a second.
    phase = (np.cumsum(pitch, dtype=np.float64) / rate % 1 * 2 * np.pi).astype(np.float32)
    highest = _HIGHEST * rate
    wave = np.zeros_like(phase)
    for k in harmonics:
        hz = k * pitch
        partial = gain(k, hz) * np.sin(k * phase)
        wave += partial if hz.max() < highest - _FADE else partial * np.clip((highest - hz) / _FADE, 0, 1)
    return wave


def _strike(partials: np.ndarray, levels: np.ndarray, decays: np.ndarray, rate: int) -> np.ndarray:
    """Returns the sum of damped sines with these frequencies, amplitudes and time constants, `[n]` each."""
    audible = partials < _HIGHEST * rate
    time = np.arange(round(decays[audible].max() * -np.log(_SILENCE) * rate), dtype=np.float32) / rate
    wave = np.zeros_like(time)
    for hz, level, decay in np.stack([partials, levels, decays], axis=1)[audible].tolist():
        ringing = time[: round(decay * -np.log(_SILENCE) * rate)]
        wave[: len(ringing)] += level * np.exp(-ringing / decay) * np.sin(2 * np.pi * hz * ringing)
    return wave


def _resonance(hz: np.ndarray, center: np.ndarray | float, width: float) -> np.ndarray:
    """Returns the gain of a resonator: 1 at `center`, and a half at half its `width` away."""
    return 1 / (1 + ((hz - center) / (width / 2)) ** 2)


def _flag_last(count: int | np.integer) -> Iterator[bool]:
    """Returns `count` flags. Only the last, of the group member before the pause, is True."""
    return (i == count - 1 for i in range(count))
