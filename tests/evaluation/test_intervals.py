"""Intervals and comparisons: against closed forms, under renaming and reordering, and over simulated sets."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.stats import permutation_test
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, recall_score

from vidclf.evaluation import intervals, metrics
from vidclf.evaluation.intervals import (
    KNOWN,
    MEANS,
    Interval,
    PairedComparison,
    basis,
    comparable,
    correlation,
    interval,
    mean_interval,
    pair_alpha,
    paired,
    spent_alpha,
)

Labels = NDArray[np.int64]
EVERY = (*KNOWN, "recall/1")
WEIGHT = 3
"""Groups' worth of evidence for the correlation that is expected."""


def test_all_pairs_of_models_share_alpha() -> None:
    assert [pair_alpha(models, 0.06) for models in (1, 2, 3, 4)] == pytest.approx([0.06, 0.06, 0.02, 0.01])


def test_models_are_compared_by_macro_f1_where_no_intervals_are_known() -> None:
    assert [comparable(metric) for metric in KNOWN] == list(KNOWN)
    assert comparable("loss") == "macro_f1"


def clips(
    seed: int, groups: int, accuracy: float = 0.8, models: int = 1, size: int = 8
) -> tuple[Labels, Labels, NDArray[np.str_]]:
    """Labels of three classes, guesses (models, clips), groups that make accuracy differ."""
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), size)
    labels = generator.integers(0, 3, len(group))
    own = generator.beta(4 * accuracy, 4 * (1 - accuracy), (models, groups))[:, group]
    wrong = (labels + generator.integers(1, 3, own.shape)) % 3
    return (
        labels,
        np.where(generator.random(own.shape) < own, labels, wrong),
        np.char.add("g", group.astype(str)),
    )


def made(metric: str, *data: Any, **options: Any) -> Interval:
    found = interval(metric, *data, **options)
    assert found is not None
    return found


def compared(metric: str, *data: Any, **options: Any) -> PairedComparison:
    found = paired(metric, *data, **options)
    assert found is not None
    return found


def test_estimates_are_those_of_sklearn() -> None:
    labels, guesses, groups = clips(0, 6)
    one = guesses[0]
    wanted = {
        "accuracy": (one == labels).mean(),
        "balanced_accuracy": balanced_accuracy_score(labels, one),
        "macro_recall": balanced_accuracy_score(labels, one),
        "weighted_recall": (one == labels).mean(),
        "macro_f1": f1_score(labels, one, average="macro"),
        "macro_precision": precision_score(labels, one, average="macro"),
        "recall/1": recall_score(labels, one, average=None)[1],
    }
    assert {metric: made(metric, labels, one, groups).estimate for metric in EVERY} == pytest.approx(wanted)


def squared_error(influence: NDArray[np.float64], assumed: float) -> tuple[float, float]:
    """Of a metric, and its degrees of freedom, from what each group changes."""
    groups = len(influence)
    squares = (groups - 1) / groups * influence**2
    kurtosis = (squares**2).mean() / squares.mean() ** 2
    freedom = min(max(2 * groups / (kurtosis - 1), 1), groups - 1) if kurtosis > 1 + 1e-9 else groups - 1
    measured = squares.sum() + (groups - 1) / groups * influence.sum() ** 2
    return (freedom * measured + WEIGHT * assumed) / (freedom + WEIGHT), min(freedom + WEIGHT, groups - 1)


def around(share: float, error: float, freedom: float) -> list[float]:
    """Ends of an interval on the logit scale."""
    half = stats.t.ppf(0.975, freedom) * math.sqrt(error) / (share * (1 - share))
    return [1 / (1 + math.exp(-(math.log(share / (1 - share)) + sign * half))) for sign in (-1, 1)]


def left_out(right: NDArray[np.int64], size: int = 4) -> NDArray[np.float64]:
    """Each group's accuracy less that of the others and a clip of average outcome, by its share."""
    clips = size * len(right)
    others = (right.sum() - right + right.sum() / clips) / (clips - size + 1)
    return (right / size - others) * size / clips


