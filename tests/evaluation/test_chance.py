"""What models reach without signal."""

import itertools

import numpy as np
import pytest

from vidclf.evaluation import metrics
from vidclf.evaluation.chance import by_chance

GROUPS = np.repeat(np.arange(12), 6)
LABELS = np.tile([0, 0, 1, 1, 2, 2], 12)


def noise(models: int, seed: int) -> np.ndarray:
    """Predictions that know groups and no class: two clips of a group and class are called alike."""
    return np.repeat(np.random.default_rng(seed).integers(0, 3, (models, 36)), 2, axis=1)


def test_the_level_of_three_even_classes_is_a_third_and_not_what_the_majority_gets() -> None:
    found = by_chance("macro_f1", LABELS, noise(1, 0), GROUPS.astype(str).tolist())
    assert found.level == pytest.approx(1 / 3, abs=0.02)
    assert by_chance(
        "accuracy", LABELS, np.zeros((1, 72), dtype=np.int64), GROUPS.tolist()
    ).level == pytest.approx(1 / 3)


@pytest.mark.parametrize(("models", "nested"), [(1, False), (20, False), (1, True), (20, True)])
def test_noise_is_rarely_better_than_chance_however_many_tries(models: int, nested: bool) -> None:
    labels = np.repeat(np.arange(12) % 3, 6) if nested else LABELS
    found = [by_chance("macro_f1", labels, noise(models, seed), GROUPS.tolist()).p for seed in range(60)]
    assert np.mean(np.array(found) < 0.05) <= 0.12  # 5 % of 60, and three standard errors


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_the_level_is_of_the_mean_over_folds(metric: str) -> None:
    """Folds of few clips have another level than all clips together: that of their own mean."""
    folds = GROUPS % 4
    guesses = noise(1, 3)
    found = by_chance(metric, LABELS, guesses, GROUPS.tolist(), folds)
    levels = [
        by_chance(metric, LABELS[part], guesses[:, part], GROUPS[part].tolist()).level
        for part in (folds == fold for fold in range(4))
    ]
    assert found.level == pytest.approx(np.mean(levels), abs=0.01)
    if metric == "macro_f1":
        assert by_chance(metric, LABELS, guesses, GROUPS.tolist()).level - found.level > 0.01


def test_where_groups_weigh_the_same_a_large_one_changes_no_level() -> None:
    """Twelve groups of one class each exchange their classes, one has half of all clips."""
    labels = np.concatenate([np.zeros(66, np.int64), np.repeat(np.arange(11) % 3, 6)])
    groups, always = np.repeat(np.arange(12), [66] + [6] * 11), np.zeros((1, 132), np.int64)
    found = by_chance("group_weighted_accuracy", labels, always, groups.tolist())
    assert (found.level, found.p) == (pytest.approx(5 / 12), 1.0)
    assert by_chance("accuracy", labels, always, groups.tolist()).p < 0.6


def test_a_good_model_among_poor_ones_is_seen() -> None:
    guesses = np.concatenate([noise(20, 0), LABELS[None]])
    assert by_chance("macro_f1", LABELS, guesses, GROUPS.tolist()).p == 0.001


def test_the_permutations_are_those_of_a_groups_classes() -> None:
    labels, groups = np.array([0, 0, 1, 1, 2, 2]), ["g"] * 6
    guesses = np.array([[0, 0, 1, 0, 2, 2]])
    scores = [
        metrics.evaluate(
            np.array([names[label] for label in labels]), np.eye(3)[guesses[0]], ["a", "b", "c"]
        )["balanced_accuracy"]
        for names in itertools.permutations(range(3))
    ]
    found = by_chance("balanced_accuracy", labels, guesses, groups)
    assert found.level == pytest.approx(np.mean(scores), abs=0.02)
    assert found.p == pytest.approx(np.mean(np.array(scores) >= max(scores)), abs=0.04)
