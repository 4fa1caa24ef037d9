"""Pictures as videos hold them: brightness for each pixel, colour for every second one down and across.

A clip is kept so, compressed without loss: a quarter of what its RGB takes, and as exact, as nearly every
video is encoded in this form (YUV 4:2:0). `benchmarks/store.py` compares it with others.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import cv2
import numpy as np
import zstandard
from numpy.typing import NDArray

from vidclf.exceptions import InputError

Plane = NDArray[np.uint8]
Frames = NDArray[np.uint8]
"""RGB frames, shape (time, height, width, 3), values 0 to 255."""

_LEVEL = 1
"""Of zstd: the next ones save 2 % for twice the time."""
_HEAD, _SPAN, _FRAME = 24, 16, 64
"""Bytes of a stored clip for itself, for where each frame lies, and the most that zstd adds to a frame."""


class Picture(NamedTuple):
    """One picture in BT.601's colours and limited range, as of TV (16 is black, 235 white).

    Attributes:
        luma: Brightness, uint8 (H, W).
        blue: Difference of blue, uint8, half as many rows and columns, rounded up.
        red: Likewise of red.
    """

    luma: Plane
    blue: Plane
    red: Plane

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.luma.shape
        return height, width

    def resized(self, height: int, width: int) -> "Picture":
        """The picture in another size; each pixel of a smaller one is the mean of those that it covers."""
        if self.size == (height, width):
            return self
        half = (width + 1) // 2, (height + 1) // 2
        return Picture(
            *(
                cv2.resize(plane, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
                for plane, size in zip(self, ((width, height), half, half), strict=True)
            )
        )

    def turned(self, transposed: bool, down: int, right: int) -> "Picture":
        """Rows as columns where ``transposed``, then taken by steps of 1 or -1."""
        return Picture(*((plane.T if transposed else plane)[::down, ::right] for plane in self))

    def packed(self) -> Plane:
        """All planes in one array, as FFmpeg's yuv420p; an odd last row or column stands twice."""
        height, width = self.size
        luma = np.pad(self.luma, ((0, height % 2), (0, width % 2)), "edge")
        planes = [plane.ravel() for plane in (luma, self.blue, self.red)]
        return np.concatenate(planes).reshape(-1, luma.shape[1])

    def rgb(self) -> NDArray[np.uint8]:
        """RGB, uint8 (H, W, 3)."""
        frame = np.empty((*self.size, 3), dtype=np.uint8)
        _to_rgb(self.packed(), frame)
        return frame


def _to_rgb(packed: Plane, frame: NDArray[np.uint8]) -> None:
    """Writes a packed picture as RGB into (H, W, 3)."""
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        frame[:] = cv2.cvtColor(packed, cv2.COLOR_YUV2RGB_I420)[:height, :width]
    else:
        cv2.cvtColor(packed, cv2.COLOR_YUV2RGB_I420, dst=frame)


def rgb_frames(pictures: Sequence[Picture]) -> Frames:
    """Pictures of one size as RGB, uint8 (T, H, W, 3)."""
    frames = np.empty((len(pictures), *pictures[0].size, 3), dtype=np.uint8)
    for picture, frame in zip(pictures, frames, strict=True):
        _to_rgb(picture.packed(), frame)
    return frames


