"""Which clips share what they show: local features that agree in place, by an index and not pair by pair."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

from vidclf.data.fingerprints import MOMENT_SIDE, Fingerprint

_LIKE = 0.9
"""Likeness of two descriptors from which on they may show one thing."""
_TOPICS, _WORD_SIZE = 64, 30
"""Descriptors that all features are divided by at first, and features for each of the words that divide them
further: only features of one word are compared."""
_TOPICS_OF_EACH, _WORDS_OF_EACH = 2, 2
"""Topics of a feature, and its words in each of them."""
_TURN, _GROWTH = np.radians(30), 1.0
"""How far directions and sizes (log2) of features that show one thing differ from clip to clip, at most."""
_SHIFT = 0.25
"""How far apart, in short sides, they may place the other picture's middle."""
_SIZES, _SHIFTS = 4, 12
"""Steps of growth and of shift that are looked through."""
_BLOCK, _CHUNK = 200, 4096
"""Clips that are compared with all later ones at once, and pairs of clips that are looked at together: they
bound the memory."""
_FEWEST = 4
"""Places that must agree before two pictures are laid over each other."""
_TOLERANCE = 0.02
"""Distance in short sides up to which places agree."""
_SCALES = 0.4, 2.5
"""How much smaller or larger one picture may show the other's content."""
_CELLS = 12
"""Cells of a short side: agreeing places count once a cell, so that a logo or a face weighs little."""
_STRETCHES = np.geomspace(0.5, 2, 13)
"""How much faster one clip may run through its grid than the other does."""
_OVERLAP = 0.4
"""Share of the grid that two clips must have in common to be judged by it."""
_NOISE = 2.0
"""Gray values that coding alone changes."""


@dataclass(frozen=True)
class SharedView:
    """Two clips that show one thing in one place.

    Attributes:
        a: Place of the first in the list of fingerprints.
        b: Of the second, a larger one.
        cells: Different places that agree.
        transform: From the first's places to the second's, (2, 3).
        mirrored: Whether the second was mirrored first.
    """

    a: int
    b: int
    cells: int
    transform: NDArray[np.float64]
    mirrored: bool


def shared_views(prints: Sequence[Fingerprint]) -> Iterator[SharedView]:
    """All pairs of clips whose features agree, compared as they are, then with the second one mirrored."""
    owner = np.repeat(np.arange(len(prints)), [len(each.points) for each in prints])
    if not len(owner):
        return
    features = _stacked(prints)
    words = _Words(features.descriptors)
    left = words.members(features.descriptors)
    for mirrored in (False, True):
        others = _stacked([each.mirrored() for each in prints]) if mirrored else features
        right = words.members(others.descriptors) if mirrored else left
        for first in range(0, len(prints), _BLOCK):
            here = [each[(owner[each] >= first) & (owner[each] < first + _BLOCK)] for each in left]
            there = [each[owner[each] > first] for each in right]
            pairs = _alike(features.descriptors, others.descriptors, here, there, owner)
            for one, other in _candidates(features, others, pairs, owner):
                cells, transform = _laid_over(features.points[one], others.points[other])
                if cells >= _FEWEST:
                    yield SharedView(int(owner[one[0]]), int(owner[other[0]]), cells, transform, mirrored)


@dataclass(frozen=True)
class _Features:
    """Those of all clips, one below the other; as of `Fingerprint`."""

    points: NDArray[np.float32]
    poses: NDArray[np.float32]
    descriptors: NDArray[np.float32]


def _stacked(prints: Sequence[Fingerprint]) -> _Features:
    names = [item.name for item in fields(_Features)]
    return _Features(**{name: np.concatenate([getattr(each, name) for each in prints]) for name in names})


