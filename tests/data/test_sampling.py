"""Which frames of a clip are taken, and the times that decide it."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidclf.data.sampling import Clock, frame_times, grid_indices, later_indices, sample_indices

increasing = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=120).map(np.cumsum)


@given(increasing, st.integers(1, 100))
def test_grid_frames_are_the_last_that_begin_at_or_before_their_instant(times: np.ndarray, grid: int) -> None:
    indices = grid_indices(times, grid)
    if len(indices) < grid:  # a constant rate, to which each frame is nearer than to a neighbour's place
        assert indices.tolist() == list(range(len(times)))
        even = np.linspace(times[0], times[-1], len(times))
        assert len(times) < 3 or (np.abs(times - even) < 0.25 * (even[1] - even[0])).all()
        return
    assert len(indices) == grid
    assert (np.diff(indices) >= 0).all()
    if len(times) > grid or indices.tolist() != list(range(grid)):
        assert indices.tolist() == midpoints(times, grid)


def midpoints(times: np.ndarray, grid: int) -> list[int]:
    """The frames at the middles of equal parts of the duration, frame by frame."""
    length = times[-1] - times[0] + np.median(np.diff(times))
    instants = [times[0] + (part + 0.5) / grid * length for part in range(grid)]
    return [max(index for index, time in enumerate(times) if time <= instant) for instant in instants]


@given(
    rate=st.sampled_from([5, 10, 12, 15, 24, 24000 / 1001, 25, 30000 / 1001, 30, 50, 60, 100]),
    tick=st.sampled_from([1e-6, 1 / 90000, 1 / 12800, 0.001]),
    frames=st.integers(1, 130),
    grid=st.integers(1, 100),
    start=st.integers(0, 10**6),
)
def test_a_constant_rate_has_the_frames_that_it_always_had(
    rate: float, tick: float, frames: int, grid: int, start: int
) -> None:
    """Up to the grid all of a clip's, however its container rounds times; of more those at midpoints."""
    times = np.round(np.arange(frames) / rate / tick) * tick + start * tick
    expected = list(range(frames)) if frames <= grid else midpoints(times, grid)
    assert grid_indices(times, grid).tolist() == expected


@given(st.integers(2, 40), st.integers(2, 40), st.floats(2, 30))
def test_a_few_frames_more_or_less_than_the_grid_are_taken_alike(
    before: int, after: int, still: float
) -> None:
    """Around a still, what the grid shows at an instant is what the clip shows then."""
    times = np.concatenate([np.arange(before), before + 25 * still + np.arange(after)]) / 25
    for grid in (before + after - 1, before + after, before + after + 1):
        assert grid_indices(times, grid).tolist() == midpoints(times, grid)


def mended(
    stamps: Sequence[float | None], rate: float = 25, *, resettable: bool = True
) -> list[float | None]:
    clock = Clock(rate, resettable=resettable)
    return [clock.time(stamp) for stamp in stamps]


@given(st.lists(st.integers(1, 200), min_size=1, max_size=40), st.integers(-(10**6), 10**6), st.data())
def test_a_clock_runs_on_by_its_last_step_where_it_was_set_anew(
    steps: list[int], jump: int, data: st.DataObject
) -> None:
    times = np.concatenate([[0], np.cumsum(steps)]) / 25
    place = data.draw(st.integers(1, len(steps)))
    times[place:] += jump
    step = times[place] - times[place - 1]
    expected = times.copy()
    usual = steps[place - 2] / 25 if place > 1 else 1 / 25
    if step < -0.1 or step > usual + 10:
        expected[place:] += usual - step
    assert mended(times.tolist()) == pytest.approx(expected.tolist(), abs=1e-6)
    assert mended(times.tolist(), resettable=False) == pytest.approx(
        expected.tolist() if step < -3600 or step > usual + 3600 else times.tolist(), abs=1e-6
    )


def test_frames_without_a_timestamp_leave_the_clock_as_it_is() -> None:
    clock = Clock(25, resettable=True)
    assert [clock.time(stamp) for stamp in (0.0, None, 0.08, 100.0, None, 100.08)] == pytest.approx(
        [0.0, None, 0.08, 0.16, None, 0.24]
    )
    assert clock.jumps == [2]


@given(st.lists(st.none() | st.floats(-10, 10), min_size=1, max_size=30), st.floats(1, 120))
def test_times_are_timestamps_only_where_they_can_be_true(stamps: list[float | None], rate: float) -> None:
    times = frame_times(stamps, rate)
    assert (np.diff(times) > 0).all()
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) == len(stamps) and all(a < b for a, b in pairwise(known)):
        assert times.tolist() == known
    else:
        assert times.tolist() == pytest.approx([index / rate for index in range(len(stamps))])


def test_false_timestamps_give_way_to_the_rate() -> None:
    assert frame_times([1, 2, 4, 3, 5], 10).tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@given(st.integers(1, 100), st.integers(1, 100), st.none() | st.integers(0, 3))
def test_samples_take_one_frame_of_each_part(available: int, frames: int, seed: int | None) -> None:
    generator = None if seed is None else np.random.default_rng(seed)
    indices = sample_indices(available, frames, generator)
    assert len(indices) == frames
    assert (np.diff(indices) >= 0).all()
    assert indices.min() >= 0
    assert indices.max() < available
    if available <= frames:
        assert indices.tolist() == [*range(available), *[available - 1] * (frames - available)]
    else:
        for part, index in enumerate(indices):
            assert part * available // frames <= index <= ((part + 1) * available - 1) // frames


def test_samples_are_midpoints_without_jitter() -> None:
    assert sample_indices(64, 4).tolist() == [8, 24, 40, 56]
    assert sample_indices(3, 5).tolist() == [0, 1, 2, 2, 2]


@given(times=increasing, seconds=st.floats(0.01, 2.0), data=st.data())
def test_the_later_frame_is_the_nearest_to_its_instant_but_never_the_same(
    times: np.ndarray, seconds: float, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(times) - 1))
    [later] = later_indices(times, np.array([index]), seconds)
    assert later > index or index == later == len(times) - 1
    if later > index + 1:
        distances = np.abs(times - (times[index] + seconds))
        assert distances[later] == pytest.approx(distances.min())