class StoredFrames:
    """Frames of a clip that are decompressed when they are asked for, as ``frames[indices]``.

    Args:
        content: What `compressed` gave, uint8; as a rule a memory-mapped file.
        later: What `compressed_grey` gave of later pictures: a fourth channel of what is read.

    Attributes:
        shape: As of an array (T, H, W, 3), with later pictures (T, H, W, 4).

    Raises:
        ValueError: It is something else.

    Example:
        >>> stored = StoredFrames(compressed(video.decode(path, 64, 256).pictures))
        >>> stored[np.array([0, 32])].shape
        (2, 240, 320, 3)
    """

    def __init__(self, content: NDArray[np.uint8], later: NDArray[np.uint8] | None = None) -> None:
        self._frames = _Blobs(content)
        self._later = None if later is None else _Blobs(later)
        self.shape = (*self._frames.shape, 3 if later is None else 4)

    @property
    def rgb(self) -> "StoredFrames":
        """The same without later pictures."""
        return StoredFrames(self._frames.content)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: NDArray[np.int64] | slice) -> Frames:
        """Some frames, uint8 (len(indices), H, W, 3 or 4).

        Raises:
            InputError: The disk has damaged them.
        """
        chosen = np.arange(len(self))[indices].tolist()
        frames = np.empty((len(chosen), *self.shape[1:3], 3), dtype=np.uint8)
        width = self.shape[2]
        for place, index in enumerate(chosen):
            if place and self._frames.spans[index] == self._frames.spans[chosen[place - 1]]:
                frames[place] = frames[place - 1]
            else:
                _to_rgb(self._frames.read(index).reshape(-1, width + width % 2), frames[place])
        if self._later is None:
            return frames
        later = [self._later.read(index).reshape(*self.shape[1:3], 1) for index in chosen]
        return np.concatenate([frames, np.stack(later)], axis=3)


class _Blobs:
    """What `_join` gave: compressed parts, and where each lies."""

    def __init__(self, content: NDArray[np.uint8]) -> None:
        head = content[:_HEAD].view(np.int64).tolist()
        if len(head) != 3 or not 0 < head[0] <= content.size // _SPAN:
            raise ValueError("no stored frames")
        self.content = content
        self.shape: tuple[int, int, int] = (head[0], head[1], head[2])

    @cached_property
    def spans(self) -> list[list[int]]:
        """First and last byte of each."""
        numbers = self.content[_HEAD : _HEAD + _SPAN * self.shape[0]].view(np.int64)
        spans: list[list[int]] = numbers.reshape(-1, 2).tolist()
        return spans

    def read(self, index: int) -> Plane:
        start, end = self.spans[index]
        try:
            return np.frombuffer(zstandard.decompress(self.content[start:end].data), dtype=np.uint8)
        except zstandard.ZstdError:
            where = getattr(self.content, "filename", "a stored clip")
            raise InputError(
                f"{where}: damaged on the disk; delete it, or all that is kept: vidclf data store --clear"
            ) from None


Grid = Frames | StoredFrames
"""All frames of a clip: both have a ``shape`` (T, H, W, 3), and RGB by ``grid[indices]``."""


def rgb_of(grid: Grid) -> Grid:
    """A grid without later pictures."""
    if grid.shape[3] == 3:
        return grid
    return grid.rgb if isinstance(grid, StoredFrames) else grid[..., :3]


def compressed(pictures: Sequence[Picture]) -> NDArray[np.uint8]:
    """Pictures of one size for `StoredFrames`; one that comes again is kept once."""
    return _join([(id(picture), picture.packed) for picture in pictures], pictures[0].size)


def compressed_grey(pictures: Sequence[Plane]) -> NDArray[np.uint8]:
    """Likewise grey pictures (H, W), as the later ones of a clip."""
    height, width = pictures[0].shape
    return _join(
        [(id(picture), partial(np.ascontiguousarray, picture)) for picture in pictures], (height, width)
    )


def _join(parts: Sequence[tuple[int, Callable[[], Plane]]], size: tuple[int, int]) -> NDArray[np.uint8]:
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    first = _HEAD + _SPAN * len(parts)
    blobs: list[bytes] = []
    known: dict[int, tuple[int, int]] = {}
    for key, values in parts:
        if key not in known:
            blobs.append(compressor.compress(values().data))
            known[key] = (first, first := first + len(blobs[-1]))
    head = np.array([len(parts), *size, *np.ravel([known[key] for key, _ in parts])], dtype=np.int64)
    return np.frombuffer(head.tobytes() + b"".join(blobs), dtype=np.uint8)


def most_bytes(frames: int, height: int, width: int, *, later: bool = False) -> int:
    """The most that `compressed` makes, with ``later`` `compressed_grey` too: planes as they are."""
    pixels = 3 * (height + height % 2) * (width + width % 2) // 2
    return (1 + later) * (_HEAD + frames * (_SPAN + _FRAME)) + frames * (pixels + later * height * width)
