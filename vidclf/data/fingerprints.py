"""What a clip looks like in a few kilobytes: local features, colours, and small pictures over time."""

import io
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vidclf.data import cache, sampling, video
from vidclf.data.clips import ClipStore
from vidclf.data.manifest import content_digest
from vidclf.data.pictures import Frames
from vidclf.data.video import VideoInfo

GRID, SIDE = 64, 256
"""How a clip is decoded: as it is for training by default (`data.grid`, `data.store_side`)."""
_STORE = ClipStore(GRID, SIDE)
_FEATURE_FRAMES, _FEATURE_SIDE, _FEATURES = 6, 112, 100
"""Frames that features are taken from, pixels of their short side, and features of each."""
_SAME_FEATURE, _SAME_PLACE = 0.9, 0.05
"""Likeness, and distance in short sides, from which on a feature of a later frame is the same thing again."""
_COLOUR_FRAMES, _COLOUR_SIZE, _COLOUR_BINS = 12, (64, 48), (16, 8, 8)
"""Frames whose colours are counted, their width and height, and bins of hue, saturation and value."""
MOMENT_SIDE = 24
"""Pixels of the short side of the small pictures."""
VERSION = 2
"""Part of the cache's key."""

MIRRORED = np.arange(128).reshape(4, 4, 8)[::-1][:, :, -np.arange(8) % 8].ravel()
"""Where the values of a SIFT descriptor stand in that of the mirrored picture.

A descriptor has 4 x 4 cells of 8 directions, relative to its own direction: mirroring turns the order of its
rows and the sense of its directions.
"""


@dataclass(frozen=True)
class Fingerprint:
    """How a clip looks.

    Attributes:
        points: Places of its features (n, 2), x and y in short sides, float32.
        poses: Of each the log2 of its diameter in short sides, and its direction in radians, clockwise from
            the right, float32 (n, 2).
        descriptors: SIFT (Lowe 2004) of each, square roots of shares that sum to 1 (RootSIFT: Arandjelović
            and Zisserman 2012), float32 (n, 128): the product of two is their likeness, 0 to 1.
        colours: Square roots of the shares of hue, saturation and value over the whole clip, float32 (1024,).
        moments: Its grid as small gray pictures, uint8 (T, H, W), short side `MOMENT_SIDE`.
        width: Of its pictures, in short sides.
    """

    points: NDArray[np.float32]
    poses: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    colours: NDArray[np.float32]
    moments: NDArray[np.uint8]

    @property
    def width(self) -> float:
        return float(self.moments.shape[2] / min(self.moments.shape[1:]))

    def mirrored(self) -> "Fingerprint":
        """That of the clip with left and right exchanged."""
        points, poses = self.points.copy(), self.poses.copy()
        points[:, 0] = self.width - points[:, 0]
        poses[:, 1] = np.pi - poses[:, 1]
        descriptors = self.descriptors.take(MIRRORED, axis=1)
        return Fingerprint(points, poses, descriptors, self.colours, self.moments[:, :, ::-1])


def fingerprint_of(path: Path) -> Fingerprint:
    """The fingerprint of a clip: a kept one, else made from the clip store's entry, else by decoding.

    Raises:
        ClipError: As `video.decode`.
    """
    arrays = _kept(path)
    if arrays is not None:
        values = {item.name: arrays[item.name] for item in fields(Fingerprint)}
        return Fingerprint(**{**values, "descriptors": values["descriptors"].astype(np.float32)})
    made = make_fingerprint(_STORE.read(path)[:])
    _keep(path, made)
    return made


def needs_decoding(path: Path) -> bool:
    """Whether `fingerprint_of` would decode the clip."""
    return not (_entry(path).exists() or _STORE.entry(path).exists())


def examine(path: Path) -> VideoInfo:
    """Decodes a clip to its end, once for all that is to be known of it: its fingerprint is kept.

    Raises:
        ClipError: As `video.survey`.
    """
    clip, info = video.survey(path, GRID, SIDE)
    _keep(path, make_fingerprint(clip.frames), info)
    _STORE.keep(path, clip)
    return info


