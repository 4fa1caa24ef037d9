"""What a clip takes on the disk and to read, kept in several ways: ``python -m benchmarks.store CLIP...``

Each way keeps 64 frames of a clip, and gives 16 of them back as RGB. Times are medians over the clips, one
after another in turns. ``off`` is how far pixels are from the planes that the decoder gave, in levels of 255.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import zstandard
from numpy.typing import NDArray

from vidclf.data import video
from vidclf.data.pictures import Frames, Picture, StoredFrames, compressed, rgb_frames

FRAMES = range(2, 64, 4)
Ways = Mapping[
    str, tuple[Callable[[Sequence[Picture]], Sequence[bytes]], Callable[[Sequence[bytes], Picture], Frames]]
]


def rgb_of(parts: Sequence[bytes], like: Picture, undo: Callable[[bytes], NDArray[np.uint8]]) -> Frames:
    chosen = [undo(parts[index]).reshape(*like.size, 3) for index in FRAMES if index < len(parts)]
    return np.stack(chosen)


def planes_of(parts: Sequence[bytes], like: Picture, undo: Callable[[bytes], NDArray[np.uint8]]) -> Frames:
    height, width = like.size
    columns = width + width % 2
    whole = [undo(parts[index]).reshape(-1, columns) for index in FRAMES if index < len(parts)]
    pictures = [cv2.cvtColor(each, cv2.COLOR_YUV2RGB_I420)[:height, :width] for each in whole]
    return np.stack(pictures).astype(np.uint8, copy=False)


def from_above(packed: NDArray[np.uint8]) -> bytes:
    """Each row as its difference from the one above, which zstd finds more of alike."""
    return zstandard.compress(np.diff(packed, axis=0, prepend=np.uint8(0)).tobytes(), 1)


def as_jpeg(quality: int, pictures: Sequence[Picture]) -> list[bytes]:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return [cv2.imencode(".jpg", each.rgb()[..., ::-1], options)[1].tobytes() for each in pictures]


def ways() -> Ways:
    """How to keep a clip's pictures, and how to read some."""

    def raw(content: bytes) -> NDArray[np.uint8]:
        return np.frombuffer(content, np.uint8)

    def unpacked(content: bytes) -> NDArray[np.uint8]:
        return raw(zstandard.decompress(content))

    def jpeg(content: bytes) -> NDArray[np.uint8]:
        return np.asarray(cv2.imdecode(raw(content), cv2.IMREAD_COLOR_RGB), dtype=np.uint8)

    def summed(parts: Sequence[bytes], like: Picture) -> Frames:
        columns = like.size[1] + like.size[1] % 2
        return planes_of(
            parts,
            like,
            lambda content: np.add.accumulate(unpacked(content).reshape(-1, columns), axis=0, dtype=np.uint8),
        )

    return {
        "RGB": (
            lambda pictures: [each.rgb().tobytes() for each in pictures],
            lambda parts, like: rgb_of(parts, like, raw),
        ),
        "RGB, zstd": (
            lambda pictures: [zstandard.compress(each.rgb().tobytes(), 1) for each in pictures],
            lambda parts, like: rgb_of(parts, like, unpacked),
        ),
        "planes": (
            lambda pictures: [each.packed().tobytes() for each in pictures],
            lambda parts, like: planes_of(parts, like, raw),
        ),
        "planes, zstd: vidclf": (
            lambda pictures: [compressed(pictures).tobytes()],
            lambda parts, like: StoredFrames(raw(parts[0]))[np.array(FRAMES)],
        ),
        "planes from above, zstd": (
            lambda pictures: [from_above(each.packed()) for each in pictures],
            summed,
        ),
        "JPEG 95": (partial(as_jpeg, 95), lambda parts, like: rgb_of(parts, like, jpeg)),
        "JPEG 100": (partial(as_jpeg, 100), lambda parts, like: rgb_of(parts, like, jpeg)),
    }


def main(paths: Sequence[Path]) -> None:
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    for path in paths:
        pictures = video.decode(path, 64, 256).pictures
        if len(pictures) < 64:
            print(f"{path.name} has {len(pictures)} frames: left out")
            continue
        expected = rgb_frames([pictures[index] for index in FRAMES]).astype(np.int16)
        for name, (write, read) in ways().items():
            started = time.perf_counter()
            parts = write(pictures)
            written = time.perf_counter()
            read(parts, pictures[0])
            warm = time.perf_counter()
            frames = read(parts, pictures[0])
            ended = time.perf_counter()
            figures = (
                sum(map(len, parts)) / 1e6,
                1e3 * (written - started),
                1e3 * (ended - warm),
                float(np.abs(frames - expected).mean()),
            )
            found.setdefault(name, []).append(figures)
    print(f"{'':26}{'MB a clip':>10}{'to RGB':>8}{'write ms':>10}{'16 of 64, ms':>14}{'off':>7}")
    base = statistics.mean(size for size, *_ in found["RGB"])
    for name, rows in found.items():
        size = statistics.mean(row[0] for row in rows)
        writing, reading, off = (statistics.median(row[column] for row in rows) for column in (1, 2, 3))
        print(f"{name:26}{size:10.2f}{size / base:8.2f}{writing:10.0f}{reading:14.1f}{off:7.2f}")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
