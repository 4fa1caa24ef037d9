"""The feature cache: vectors of hand-made features, computed once for each clip and framing.

A feature's vector is kept on disk for each clip and framing, shared by trials,
workers and studies. It is kept in double precision, so that a vector that was
found equals one that was computed to the last bit; beside a decoded clip it is
small (20 KB at most, a clip takes megabytes).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from vidclf.data import cache, video
from vidclf.data.clips import ClipSet
from vidclf.data.manifest import content_digest
from vidclf.data.pictures import Frames
from vidclf.models.features import FEATURES, MADE_WITH, FeatureSpec, compute_features
from vidclf.models.pixels import Pixels, Vector
from vidclf.models.pose import PoseModel
from vidclf.progress import Advance, silent

Made = TypeVar("Made")
Key = tuple[Any, ...]
"""What a stored clip's vector depends on."""


@dataclass(frozen=True)
class Framing:
    """Which frames and pixels of a clip a feature sees.

    Attributes:
        frames: Number of frames, at the midpoints of equal parts of the grid.
        size: Edge of the central square in pixels.
        resize: Short side, or (height, width), in pixels before the crop; not below ``size``.
        apart: Seconds between the pictures that flow is taken between; 0: it is taken from frame to frame.
        pyramid: Whether features are those of the clip and of each of its halves.
        follow: Whether flow is seen in the box of what moves, without the camera's.
        mirror: Whether features are the mean of the clip's and of its mirror image's.
        pose: What finds a body in the whole pictures; ``None``: nobody is looked for.
    """

    frames: int
    size: int
    resize: int | tuple[int, int]
    apart: float = 0.0
    pyramid: bool = False
    follow: bool = False
    mirror: bool = False
    pose: PoseModel | None = None

    def seen_by(self, spec: FeatureSpec) -> Key:
        """What of it a feature's values depend on."""
        if spec.body:
            return (self.frames, self.pyramid, self.mirror, self.pose.digest if self.pose else "")
        seen = self if spec.flow else replace(self, apart=0.0, follow=False)
        return astuple(replace(seen, pose=None))[:-1]


def square_view(frames: Frames, size: int, resize: int | tuple[int, int]) -> Frames:
    """The central square of the resized frames: (T, H, W, C) to (T, size, size, C)."""
    height, width = frames.shape[1:3]
    if isinstance(resize, int):
        scale = resize / min(height, width)
        resize = (round(height * scale), round(width * scale))
    top, left = (resize[0] - size) // 2, (resize[1] - size) // 2
    resized = [cv2.resize(frame, resize[::-1], interpolation=cv2.INTER_AREA) for frame in frames]
    view = np.stack([frame[top : top + size, left : left + size] for frame in resized])
    return view.astype(np.uint8, copy=False)


_MEMO_LIMIT = 16_384
"""Vectors that are kept in a process, 20 KB at most each; once full it stays as it is."""
_MEMO: dict[Key, Vector] = {}
"""Eight features of a clip are found here in 0.1 ms, in their files in 1.4 ms (`benchmarks/features.py`)."""


def build_features(
    clips: ClipSet, names: Sequence[str], framing: Framing, progress: Advance = silent
) -> None:
    """Computes the features that stored clips lack, in all threads that this process may use.

    It ends with the cache's room: what is not kept would be computed for nothing.
    ``progress`` is called after each clip.
    """
    full = False

    def build(index: int) -> None:
        nonlocal full
        keys = _keys(clips, names, framing, index).values()
        lacking = [entry for entry in map(_entry, keys) if not entry.exists()]
        if lacking and not full:
            _clip_vector(clips, names, framing, {}, index)
            full = full or not all(entry.exists() for entry in lacking)

    for _ in _mapped(build, len(clips)):
        progress()


def feature_matrix(
    clips: ClipSet, names: Sequence[str], framing: Framing, given: Mapping[str, Vector] | None = None
) -> Vector:
    """The features of every clip side by side, shape (clips, values).

    Vectors of stored clips are computed once and kept as far as the cache has
    room; clips without a store are computed at every call.
    ``given`` has features that were computed elsewhere, shape (clips, values) each.
    """
    vectors = _mapped(partial(_clip_vector, clips, names, framing, given or {}), len(clips))
    return np.stack(list(vectors))


def _mapped(function: Callable[[int], Made], count: int) -> Iterator[Made]:
    """Of each index below ``count``, in order, from all threads that this process may use."""
    with ThreadPoolExecutor(max(1, cv2.getNumThreads())) as pool:
        yield from pool.map(function, range(count))


def _keys(clips: ClipSet, names: Sequence[str], framing: Framing, index: int) -> dict[str, Key]:
    """Of each feature of a clip; none for a clip without a store."""
    if not clips.store:
        return {}
    made = (content_digest(clips.paths[index]), video.DECODER, clips.store.grid, clips.store.store_side)

    def key(name: str) -> Key:
        spec = FEATURES[name]
        return (*made, *framing.seen_by(spec), MADE_WITH, name, spec.version)

    return {name: key(name) for name in names}


def _entry(key: Key) -> Path:
    """The file that holds the vector, whether it exists or not."""
    return cache.entry("features", *key)


def _clip_vector(
    clips: ClipSet, names: Sequence[str], framing: Framing, given: Mapping[str, Vector], index: int
) -> Vector:
    keys = _keys(clips, [name for name in names if name not in given], framing, index)
    known = {name: block[index] for name, block in given.items()}
    known |= {name: vector for name, key in keys.items() if (vector := _read(key)) is not None}
    missing = [name for name in names if name not in known]
    if missing:
        seen = seen_pixels(clips, missing, framing, index)
        known |= compute_features(
            seen.frames,
            missing,
            seen.pairs,
            seen.body,
            pyramid=framing.pyramid,
            follow=framing.follow,
            mirror=framing.mirror,
        )
        for name in missing if keys else ():
            cache.save(_entry(keys[name]), known[name])
            _remember(keys[name], known[name])
    return np.concatenate([np.empty(0), *(known[name] for name in names)])


def seen_pixels(clips: ClipSet, names: Sequence[str], framing: Framing, index: int) -> Pixels:
    """What a clip's features are computed from.

    Pairs of pictures only where one of them looks at flow, a body where one looks at that.
    """
    specs = [FEATURES[name] for name in names if name in FEATURES]
    whole = clips.frames(index, framing.frames)
    pairs = body = None
    if framing.apart and any(spec.flow for spec in specs):
        pairs = square_view(clips.pairs(index, framing.frames), framing.size, framing.resize)
    if framing.pose and any(spec.body for spec in specs):
        body = framing.pose.body(whole)
    return Pixels(square_view(whole, framing.size, framing.resize), pairs, framing.follow, body)


def _read(key: Key) -> Vector | None:
    if key in _MEMO:
        cache.lookups.count(found=True)
        return _MEMO[key]
    # Not memory-mapped: of so small a file that takes three times as long as reading it.
    vector: Vector | None = cache.load(_entry(key))
    return None if vector is None else _remember(key, vector)


def _remember(key: Key, vector: Vector) -> Vector:
    return _MEMO.setdefault(key, vector) if len(_MEMO) < _MEMO_LIMIT else vector
