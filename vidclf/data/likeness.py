"""Which clips share what they show: local features that agree in place, by an index and not pair by pair."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

from vidclf.data.fingerprints import Fingerprint

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
_THINNED = 2
"""Each so many-th feature of mirrored clips is looked for: what is copied shares plenty."""
_MOST, _CHUNK = 3 * 10**7, 4096
"""Pairs of features, and pairs of clips, that are looked at together: they bound the memory."""
_FEWEST = 5
"""Places that must agree: as many as in pictures with few features, and too many for most chance."""
TOLERANCE = 0.02
"""Distance in short sides up to which places agree."""
_SCALES = 0.4, 2.5
"""How much smaller or larger one picture may show the other's content."""
_CELLS = 12
"""Cells of a short side: agreeing places count once a cell, so that a logo or a face weighs little."""
_MOST_CELLS = 2**16
"""More than a side has."""

_Members = list[NDArray[np.int64]]


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
    near = words.near(features.descriptors)
    for mirrored in (False, True):
        others = features
        if mirrored:
            others = _stacked([each.mirrored() for each in prints])
            near = [_THINNED * each for each in words.near(others.descriptors[::_THINNED])]
        for pairs in _alike(words, near, others.descriptors, owner):
            for candidates in _candidates(features, others, pairs, owner):
                for clips, cells, transform in _laid_over(features, others, candidates, owner):
                    yield SharedView(*clips, cells, transform, mirrored)


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

    Attributes:
        members: Of each word, the descriptors that it is the nearest to, as places in the array.
        values: Of each word, these descriptors.
    """

    def __init__(self, descriptors: NDArray[np.float32]) -> None:
        generator = np.random.default_rng(0)
        drawn = generator.permutation(len(descriptors))
        self._topics = descriptors[drawn[:_TOPICS]]
        drawn = drawn[: max(_TOPICS, len(descriptors) // _WORD_SIZE)]
        [nearest] = _nearest(descriptors[drawn], self._topics, 1)
        self._words = [descriptors[drawn[nearest == topic]] for topic in range(len(self._topics))]
        self.members = self.near(descriptors, 1, 1)
        self.values = [descriptors[each] for each in self.members]

    def near(
        self, descriptors: NDArray[np.float32], topics: int = _TOPICS_OF_EACH, words: int = _WORDS_OF_EACH
    ) -> _Members:
        """Of each word, the descriptors that are near it, as places in the array.

        Args:
            descriptors: Any, float32 (n, 128).
            topics: Topics of each.
            words: Words of each in each of its topics.
        """
        found = []
        for of_topic, here in zip(self._words, _divided(descriptors, self._topics, topics), strict=True):
            found += [here[each] for each in _divided(descriptors[here], of_topic, words)]
        return found


def _divided(descriptors: NDArray[np.float32], centres: NDArray[np.float32], count: int) -> _Members:
    """For each centre, the descriptors of whose ``count`` nearest it is one."""
    chosen = np.concatenate([np.zeros(0, np.int64), *_nearest(descriptors, centres, count)])
    order = np.argsort(chosen, kind="stable")
    ends = np.searchsorted(chosen[order], np.arange(1, len(centres)))
    return np.split(order % max(1, len(descriptors)), ends)


def _nearest(left: NDArray[np.float32], right: NDArray[np.float32], count: int) -> list[NDArray[np.int64]]:
    """Which of ``right`` is the most like each of ``left``, the next, and so on; as many as there are."""
    likeness, rows = left @ right.T, np.arange(len(left))
    found = []
    for _ in range(min(count, len(right))):
        found.append(likeness.argmax(axis=1))
        likeness[rows, found[-1]] = -1
    return found


def _alike(
    words: _Words, near: _Members, others: NDArray[np.float32], owner: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Pairs of features that are alike, of two clips, the first clip before the second, sorted by clips.

    Each time those of other first clips, all of these.

    Args:
        words: The features.
        near: Of each word, those of the others that are near it.
        others: The same features, as they are or mirrored.
        owner: The clip of each.
    """
    blocks = [(0, int(owner[-1]) + 1)]
    while blocks:
        first, last = blocks.pop()
        found, count = [np.zeros(0, np.int64)], 0
        for members, values, here in zip(words.members, words.values, near, strict=True):
            rows, columns = np.divmod(np.flatnonzero(others[here] @ values.T >= _LIKE), max(1, len(members)))
            one, other = np.sort(np.stack([here[rows], members[columns]]), axis=0)
            kept = (owner[one] != owner[other]) & (owner[one] >= first) & (owner[one] < last)
            found.append((one * len(owner) + other)[kept])
            count += len(found[-1])
            if count > _MOST and last - first > 1:
                blocks += [((first + last) // 2, last), (first, (first + last) // 2)]
                break
        else:
            keys = np.sort(np.concatenate(found))  # not np.unique: forty times as slow
            pairs = np.stack(np.divmod(keys[np.diff(keys, prepend=-1) > 0], len(owner)), axis=1)
            yield pairs[np.argsort(_clips_of(pairs, owner), kind="stable")]


def _clips_of(pairs: NDArray[np.int64], owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number for the two clips of each pair of features."""
    clips = owner[pairs]
    numbers: NDArray[np.int64] = clips[:, 0] * (owner[-1] + 1) + clips[:, 1]
    return numbers


def _candidates(
    features: _Features, others: _Features, pairs: NDArray[np.int64], owner: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Those pairs of features by which clips may be laid over each other, sorted by clips.

    Each pair of features gives a turn, a growth and a shift; as many must agree about them, roughly, as
    places must later agree (Lowe 2004, section 7.3). That is quickly counted for all clips.
    """
    counts = np.diff(_starts(pairs, owner), append=len(pairs))
    pairs, counts = pairs[np.repeat(counts >= _FEWEST, counts)], counts[counts >= _FEWEST]
    ends = np.cumsum(counts)
    for first in range(0, len(counts), _CHUNK):
        size = counts[first : first + _CHUNK]
        here, there = pairs[ends[first] - size[0] : ends[first] - size[0] + size.sum()].T
        clips = np.repeat(np.arange(len(size)), size)
        growth, turn = (others.poses[there] - features.poses[here]).T
        poses = np.stack([turn % (2 * np.pi) / _TURN, (growth - np.log2(_SCALES[0])) / _GROWTH + 0.5], axis=1)
        near = _crowded(clips, poses, (round(2 * np.pi / _TURN), _SIZES))
        here, there, clips, growth, turn = (each[near] for each in (here, there, clips, growth, turn))
        right, down = (features.points[here] - 0.5).T * np.exp2(growth)
        middle = others.points[there] - np.stack(
            [right * np.cos(turn) - down * np.sin(turn), right * np.sin(turn) + down * np.cos(turn)], axis=1
        )
        near = _crowded(clips, middle / _SHIFT + _SHIFTS / 4, (_SHIFTS, _SHIFTS))
        chosen = np.stack([here[near], there[near]], axis=1)
        yield chosen[_cells_of(features, others, chosen, owner) >= _FEWEST]


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


def _laid_over(
    features: _Features, others: _Features, pairs: NDArray[np.int64], owner: NDArray[np.int64]
) -> Iterator[tuple[tuple[int, int], int, NDArray[np.float64]]]:
    """Clips whose places agree under one rotation, scale and shift; in how many cells; and that transform.

    Args:
        features: Of all clips.
        others: Those that theirs are compared with.
        pairs: Pairs of features, sorted by clips.
        owner: The clip of each feature.
    """
    one, other = features.points[pairs[:, 0]], others.points[pairs[:, 1]]
    agree = np.zeros(len(pairs), np.bool_)
    starts = _starts(pairs, owner)
    for first, last in itertools.pairwise([*starts, len(pairs)]):
        transform, inliers = cv2.estimateAffinePartial2D(
            one[first:last],
            other[first:last],
            method=cv2.RANSAC,
            ransacReprojThreshold=TOLERANCE,
            maxIters=500,
            refineIters=0,  # takes five times as long as the search
        )
        if transform is not None and _SCALES[0] < np.hypot(*transform[:, 0]) < _SCALES[1]:
            agree[first:last] = inliers.ravel() > 0
    pairs = pairs[agree]
    cells = _cells_of(features, others, pairs, owner)
    pairs, cells = pairs[cells >= _FEWEST], cells[cells >= _FEWEST]
    starts = _starts(pairs, owner)
    counts = np.diff(starts, append=len(pairs))
    # Least squares (Umeyama 1991), with places as complex numbers.
    here, there = (
        each.astype(np.float64) @ [1, 1j]
        for each in (features.points[pairs[:, 0]], others.points[pairs[:, 1]])
    )
    middle, target = (np.add.reduceat(each, starts) / counts for each in (here, there))
    spread = here - np.repeat(middle, counts)
    turn = np.add.reduceat(spread.conj() * there, starts) / np.add.reduceat(np.abs(spread) ** 2, starts)
    shift = target - turn * middle
    transforms = np.stack([turn.real, -turn.imag, shift.real, turn.imag, turn.real, shift.imag], axis=1)
    for (a, b), count, transform in zip(
        owner[pairs[starts]].tolist(), cells[starts].tolist(), transforms, strict=True
    ):
        yield (a, b), count, transform.reshape(2, 3)


def _starts(pairs: NDArray[np.int64], owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where those of each two clips begin in pairs of features that are sorted by clips."""
    return np.flatnonzero(np.diff(_clips_of(pairs, owner), prepend=-1))


def _cells_of(
    features: _Features, others: _Features, pairs: NDArray[np.int64], owner: NDArray[np.int64]
) -> NDArray[np.int64]:
    """In how many cells the features of two clips lie, the fewer of both, for each of their pairs."""
    counts = np.diff(_starts(pairs, owner), append=len(pairs))
    clips = np.repeat(np.arange(len(counts)), counts)
    sides = (features.points[pairs[:, 0]], others.points[pairs[:, 1]])
    return np.minimum(*(_count_cells(points, clips) for points in sides))[clips]


def cells_of(points: NDArray[np.float32]) -> int:
    """In how many cells of a picture places lie, shape (n, 2) in short sides."""
    return int(_count_cells(points, np.zeros(len(points), np.int64)).sum())


def _count_cells(points: NDArray[np.float32], owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """`cells_of` for each owner of places, numbers from 0."""
    columns, rows = np.maximum(points * _CELLS, 0).astype(np.int64).T
    keys = np.sort((owner * _MOST_CELLS + columns) * _MOST_CELLS + rows)
    return np.bincount(keys[np.diff(keys, prepend=-1) > 0] // _MOST_CELLS**2)
