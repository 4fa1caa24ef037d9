"""How often better models are told so, and equal ones promoted: python -m benchmarks.power [--sets 1000].

Challengers against a champion of accuracy 0.8 on the sets of intervals.py, three classes, ten clips a group.
Many equal tries on one test split are independent, or adaptive: who is shown the figures (`--show`) goes on
from the best so far, which a next challenger has a share (`ADAPTED`) of its luck on these clips from. As true
accuracies are equal, each promotion is wrong. Five minutes on one core.
"""

import argparse
import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

from benchmarks.intervals import (
    ALPHA,
    GROUPS,
    HARD,
    MEAN_SIZE,
    SHARED,
    Design,
    Values,
    compared,
    latent_correlation,
)
from vidclf.evaluation.significance import contrast, sign_flip_p, spent_alpha

ADAPTED = (0.0, 0.5, 0.9)
TRIES = (10, 30)


def power(sets: int) -> None:
    """Prints how often a better model is called so, and how often the interval holds its lead."""
    print("\nA model of 0.9 against 0.8, correlation 0.2, accuracy: told at 5 % (interval holds), in percent")
    print(f"{'groups':>12} " + " ".join(f"{groups:>14}" for groups in GROUPS))
    for sizes in ("equal", "geometric", "giant"):
        cells = []
        for groups in GROUPS:
            found = compared(Design(3, False, groups, sizes, 0.2, 0.8), "accuracy", [0.9], sets, ALPHA)
            told = (found.p < ALPHA) & (found.difference > 0)
            held = np.abs(found.difference - 0.1) <= found.half
            cells.append(f"{100 * told.mean():6.1f} ({100 * held.mean():5.1f})")
        print(f"{sizes:>12} " + " ".join(f"{cell:>14}" for cell in cells))


def promotions(sets: int) -> None:
    """Prints how often challengers are promoted that are better, by the number of the comparison."""
    print(f"\nPromoted in percent: champion 0.8, correlation 0.2, macro F1, {ALPHA} spent over comparisons")
    numbers = (1, 2, 3, 5, 10)
    names = [f"+{100 * lead:.0f}, no. {n}" for lead in (0.1, 0.15) for n in numbers]
    print(f"{'groups':>8} {'clips':>6} " + " ".join(f"{name:>11}" for name in names))
    for groups in GROUPS:
        design = Design(3, False, groups, "equal", 0.2, 0.8)
        shares = []
        for lead in (0.1, 0.15):
            found = compared(design, "macro_f1", [0.8 + lead], sets, spent_alpha(max(numbers)))
            shares += [((found.p < spent_alpha(n)) & (found.difference > 0)).mean() for n in numbers]
        cells = " ".join(f"{100 * share:11.1f}" for share in shares)
        print(f"{groups:8d} {groups * MEAN_SIZE:6d} {cells}")


def equal_tries(sets: int) -> None:
    """Prints how often one of many equal challengers is promoted, and how far ahead the best seems."""
    print(f"\nOne of many equal challengers promoted, percent (lead of the best, points); {ALPHA} spent")
    names = [f"{tries} tries, {adapted}" for adapted in ADAPTED for tries in TRIES]
    print(f"{'groups':>8} " + " ".join(f"{name:>15}" for name in names))
    for groups in GROUPS:
        design = Design(3, False, groups, "equal", 0.2, 0.8)
        cells = []
        for adapted in ADAPTED:
            promoted, lead = tried(design, "macro_f1", sets, adapted)
            for tries in TRIES:
                share, best = promoted[:tries].any(0).mean(), lead[:tries].max(0).mean()
                cells.append(f"{100 * share:6.1f} ({100 * best:+5.1f})")
        print(f"{groups:8d} " + " ".join(f"{cell:>15}" for cell in cells))


def tried(design: Design, metric: str, sets: int, adapted: float) -> tuple[Values, Values]:
    """Whether each of the tries is promoted, and how far it is ahead on these clips: (tries, sets) each.

    Args:
        adapted: Share of the variance of what is a challenger's own, on each group and clip of the set, that
            it has from the best before it.
    """
    generator = np.random.default_rng(design.groups)
    group = np.repeat(np.arange(sets * design.groups), MEAN_SIZE)
    labels = design.classes_of(group, generator)
    latent = latent_correlation(design.accuracy, design.correlation)
    shared = math.sqrt(SHARED) * generator.normal(size=sets * design.groups)[group]
    clip = math.sqrt(HARD) * generator.normal(size=len(group))
    limit, set_of = special.ndtri(design.accuracy), group // design.groups

    def own(best: Values | None) -> Values:
        """Of each group and each clip, shape (2, clips)."""
        parts = generator.normal(size=sets * design.groups)[group], generator.normal(size=len(group))
        fresh = np.stack(parts)
        return fresh if best is None else math.sqrt(adapted) * best + math.sqrt(1 - adapted) * fresh

    def right(part: Values) -> NDArray[np.bool_]:
        hard = shared + math.sqrt(1 - SHARED) * part[0]
        noise = clip + math.sqrt(1 - HARD) * part[1]
        return np.asarray(math.sqrt(latent) * hard + math.sqrt(1 - latent) * noise < limit)

    first = right(own(None))
    champion = design.tallied(sets, group, labels, design.guessed(labels, first, generator))
    best, ahead = own(None), np.full(sets, -np.inf)
    promoted, leads = [], []
    for number in range(1, max(TRIES) + 1):
        part = own(best if number > 1 else None)
        hits, alpha = right(part), spent_alpha(number)
        tallies = design.tallied(sets, group, labels, design.guessed(labels, hits, generator))
        differing = np.bincount(set_of, hits != first, sets).astype(np.float64)
        found = contrast(metric, tallies, champion, differing)
        told = (found.p < alpha) & (found.difference > 0)
        for place in np.flatnonzero(told):
            told[place] = sign_flip_p(found.by_group[place], alpha) < alpha
        promoted.append(told)
        leads.append(found.difference)
        better = found.difference > ahead
        best, ahead = np.where(better[set_of], part, best), np.maximum(ahead, found.difference)
    return np.array(promoted), np.array(leads)


def not_worse(sets: int, margin: float = 0.05) -> None:
    """Prints how often a challenger passes as no worse than the champion by a margin."""
    lost = (0.0, 0.02, 0.05, 0.1)
    print(f"\nPassed as not worse by {margin} than 0.8, correlation 0.2, accuracy, percent, by points lost")
    print(f"{'groups':>12} " + " ".join(f"{100 * points:6.0f}" for points in lost))
    for groups in (12, 25, 50, 100):
        design = Design(3, False, groups, "equal", 0.2, 0.8)
        found = compared(design, "accuracy", [0.8 - points for points in lost], sets, ALPHA)
        passed = (found.difference - found.half > -margin).mean(0)
        print(f"{groups:12d} " + " ".join(f"{100 * share:6.1f}" for share in passed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=1000, help="simulated test sets of each cell")
    sets = parser.parse_args().sets
    power(sets)
    promotions(sets)
    equal_tries(sets)
    not_worse(sets)


if __name__ == "__main__":
    main()
