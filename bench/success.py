"""Other ways to fuse two models than their plain average, at equal cost: how often are picture and sound both right?

    python -m bench.success --workdir=work/success --out=bench/results/success.json

Every variant makes the same pairs of subject and sound from the same seeds with the embedded models, at the settings of
configs/default.py but for what it is named after, with as many evaluations of the UNets as `plain` makes, or fewer.
`both` is the share in which judges find picture and sound right, with the 95 % interval of Wilson; `lost` and `won`
count samples against `plain`. `error` is the mean squared error with which the models denoise the finished sample at
three noise levels, and `advantage` is how much less it is with the prompt than without one, in percent: that no judge
can be fooled about. `gflop` is the arithmetic of a sample. `by second judges`: candidates are picked by judges that
learnt from drawings and sounds of their own, not by those that count. Goes on where it was broken off.
"""

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bench import flags, steps
from bench import success_forms as forms
from its_jax.benchmark.measure import stage_flops
from its_jax.diffusion import denoise
from its_jax.pipeline.placement import DataParallel
from its_jax.pipeline.sampler import Sampler
from its_jax.scoring import clip_clap
from its_jax.settings.parse import expand
from its_jax.settings.schema import SampleSettings
from its_jax.tiny import judges, scorer
from its_jax.tiny.data import items
from its_jax.tiny.evaluation import pairs, scores

SCORERS = "tiny/clip", "tiny/clap"
REFERENCE = "plain"


class Candidates(NamedTuple):
    """Of so many samples the one that a picker likes best after some steps goes on."""

    count: int
    steps: int
    picker: str = "scores"


class Variant(NamedTuple):
    """What differs from configs/default.py."""

    settings: Mapping[str, Any] = {}
    program: Callable = denoise.denoise
    tables: Callable = lambda weights, scales, steps: (weights, scales)
    candidates: Candidates | None = None
    evaluations: float = 1.0  # of a step


def at(num_steps, **more):
    """DPM-Solver++(2M) in so many steps, the picture's model from a tenth of them on."""
    return steps.steps("dpmpp_2m", num_steps, **more)


def scale(s, num_steps=25):
    return at(num_steps, **{f"{term}.guidance_scale": float(s) for term in steps.TERMS})


def ramp(first, last, steps):
    return np.linspace(first, last, steps, dtype=np.float32)


def guidance_ramp(first, last, weights, scales, steps):
    """Guidance scales times what falls or rises over the steps."""
    factor = ramp(first, last, steps)
    for of_term in scales:
        of_term[:, :steps] *= factor
    return weights, scales


def weight_ramp(first, last, weights, scales, steps):
    """The picture's share goes from `first` to `last`."""
    share = ramp(first, last, steps)
    image, audio = weights
    image[:, :steps] = np.where(image[:, :steps] > 0, share, 0)
    audio[:, :steps] = 1 - share
    return weights, scales


VARIANTS = {"plain": Variant()}
VARIANTS |= {f"guidance {s}": Variant(scale(s)) for s in (3, 5, 6, 8)}
VARIANTS |= {
    f"balanced, power {p}": Variant(program=forms.fusing(functools.partial(forms.balanced, p))) for p in (1, 0.5, -0.5)
}
VARIANTS |= {
    f"norm restored, power {p}": Variant(program=forms.fusing(functools.partial(forms.restored, p))) for p in (1, 0.3)
}
VARIANTS["agreeing"] = Variant(program=forms.fusing(forms.agreeing))
VARIANTS |= {
    f"local weights, power {p}": Variant(program=forms.fusing(functools.partial(forms.local, p))) for p in (0.5, 1, 2)
}
VARIANTS |= {
    f"guidance times {a} to {b}": Variant(tables=functools.partial(guidance_ramp, a, b))
    for a, b in ((0.5, 1.5), (1.5, 0.5), (2, 1))
}
VARIANTS |= {
    f"picture's weight {a} to {b}": Variant(tables=functools.partial(weight_ramp, a, b))
    for a, b in ((0.7, 0.5), (0.5, 0.7), (0.8, 0.4))
}
VARIANTS |= {
    f"12 steps, Langevin {c} x {noise}": Variant(
        at(12), forms.corrected(functools.partial(forms.langevin, c, noise), 1), evaluations=2
    )
    for c, noise in ((0.1, 1), (0.3, 1), (0.3, 0.8), (1, 1))
}
VARIANTS |= {
    f"17 steps, Langevin {c} in the first half": Variant(
        at(17), forms.corrected(functools.partial(forms.langevin, c, 1), 1, 0, 0.5), evaluations=1.5
    )
    for c in (0.3, 1)
}
VARIANTS |= {
    f"8 steps, 2 leapfrogs of {size}": Variant(
        at(8), forms.corrected(functools.partial(forms.hamiltonian, size, 2), 1), evaluations=3
    )
    for size in (0.3, 0.6)
}
VARIANTS |= {
    f"{n} steps, {count} candidates for {k}": Variant(at(n), candidates=Candidates(count, k))
    for n, count, k in ((17, 2, 8), (15, 3, 5), (10, 4, 5), (12, 2, 12), (8, 3, 8))
}
VARIANTS |= {
    f"{n} steps, {count} candidates for {k}, by second judges": Variant(
        at(n), candidates=Candidates(count, k, "judges")
    )
    for n, count, k in ((15, 3, 5), (12, 2, 12), (8, 3, 8))
}


