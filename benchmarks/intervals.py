"""How often intervals and promotions are right, over simulated test sets: python benchmarks/intervals.py.

Groups of 4 to 15 clips whose outcomes correlate; five classes of unequal frequency; wrong guesses are even
over the other classes. True values are those of a million clips. One core, a few minutes with the default
--sets 1000.
"""

import argparse
import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.optimize import brentq

from vidclf.evaluation import metrics
from vidclf.evaluation.intervals import KNOWN, PairedComparison, interval, paired, spent_alpha

FREQUENCIES = np.array([0.3, 0.25, 0.2, 0.15, 0.1])
CLASSES = len(FREQUENCIES)
SIZES = (4, 15)
CORRELATION = 0.2
SHOWN = ("accuracy", "macro_f1")
GROUPS = (3, 5, 8, 12, 25, 50)
ACCURACIES = (0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97)
LEAST, MOST = 0.93, 0.98
"""Coverage that is asked for: the first everywhere, the second from 12 groups on."""
CLIPS = (50, 200, 1000)
CHAMPION = 0.8
TRIES = 10
_SHARED = 0.5
"""Share of a group's difficulty that all models feel alike."""
_HARD = 0.3
"""Share of the variance of an outcome that is the clip's, for all models alike."""

Labels = NDArray[np.int64]


def classes_of(group: Labels, generator: np.random.Generator, *, mixed: bool) -> Labels:
    """True classes: drawn for each clip, or (not mixed) one for each group, as in UCF-101."""
    if mixed:
        return generator.choice(CLASSES, len(group), p=FREQUENCIES)
    # In turns by frequency, so that few groups have several classes too.
    order = np.argsort(np.concatenate([(np.arange(20 * f) + 0.5) / f for f in FREQUENCIES]), kind="stable")
    turns = np.repeat(np.arange(CLASSES), (20 * FREQUENCIES).round().astype(int))[order]
    return turns[group % len(turns)]


def guessed(labels: Labels, right: NDArray[np.bool_], generator: np.random.Generator) -> Labels:
    others = (labels + generator.integers(1, CLASSES, right.shape)) % CLASSES
    return np.where(right, labels, others)


def grouped(groups: int, generator: np.random.Generator) -> Labels:
    """Index of each clip's group."""
    return np.repeat(np.arange(groups), generator.integers(SIZES[0], SIZES[1] + 1, groups))


def test_set(
    groups: int, accuracy: float, correlation: float, generator: np.random.Generator, *, mixed: bool
) -> tuple[Labels, Labels, Labels]:
    """Labels, guesses and groups; each group's own accuracy is drawn from a beta distribution."""
    group = grouped(groups, generator)
    labels = classes_of(group, generator, mixed=mixed)
    own = np.full(groups, accuracy)
    if correlation:
        size = (1 - correlation) / correlation
        own = generator.beta(accuracy * size, (1 - accuracy) * size, groups)
    return labels, guessed(labels, generator.random(len(group)) < own[group], generator), group


def true_values(accuracy: float, *, mixed: bool) -> dict[str, float]:
    generator = np.random.default_rng(1)
    labels, guesses, _ = test_set(100_000, accuracy, 0.0, generator, mixed=mixed)
    return {"accuracy": accuracy, "macro_f1": metrics.macro_f1(labels, guesses)}


def coverage(sets: int, correlation: float, *, mixed: bool) -> None:
    """Prints how often the 95 % interval holds the true value, and its mean width."""
    wanted = {accuracy: true_values(accuracy, mixed=mixed) for accuracy in ACCURACIES}
    kind = "clips of all classes in a group" if mixed else "each group of one class"
    print(f"\nCoverage of 95 % intervals in percent (mean width), correlation {correlation}, {kind}")
    shown = " ".join(f"{accuracy:>12.2f}" for accuracy in ACCURACIES)
    print(f"{'':9} {'groups':>6} {shown}   (accuracy)")
    for metric in SHOWN:
        truth = " ".join(f"{wanted[accuracy][metric]:12.4f}" for accuracy in ACCURACIES)
        print(f"{metric:9} {'true':>6} {truth}")
        for groups in GROUPS:
            cells = []
            for accuracy in ACCURACIES:
                generator = np.random.default_rng(groups)
                found = []
                for _ in range(sets):
                    labels, guesses, group = test_set(groups, accuracy, correlation, generator, mixed=mixed)
                    made = interval(metric, labels, guesses, group)
                    assert made is not None
                    found.append((made.low, made.high))
                low, high = np.array(found).T
                value = wanted[accuracy][metric]
                held = float(np.mean((low <= value) & (value <= high)))
                missed = held < LEAST or (held > MOST and groups >= 12)
                cells.append(f"{100 * held:5.1f}{'*' if missed else ' '}({np.mean(high - low):.2f})")
            print(f"{metric:9} {groups:6d} {' '.join(cells)}")
    print("* outside of 93 % everywhere, 98 % from 12 groups on")


