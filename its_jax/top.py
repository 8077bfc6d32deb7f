"""The best of many samples: `python -m its_jax.top WORKDIR --by=picture,sound`.

Prints the samples that are among the best 20 % (--best=0.2) in each of the scores, with their scores, the best first.
"""

from absl import flags

from its_jax.runtime import cli
from its_jax.storage import files

_BY = flags.DEFINE_list("by", [], "Names of scores, separated by commas.")
_BEST = flags.DEFINE_float("best", 0.2, "The share of the samples that passes in each score.")


def main(workdir: str = "out") -> None:
    """Prints the ids of the best samples with their scores, best first."""
    from its_jax.evaluate import score_cache  # These take long to import, as NumPy does.
    from its_jax.scoring import ranking
    from its_jax.storage import samples

    scores = score_cache.scores(files.to_path(workdir), samples.open_samples(workdir))
    for name in ranking.best_on_all(scores, _BY.value, _BEST.value):
        print(name, *(f"{column}={scores[name][column]:.2f}" for column in _BY.value))


if __name__ == "__main__":
    cli.run(main, "[WORKDIR]")
