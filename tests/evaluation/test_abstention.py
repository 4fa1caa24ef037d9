"""When a model says nothing: the confidence chosen, and what that is worth on clips of new groups."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidclf.evaluation.abstention import abstention, answered_metrics, least_confidence

LABELS = np.zeros(30, dtype=np.int64)


def saying(confidences: list[float], wrong: list[int]) -> np.ndarray:
    """Probabilities of two classes, the predicted one of the confidence given."""
    rows = np.array([[sure, 1 - sure] for sure in confidences])
    rows[wrong] = rows[wrong, ::-1]
    return rows


def test_the_least_confidence_that_keeps_to_the_error() -> None:
    """Of the 22 surest one is wrong: (1 + 1) / (22 + 1) < 0.1; a second wrong one follows."""
    sure = [0.99 - 0.01 * place for place in range(30)]
    probabilities = saying(sure, [5, 22, 23, 24, 25, 26])
    assert least_confidence(LABELS, probabilities, 0.1) == pytest.approx(sure[21])
    assert least_confidence(LABELS, probabilities, 0.3) == pytest.approx(sure[29])


def test_equal_confidences_are_answered_together_or_not_at_all() -> None:
    probabilities = saying([0.9] * 20 + [0.8] * 10, [25, 26, 27, 28, 29])
    assert least_confidence(LABELS, probabilities, 0.1) == 0.9
    assert least_confidence(LABELS, probabilities, 0.2) == 0.8


def test_few_right_answers_prove_no_small_error() -> None:
    right = saying([0.9] * 18, [])
    assert least_confidence(LABELS[:18], right, 0.05) is None
    assert least_confidence(LABELS[:19], saying([0.9] * 19, []), 0.05) == 0.9
    assert abstention(LABELS[:18], right, ["g"] * 18, 0.05) is None


def test_each_group_is_judged_by_what_the_others_ask_for() -> None:
    """The mistakes of group b are confident: the others would let it answer, and it would be wrong."""
    probabilities = saying([0.9] * 20 + [0.85] * 10, [20, 21])
    found = abstention(LABELS, probabilities, ["a"] * 10 + ["c"] * 10 + ["b"] * 10, 0.1)
    assert found is not None
    assert found.confidence == 0.85
    assert found.coverage == pytest.approx(20 / 30)  # by groups a and c alone, 0.9 is asked for
    assert found.error == 0
    assert found.metrics() == {
        "abstain/confidence": 0.85,
        "abstain/coverage": pytest.approx(20 / 30),
        "abstain/error": 0.0,
    }
    alone = abstention(LABELS, probabilities, ["a"] * 30, 0.1)
    assert alone is not None
    assert (alone.coverage, alone.error) == (None, None)


@given(
    st.lists(st.tuples(st.floats(0.5, 1), st.booleans()), min_size=1, max_size=60),
    st.sampled_from([0.1, 0.4]),
)
def test_what_is_chosen_keeps_to_the_error_on_its_own_clips(
    clips: list[tuple[float, bool]], error: float
) -> None:
    wrong = [place for place, (_, right) in enumerate(clips) if not right]
    probabilities = saying([sure for sure, _ in clips], wrong)
    labels = np.where([right or sure > 0.5 for sure, right in clips], 0, 1)
    chosen = least_confidence(labels, probabilities, error)
    if chosen is not None:
        answered = probabilities.max(axis=1) >= chosen
        assert (probabilities.argmax(axis=1) != labels)[answered].mean() <= error


def test_on_new_groups_it_keeps_its_promise() -> None:
    """Confidence that means what it says: 300 sets of 40 clips, the error on 1000 others."""
    generator = np.random.default_rng(0)
    errors = []
    for _ in range(300):
        sure = generator.uniform(0.5, 1, 1040)
        rows = saying(list(sure), list(np.flatnonzero(generator.uniform(size=1040) > sure)))
        labels = np.zeros(1040, dtype=np.int64)
        chosen = least_confidence(labels[:40], rows[:40], 0.2)
        if chosen is not None:
            answered = rows[40:].max(axis=1) >= chosen
            errors.append((rows[40:].argmax(axis=1) != 0)[answered].mean())
    assert len(errors) > 250
    assert np.mean(errors) < 0.2


def test_coverage_and_error_on_test_have_intervals() -> None:
    groups = [f"g{place // 5}" for place in range(30)]
    probabilities = saying([0.9] * 25 + [0.6] * 5, [0, 1, 29])
    found = answered_metrics(LABELS, probabilities, groups, 0.7)
    assert found["coverage"] == pytest.approx(25 / 30)
    assert found["answered_error"] == pytest.approx(2 / 25)
    assert found["coverage_low"] < 25 / 30 < found["coverage_high"]
    assert found["answered_error_low"] < 2 / 25 < found["answered_error_high"] < 1
    few = answered_metrics(LABELS, probabilities, ["g"] * 30, 0.7)
    assert set(few) == {"coverage", "answered_error"}
    assert "answered_error" not in answered_metrics(LABELS, probabilities, groups, 0.95)
