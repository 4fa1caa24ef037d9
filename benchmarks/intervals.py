"""How often intervals and verdicts are right, over simulated sets: python benchmarks/intervals.py [--full].

Designs: 5 to 50 groups; their sizes equal, geometric (the largest has 20 times the clips of the smallest),
one giant that has half of all clips, or informative (4 to 15, the harder a group the more clips); outcomes of
a group's clips correlate by 0 to 0.6, by beta or probit random effects; 2, 3, 22 and 101 classes, each in all
groups or each in groups of its own; accuracy 0.6 to 0.97; wrong guesses are even over the other classes. True
values are of new groups, weighed by clips, or by groups for group_weighted_accuracy and _macro_f1. Means over
folds are of models that are equally good, and of folds of whole groups that all classes have.

One design in twenty is drawn of 3,840 (--full: all), 1,000 sets each: three minutes on one core. By the
variance between groups alone, drawn towards a correlation of 0.2, with groups - 1 degrees of freedom and no
residual for classes of one group, the same designs are covered 28 to 100 %, 93 % on average.
"""

import argparse
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.optimize import brentq

from vidclf.evaluation.intervals import KNOWN, Tallies, ends
from vidclf.evaluation.significance import (
    contrast,
    sign_flip_p,
)

Labels = NDArray[np.int64]
Values = NDArray[np.float64]
Sizes = Literal["equal", "geometric", "giant", "informative"]

METRICS = ("accuracy", "balanced_accuracy", "macro_f1")
BY_GROUPS = ("group_weighted_accuracy", "group_weighted_macro_f1")
GROUPS = (5, 8, 12, 25, 50)
CORRELATIONS = (0.0, 0.2, 0.4, 0.6)
SIZES: tuple[Sizes, ...] = ("equal", "geometric", "informative", "giant")
CLASSES = ((2, False), (3, False), (22, False), (3, True), (22, True), (101, True))
"""How many, and whether each lives in groups of its own."""
ACCURACIES = (0.6, 0.8, 0.9, 0.97)
MEAN_SIZE = 10
LEAST, MOST = 0.93, 0.99
"""Coverage that is asked for: the first everywhere, the second from 12 groups on at a correlation of 0.2."""
ALPHA = 0.05
_PLACES = 3_000_000
"""Tallies that are held at a time."""
SHARED = 0.5
"""Share of a group's difficulty that all models feel alike."""
HARD = 0.3
"""Share of the variance of an outcome that is the clip's, for all models alike."""


