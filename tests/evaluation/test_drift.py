"""New clips beside known ones: alarms as seldom as promised, and seen where something has changed."""

from dataclasses import replace

import numpy as np
import pytest

from vidclf.evaluation.drift import WatchedClips, drift


def clips(groups: int, rng: np.random.Generator, shift: float = 0.0, alike: float = 0.6) -> WatchedClips:
    """Six clips a group, which share so much of their variance; three classes."""
    member = np.repeat(np.arange(groups), 6)
    seen = rng.normal(0, alike**0.5, (groups, 5))[member] + rng.normal(0, (1 - alike) ** 0.5, (6 * groups, 5))
    seen += shift
    scores = np.exp(2 * seen[:, :3])
    return WatchedClips(scores / scores.sum(axis=1, keepdims=True), seen, [f"g{each}" for each in member])


@pytest.mark.slow
@pytest.mark.parametrize(("known", "new"), [(12, 6), (20, 3)])
def test_nothing_has_changed_and_alarms_are_as_seldom_as_asked(known: int, new: int) -> None:
    rng = np.random.default_rng(0)
    alarms = [drift(clips(known, rng), clips(new, rng)).alarm(0.2) for _ in range(60)]
    assert np.mean([alarm is True for alarm in alarms]) <= 0.3  # 2 deviations above 0.2
    assert None not in alarms


def test_a_change_of_any_kind_is_seen_where_it_is() -> None:
    rng = np.random.default_rng(0)
    known = clips(15, rng)
    moved = clips(8, rng, shift=1.5)
    surer = replace(clips(8, rng), probabilities=np.tile([0.99, 0.005, 0.005], (48, 1)))
    assert drift(known, moved).alarm(0.01) is True
    found = {each.what: each for each in drift(known, surer).differences}
    assert found["confidence"].p <= 0.01
    assert found["classes"].p <= 0.01
    assert found["appearance"].p > 0.05
    said = known.probabilities.argmax(axis=1)
    assert found["classes"].distance == pytest.approx((said != 0).mean())
    assert found["confidence"].distance == pytest.approx((known.probabilities.max(axis=1) < 0.99).mean())


def test_clips_of_one_group_are_one_piece_of_evidence() -> None:
    rng = np.random.default_rng(0)
    known, new = clips(12, rng), clips(1, rng, shift=5.0)
    assert drift(known, new).least_p == pytest.approx(1 / 13)
    assert drift(known, new).alarm(0.05) is None
    apart = replace(new, groups=[f"n{number}" for number in range(6)])
    assert drift(known, apart).alarm(0.05) is True
    assert drift(known, apart).groups == (12, 6)
