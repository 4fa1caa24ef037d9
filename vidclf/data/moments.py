"""Whether clips that share places show the same moments: their pictures over time, laid over each other."""

import functools

import cv2
import numpy as np
from numpy.typing import NDArray

from vidclf.data.fingerprints import MOMENT_SIDE, Fingerprint
from vidclf.data.likeness import TOLERANCE, SharedView

_STRETCHES = np.geomspace(0.5, 2, 13)
"""How much faster one clip may run through its grid than the other does."""
_OVERLAP, _LASTING = 0.5, 0.4
"""Share of the picture, and of the grid, that two clips must have in common to be judged by it."""
_GLANCE, _GLANCED, _PROMISING = 2, 16, 0.5
"""At a first glance each second row and column is looked at, and so many pictures; agreement from which on a
second look is worth it."""
_CLEAR = 0.9
"""Agreement from which on no other way is tried."""
_NOISE = 2.0
"""Gray values that coding alone changes."""

_Alignment = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]


def same_moments(a: Fingerprint, b: Fingerprint, view: SharedView) -> float:
    """How far two clips show the same moments, -1 to 1, laid over each other.

    Where a camera moves, the places that they share may be of other moments: the second clip as it is is
    tried too.
    """
    moments = b.moments[:, :, ::-1] if view.mirrored else b.moments
    as_it_is = np.eye(2, 3)
    moved = np.abs(view.transform - as_it_is).max() > TOLERANCE
    best = -1.0
    for transform in (view.transform, as_it_is) if moved else (view.transform,):
        if best < _CLEAR and _agreement(a.moments, moments, transform, _GLANCE) >= _PROMISING:
            best = max(best, _agreement(a.moments, moments, transform))
    return best


def _agreement(
    here: NDArray[np.uint8], there: NDArray[np.uint8], transform: NDArray[np.float64], pixels: int = 1
) -> float:
    """How far pictures agree with others, at the best stretch and shift in time; -1 where few overlap.

    The lower of two correlations: of what moves in them, and of the whole pictures.

    Args:
        here: Pictures of one clip, (T, H, W).
        there: Of the other.
        transform: From the first's places to the second's.
        pixels: Only each so many-th row and column is looked at, and of the first clip fewer pictures.
    """
    here = here[:: max(1, len(here) // _GLANCED) if pixels > 1 else 1, ::pixels, ::pixels]
    pictures = np.concatenate([there, np.ones_like(there[:1])])
    laid = cv2.warpAffine(  # a picture as a channel: one call for all
        np.ascontiguousarray(pictures.transpose(1, 2, 0), np.float32),
        transform * np.array([[pixels, pixels, MOMENT_SIDE]] * 2),
        here.shape[:0:-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    )
    inside = laid[:, :, -1] > 0.99
    if inside.mean() < _OVERLAP:
        return -1.0
    values, others = here[:, inside].astype(np.float32), laid[inside, :-1].T
    noise = _NOISE**2 * float(inside.sum())
    pairs, kept, counts = _alignments(len(values), len(others))
    alike = _correlations(
        values - values.mean(axis=0), others - others.mean(axis=0), noise, (pairs, kept, counts)
    )
    best = slice(alike.argmax(), alike.argmax() + 1)
    values, others = (each - each.mean(axis=1, keepdims=True) for each in (values, others))
    whole = _correlations(values, others, noise, (pairs[best], kept[best], counts[best]))
    return float(min(*alike[best], *whole))


def _correlations(
    values: NDArray[np.float32], others: NDArray[np.float32], noise: float, alignment: _Alignment
) -> NDArray[np.float32]:
    """Of pictures (T, n), for each row of the `_alignments`."""
    pairs, kept, counts = alignment
    energy, other_energy = (np.einsum("ij,ij->i", each, each) + noise for each in (values, others))
    shared = np.einsum("ij,ij->i", (values @ others.T).take(pairs), kept)
    correlations: NDArray[np.float32] = shared / np.sqrt((kept @ energy) * (counts @ other_energy))
    return correlations


@functools.cache
def _alignments(count: int, length: int) -> _Alignment:
    """How a clip of ``count`` pictures may run along one of ``length``: rows for each stretch and shift.

    Returns:
        Where the pairs of pictures stand in a matrix (count, length) that is read row by row; which pictures
        have a partner, 1 or 0, both (n, count); and how often each of the other's is one, (n, length).
    """
    stretches = np.append(_STRETCHES * length / count, 1)[:, None, None]  # 1: no picture was left out
    shifts = np.arange(-length, length)[:, None]
    places = (np.rint(np.arange(count) * stretches) + shifts).reshape(-1, count).astype(np.int64)
    kept = (places >= 0) & (places < length)
    enough = kept.sum(axis=1) >= _LASTING * count
    places, kept = np.where(kept, places, 0)[enough], kept[enough].astype(np.float32)
    counts = np.zeros((len(places), length), np.float32)
    np.add.at(counts, (np.arange(len(places))[:, None], places), kept)
    return places + np.arange(count) * length, kept, counts