@dataclass(frozen=True)
class Design:
    """How test sets are drawn; ``beta`` is the kind of random effect, probit otherwise."""

    classes: int
    nested: bool
    groups: int
    sizes: Sizes
    correlation: float
    accuracy: float
    beta: bool = False

    @property
    def label(self) -> str:
        return f"{self.classes} classes{', nested' if self.nested else ''}"

    def frequencies(self) -> Values:
        """Of the classes, where all groups have them."""
        found: Values = np.linspace(3, 1, self.classes)
        found /= found.sum()
        return found

    def fixed_sizes(self) -> Labels:
        if self.sizes == "geometric":
            steps = 20 ** (-np.arange(self.groups) / (self.groups - 1))
            return np.array(np.rint(MEAN_SIZE * steps / steps.mean()).clip(1), dtype=np.int64)
        sizes = np.full(self.groups, MEAN_SIZE)
        if self.sizes == "giant":
            sizes[0] = MEAN_SIZE * (self.groups - 1)
        return sizes

    def drawn_sizes(self, ease: Values) -> Labels:
        """Clips of each group, shape of ``ease`` (sets, groups)."""
        if self.sizes != "informative":
            return np.broadcast_to(self.fixed_sizes(), ease.shape)
        rank = ease.argsort(1).argsort(1) / (self.groups - 1)
        return np.rint(15 - 11 * rank).astype(np.int64)

    def shares(self, sets: int, generator: np.random.Generator) -> Values:
        """Share of right clips that each group is drawn with, shape (sets, groups)."""
        shape = (sets, self.groups)
        if not self.correlation:
            return np.full(shape, self.accuracy)
        if self.beta:
            size = (1 - self.correlation) / self.correlation
            return generator.beta(self.accuracy * size, (1 - self.accuracy) * size, shape)
        latent = latent_correlation(self.accuracy, self.correlation)
        limit = special.ndtri(self.accuracy) + math.sqrt(latent) * generator.normal(size=shape)
        found: Values = special.ndtr(limit / math.sqrt(1 - latent))
        return found

    def ease(self, shares: Values, generator: np.random.Generator) -> Values:
        """What informative sizes go by: where no group is harder than others, nothing."""
        return shares if self.correlation else generator.random(shares.shape)

    def classes_of(self, group: Labels, generator: np.random.Generator) -> Labels:
        if self.nested:
            return group % self.groups % self.classes
        return generator.choice(self.classes, len(group), p=self.frequencies())

    def guessed(self, labels: Labels, right: NDArray[np.bool_], generator: np.random.Generator) -> Labels:
        return np.where(
            right, labels, (labels + generator.integers(1, self.classes, len(labels))) % self.classes
        )

    def tallied(self, sets: int, group: Labels, labels: Labels, guesses: Labels) -> Tallies:
        def counts(values: Labels, chosen: NDArray[np.bool_] | slice = slice(None)) -> Values:
            places = (group * self.classes + values)[chosen]
            found = np.bincount(places, minlength=sets * self.groups * self.classes)
            return found.reshape(sets, 1, self.groups, self.classes).astype(np.float64)

        return Tallies(counts(labels, guesses == labels), counts(labels), counts(guesses))

    def true_values(self) -> dict[str, float]:
        """Of new groups, weighed by clips and by groups."""
        accuracy = self.accuracy
        if self.sizes == "informative" and self.correlation:
            generator = np.random.default_rng(1)
            shares = self.shares(200_000 // self.groups, generator)
            sizes = self.drawn_sizes(shares)
            accuracy = float((sizes * shares).sum() / sizes.sum())
        # Informative sizes do not go with the group's number.
        even = np.ones(self.groups)
        clips = even if self.sizes == "informative" else self.fixed_sizes()
        return {
            "accuracy": accuracy,
            "balanced_accuracy": accuracy,
            "macro_f1": self.true_f1(accuracy, clips),
            "group_weighted_accuracy": self.accuracy,
            "group_weighted_macro_f1": self.true_f1(self.accuracy, even),
        }

    def true_f1(self, accuracy: float, weights: Values | Labels) -> float:
        """Macro F1 where groups weigh so much."""
        true = self.frequencies()
        if self.nested:
            true = np.bincount(np.arange(self.groups) % self.classes, weights, self.classes) / weights.sum()
        said = true * accuracy + (1 - accuracy) * (1 - true) / (self.classes - 1)
        return float((2 * true * accuracy / (true + said))[true > 0].mean())

    def sets_at_a_time(self, sets: int) -> Iterator[int]:
        most = max(_PLACES // (self.groups * self.classes), 1)
        while sets:
            yield min(sets, most)
            sets -= min(sets, most)


@cache
def latent_correlation(accuracy: float, correlation: float) -> float:
    """Correlation of normal difficulties that gives outcomes of a correlation."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights /= weights.sum()

    def excess(latent: float) -> float:
        limit = special.ndtri(accuracy) + math.sqrt(latent) * nodes
        both = weights @ special.ndtr(limit / math.sqrt(1 - latent)) ** 2
        return float(both - accuracy**2 - correlation * accuracy * (1 - accuracy))

    return float(brentq(excess, 1e-4, 0.9999)) if correlation else 0.0


def covered(
    design: Design, sets: int, metrics: Sequence[str] = METRICS, folds: int = 1
) -> dict[str, tuple[float, float, float]]:
    """By metric: share of the 95 % intervals that hold the true value, their mean width, and the mean
    difference of the estimates from the true value."""
    generator, true = np.random.default_rng(design.groups), design.true_values()
    found: dict[str, list[Values]] = {metric: [] for metric in metrics}
    for some in design.sets_at_a_time(sets):
        shares = design.shares(some, generator)
        sizes = design.drawn_sizes(design.ease(shares, generator)).ravel()
        group = np.repeat(np.arange(some * design.groups), sizes)
        labels = design.classes_of(group, generator)
        right = generator.random(len(group)) < shares.ravel()[group]
        tallies = design.tallied(some, group, labels, design.guessed(labels, right, generator))
        for metric in metrics:
            value = true[metric]
            estimate, low, high = ends(metric, divided(tallies, folds))
            held = (low <= value) & (value <= high)
            found[metric].append(np.stack([held, high - low, estimate - value], axis=-1))
    means = {metric: np.concatenate(each).mean(0) for metric, each in found.items()}
    return {metric: (float(each[0]), float(each[1]), float(each[2])) for metric, each in means.items()}


def divided(tallies: Tallies, folds: int) -> Tallies:
    """Groups in folds in turn."""
    own = np.arange(tallies.true.shape[-2]) % folds == np.arange(folds)[:, None]
    return Tallies(*(part * own[..., None] for part in (tallies.hits, tallies.true, tallies.said)))


@dataclass(frozen=True)
class Compared:
    """Models against the first of them on many sets.

    Each is of shape (sets, challengers).

    Attributes:
        p: Of both tests.
        difference: Challenger's metric less the champion's.
        half: Half the width of its 95 % interval.
    """

    p: Values
    difference: Values
    half: Values


def compared(design: Design, metric: str, challengers: Sequence[float], sets: int, least: float) -> Compared:
    """Challengers of given accuracies against a champion of the design's.

    Models find the same groups and clips hard in part, and are exchangeable where they are equally good.

    Args:
        least: The smallest alpha that p is told from.
    """
    generator = np.random.default_rng(design.groups)
    parts = []
    for some in design.sets_at_a_time(sets):
        shared = generator.normal(size=(some, design.groups))
        sizes = design.drawn_sizes(design.ease(shared, generator)).ravel()
        group = np.repeat(np.arange(some * design.groups), sizes)
        labels = design.classes_of(group, generator)
        clip = math.sqrt(HARD) * generator.normal(size=len(group))
        made, rights, weights = [], [], np.ones(len(group))
        if metric in BY_GROUPS:
            clips = np.bincount(group // design.groups)[group // design.groups]
            weights = clips / design.groups / sizes[group]
        for accuracy in (design.accuracy, *challengers):
            latent = latent_correlation(accuracy, design.correlation)
            own = math.sqrt(1 - SHARED) * generator.normal(size=shared.shape) + math.sqrt(SHARED) * shared
            noise = clip + math.sqrt(1 - HARD) * generator.normal(size=len(group))
            hard = math.sqrt(latent) * own.ravel()[group] + math.sqrt(1 - latent) * noise
            rights.append(hard < special.ndtri(accuracy))
            made.append(design.tallied(some, group, labels, design.guessed(labels, rights[-1], generator)))
        each = []
        for one, right in zip(made[1:], rights[1:], strict=True):
            unlike = np.where(right != rights[0], weights, 0.0)
            differing = np.bincount(group // design.groups, unlike, some).astype(np.float64)
            found = contrast(metric, one, made[0], differing)
            p, half = found.p.copy(), special.stdtrit(found.freedom, 1 - ALPHA / 2) * np.sqrt(found.error)
            for place in np.flatnonzero(p < ALPHA):
                p[place] = max(p[place], sign_flip_p(found.by_group[place], least))
            refused = (found.p < ALPHA) & (p >= ALPHA)
            each.append((p, found.difference, np.where(refused, np.abs(found.difference), half)))
        parts.append(np.array(each))  # (challengers, 3, sets)
    return Compared(*np.concatenate(parts, axis=2).transpose(1, 2, 0))


def coverage(designs: Sequence[Design], sets: int) -> None:
    """Prints how often intervals hold: the fewest and the mean over the cells of a kind of design."""
    cells = [
        (design, metric, held, width)
        for design in designs
        for metric, (held, width, _) in covered(design, sets).items()
    ]
    print(f"\nCoverage of 95 % intervals in percent, {len(cells)} cells of {sets} sets; * see below")
    print(f"{'':28} {'least':>6} {'mean':>6} {'< 93':>6} {'> 99*':>6}   mean width of 5, 12, 50 groups")
    rows = [
        *((f"sizes: {sizes}", [cell for cell in cells if cell[0].sizes == sizes]) for sizes in SIZES),
        *(
            (f"correlation: {value}", [cell for cell in cells if cell[0].correlation == value])
            for value in CORRELATIONS
        ),
        *((f"groups: {value}", [cell for cell in cells if cell[0].groups == value]) for value in GROUPS),
        *(
            (name, [cell for cell in cells if cell[0].label == name])
            for name in {d.label: 0 for d in designs}
        ),
        *((metric, [cell for cell in cells if cell[1] == metric]) for metric in METRICS),
        ("all", cells),
    ]
    for name, some in rows:
        if not some:
            continue
        held = np.array([cell[2] for cell in some])
        many = [c[2] for c in some if c[0].groups >= 12 and c[0].correlation == 0.2] or [0.0]
        widths = [np.mean([c[3] for c in some if c[0].groups == g] or [math.nan]) for g in (5, 12, 50)]
        shown = (
            100 * held.min(),
            100 * held.mean(),
            100 * np.mean(held < LEAST),
            100 * np.mean(np.array(many) > MOST),
        )
        print(
            f"{name:28} "
            + " ".join(f"{value:6.1f}" for value in shown)
            + "   "
            + ", ".join(f"{w:.2f}" for w in widths)
        )
    print("* in percent of the cells; from 12 groups on, at a correlation of 0.2")
    for design, metric, share, width in sorted(cells, key=lambda cell: cell[2])[:8]:
        print(f"  {100 * share:.1f} (width {width:.2f}): {metric}, {design}")


def means(designs: Sequence[Design], sets: int) -> None:
    """Prints how often intervals of means over folds hold, and of metrics that weigh by groups."""
    print(f"\nCoverage of other means in percent, {sets} sets a cell; bias: of the estimates, in points")
    print(f"{'':28} {'least':>6} {'mean':>6} {'< 93':>6} {'cells':>6} {'width':>6} {'bias':>5} {'most':>6}")
    whole = [design for design in designs if not design.nested]
    for name, some, metrics, folds in (
        ("weighed by clips", designs, METRICS, 1),
        ("weighed by groups", designs, BY_GROUPS, 1),
        *((f"mean over {f} folds", [d for d in whole if d.groups >= f], METRICS, f) for f in (1, 3, 5)),
    ):
        cells = np.array([each for design in some for each in covered(design, sets, metrics, folds).values()])
        held, width, bias = cells.T
        shown = 100 * np.array([held.min(), held.mean(), np.mean(held < LEAST)])
        print(
            f"{name:28} " + " ".join(f"{value:6.1f}" for value in shown) + f" {len(cells):6d} "
            f"{width.mean():6.2f} {100 * bias.mean():+5.1f} {100 * bias[np.abs(bias).argmax()]:+6.1f}"
        )


def errors(designs: Sequence[Design], sets: int) -> None:
    """Prints how often equal models are told apart, and how often intervals of differences hold."""
    print(f"\nEqual models told apart at 5 %, in percent, {sets} sets a cell")
    print(f"{'sizes':12} {'most':>6} {'mean':>6} {'cells':>6}   {'at 5 % / 12':>12}")
    found = [
        (design, compared(design, metric, [design.accuracy], sets, ALPHA / 12).p)
        for design in designs
        for metric in (*METRICS, *BY_GROUPS)
    ]
    for sizes in SIZES:
        some = [p for design, p in found if design.sizes == sizes]
        if some:
            told = [100 * float((p < ALPHA).mean()) for p in some]
            strict = [100 * float((p < ALPHA / 12).mean()) for p in some]
            print(f"{sizes:12} {max(told):6.1f} {np.mean(told):6.1f} {len(some):6d}   {max(strict):12.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=1000, help="simulated test sets of each cell")
    parser.add_argument("--full", action="store_true", help="every design, not one in twenty: an hour")
    parser.add_argument("--only", choices=("coverage", "means", "errors"), help="one of the tables")
    options = parser.parse_args()
    assert set(METRICS) <= set(KNOWN)
    designs = [
        Design(*classes, groups, sizes, correlation, accuracy, beta)
        for classes, groups, sizes, correlation, accuracy, beta in itertools.product(
            CLASSES, GROUPS, SIZES, CORRELATIONS, ACCURACIES, (True, False)
        )
    ]
    if not options.full:
        designs = random.Random(0).sample(designs, len(designs) // 20)
    if options.only in (None, "coverage"):
        coverage(designs, options.sets)
    if options.only in (None, "means"):
        means(designs, options.sets)
    if options.only in (None, "errors"):
        errors([design for design in designs if not design.beta][:: 1 if options.full else 2], options.sets)


if __name__ == "__main__":
    main()
