"""Groups clips that show the same scene, by perceptual hashes."""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import imagehash
import numpy as np
from joblib import cpu_count
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from vidclf.data import sampling, video
from vidclf.data.manifest import Entry, in_order
from vidclf.exceptions import ClipError

SCENE_BITS = 12
"""Of 64 bits of the background's hash: clips that differ in at most so many are of one scene.

On 27 real clips of three people before fixed backgrounds this finds the three groups exactly; on the
rendered demo set, whose camera moves between clips, half of the pairs of one figure.
"""
TWIN_BITS = 12
"""Of 256 bits of four moments: clips that differ in at most so many are nearly identical.

Twelve real clips and their copies at half the size in another codec differ in 0 to 10 bits; no two of
391 other clips, real and rendered, in fewer than 22, takes of one gesture before one wall excepted.
"""
_FRAMES, _SIDE = 8, 96
"""What is decoded of a clip: frames, and pixels of their short side."""
_MOMENTS, _BITS = 4, 64
"""Frames of the detail, and bits of one frame's hash."""
_CHUNK = 512
"""Rows that are compared with all others at once."""

Bits = NDArray[np.float32]
"""Hashes as rows of -1 and 1, shape (clips, bits)."""


@dataclass(frozen=True)
class SceneHashes:
    """How clips look.

    Attributes:
        background: Perceptual hash (of the DCT, as in Zauner 2010) of the median picture, from which what
            moves is gone.
        detail: The same hash of four frames at the midpoints of equal parts.
    """

    background: Bits
    detail: Bits


def _looks_of(paths: Sequence[Path]) -> tuple[SceneHashes, list[int]]:
    """Hashes every clip that can be read, on all cores.

    Returns:
        The hashes, and the index of each row's clip in ``paths``.
    """

    def hashed(path: Path) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
        try:
            frames = video.decode(path, _FRAMES, _SIDE).frames
        except ClipError:
            return None
        median = np.median(frames, axis=0).astype(np.uint8)
        moments = frames[sampling.sample_indices(len(frames), _MOMENTS)]
        return _hash(median), np.concatenate([_hash(moment) for moment in moments])

    with ThreadPoolExecutor(cpu_count()) as pool:
        found = list(pool.map(hashed, paths))
    readable = [index for index, hashes in enumerate(found) if hashes is not None]
    coarse = np.array([hashes[0] for hashes in found if hashes is not None]).reshape(-1, _BITS)
    fine = np.array([hashes[1] for hashes in found if hashes is not None]).reshape(-1, _MOMENTS * _BITS)
    return SceneHashes(coarse * np.float32(2) - 1, fine * np.float32(2) - 1), readable


def _hash(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    bits: NDArray[np.bool_] = imagehash.phash(Image.fromarray(picture)).hash.ravel()
    return bits


def alike(bits: Bits, most: int) -> NDArray[np.int64]:
    """Number of each row's set, shape (clips,).

    Rows that differ in at most ``most`` bits are of one set, and so are rows that are each alike to a third.
    """
    unique, inverse = np.unique(bits, axis=0, return_inverse=True)
    rows, columns = [], []
    for start in range(0, len(unique), _CHUNK):
        agreement = unique[start : start + _CHUNK] @ unique.T
        near, far = np.nonzero(agreement >= bits.shape[1] - 2 * most)
        rows.append(near + start)
        columns.append(far)
    if not rows:
        return np.empty(0, dtype=np.int64)
    ends = np.concatenate(rows), np.concatenate(columns)
    links = coo_array((np.ones(len(ends[0]), dtype=np.int8), ends), shape=(len(unique), len(unique)))
    _, sets = connected_components(links, directed=False)
    found: NDArray[np.int64] = sets[inverse.ravel()].astype(np.int64)
    return found


def _scenes_of(entries: Sequence[Entry]) -> list[int]:
    """Number of each clip's scene: clips whose backgrounds are alike; one that cannot be read is alone."""
    looks, readable = _looks_of([entry.clip_path for entry in entries])
    return _spread(alike(looks.background, SCENE_BITS), readable, len(entries))


def copies_of(entries: Sequence[Entry]) -> list[int]:
    """Number of each clip's set of nearly identical ones, as copies in another encoding are."""
    looks, readable = _looks_of([entry.clip_path for entry in entries])
    return _spread(alike(looks.detail, TWIN_BITS), readable, len(entries))


def _spread(sets: NDArray[np.int64], readable: Sequence[int], clips: int) -> list[int]:
    """The sets of all clips, those that could not be read each in one of its own."""
    numbers = [-1 - index for index in range(clips)]
    for index, number in zip(readable, sets.tolist(), strict=True):
        numbers[index] = number
    return numbers


def group_by_scene(entries: Sequence[Entry], known: Sequence[Entry] = ()) -> list[Entry]:
    """The entries, sorted, with scenes as groups, numbered by their first clip.

    Args:
        entries: Clips of any group or none.
        known: Clips whose groups are scenes already: clips of such a scene get its group.
    """
    ordered = in_order(entries)
    scenes = _scenes_of([*known, *ordered])
    theirs, ours = scenes[: len(known)], scenes[len(known) :]
    names = {scene: entry.group for entry, scene in zip(known, theirs, strict=True)}
    taken = set(names.values())
    unused = (name for number in itertools.count() if (name := f"scene{number:05}") not in taken)
    names |= dict(zip(dict.fromkeys(scene for scene in ours if scene not in names), unused, strict=False))
    return [replace(entry, group=names[scene]) for entry, scene in zip(ordered, ours, strict=True)]
