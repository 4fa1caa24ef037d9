"""Intervals: against closed forms, under renaming and reordering, and over simulated sets."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, recall_score

from tests.evaluation.simulated import clips, compared, first, left_out, made, squared_error
from vidclf.evaluation import metrics
from vidclf.evaluation.intervals import KNOWN, MEANS, basis, comparable, correlation, interval, mean_interval
from vidclf.evaluation.significance import paired

EVERY = (*KNOWN, "recall/1")


def test_models_are_compared_by_macro_f1_where_no_intervals_are_known() -> None:
    assert [comparable(metric) for metric in KNOWN] == list(KNOWN)
    assert comparable("loss") == "macro_f1"


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
        "group_weighted_accuracy": (one == labels).mean(),  # groups are of one size
        "group_weighted_balanced_accuracy": balanced_accuracy_score(labels, one),
        "group_weighted_macro_f1": f1_score(labels, one, average="macro"),
        "recall/1": recall_score(labels, one, average=None)[1],
    }
    assert {metric: made(metric, labels, one, groups).estimate for metric in EVERY} == pytest.approx(wanted)


def around(share: float, error: float, freedom: float) -> list[float]:
    """Ends of an interval on the logit scale."""
    half = stats.t.ppf(0.975, freedom) * math.sqrt(error) / (share * (1 - share))
    return [1 / (1 + math.exp(-(math.log(share / (1 - share)) + sign * half))) for sign in (-1, 1)]


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
            "macro_precision, macro_recall, macro_f1, weighted_recall, group_weighted_accuracy, "
            "group_weighted_balanced_accuracy, group_weighted_macro_f1, recall/<index>"
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


def folded(seed: int, groups: int, count: int, accuracy: float = 0.8) -> tuple[np.ndarray, ...]:
    """Labels, guesses, groups and folds of whole groups."""
    labels, guesses, names = clips(seed, groups, accuracy)
    return labels, guesses[0], names, np.array([int(name[1:]) % count for name in names])


@pytest.mark.parametrize("metric", EVERY)
def test_of_folds_the_mean_is_meant(metric: str) -> None:
    for seed in range(20):
        labels, guesses, groups, folds = folded(seed, 9, 3)
        labels[folds == 1] %= 2  # a fold without the third class
        parts = [
            metrics.evaluate(labels[part], np.eye(3)[guesses[part]], list("012"), groups[part])
            for part in (folds == fold for fold in range(3))
        ]
        mean = np.mean([part[metric] for part in parts])
        found = made(metric, labels, guesses, groups, folds=folds)
        assert found.estimate == pytest.approx(mean)
        assert found.low <= mean <= found.high
        several = made(metric, labels, np.stack([guesses, labels]), groups, folds=folds)
        assert several.estimate == pytest.approx((mean + 1) / 2)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_of_even_folds_accuracy_is_that_of_all_clips(count: int) -> None:
    """Also where each fold is one group, which by itself says nothing of new groups."""
    labels, guesses, groups, folds = folded(3, 8, count)
    found, whole = (
        made("accuracy", labels, guesses, groups, folds=folds),
        made("accuracy", labels, guesses, groups),
    )
    assert [found.low, found.high] == pytest.approx([whole.low, whole.high])
    there, back = (
        compared("accuracy", labels, guesses, labels, groups, folds=each) for each in (folds, None)
    )
    assert (there.difference, there.low, there.p) == pytest.approx((back.difference, back.low, back.p))


@pytest.mark.parametrize("sizes", [[8] * 12, [40, *[6] * 11]])
def test_groups_weigh_the_same_however_many_clips_they_have(sizes: list[int]) -> None:
    """As if each clip of a small group stood for several: the large one says no more than it."""
    generator = np.random.default_rng(1)
    groups = np.repeat(np.arange(12), sizes)
    labels = generator.integers(0, 3, len(groups))
    guesses = np.where(generator.random(len(labels)) < 0.8, labels, (labels + 1) % 3)
    found = made("group_weighted_accuracy", labels, guesses, groups)
    shares = np.array([(guesses == labels)[groups == group].mean() for group in range(12)])
    assert found.estimate == pytest.approx(shares.mean())
    clips_ = shares.mean() * (1 - shares.mean())
    spread = 0.6 * (1 / np.array(sizes)).sum() / 144 + 0.4 / 12
    weight = len(groups) / 12
    others = (weight * (shares.sum() - shares) + shares.mean()) / (11 * weight + 1)
    error, freedom = squared_error((shares - others) / 12, clips_ * spread)
    assert [found.low, found.high] == pytest.approx(around(shares.mean(), error, freedom))


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
@pytest.mark.parametrize("count", [3, 15])
def test_intervals_of_means_over_folds_hold(metric: str, count: int) -> None:
    held = []
    for seed in range(300):
        labels, guesses, groups, folds = folded(seed, 15, count)
        found = made(metric, labels, guesses, groups, folds=folds)
        held.append(found.low <= 0.8 <= found.high)
    assert 0.93 <= np.mean(held) <= 0.99


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
@pytest.mark.parametrize(("groups", "accuracy"), [(5, 0.95), (12, 0.8), (30, 0.9)])
def test_intervals_hold(metric: str, groups: int, accuracy: float) -> None:
    """As `benchmarks/intervals.py` has it, coarsely; classes are alike, so true macro F1 is accuracy."""
    held = []
    for seed in range(400):
        found = made(metric, *clips(seed, groups, accuracy))
        held.append(found.low <= accuracy <= found.high)
    assert 0.93 <= np.mean(held) <= (0.99 if groups >= 12 else 1)


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
    assert basis("macro_f1", labels, apart, groups) == (
        "for clips of new groups, weighed by clips; from 6 groups of 5 clips, whose outcomes correlate "
        "inside a group by 1.00"
    )
    assert "2 groups of 1 to 29 clips" in basis("recall/1", labels, labels, [0] * 29 + [1])
    assert basis("accuracy", labels, labels, groups).endswith("by an unknown amount")
    assert "weighed by groups;" in basis("group_weighted_accuracy", labels, labels, groups)