def known_facts(path: Path) -> VideoInfo | None:
    """What `examine` has found of a file of this content, where that is kept."""
    arrays = _kept(path)
    if arrays is None or "facts" not in arrays:
        return None
    facts = json.loads(arrays["facts"].tobytes())
    return VideoInfo(**{**facts, "notes": tuple(facts["notes"])})


def _entry(path: Path) -> Path:
    return cache.entry("fingerprints", content_digest(path), video.DECODER, VERSION)


def _kept(path: Path) -> dict[str, NDArray[Any]] | None:
    kept = cache.load(_entry(path))
    if kept is None:
        return None
    with cache.parsing, np.load(io.BytesIO(kept.tobytes())) as arrays:
        return dict(arrays)


def _keep(path: Path, made: Fingerprint, info: VideoInfo | None = None) -> None:
    arrays = {**vars(made), "descriptors": made.descriptors.astype(np.float16)}
    if info is not None:
        arrays["facts"] = np.frombuffer(json.dumps(asdict(info)).encode(), dtype=np.uint8)
    file = io.BytesIO()
    np.savez(file, **arrays)
    cache.save(_entry(path), np.frombuffer(file.getvalue(), dtype=np.uint8))


def make_fingerprint(frames: Frames) -> Fingerprint:
    """The fingerprint of a clip's grid, uint8 (T, H, W, 3)."""
    features = _features(frames[sampling.sample_indices(len(frames), _FEATURE_FRAMES)])
    moments = np.stack([_shrunk(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), MOMENT_SIDE) for frame in frames])
    return Fingerprint(*features, _colours(frames), moments)


def _shrunk(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A picture whose short side has ``side`` pixels; a smaller one is enlarged."""
    height, width = picture.shape[:2]
    scale = side / min(height, width)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=how)
    return resized.astype(np.uint8, copy=False)


def _features(frames: Frames) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Places, poses and descriptors of all frames; what stays where it is counts once."""
    sift = cv2.SIFT.create(nfeatures=_FEATURES, contrastThreshold=0.02)
    places, roots = np.zeros((0, 4), np.float32), np.zeros((0, 128), np.float32)
    for frame in frames:
        found, raw = sift.detectAndCompute(
            _shrunk(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), _FEATURE_SIDE), None
        )
        if not found:
            continue
        here = np.array([(*point.pt, point.size, point.angle) for point in found], np.float32)
        here[:, :3] /= _FEATURE_SIDE
        values = np.sqrt(raw / np.maximum(raw.sum(axis=1, keepdims=True), 1))
        near = np.abs(here[:, :1] - places[:, 0]) < _SAME_PLACE
        new, old = np.nonzero(near & (np.abs(here[:, 1:2] - places[:, 1]) < _SAME_PLACE))
        again = new[np.einsum("ij,ij->i", values[new], roots[old]) >= _SAME_FEATURE]
        kept = np.setdiff1d(np.arange(len(here)), again)
        places, roots = np.vstack([places, here[kept]]), np.vstack([roots, values[kept]])
    poses = np.stack([np.log2(places[:, 2]), np.radians(places[:, 3])], axis=1)
    return places[:, :2], poses, roots


def _colours(frames: Frames) -> NDArray[np.float32]:
    chosen = frames[sampling.sample_indices(len(frames), _COLOUR_FRAMES)]
    small = np.vstack([cv2.resize(frame, _COLOUR_SIZE, interpolation=cv2.INTER_AREA) for frame in chosen])
    ranges = [0, 180, 0, 256, 0, 256]
    counts = cv2.calcHist(
        [cv2.cvtColor(small, cv2.COLOR_RGB2HSV)], [0, 1, 2], None, list(_COLOUR_BINS), ranges
    )
    shares: NDArray[np.float32] = np.sqrt(counts.ravel() / counts.sum()).astype(np.float32)
    return shares