def sampler_of(variant: Variant, settings: SampleSettings, workdir: Path) -> Sampler:
    """A sampler that makes its steps in the variant's way; what it needs for that is kept in `workdir`."""

    class Layout(DataParallel):
        program = staticmethod(variant.program)

    class Varied(Sampler):
        def _lay_out(self, settings, devices_per_sample):
            return Layout()

        def tables(self, batch):
            rows, weights, scales, chosen = super().tables(batch)
            return rows, *variant.tables(weights, scales, batch[0].num_steps), chosen

        def _latents(self, batch, terms, on_steps):
            if variant.candidates is None:
                return super()._latents(batch, terms, on_steps)
            return _best(self, variant.candidates, batch, terms, workdir)

    return Varied(settings, pending=steps.BATCH, batch_size=steps.BATCH)


def _best(sampler, candidates, batch, terms, workdir):
    """Latents of the best candidate of each sample, each made from noise of its own."""
    rows, weights, scales, chosen = sampler.tables(batch)
    terms = sampler._layout.terms(
        dataclasses.replace(term, weights=w, guidance_scale=s)
        for term, w, s in zip(terms, weights, scales, strict=True)
    )
    half, end = np.int32(candidates.steps), np.int32(batch[0].num_steps)

    def denoised(state, first, last):
        return sampler._denoise(sampler._unets, terms, rows, chosen, state, first, last, None)

    liked = {"scores": _by_scores, "judges": functools.partial(_by_judges, workdir)}[candidates.picker]
    states, found = [], []
    for i in range(candidates.count):
        noise = sampler._noise([dataclasses.replace(one, seed=one.seed + 500_000 * i) for one in batch])
        state = sampler._start(noise)._replace(caches=sampler._empty_caches(sampler._unets, terms, noise))
        state = denoised(state, np.int32(0), half)
        states.append(state)
        latents = state.x0 if half < end else state.x
        spectrograms, _ = sampler._decode(latents, sampler.decoders)
        found.append(liked(batch, spectrograms, sampler._vocode(sampler.audio.vocoder, spectrograms), sampler.mel))
    best = np.argmax(found, axis=0)
    state = jax.tree.map(lambda *a: np.stack(a)[best, np.arange(len(best))], *states)
    state = denoised(state, half, end)
    return state.x, state.failed_at


def _by_scores(batch, spectrograms, waveforms, mel):
    """The sum of embedded CLIP's and CLAP's scores of each candidate `[b]`."""
    clip, clap = _scorers()
    return [
        clip.score(grey, one.terms["image"].prompt) + clap.score(waveform, mel.sampling_rate, one.terms["audio"].prompt)
        for one, grey, waveform in zip(batch, np.asarray(spectrograms), np.asarray(waveforms), strict=True)
    ]


@functools.cache
def _scorers():
    return clip_clap.ClipScorer(SCORERS[0]), clip_clap.ClapScorer(SCORERS[1])


def _by_judges(workdir, batch, spectrograms, waveforms, mel):
    """How likely judges other than those that count find picture and sound: the logarithm, of each candidate `[b]`."""
    heard = items.to_spectrogram(waveforms, mel)
    found = 0.0
    for (kind, judge), seen, term in zip(
        second_judges(workdir).items(), (spectrograms, heard), steps.TERMS, strict=True
    ):
        wanted = np.array([scorer.named(kind, one.terms[term].prompt) for one in batch])
        found = found + np.asarray(judges.log_chances(judge, seen))[np.arange(len(batch)), wanted]
    return found


@functools.cache
def second_judges(workdir):
    """Trained on drawings and sounds of their own, from other random weights: five minutes, once for a work folder."""
    folder = workdir / "second_judges"
    return {kind: judges.train(kind, folder, "picker_train", seed=1)[0] for kind in ("picture", "sound")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=flags.at_least(1), default=4, help="of each of 72 pairs")
    args, told = steps.parsed(parser, VARIANTS)
    with told:
        steps.run(args, REFERENCE, lambda name: result(name, args), row)


def result(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """What judges and models find in each sample; and the arithmetic of one."""
    variant = VARIANTS[name]
    settings = steps.settings_of(variant.settings)
    (one,) = expand(settings, 1)
    sampler = sampler_of(variant, one, args.workdir)
    wanted = [(i, j, seed) for seed, (i, j, _) in itertools.product(range(args.seeds), steps.PAIRS)]
    samples = pairs.Store(args.workdir / name, sampler, settings).samples("fused", wanted)
    found = steps.judged(samples)
    models = {term: getattr(sampler, term) for term in steps.TERMS}
    errors = [scores.denoising_error(model, samples, term) for term, model in models.items()]
    without = [scores.denoising_error(model, samples, term, prompted=False) for term, model in models.items()]
    found["error"] = np.mean(errors, axis=0)
    for term, e, e0 in zip(steps.TERMS, errors, without, strict=True):
        found[f"advantage_{term}"] = 100 * (e0 - e) / e0
    found["gflop"] = cost(variant, stage_flops(sampler, one)["denoise"]) / 1e9
    return found


def cost(variant: Variant, denoising: float) -> float:
    """Floating-point operations of a sample, of which the plain way takes `denoising` in as many steps."""
    if variant.candidates is None:
        return denoising * variant.evaluations
    n = variant.settings["num_steps"]
    return denoising * (n + (variant.candidates.count - 1) * variant.candidates.steps) / n


def row(result, reference):
    made = steps.row(result, reference)
    for term in steps.TERMS:
        made[f"advantage_{term}"] = round(float(result[f"advantage_{term}"].mean()), 2)
    return made


if __name__ == "__main__":
    main()
