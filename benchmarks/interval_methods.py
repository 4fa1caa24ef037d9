"""Other intervals on sets of intervals.py, and the best of several: python -m benchmarks.interval_methods."""

import argparse
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import special

from benchmarks.intervals import (
    ALPHA,
    CORRELATIONS,
    GROUPS,
    HARD,
    SHARED,
    SIZES,
    Design,
    Labels,
    Sizes,
    Values,
    latent_correlation,
)
from vidclf.evaluation.intervals import Tallies, ends, interval
from vidclf.evaluation.significance import PairedComparison, Verdict, best_among, paired


def methods(sets: int, resamples: int = 399) -> None:
    """Prints how often other ways to make an interval of accuracy hold on the same sets, and their widths.

    CR2: the cluster-robust variance with Bell and McCaffrey's degrees of freedom (Pustejovsky and Tipton
    2018), as it is and on the logit scale; the studentised bootstrap of whole groups; the larger of that and
    ours. Where all clips are right every one takes ours.
    """
    names = ("ours", "CR2", "CR2, logit", "bootstrap-t", "larger")
    cells: dict[tuple[int, Sizes], list[Values]] = {}
    for groups, sizes, correlation, accuracy in itertools.product(
        GROUPS, SIZES, CORRELATIONS, (0.6, 0.8, 0.9, 0.97)
    ):
        design = Design(2, False, groups, sizes, correlation, accuracy)
        cells.setdefault((groups, sizes), []).append(tried(design, sets, resamples))
    print(f"\nCoverage of 95 % intervals of accuracy, least (mean), and mean width; {sets} sets a cell")
    print(f"{'':>20} " + " ".join(f"{name:>22}" for name in names))
    for (groups, sizes), found in cells.items():
        held, width = np.stack(found)[..., 0], np.stack(found)[..., 1]
        shown = (
            f"{100 * held[:, k].min():5.1f} ({100 * held[:, k].mean():5.1f}) {width[:, k].mean():.3f}"
            for k in range(len(names))
        )
        print(f"{f'{groups} {sizes}':>20} " + " ".join(f"{cell:>22}" for cell in shown))


def tried(design: Design, sets: int, resamples: int) -> Values:
    """Share of the sets whose interval holds, and its mean width, by method of `methods`: shape "
    "(methods, 2)."""
    generator, wanted = np.random.default_rng(design.groups), design.true_values()["accuracy"]
    shares = design.shares(sets, generator)
    sizes = design.drawn_sizes(design.ease(shares, generator)).astype(np.float64)
    hits = generator.binomial(sizes.astype(np.int64), shares).astype(np.float64)
    stacked = (values[:, None, :, None] for values in (hits, sizes, sizes))
    estimate, low, high = ends("accuracy", Tallies(*stacked))
    variance = estimate * (1 - estimate)
    error, freedom = cr2(hits, sizes)
    made = [(low, high)]
    with np.errstate(divide="ignore", invalid="ignore"):
        half = special.stdtrit(freedom, 1 - ALPHA / 2) * error
        made.append((np.clip(estimate - half, 0, 1), np.clip(estimate + half, 0, 1)))
        logit = special.logit(estimate)
        made.append((special.expit(logit - half / variance), special.expit(logit + half / variance)))
        drawn = generator.multinomial(
            design.groups, np.full(design.groups, 1 / design.groups), (sets, resamples)
        )
        again = np.einsum("srg,sg->sr", drawn, hits) / np.einsum("srg,sg->sr", drawn, sizes)
        centred = (hits[:, None] - again[..., None] * sizes[:, None]) ** 2
        errors_again = np.sqrt((drawn * centred).sum(-1)) / np.einsum("srg,sg->sr", drawn, sizes)
        plain = np.sqrt(((hits - estimate[:, None] * sizes) ** 2).sum(-1)) / sizes.sum(-1)
        t = np.nan_to_num((again - estimate[:, None]) / errors_again, posinf=10, neginf=-10)
        upper, lower = np.quantile(t, [1 - ALPHA / 2, ALPHA / 2], axis=1)
        made.append((np.clip(estimate - upper * plain, 0, 1), np.clip(estimate - lower * plain, 0, 1)))
    made.append((np.minimum(low, made[3][0]), np.maximum(high, made[3][1])))
    certain = variance < 1e-12
    found = []
    for ends_ in made:
        least, most = (np.where(certain, ours, end) for ours, end in zip((low, high), ends_, strict=True))
        found.append([((least <= wanted) & (wanted <= most)).mean(), (most - least).mean()])
    return np.array(found)