def latent_correlation(accuracy: float) -> float:
    """Correlation of normal difficulties that gives outcomes of `CORRELATION`."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights /= weights.sum()

    def excess(correlation: float) -> float:
        limit = special.ndtri(accuracy) + math.sqrt(correlation) * nodes
        both = weights @ special.ndtr(limit / math.sqrt(1 - correlation)) ** 2
        return float(both - accuracy**2 - CORRELATION * accuracy * (1 - accuracy))

    return float(brentq(excess, 0.01, 0.95))


def contests(
    sets: int, clips: int, challengers: list[float], seed: int
) -> Iterator[tuple[Labels, Labels, list[Labels], Labels]]:
    """Labels, the champion's guesses, those of challengers of given accuracies, and groups.

    Models find the same groups and clips hard in part, and are exchangeable where they are equally good.
    """
    generator = np.random.default_rng(seed)
    together = latent_correlation(CHAMPION)
    groups = max(round(clips / np.mean(SIZES)), 3)
    for _ in range(sets):
        group = grouped(groups, generator)
        labels = classes_of(group, generator, mixed=True)
        hard = math.sqrt(_SHARED * together) * generator.normal(size=groups)[group]
        hard = hard + math.sqrt(_HARD * (1 - together)) * generator.normal(size=len(group))
        made = []
        for accuracy in (CHAMPION, *challengers):
            own = math.sqrt((1 - _SHARED) * together) * generator.normal(size=groups)[group]
            own = own + math.sqrt((1 - _HARD) * (1 - together)) * generator.normal(size=len(group))
            made.append(guessed(labels, hard + own < special.ndtri(accuracy), generator))
        yield labels, made[0], made[1:], group


def compared(  # noqa: PLR0917
    metric: str, labels: Labels, one: Labels, other: Labels, group: Labels, alpha: float = 0.05
) -> PairedComparison:
    found = paired(metric, labels, one, other, group, alpha)
    assert found is not None, "these sets have enough groups"
    return found


def promotions(sets: int) -> None:
    """Prints how often challengers are promoted that are, and are not, better."""
    print(
        f"\nPromoted in percent; champion's accuracy {CHAMPION}; 95 %, spent over the reads of a test split"
    )
    columns = (f"equal, {TRIES} tries", "without spending", "+5 points", "+10 points", "+10, third read")
    print(f"{'':9} {'clips':>6} {'groups':>6} " + " ".join(f"{name:>18}" for name in columns))
    for metric, clips in itertools.product(SHOWN, CLIPS):
        spent = unspent = 0
        for labels, champion, equals, group in contests(sets, clips, [CHAMPION] * TRIES, clips):
            tried = [compared(metric, labels, one, champion, group) for one in equals]
            unspent += any(result.verdict == "better" for result in tried)
            spent += any(
                result.p < spent_alpha(read)
                and compared(metric, labels, one, champion, group, spent_alpha(read)).verdict == "better"
                for read, (one, result) in enumerate(zip(equals, tried, strict=True), start=1)
            )
        better = np.zeros(3)
        for labels, champion, (five, ten), group in contests(
            sets, clips, [CHAMPION + 0.05, CHAMPION + 0.1], clips + 1
        ):
            reads = ((five, 1), (ten, 1), (ten, 3))
            better += [
                compared(metric, labels, one, champion, group, spent_alpha(read)).verdict == "better"
                for one, read in reads
            ]
        shares = (100 * value / sets for value in (spent, unspent, *better))
        cells = " ".join(f"{share:18.1f}" for share in shares)
        print(f"{metric:9} {clips:6d} {round(clips / np.mean(SIZES)):6d} {cells}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=1000, help="simulated test sets of each kind")
    parser.add_argument("--correlation", type=float, default=CORRELATION, help="between clips of a group")
    parser.add_argument("--only", choices=("coverage", "promotions"), help="one of the tables")
    options = parser.parse_args()
    assert set(SHOWN) <= set(KNOWN)
    if options.only != "promotions":
        for mixed in (True, False):
            coverage(options.sets, options.correlation, mixed=mixed)
    if options.only != "coverage":
        promotions(options.sets)


if __name__ == "__main__":
    main()
