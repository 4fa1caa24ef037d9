"""Groups clips that show the same scene, by perceptual hashes."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
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
from vidclf.progress import Advance, silent

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


def _looks_of(paths: Sequence[Path], progress: Advance) -> tuple[SceneHashes, list[int]]:
    """Hashes every clip that can be read, on all cores.

    Returns:
        The hashes, and the index of each row's clip in ``paths``.
    """

    def hashed(path: Path) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
        try:
            frames = video.decode(path, _FRAMES, _SIDE).frames
        except ClipError:
            return None
        finally:
            progress()
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


@dataclass(frozen=True)
class AlikePair:
    """Two clips that look alike, by their places in a list.

    Attributes:
        copy: Whether they are nearly identical, as copies in another encoding are.
    """

    a: int
    b: int
    copy: bool


def alike_pairs(paths: Sequence[Path], progress: Advance = silent) -> list[AlikePair]:
    """Pairs of clips that show one scene; those that cannot be read are in none.

    Args:
        paths: The clips.
        progress: Called after each of them.
    """
    looks, readable = _looks_of(paths, progress)
    copies = {(a, b) for a, b in _near(looks.detail, TWIN_BITS)}
    scenes = {(a, b) for a, b in _near(looks.background, SCENE_BITS)}
    return [AlikePair(readable[a], readable[b], (a, b) in copies) for a, b in sorted(copies | scenes)]


def _near(bits: Bits, most: int) -> Iterator[tuple[int, int]]:
    """Pairs of rows that differ in at most ``most`` bits, the smaller first."""
    for start in range(0, len(bits), _CHUNK):
        agreement = bits[start : start + _CHUNK] @ bits.T
        near, far = np.nonzero(agreement >= bits.shape[1] - 2 * most)
        yield from ((int(a), int(b)) for a, b in zip(near + start, far, strict=True) if a < b)


def sets_of(pairs: Iterable[tuple[int, int]], count: int) -> list[int]:
    """Number of the set of each of ``count`` items: those of a pair are of one, chains too."""
    a, b = np.array(list(pairs), dtype=np.int64).reshape(-1, 2).T
    links = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(count, count))
    numbers: list[int] = connected_components(links, directed=False)[1].tolist()
    return numbers


def group_by_scene(entries: Sequence[Entry], known: Sequence[Entry] = ()) -> list[Entry]:
    """The entries, sorted, with scenes as groups, numbered by their first clip.

    Args:
        entries: Clips of any group or none.
        known: Clips whose groups are scenes already: clips of such a scene get its group.
    """
    ordered = in_order(entries)
    clips = [entry.clip_path for entry in (*known, *ordered)]
    scenes = sets_of(((pair.a, pair.b) for pair in alike_pairs(clips)), len(clips))
    theirs, ours = scenes[: len(known)], scenes[len(known) :]
    names = {scene: entry.group for entry, scene in zip(known, theirs, strict=True)}
    taken = set(names.values())
    unused = (name for number in itertools.count() if (name := f"scene{number:05}") not in taken)
    names |= dict(zip(dict.fromkeys(scene for scene in ours if scene not in names), unused, strict=False))
    return [
        replace(entry, group=names[scene], group_by="scenes")
        for entry, scene in zip(ordered, ours, strict=True)
    ]
