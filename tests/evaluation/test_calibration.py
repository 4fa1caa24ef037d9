"""Temperatures: found again, kept only where they help other groups, harmless to labels."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax

from vidclf.data.clips import ClipSet
from vidclf.evaluation import metrics
from vidclf.evaluation.calibration import BOUNDS, apply_temperature, calibrate, fit_temperature
from vidclf.exceptions import InputError
from vidclf.models.saved import CARD, ModelMetadata, SavedModel, read_card, write_card

Labels = NDArray[np.int64]


def drawn(
    clips: int, temperature: float, seed: int = 0, classes: int = 4
) -> tuple[Labels, NDArray[np.float64], list[str]]:
    """Labels drawn from honest probabilities, those a model ``temperature`` times too sure gives, groups."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (clips, classes))
    honest = softmax(logits, axis=1)
    labels = (generator.random(clips)[:, None] > honest.cumsum(axis=1)[:, :-1]).sum(axis=1)
    return labels, softmax(logits * temperature, axis=1), [f"g{index % 30}" for index in range(clips)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found_again(temperature: float) -> None:
    labels, probabilities, groups = drawn(6000, temperature)
    assert fit_temperature(labels, probabilities) == pytest.approx(temperature, rel=0.06)
    found = calibrate(labels, probabilities, groups)
    if temperature != 1.0:
        assert found.temperature == pytest.approx(temperature, rel=0.06)
        assert found.effect["calibration/loss_after"] < found.effect["calibration/loss_before"]
        assert found.effect["calibration/ece_after"] < 0.03 < found.effect["calibration/ece_before"]
    assert found.effect["calibration/temperature"] == found.temperature


def test_the_effect_is_that_on_other_groups() -> None:
    labels, probabilities, _ = drawn(120, 3.0)
    groups = ["a", "b", "c"] * 40
    found = calibrate(labels, probabilities, groups)
    assert found.crossed is not None
    for name in "abc":
        inside = np.array(groups) == name
        temperature = fit_temperature(labels[~inside], probabilities[~inside])
        np.testing.assert_allclose(
            found.crossed[inside], apply_temperature(probabilities[inside], temperature)
        )
    assert found.effect["calibration/loss_before"] == metrics.cross_entropy(labels, probabilities)
    assert found.effect["calibration/loss_after"] == metrics.cross_entropy(labels, found.crossed)


def test_what_helps_no_other_group_is_not_kept() -> None:
    """One group asks for more sureness, the other for less."""
    probabilities = np.tile([[0.8, 0.2]], (20, 1))
    labels = np.array([0] * 10 + [1] * 10)
    found = calibrate(labels, probabilities, ["a"] * 10 + ["b"] * 10)
    assert found.temperature == found.effect["calibration/temperature"] == 1.0
    assert found.effect["calibration/loss_after"] > found.effect["calibration/loss_before"]


def test_one_group_proves_nothing() -> None:
    labels, probabilities, _ = drawn(50, 3.0)
    found = calibrate(labels, probabilities, ["a"] * 50)
    assert (found.temperature, found.crossed) == (1.0, None)
    assert found.effect == {"calibration/temperature": 1.0}


def test_eight_of_eight_are_no_proof_of_certainty() -> None:
    temperature = fit_temperature(np.zeros(8, np.int64), np.tile([[0.6, 0.4]], (8, 1)))
    # Platt's target: 9 of 10.
    assert apply_temperature(np.array([[0.6, 0.4]]), temperature)[0, 0] == pytest.approx(0.9, abs=1e-3)


def test_certain_and_missing_probabilities_stay_finite() -> None:
    labels = np.array([0, 1, 1, 0])
    probabilities = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert BOUNDS[0] <= fit_temperature(labels, probabilities) <= BOUNDS[1]
    assert np.isfinite(apply_temperature(probabilities, 20.0)).all()
    assert fit_temperature(labels[:0], probabilities[:0]) == 1.0


@given(st.floats(*BOUNDS), st.integers(0, 1000))
def test_labels_never_change(temperature: float, seed: int) -> None:
    _, probabilities, _ = drawn(20, 1.0, seed)
    scaled = apply_temperature(probabilities, temperature)
    np.testing.assert_allclose(scaled.sum(axis=1), 1)
    np.testing.assert_array_equal(metrics.predicted(scaled), metrics.predicted(probabilities))
    np.testing.assert_array_equal(apply_temperature(probabilities, 1.0), probabilities)


class Fixed:
    """A classifier whose answer is known."""

    def predict_proba(self, clips: ClipSet) -> NDArray[np.float64]:
        return np.tile([[0.9, 0.1]], (len(clips), 1))


def card(**fields: Any) -> ModelMetadata:
    return ModelMetadata("svm", ("a", "b"), 8, 64, {}, (("sha", "g"),), {}, **fields)


def test_a_saved_model_answers_scaled_probabilities(tmp_path: Path) -> None:
    write_card(card(temperature=2.0), tmp_path)
    saved = SavedModel(read_card(tmp_path), Fixed())  # type: ignore[arg-type]
    # Half the logit: odds of 9 become odds of 3.
    np.testing.assert_allclose(saved.predict([Path("x.avi")]), [[0.75, 0.25]])


def test_cards_of_before_are_unscaled_and_impossible_ones_refused(tmp_path: Path) -> None:
    write_card(card(), tmp_path)
    fields = json.loads((tmp_path / CARD).read_text())
    del fields["temperature"]
    (tmp_path / CARD).write_text(json.dumps(fields))
    assert read_card(tmp_path) == card(temperature=1.0)
    for value in (0.0, -1, 1e9, math.nan, "two", None):
        (tmp_path / CARD).write_text(json.dumps({**fields, "temperature": value}))
        with pytest.raises(
            InputError, match=r"vidclf\.json: (temperature = .* is not between|damaged: temp)"
        ):
            read_card(tmp_path)
