"""Selects the measures and the references of an evaluation."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from its_jax.evaluate import feature_networks, measures, references
from its_jax.evaluate.aggregate import References
from its_jax.evaluate.measures import Measure
from its_jax.media import images, sounds
from its_jax.scoring import registry
from its_jax.scoring.clip_clap import CLAP, CLIP, ClapScorer, ClipScorer

# Hz, the sampling rate of samples. References are read at this rate, because samples have no higher frequencies.
_SAMPLING_RATE = 16000


def load_scorers(models: Mapping[str, str], *, embedded: bool) -> tuple[ClipScorer, ClapScorer]:
    """Loads the models for CLIP and CLAP scores.

    Args:
      models: `clip`, `clap` -> source; "" for the default.
      embedded: whether the default is the embedded model rather than the paper's.

    Raises:
      UserError: a model is not available.
    """
    defaults = {"clip": CLIP, "clap": CLAP}
    if embedded:
        defaults = {name: registry.EMBEDDED + name for name in defaults}
    sources = {name: models.get(name) or defaults[name] for name in defaults}
    return ClipScorer(sources["clip"]), ClapScorer(sources["clap"])


def select_measures(
    clip: ClipScorer, clap: ClapScorer, compare_with: Mapping[str, str], fad_features: str, extra: Sequence[str]
) -> list[Measure]:
    """Returns what is measured of each sample.

    Args:
      compare_with: `FID`, `FAD` -> a source, "" for none.
      fad_features: `clap` or `vggish`.
      extra: any of `griffin_lim` and `round_trip`.

    Raises:
      UserError: a network is not available.
    """
    selected = [measures.clip(clip), measures.clap(clap)]
    if "griffin_lim" in extra:
        selected.append(measures.griffin_lim(clap))
    if "round_trip" in extra:
        selected.append(measures.round_trip())
    if compare_with.get("FID"):
        selected.append(measures.image_features(feature_networks.inception(), "inception"))
    if compare_with.get("FAD"):
        extract, identity = _audio_features(fad_features, clap)
        selected.append(measures.audio_features(extract, fad_features, identity))
    return selected


def load_references(clap: ClapScorer, compare_with: Mapping[str, str], fad_features: str) -> References:
    """Reads what samples are compared with; see `select_measures`.

    Raises:
      UserError: a network or a reference is not available.
    """
    found = {}
    if compare_with.get("FID"):
        found["FID"] = "inception", references.read_reference(compare_with["FID"], _inception_features)
    if compare_with.get("FAD"):
        extract, _ = _audio_features(fad_features, clap)

        def extract_file(path: Path) -> np.ndarray:
            return extract(sounds.read_audio(path, _SAMPLING_RATE), _SAMPLING_RATE)

        found["FAD"] = fad_features, references.read_reference(compare_with["FAD"], extract_file)
    return found


def _inception_features(path: Path) -> np.ndarray:
    return feature_networks.inception()(measures.squares(images.read_image(path).mean(axis=-1)))


def _audio_features(kind: str, clap: ClapScorer) -> tuple[Callable[[np.ndarray, int], np.ndarray], str]:
    """Returns a function that extracts features of audio, and the identity of its model.

    CLAP's features are one vector for each waveform, whatever its length.
    """
    if kind == "vggish":
        return feature_networks.vggish(), ""

    def extract(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
        return clap.embed_audio(waveform, sampling_rate).mean(axis=0, keepdims=True)

    return extract, clap.identity
