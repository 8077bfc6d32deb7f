"""The models and measures of an evaluation."""

from its_jax.evaluate import selection


def test_embedded_models_are_the_default_for_samples_of_embedded_models(monkeypatch, tmp_path):
    monkeypatch.setenv("ITS_JAX_CACHE", str(tmp_path))
    clip, clap = selection.load_scorers({"clip": "", "clap": ""}, embedded=True)
    assert (clip.source, clap.source) == ("tiny/clip", "tiny/clap")
    names = [measure.name for measure in selection.select_measures(clip, clap, {}, "clap", ["round_trip"])]
    assert names == ["clip", "clap", "round_trip"]