class _Words:
    """An index of descriptors in two levels: topics, and words of each topic, all drawn from the descriptors.

    Args:
        descriptors: Those that are indexed, float32 (n, 128).
    """

    def __init__(self, descriptors: NDArray[np.float32]) -> None:
        generator = np.random.default_rng(0)
        drawn = generator.permutation(len(descriptors))
        self._topics = descriptors[drawn[:_TOPICS]]
        drawn = drawn[: max(_TOPICS, len(descriptors) // _WORD_SIZE)]
        [nearest] = _nearest(descriptors[drawn], self._topics, 1)
        self._words = [descriptors[drawn[nearest == topic]] for topic in range(len(self._topics))]

    def members(self, descriptors: NDArray[np.float32]) -> list[NDArray[np.int64]]:
        """The descriptors of each word, as places in the array."""
        found = []
        topics = np.stack(_nearest(descriptors, self._topics, _TOPICS_OF_EACH), axis=1)
        for topic, words in enumerate(self._words):
            here = np.flatnonzero((topics == topic).any(axis=1))
            chosen = np.concatenate([here[:0], *_nearest(descriptors[here], words, _WORDS_OF_EACH)])
            order = np.argsort(chosen, kind="stable")
            ends = np.searchsorted(chosen[order], np.arange(1, len(words)))
            found += np.split(here[order % max(1, len(here))], ends)
        return found


def _nearest(left: NDArray[np.float32], right: NDArray[np.float32], count: int) -> list[NDArray[np.int64]]:
    """Which of ``right`` is the most like each of ``left``, the next, and so on; as many as there are."""
    likeness, rows = left @ right.T, np.arange(len(left))
    found = []
    for _ in range(min(count, len(right))):
        found.append(likeness.argmax(axis=1))
        likeness[rows, found[-1]] = -1
    return found


def _alike(
    left: NDArray[np.float32],
    right: NDArray[np.float32],
    left_members: Sequence[NDArray[np.int64]],
    right_members: Sequence[NDArray[np.int64]],
    owner: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Pairs of features that are alike, of two clips, the first clip before the second, sorted by clips."""
    found = [np.zeros(0, np.int64)]
    for here, there in zip(left_members, right_members, strict=True):
        rows, columns = np.divmod(np.flatnonzero(left[here] @ right[there].T >= _LIKE), max(1, len(there)))
        one, other = here[rows], there[columns]
        forward = owner[one] < owner[other]
        found.append(one[forward] * len(owner) + other[forward])
    keys = np.sort(np.concatenate(found))  # not np.unique: forty times as slow
    pairs = np.stack(np.divmod(keys[np.diff(keys, prepend=-1) > 0], len(owner)), axis=1)
    return pairs[np.argsort(_clips_of(pairs, owner), kind="stable")]


def _clips_of(pairs: NDArray[np.int64], owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number for the two clips of each pair of features."""
    clips = owner[pairs]
    numbers: NDArray[np.int64] = clips[:, 0] * (owner[-1] + 1) + clips[:, 1]
    return numbers


def _candidates(
    features: _Features, others: _Features, pairs: NDArray[np.int64], owner: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Features of each two clips that may be laid over each other.

    Each pair of features gives a turn, a growth and a shift; as many must agree about them, roughly, as
    places must later agree (Lowe 2004, section 7.3). That is quickly counted for all clips.
    """
    starts = np.flatnonzero(np.diff(_clips_of(pairs, owner), prepend=-1))
    counts = np.diff(starts, append=len(pairs))
    for first in range(0, len(starts), _CHUNK):
        size = counts[first : first + _CHUNK]
        here, there = pairs[starts[first] : starts[first] + size.sum()].T
        clips = np.repeat(np.arange(len(size)), size)
        growth, turn = (others.poses[there] - features.poses[here]).T
        poses = np.stack([turn % (2 * np.pi) / _TURN, (growth - np.log2(_SCALES[0])) / _GROWTH + 0.5], axis=1)
        near = _crowded(clips, poses, (round(2 * np.pi / _TURN), _SIZES))
        here, there, clips, growth, turn = (each[near] for each in (here, there, clips, growth, turn))
        right, down = (features.points[here] - 0.5).T * np.exp2(growth)
        middle = others.points[there] - np.stack(
            [right * np.cos(turn) - down * np.sin(turn), right * np.sin(turn) + down * np.cos(turn)], axis=1
        )
        found = np.unique(clips[_crowded(clips, middle / _SHIFT + _SHIFTS / 4, (_SHIFTS, _SHIFTS))])
        for clip in found:
            members = slice(*np.searchsorted(clips, [clip, clip + 1]))
            one, other = here[members], there[members]
            if min(cells_of(features.points[one]), cells_of(others.points[other])) >= _FEWEST:
                yield one, other


def _crowded(
    owners: NDArray[np.int64], values: NDArray[np.float32], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Which values (n, 2) lie in their owner's fullest square of side 1, or half a side beside it.

    Those of an owner without a square of `_FEWEST` do not, nor do those that are not within ``size``. The
    first axis turns around. ``owners`` are sorted numbers from 0.
    """
    if not len(owners):
        return np.zeros(0, np.bool_)
    count, shape = int(owners[-1]) + 1, (2 * size[0], 2 * size[1])
    bins = np.floor(2 * values).astype(np.int64)  # half as wide as squares, which overlap
    inside = ((bins >= 0) & (bins < shape)).all(axis=1)
    flat = np.ravel_multi_index((owners[inside], *bins[inside].T), (count, *shape))
    votes = np.bincount(flat, minlength=count * shape[0] * shape[1]).reshape(count, *shape)
    votes += np.roll(votes, -1, axis=1)
    votes[:, :, :-1] += votes[:, :, 1:].copy()
    of_each = votes.reshape(count, -1)
    fullest = np.stack(np.unravel_index(of_each.argmax(axis=1), shape), axis=1)
    beside = bins - fullest[owners]
    beside[:, 0] = (beside[:, 0] + shape[0] // 2) % shape[0] - shape[0] // 2
    enough = of_each.max(axis=1)[owners] >= _FEWEST
    near: NDArray[np.bool_] = enough & inside & ((beside >= -1) & (beside <= 2)).all(axis=1)
    return near


def _laid_over(here: NDArray[np.float32], there: NDArray[np.float32]) -> tuple[int, NDArray[np.float64]]:
    """In how many cells the places agree under one rotation, scale and shift, and that transform."""
    transform, inliers = cv2.estimateAffinePartial2D(
        here, there, method=cv2.RANSAC, ransacReprojThreshold=_TOLERANCE, maxIters=500
    )
    if transform is None or not _SCALES[0] < np.hypot(*transform[:, 0]) < _SCALES[1]:
        return 0, np.zeros((2, 3))
    agree = inliers.ravel() > 0
    return min(cells_of(here[agree]), cells_of(there[agree])), transform.astype(np.float64)


def cells_of(points: NDArray[np.float32]) -> int:
    """In how many cells of a picture places lie, shape (n, 2) in short sides."""
    columns, rows = (points * _CELLS // 1).astype(np.int64).T
    return len(set((columns * 10**6 + rows).tolist()))


def same_moments(a: Fingerprint, b: Fingerprint, view: SharedView) -> float:
    """How far two clips show the same moments, -1 to 1: what moves in them is compared, laid over each other.

    Every stretch and shift in time is tried.
    """
    other = b.mirrored() if view.mirrored else b
    matrix = view.transform * np.array([[1, 1, MOMENT_SIDE]] * 2)
    height, width = a.moments.shape[1:]

    def laid_over(picture: NDArray[np.generic]) -> NDArray[np.float32]:
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        laid = cv2.warpAffine(picture.astype(np.float32), matrix, (width, height), flags=how)
        return laid.astype(np.float32, copy=False)

    inside = laid_over(np.ones(other.moments.shape[1:])) > 0.99
    here = _moving(a.moments, inside)
    there = _moving(np.stack([laid_over(each) for each in other.moments]), inside)
    floor = _NOISE**2 * inside.sum()
    energy, other_energy = (here**2).sum(axis=1) + floor, (there**2).sum(axis=1) + floor
    times, length = np.arange(len(here)), len(there)
    shifts = np.arange(-length, length)[:, None]
    best = -1.0
    agreement = here @ there.T
    for stretch in _STRETCHES * length / len(here):
        places = np.rint(times * stretch + shifts).astype(np.int64)  # (shifts, T)
        kept = (places >= 0) & (places < length)
        kept &= kept.sum(axis=1, keepdims=True) >= _OVERLAP * len(here)
        places = np.where(kept, places, 0)
        shared = np.where(kept, agreement[times, places], 0).sum(axis=1)
        total = np.where(kept, energy, 0).sum(axis=1) * np.where(kept, other_energy[places], 0).sum(axis=1)
        best = max(best, float((shared / np.sqrt(np.maximum(total, 1e-9))).max()))
    return best


def _moving(pictures: NDArray[np.generic], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Each picture's pixels (T, n) without what stays."""
    values: NDArray[np.float32] = pictures[:, inside].astype(np.float32)
    moving: NDArray[np.float32] = values - values.mean(axis=0)
    return moving