def test_an_interval_by_hand() -> None:
    """Six groups of four clips: accuracy by the formula, step by step."""
    right = np.array([4, 4, 3, 2, 4, 1])
    found = made("accuracy", np.zeros(24, np.int64), first(right, 4), np.repeat(list("abcdef"), 4))
    share = 18 / 24
    error, freedom = squared_error(left_out(right), share * (1 - share) * (0.6 / 24 + 0.4 / 6))
    assert freedom == 5
    assert [found.low, found.high] == pytest.approx(around(share, error, freedom))


def test_one_group_with_all_mistakes_leaves_few_degrees_of_freedom() -> None:
    right = np.array([4] * 11 + [0])
    found = made("accuracy", np.zeros(48, np.int64), first(right, 4), np.repeat(list("abcdefghijkl"), 4))
    share = 44 / 48
    error, freedom = squared_error(left_out(right), share * (1 - share) * (0.6 / 48 + 0.4 / 12))
    assert 5 < freedom < 7
    assert [found.low, found.high] == pytest.approx(around(share, error, freedom))


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_precision"])
def test_classes_of_one_group_are_measured_from_the_average(metric: str) -> None:
    """Each class has one group, which its own mean says nothing of."""
    right = np.array([10, 4, 8, 9, 5, 7])
    labels = np.repeat(np.arange(6), 10)
    guesses = np.where(first(right) == 0, labels, 6)  # mistaken for a class that has no clips
    found = made(metric, labels, guesses, np.repeat(list("abcdef"), 10))
    if metric == "macro_precision":
        assert (found.estimate, found.high) == (1.0, 1.0)
        return
    share = right.mean() / 10
    error, freedom = squared_error((right / 10 - share) / 6, share * (1 - share) * (0.6 / 60 + 0.4 / 6))
    assert [found.low, found.high] == pytest.approx(around(share, error, freedom))


