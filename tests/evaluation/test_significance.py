"""Comparisons of models: against closed forms and SciPy, and over simulated sets."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import permutation_test

from tests.evaluation.simulated import (
    Labels,
    clips,
    compared,
    contests,
    first,
    left_out,
    made,
    squared_error,
)
from vidclf.evaluation.significance import PairedComparison, best_among, paired, sign_flip_p, spent_alpha


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "recall/0"])
def test_a_comparison_by_hand(metric: str) -> None:
    """Seven groups of ten clips; the challenger mends 1 to 4 clips in each."""
    mended = np.array([1, 2, 3, 4, 2, 3, 3])
    before = np.array([5, 2, 6, 4, 7, 1, 6])
    labels, champion, challenger = np.zeros(70, np.int64), first(before), first(before + mended)
    groups = np.repeat(list("abcdefg"), 10)
    found = compared(metric, labels, challenger, champion, groups)
    difference = 18 / 70
    assert found.difference == pytest.approx(difference)
    # Two more clips on which they differ, one each way.
    error, freedom = squared_error(left_out(mended, 10), 20 / 72 * (0.8 / 70 + 0.2 / 7))
    half = stats.t.ppf(0.975, freedom) * math.sqrt(error)
    assert (found.low, found.high) == pytest.approx((difference - half, difference + half))
    # All seven differences are positive: of 128 flips two are as far from 0.
    assert found.p == pytest.approx(max(2 / 128, 2 * stats.t.sf(difference / math.sqrt(error), freedom)))
    assert (found.verdict, found.groups, found.alpha) == ("better", 7, 0.05)
    assert compared(metric, labels, champion, challenger, groups).verdict == "worse"


def test_what_t_cannot_tell_is_not_flipped() -> None:
    mended = np.array([1, -2, 3, 4, -2, 3, 0])
    groups = np.repeat(list("abcdefg"), 10)
    found = compared("accuracy", np.zeros(70, np.int64), first(5 + mended), first([5] * 7), groups)
    error, freedom = squared_error(left_out(mended, 10), 17 / 72 * (0.8 / 70 + 0.2 / 7))
    p = 2 * stats.t.sf(0.1 / math.sqrt(error), freedom)
    assert (found.p, found.verdict) == (pytest.approx(p), "cannot tell")


def test_flips_are_of_what_unequal_groups_add() -> None:
    sizes, before = np.array([6, 8, 8, 10, 10, 12, 12, 14]), np.array([2, 2, 2, 3, 3, 6, 3, 6])
    mended = np.array([3, 5, -1, 2, 3, 0, 2, 5])
    champion, challenger = (
        np.concatenate([first([hits], size) for hits, size in zip(right, sizes, strict=True)])
        for right in (before, before + mended)
    )
    groups = np.repeat(list("abcdefgh"), sizes)
    found = compared("accuracy", np.zeros(80, np.int64), challenger, champion, groups)
    signs = np.array(list(itertools.product([1, -1], repeat=8)))
    assert found.p == (np.abs(signs @ mended) >= mended.sum()).mean()


def test_a_comparison_by_hand_where_groups_weigh_the_same() -> None:
    """One group of 40 clips, on which the challenger loses, and seven of five."""
    sizes, before = np.array([40, *[5] * 7]), np.array([30, *[2] * 7])
    after = np.array([20, *[4] * 7])
    champion, challenger = (
        np.concatenate([first([hits], size) for hits, size in zip(right, sizes, strict=True)])
        for right in (before, after)
    )
    labels, groups = np.zeros(75, np.int64), np.repeat(list("abcdefgh"), sizes)
    found = compared("group_weighted_accuracy", labels, challenger, champion, groups)
    shares = (after - before) / sizes
    assert found.difference == pytest.approx(shares.mean())
    assert compared("accuracy", labels, challenger, champion, groups).difference == pytest.approx(4 / 75)
    weight = 75 / 8  # of a group, where a clip's is 1 on average
    others = (weight * (shares.sum() - shares) + shares.mean()) / (7 * weight + 1)
    differing = weight * np.abs(shares).sum()
    spread = 0.8 * (1 / sizes).sum() / 64 + 0.2 / 8
    error, freedom = squared_error((shares - others) / 8, (differing + 2) / 77 * spread)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(error)
    assert (found.low, found.high) == pytest.approx((shares.mean() - half, shares.mean() + half))


def test_five_groups_cannot_tell() -> None:
    labels = np.zeros(50, np.int64)
    champion = np.ones(50, np.int64)
    found = compared("accuracy", labels, labels, champion, np.repeat(list("abcde"), 10))
    assert (found.difference, found.verdict, found.p) == (1.0, "cannot tell", 1 / 16)
    assert found.low == 0
    edge = compared("accuracy", labels, labels, champion, np.repeat(list("abcde"), 10), alpha=1 / 16)
    assert (edge.verdict, edge.low) == ("cannot tell", 0)


def test_many_groups_tell_at_small_alphas() -> None:
    labels, _, groups = clips(3, 40)
    champion = np.where(np.arange(len(labels)) % 4 == 0, (labels + 1) % 3, labels)
    found = compared("macro_f1", labels, labels, champion, groups, alpha=spent_alpha(30))
    assert found.verdict == "better"
    assert found.p < spent_alpha(30)
    assert compared("macro_f1", labels, champion, champion, groups).p == 1.0


def test_random_flips_know_neither_names_nor_sides() -> None:
    generator = np.random.default_rng(0)
    differences = generator.normal(0.3, 1, 25)
    p = sign_flip_p(differences, 0.05)
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=0.15)
    assert sign_flip_p(-generator.permutation(differences), 0.05) == p
    assert sign_flip_p(differences, 0.001) == pytest.approx(p, rel=0.15)  # five times as many


def test_flips_are_all_tried_up_to_fourteen_groups_and_never_give_0() -> None:
    assert sign_flip_p(np.ones(14), 0.05) == 2 / 2**14
    assert sign_flip_p(np.ones(40), 0.05) == 1 / 10_001


@given(st.integers(1, 500), st.floats(0.001, 0.5))
def test_spent_alphas_never_exceed_the_whole(reads: int, alpha: float) -> None:
    assert math.fsum(spent_alpha(read, alpha) for read in range(1, reads + 1)) <= alpha
    assert spent_alpha(1, alpha) == alpha / 2


def test_reads_count_from_one() -> None:
    assert spent_alpha(3) == pytest.approx(0.05 / 12)
    with pytest.raises(ValueError, match="from 1"):
        spent_alpha(0)


@pytest.mark.slow
def test_equal_models_are_seldom_told_apart() -> None:
    told = 0
    for seed in range(800):
        labels, guesses, groups = clips(seed, 12, models=2)
        told += compared("macro_f1", labels, guesses[0], guesses[1], groups).verdict != "cannot tell"
    assert told / 800 <= 0.065


@pytest.mark.slow
def test_equal_models_of_classes_with_one_group_each_are_seldom_told_apart() -> None:
    told = {"balanced_accuracy": 0, "macro_f1": 0}
    for seed in range(300):
        labels, groups, one, other = contests(seed, [8] * 20, nested=True)
        for metric in told:
            guesses = (np.where(right, labels, (labels + 1) % 20) for right in (one, other))
            told[metric] += compared(metric, labels, *guesses, groups).verdict != "cannot tell"
    assert max(told.values()) / 300 <= 0.065


def test_the_interval_of_a_difference_holds_with_one_giant_group() -> None:
    held = 0
    for seed in range(400):
        labels, groups, one, other = contests(seed, [88, *[8] * 11], nested=False)
        guesses = (np.where(right, labels, (labels + 1) % 3) for right in (one, other))
        found = compared("accuracy", labels, *guesses, groups)
        held += found.low <= 0 <= found.high
    assert held / 400 >= 0.93


@pytest.mark.parametrize("groups", [4, 7])
def test_sign_flips_are_scipys_permutation_test(groups: int) -> None:
    for seed in range(5):
        differences = np.random.default_rng(seed).normal(0.3, 1, groups)
        expected = permutation_test(
            (differences,), lambda values, axis: np.abs(values.sum(axis=axis)), permutation_type="samples",
            alternative="greater", vectorized=True, n_resamples=np.inf,
        )  # fmt: skip
        assert sign_flip_p(differences, 0.05) == pytest.approx(expected.pvalue)


def all_right_but(*wrong: int) -> Labels:
    """Guesses for 12 groups of 5 clips of class 0, so many of each group wrong."""
    return np.concatenate([first([5 - count] * 12, 5)[None] for count in wrong])


def test_the_best_is_among_those_that_no_other_beats() -> None:
    labels, groups = np.zeros(60, np.int64), np.repeat(np.arange(12), 5)
    noise = np.random.default_rng(0).permutation(60) < 3
    models = [first([5] * 12, 5), np.where(noise, 1, 0), first([3, 2] * 6, 5), first([1, 2] * 6, 5)]
    levels = []

    def compare(one: int, other: int, alpha: float) -> PairedComparison | None:
        levels.append(alpha)
        return paired("accuracy", labels, models[one], models[other], groups, alpha)

    found = best_among(4, compare)
    assert found is not None
    assert levels == pytest.approx([0.05 / 3] * 6)
    assert (list(found.candidates), found.groups, found.alpha) == ([0, 1], 12, 0.05)
    pairs = [compare(other, 0, 0.05 / 3) for other in (1, 2, 3)]
    ends = [(pair.low, pair.high) for pair in pairs if pair is not None]
    assert found.behind[1] == pytest.approx((0, -ends[0][0]))
    assert found.behind[0] == pytest.approx((0, ends[0][1]))
    for place in (2, 3):
        least, most = found.behind[place]
        assert 0 < least <= -ends[place - 1][1] + 1e-9 or least > 0
        assert most >= -ends[place - 1][0] - 1e-9
    assert found.behind[3][0] > found.behind[2][0]
    first_words, second = found.words(["a", "b", "c", "d"], "accuracy")
    assert first_words == (
        f"At 95 % the best of the 4 is one of 2: a (at most {found.behind[0][1]:.3f} behind), b (at most "
        f"{found.behind[1][1]:.3f} behind) (accuracy, 12 groups, multiple comparisons with the best)."
    )
    assert second.startswith(
        f"Behind the best: c by {found.behind[2][0]:.3f} to {found.behind[2][1]:.3f}, d by "
    )


def test_of_two_the_best_is_who_the_paired_test_calls_better() -> None:
    labels, groups = np.zeros(60, np.int64), np.repeat(np.arange(12), 5)
    for other, candidates in ((first([2, 3] * 6, 5), [0]), (first([5] * 11 + [4], 5), [0, 1])):
        found = best_among(
            2, lambda *_, other=other: paired("accuracy", labels, first([5] * 12, 5), other, groups)
        )
        assert found is not None
        assert list(found.candidates) == candidates
    assert found.words(["a", "b"], "accuracy")[0].startswith(
        "At 95 % the best of the 2 cannot be told: a (at"
    )
    assert best_among(2, lambda *_: None) is None


def test_the_chosen_of_several_equal_models_has_an_interval_that_holds() -> None:
    held, ignored = 0, 0
    for seed in range(300):
        labels, guesses, groups = clips(seed, 12, models=10)
        best = guesses[(guesses == labels).mean(1).argmax()]
        found, alone = (
            made("accuracy", labels, best, groups, tries=10),
            made("accuracy", labels, best, groups),
        )
        assert (found.estimate, found.high) == (alone.estimate, alone.high)
        held += found.low <= 0.8 <= found.high
        ignored += alone.low <= 0.8 <= alone.high
    assert held / 300 >= 0.95 > ignored / 300
