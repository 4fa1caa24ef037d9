"""Pictures as videos hold them: brightness for each pixel, colour for every second one down and across.

A clip is kept so, compressed without loss: a quarter of what its RGB takes, and as exact, as nearly every
video is encoded in this form (YUV 4:2:0). `benchmarks/store.py` compares it with others.
"""

from collections.abc import Sequence
from functools import cached_property
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

    Attributes:
        shape: As of an array (T, H, W, 3).

    Raises:
        ValueError: It is something else.

    Example:
        >>> stored = StoredFrames(compressed(video.decode(path, 64, 256).pictures))
        >>> stored[np.array([0, 32])].shape
        (2, 240, 320, 3)
    """

    def __init__(self, content: NDArray[np.uint8]) -> None:
        self._content = content
        head = content[:_HEAD].view(np.int64).tolist()
        if len(head) != 3 or not 0 < head[0] <= content.size // _SPAN:
            raise ValueError("no stored frames")
        frames, height, width = map(int, head)
        self.shape = (frames, height, width, 3)

    @cached_property
    def _spans(self) -> list[list[int]]:
        """First and last byte of each frame."""
        numbers = self._content[_HEAD : _HEAD + _SPAN * len(self)].view(np.int64)
        spans: list[list[int]] = numbers.reshape(-1, 2).tolist()
        return spans

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: NDArray[np.int64] | slice) -> Frames:
        """RGB of some frames, uint8 (len(indices), H, W, 3).

        Raises:
            InputError: The disk has damaged them.
        """
        spans = [self._spans[index] for index in np.arange(len(self))[indices].tolist()]
        frames = np.empty((len(spans), *self.shape[1:]), dtype=np.uint8)
        for place, span in enumerate(spans):
            if place and span == spans[place - 1]:
                frames[place] = frames[place - 1]
            else:
                self._read(span, frames[place])
        return frames

    def _read(self, span: list[int], frame: NDArray[np.uint8]) -> None:
        """Writes one to where it is to go."""
        start, end = span
        try:
            planes = np.frombuffer(zstandard.decompress(self._content[start:end].data), dtype=np.uint8)
        except zstandard.ZstdError:
            where = getattr(self._content, "filename", "a stored clip")
            raise InputError(
                f"{where}: damaged on the disk; delete it, or all that is kept: vidclf data store --clear"
            ) from None
        _to_rgb(planes.reshape(-1, frame.shape[1] + frame.shape[1] % 2), frame)

    @property
    def nbytes(self) -> int:
        """As they are stored."""
        return self._content.nbytes


Grid = Frames | StoredFrames
"""All frames of a clip: both have a ``shape`` (T, H, W, 3), and RGB by ``grid[indices]``."""


def compressed(pictures: Sequence[Picture]) -> NDArray[np.uint8]:
    """Pictures of one size for `StoredFrames`; one that comes again is kept once."""
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    first = _HEAD + _SPAN * len(pictures)
    parts: list[bytes] = []
    known: dict[int, tuple[int, int]] = {}
    for picture in pictures:
        if id(picture) not in known:
            parts.append(compressor.compress(picture.packed().data))
            known[id(picture)] = (first, first := first + len(parts[-1]))
    spans = [known[id(picture)] for picture in pictures]
    head = np.array([len(pictures), *pictures[0].size, *np.ravel(spans)], dtype=np.int64)
    return np.frombuffer(head.tobytes() + b"".join(parts), dtype=np.uint8)


def most_bytes(frames: int, height: int, width: int) -> int:
    """The most that `compressed` makes of a clip: its planes as they are."""
    return _HEAD + frames * (_SPAN + _FRAME + 3 * (height + height % 2) * (width + width % 2) // 2)