@pytest.mark.parametrize("count", [5, 6])
def test_all_right_is_no_certainty(count: int) -> None:
    labels, _, groups = clips(0, count)
    found = made("accuracy", labels, labels, groups)
    effective = 1 / (0.6 / (8 * count) + 0.4 / count)
    quantile = stats.t.ppf(0.975, count - 1)
    assert (found.estimate, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(effective / (effective + quantile**2))
    wrong = made("accuracy", labels, (labels + 1) % 3, groups)
    assert (wrong.low, wrong.high) == pytest.approx((0.0, 1 - found.low))


def test_four_groups_say_nothing() -> None:
    labels, guesses, groups = clips(1, 6)
    two = np.isin(groups, ["g0", "g1", "g2", "g3"])
    assert interval("accuracy", labels[two], guesses[:, two], groups[two]) is None
    assert paired("accuracy", labels[two], guesses[0, two], guesses[0, two], groups[two]) is None
    probabilities = np.eye(3)[guesses[0]]
    assert mean_interval("loss", labels[two], probabilities[two], groups[two]) is None
    assert mean_interval("top5_accuracy", labels, probabilities, groups) is None  # of three classes
    for metric in KNOWN:
        assert interval(metric, labels[:0], guesses[:, :0], groups[:0]) is None
    labels[~two] = 0
    labels[two] = 1
    assert interval("recall/1", labels, guesses, groups) is None
    assert interval("recall/2", labels, guesses, groups) is None
    for metric in ("loss", "recall/Punch"):
        with pytest.raises(ValueError, match="no interval") as caught:
            interval(metric, labels, guesses, groups)
        assert str(caught.value) == (
            f"no interval is known for {metric}: there are accuracy, balanced_accuracy, "
            "macro_precision, macro_recall, macro_f1, weighted_recall, recall/<index>"
        )


def test_equal_groups_by_luck_are_no_certainty() -> None:
    guesses = np.tile([0, 0, 0, 1], 5)
    found = made("accuracy", np.zeros(20, np.int64), guesses, np.repeat(list("abcde"), 4))
    assert found.high - found.low > 0.25


@settings(max_examples=60)
@given(
    st.integers(0, 10**6),
    st.integers(3, 15),
    st.sampled_from([0.2, 0.6, 0.9, 0.99, 1.0]),
    st.sampled_from(EVERY),
    st.integers(1, 3),
)
def test_what_holds_of_every_set(seed: int, groups: int, accuracy: float, metric: str, repeats: int) -> None:
    labels, guesses, names = clips(seed, groups, min(accuracy, 0.999), 2 * repeats, size=3)
    if accuracy == 1.0:
        guesses[:] = labels
    one, other = guesses[:repeats], guesses[repeats:]
    order = np.random.default_rng(seed).permutation(len(labels))
    fresh = np.random.default_rng(seed).permutation(groups)
    renamed = np.array([f"{fresh[int(name[1:])]:04}" for name in names])

    found = interval(metric, labels, one, names)
    moved = interval(metric, labels[order], one[:, order], renamed[order])
    if found is None or moved is None:
        assert found is moved
        return
    assert 0 <= found.low <= found.estimate <= found.high <= 1
    assert found.low < found.high
    assert (moved.low, moved.estimate, moved.high) == pytest.approx((found.low, found.estimate, found.high))
    wider = made(metric, labels, one, names, confidence=0.99)
    assert wider.low <= found.low and wider.high >= found.high

    there, back = compared(metric, labels, one, other, names), compared(metric, labels, other, one, names)
    assert (there.difference, there.low, there.high) == pytest.approx(
        (-back.difference, -back.high, -back.low)
    )
    assert there.p == back.p
    turned = {"better": "worse", "worse": "better", "cannot tell": "cannot tell"}
    assert back.verdict == turned[there.verdict]
    again = compared(metric, labels[order], one[:, order], other[:, order], renamed[order])
    assert (again.p, again.low, again.verdict) == (
        pytest.approx(there.p), pytest.approx(there.low, abs=1e-12), there.verdict,
    )  # fmt: skip
    assert -1 <= there.low <= there.difference <= there.high <= 1
    assert (there.verdict != "cannot tell") == (there.p < 0.05)
    assert (there.low > 0) <= (there.verdict == "better")


def test_repeats_are_averaged() -> None:
    labels, guesses, groups = clips(2, 8, models=3)
    each = [made("macro_f1", labels, one, groups).estimate for one in guesses]
    assert made("macro_f1", labels, guesses, groups).estimate == pytest.approx(np.mean(each))
    same, one = (
        made("macro_f1", labels, guesses, groups) for guesses in (np.stack([guesses[0]] * 3), guesses[0])
    )
    assert (same.low, same.high) == pytest.approx((one.low, one.high))


def first(hits: Sequence[int] | NDArray[np.int64], size: int = 10) -> Labels:
    """Guesses for groups of ``size`` clips of class 0: the first ``hits`` of each are right."""
    return np.concatenate([np.arange(size) >= count for count in hits]).astype(np.int64)


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
    p = intervals.sign_flip_p(differences, 0.05)
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=0.15)
    assert intervals.sign_flip_p(-generator.permutation(differences), 0.05) == p
    assert intervals.sign_flip_p(differences, 0.001) == pytest.approx(p, rel=0.15)  # five times as many


def test_flips_are_all_tried_up_to_fourteen_groups_and_never_give_0() -> None:
    assert intervals.sign_flip_p(np.ones(14), 0.05) == 2 / 2**14
    assert intervals.sign_flip_p(np.ones(40), 0.05) == 1 / 10_001


@given(st.integers(1, 500), st.floats(0.001, 0.5))
def test_spent_alphas_never_exceed_the_whole(reads: int, alpha: float) -> None:
    assert math.fsum(spent_alpha(read, alpha) for read in range(1, reads + 1)) <= alpha
    assert spent_alpha(1, alpha) == alpha / 2


