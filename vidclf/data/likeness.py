"""Which clips share what they show: local features that agree in place, by an index and not pair by pair."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vidclf.data.fingerprints import MOMENT_SIDE, Fingerprint

_LIKE = 0.9
"""Likeness of two descriptors from which on they may show one thing."""
_WORD_SIZE, _MOST_WORDS = 60, 4096
"""Features of a word on average, and words at most: only features of one word are compared."""
_WORDS_OF_EACH = 2
_CHUNK = 4096
"""Features that are given their words at once."""
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


def shared_views(prints: Sequence[Fingerprint], *, mirrored: bool = False) -> Iterator[SharedView]:
    """All pairs of clips whose features agree, compared as they are or with the second one mirrored."""
    others = [each.mirrored() for each in prints] if mirrored else prints
    points, other_points = _stacked(prints, "points"), _stacked(others, "points")
    owner = np.repeat(np.arange(len(prints)), [len(each.points) for each in prints])
    pairs = _alike(_stacked(prints, "descriptors"), _stacked(others, "descriptors"), owner)
    clips = owner[pairs]
    ends = [*np.flatnonzero((clips[1:] != clips[:-1]).any(axis=1)) + 1, len(pairs)]
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        if end - start < _FEWEST:
            continue
        here, there = points[pairs[start:end, 0]], other_points[pairs[start:end, 1]]
        cells, transform = _laid_over(here, there)
        if cells >= _FEWEST:
            a, b = clips[start].tolist()
            yield SharedView(a, b, cells, transform, mirrored)


def _stacked(prints: Sequence[Fingerprint], name: str) -> NDArray[np.float32]:
    columns = 2 if name == "points" else 128
    return np.vstack([np.zeros((0, columns), np.float32), *(getattr(each, name) for each in prints)])


def _alike(
    left: NDArray[np.float32], right: NDArray[np.float32], owner: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Pairs of features that are alike, of two clips, the first clip before the second, sorted by clips.

    Features are compared where they share a word, one of some descriptors drawn from all.
    """
    found = [np.zeros((0, 2), np.int64)]
    count = min(_MOST_WORDS, max(1, len(left) // _WORD_SIZE))
    words = left[np.random.default_rng(0).choice(len(left), count, replace=False)] if len(left) else left
    rows, columns = _by_word(left, words), _by_word(right, words)
    for here, there in zip(rows, columns, strict=True):
        near, far = np.nonzero(left[here] @ right[there].T >= _LIKE)
        pairs = np.stack([here[near], there[far]], axis=1)
        found.append(pairs[owner[pairs[:, 0]] < owner[pairs[:, 1]]])
    unique = np.unique(np.vstack(found), axis=0)
    return unique[np.lexsort((owner[unique[:, 1]], owner[unique[:, 0]]))]


def _by_word(features: NDArray[np.float32], words: NDArray[np.float32]) -> list[NDArray[np.int64]]:
    """The features of each word."""
    each = min(_WORDS_OF_EACH, len(words))
    nearest = [
        np.argpartition(-(features[start : start + _CHUNK] @ words.T), each - 1, axis=1)[:, :each]
        for start in range(0, len(features), _CHUNK)
    ]
    flat = np.vstack(nearest).ravel() if nearest else np.zeros(0, np.int64)
    order = np.argsort(flat, kind="stable")
    return [part // each for part in np.split(order, np.searchsorted(flat[order], np.arange(1, len(words))))]


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
    return len(np.unique(points * _CELLS // 1, axis=0))


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
