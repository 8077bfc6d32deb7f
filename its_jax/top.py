"""The best of many samples: `python -m its_jax.top WORKDIR --by=picture,sound`.

Prints those that are among the best 20 % (--best=0.2) on every one of the scores, with their scores, the best first.
"""

from absl import flags

from its_jax import cli, files, ranking

_BY = flags.DEFINE_list("by", [], "Names of scores, several with commas between.")
_BEST = flags.DEFINE_float("best", 0.2, "The share of the samples that each score lets through.")


def main(workdir):
    from its_jax import samples  # slow, as numpy is
    from its_jax.evaluation import kept

    scores = kept.scores(files.folder(workdir), samples.open(workdir))
    for name in ranking.top(scores, _BY.value, _BEST.value):
        print(name, *(f"{column}={scores[name][column]:.2f}" for column in _BY.value))


if __name__ == "__main__":
    cli.start(main, "WORKDIR")
