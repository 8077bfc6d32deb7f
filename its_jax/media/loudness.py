"""The gain at which a sound is written, so that sounds are equally loud and none is distorted. No jax.

One gain serves the whole sound, without a limiter. Loudness is that of Recommendation ITU-R BS.1770-4, in LUFS, and the
true peak that of its Annex 2: https://www.itu.int/rec/R-REC-BS.1770
"""

import math
import threading

import numpy as np

MAX_TRUE_PEAK = -1.0  # dBFS, the limit of EBU R 128: https://tech.ebu.ch/docs/r/r128.pdf
_GATING_BLOCK = 0.4  # s; BS.1770 does not define the loudness of shorter sounds
_ABSOLUTE_GATE = -70.0  # LUFS; BS.1770 takes quieter blocks for silence
_FILTERS = "DeMan"  # pyloudnorm's name for filters whose coefficients at 48 kHz are those of BS.1770
_OVERSAMPLING = 4
# pyloudnorm suppresses warnings of the whole process while it measures, which threads must not do at the same time.
_MEASURING = threading.Lock()


def choose_gain_db(waveform: np.ndarray, sampling_rate: int, loudness: float | None) -> float:
    """Returns the gain in dB at which a waveform is written, rounded down to a hundredth.

    It is the smaller of two gains: the one to an integrated loudness of `loudness` and the one to a true peak of
    `MAX_TRUE_PEAK`. The peak alone counts for sounds of less than 0.4 s or -70 LUFS. The gain is 0 for silence, and for
    values that are not finite, which no file can hold. The waveform is rounded to 16 bits first, because files hold
    these values times the gain.

    Args:
      waveform: `[samples]` in [-1, 1]. sampling_rate: in Hz.
      loudness: in LUFS; None is the raw scale, a gain of 0.
    """
    waveform = np.rint(np.asarray(waveform, np.float64) * 2**15) / 2**15
    if loudness is None or not np.isfinite(waveform).all() or not waveform.any():
        return 0.0
    gains = [MAX_TRUE_PEAK - true_peak(waveform)]
    measured = integrated_loudness(waveform, sampling_rate)
    if measured >= _ABSOLUTE_GATE:
        gains.append(loudness - measured)
    return math.floor(100 * min(gains)) / 100


def integrated_loudness(waveform: np.ndarray, sampling_rate: int) -> float:
    """Computes the integrated loudness of a waveform `[samples]` in LUFS; -inf for less than 0.4 s and for silence.

    Args:
      sampling_rate: in Hz.
    """
    import pyloudnorm  # It imports scipy.signal, which takes long.

    if len(waveform) < _GATING_BLOCK * sampling_rate:
        return -math.inf
    with _MEASURING:
        return float(pyloudnorm.Meter(sampling_rate, _FILTERS).integrated_loudness(np.asarray(waveform, np.float64)))


def true_peak(waveform: np.ndarray) -> float:
    """Computes the peak of a waveform `[samples]` in dBFS, between samples, too, by oversampling; -inf for silence."""
    import scipy.signal  # slow

    waveform = np.asarray(waveform, np.float64)
    oversampled = scipy.signal.resample_poly(waveform, _OVERSAMPLING, 1) if len(waveform) else waveform
    peak = max(np.abs(waveform).max(initial=0.0), np.abs(oversampled).max(initial=0.0))
    return 20 * math.log10(peak) if peak else -math.inf