def cr2(hits: Values, sizes: Values) -> tuple[Values, Values]:
    """Standard error of accuracy and its degrees of freedom, each of shape (sets,); of a mean in "
    "closed form."""
    clips = sizes.sum(-1, keepdims=True)
    estimate = hits.sum(-1, keepdims=True) / clips
    scale = 1 / np.sqrt(1 - sizes / clips)
    error = np.sqrt(((scale * (hits - estimate * sizes)) ** 2).sum(-1)) / clips[:, 0]
    own = np.eye(sizes.shape[-1]) * sizes[:, None]
    work = scale[:, :, None] * scale[:, None] * (own - sizes[:, :, None] * sizes[:, None] / clips[..., None])
    return error, np.trace(work, axis1=1, axis2=2) ** 2 / (work**2).sum((1, 2))


def choosing(sets: int, metric: str = "accuracy") -> None:
    """Prints how often who is called the best is not, and how often the interval of the chosen one holds."""
    print("\nThe best of several, correlation 0.2, 12 groups, accuracy; in percent")
    columns = ("best put out", "one left", "left of all", "all pairs", "interval holds", "tries ignored")
    print(f"{'models':>24} " + " ".join(f"{name:>14}" for name in columns))
    design = Design(3, False, 12, "equal", 0.2, 0.8)
    for models, lead in itertools.product((2, 3, 5, 10), (0.0, 0.1)):
        accuracies = [design.accuracy + lead, *[design.accuracy] * (models - 1)]
        found = chosen(design, metric, accuracies, sets)
        shares = " ".join(f"{100 * share:14.1f}" for share in found)
        print(f"{f'{models}, one by {lead:+.1f}' if lead else f'{models} equal':>24} {shares}")


def chosen(design: Design, metric: str, accuracies: Sequence[float], sets: int) -> Values:
    """Of sets on which models are compared, the first of which is the best (or as good as the others).

    Returns:
        Share of the sets where the first is put out, and where one alone is left; share of the models that
        are left, by `best_among` and by tests of all pairs; share of the sets where the interval of the model
        with the best figure holds, with and without the tries.
    """
    generator, models = np.random.default_rng(design.groups), len(accuracies)
    counted = np.zeros(6)
    for _ in range(sets):
        group = np.repeat(np.arange(design.groups), design.fixed_sizes())
        labels = design.classes_of(group, generator)
        guesses = correlated(design, accuracies, group, labels, generator)
        pairs = {
            (one, other): paired(metric, labels, guesses[one], guesses[other], group, ALPHA)
            for one, other in itertools.combinations(range(models), 2)
        }

        def at(one: int, other: int, alpha: float, pairs: dict[Any, Any] = pairs) -> PairedComparison:
            pair: PairedComparison = pairs[one, other]
            told = pair.p < alpha
            verdict: Verdict = ("better" if pair.difference > 0 else "worse") if told else "cannot tell"
            return replace(pair, verdict=verdict)

        for place, alpha in enumerate((ALPHA, ALPHA * (models - 1) / math.comb(models, 2))):
            found = best_among(models, at, alpha)
            assert found is not None
            counted[place + 2] += len(found.candidates) / models
            if place == 0:
                counted[:2] += 0 not in found.candidates, len(found.candidates) == 1
        best = int(np.argmax([(guess == labels).mean() for guess in guesses]))
        for place, tries in ((4, models), (5, 1)):
            held = interval(metric, labels, guesses[best], group, tries=tries)
            assert held is not None
            counted[place] += held.low <= accuracies[best] <= held.high
    return counted / sets


def correlated(
    design: Design, accuracies: Sequence[float], group: Labels, labels: Labels, generator: np.random.Generator
) -> list[Labels]:
    """Guesses of models that find the same groups and clips hard in part."""
    shared, clip = generator.normal(size=design.groups), math.sqrt(HARD) * generator.normal(size=len(group))
    made = []
    for accuracy in accuracies:
        latent = latent_correlation(accuracy, design.correlation)
        own = math.sqrt(1 - SHARED) * generator.normal(size=design.groups) + math.sqrt(SHARED) * shared
        noise = clip + math.sqrt(1 - HARD) * generator.normal(size=len(group))
        hard = math.sqrt(latent) * own[group] + math.sqrt(1 - latent) * noise
        made.append(design.guessed(labels, hard < special.ndtri(accuracy), generator))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=1000, help="simulated test sets of each cell")
    parser.add_argument("--only", choices=("methods", "choosing"), help="one of the tables")
    options = parser.parse_args()
    if options.only in (None, "methods"):
        methods(options.sets)
    if options.only in (None, "choosing"):
        choosing(options.sets)


if __name__ == "__main__":
    main()