def test_reads_count_from_one() -> None:
    assert spent_alpha(3) == pytest.approx(0.05 / 12)
    with pytest.raises(ValueError, match="from 1"):
        spent_alpha(0)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
@pytest.mark.parametrize(("groups", "accuracy"), [(5, 0.95), (12, 0.8), (30, 0.9)])
def test_intervals_hold(metric: str, groups: int, accuracy: float) -> None:
    """As `benchmarks/intervals.py` has it, coarsely; classes are alike, so true macro F1 is accuracy."""
    held = []
    for seed in range(400):
        found = made(metric, *clips(seed, groups, accuracy))
        held.append(found.low <= accuracy <= found.high)
    assert 0.93 <= np.mean(held) <= (0.99 if groups >= 12 else 1)


def test_equal_models_are_seldom_told_apart() -> None:
    told = 0
    for seed in range(800):
        labels, guesses, groups = clips(seed, 12, models=2)
        told += compared("macro_f1", labels, guesses[0], guesses[1], groups).verdict != "cannot tell"
    assert told / 800 <= 0.065


def contests(
    seed: int, sizes: Sequence[int], nested: bool
) -> tuple[Labels, Labels, NDArray[np.bool_], NDArray[np.bool_]]:
    """Labels, groups, and where two models are right that find different groups hard."""
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    own = generator.beta(1.6, 0.4, (2, len(sizes)))[:, group]  # 0.8, correlation 1/3
    right = generator.random(own.shape) < own
    return (group if nested else generator.integers(0, 3, len(group))), group, right[0], right[1]


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


def test_intervals_of_means_of_clips() -> None:
    labels, _, groups = clips(0, 12)
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(len(labels), 4)) + 2 * np.eye(4)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert set(MEANS) == {"loss", "top3_accuracy", "top5_accuracy"}
    for metric in ("loss", "top3_accuracy"):
        found = mean_interval(metric, labels, probabilities, groups)
        assert found is not None
        assert found.estimate == pytest.approx(metrics.evaluate(labels, probabilities, list("abcd"))[metric])
        assert 0 < found.low < found.estimate < found.high
    loss = mean_interval("loss", labels, probabilities, groups)
    assert loss is not None
    assert loss.high / loss.estimate == pytest.approx(loss.estimate / loss.low)


def test_correlation_inside_groups() -> None:
    groups = np.repeat(np.arange(6), 5)
    labels = np.zeros(30, np.int64)
    apart = np.repeat([0, 1, 0, 1, 0, 1], 5)
    assert correlation(labels, apart, groups) == pytest.approx(1)
    # Each group has as many right: less alike than by chance.
    assert correlation(labels, np.tile([0, 0, 0, 0, 1], 6), groups) == pytest.approx(-1 / 4)
    for guesses, known in ((labels, groups), (apart, np.arange(30)), (apart, groups % 4)):
        assert correlation(labels, guesses, known) is None
    assert basis(labels, apart, groups) == (
        "for clips of new groups, weighed by clips; from 6 groups of 5 clips, whose outcomes correlate "
        "inside a group by 1.00"
    )
    assert "2 groups of 1 to 29 clips" in basis(labels, labels, [0] * 29 + [1])
    assert basis(labels, labels, groups).endswith("by an unknown amount")


@pytest.mark.parametrize("groups", [4, 7])
def test_sign_flips_are_scipys_permutation_test(groups: int) -> None:
    for seed in range(5):
        differences = np.random.default_rng(seed).normal(0.3, 1, groups)
        expected = permutation_test(
            (differences,), lambda values, axis: np.abs(values.sum(axis=axis)), permutation_type="samples",
            alternative="greater", vectorized=True, n_resamples=np.inf,
        )  # fmt: skip
        assert intervals.sign_flip_p(differences, 0.05) == pytest.approx(expected.pvalue)
