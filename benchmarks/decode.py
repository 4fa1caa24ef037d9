"""Milliseconds a clip for 16 frames, beside OpenCV and torchcodec, in one run: python benchmarks/decode.py.

torchcodec is measured where it is installed (it needs FFmpeg's libraries).
"""

import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vidclf.data import sampling, video
from vidclf.data.clips import ClipStore
from vidclf.data.pictures import Frames

FRAMES, STORE_SIDE, ROUNDS = 16, 256, 9
Reader = Callable[[Path], Frames]


def grab(path: Path) -> Frames:
    """One pass, converting only what is wanted."""
    capture = cv2.VideoCapture(str(path))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    wanted = set(sampling.sample_indices(count, FRAMES).tolist())
    frames = []
    for index in range(count):
        if not capture.grab():
            break
        if index in wanted:
            frames.append(capture.retrieve()[1][..., ::-1])
    return np.stack(frames)


def seek(path: Path) -> Frames:
    """A seek a frame; not exact in general."""
    capture = cv2.VideoCapture(str(path))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    frames = []
    for index in sampling.sample_indices(count, FRAMES):
        capture.set(cv2.CAP_PROP_POS_FRAMES, int(index))
        frames.append(capture.read()[1][..., ::-1])
    return np.stack(frames)


def read_all(path: Path) -> Frames:
    """Every frame converted, then picked from."""
    capture = cv2.VideoCapture(str(path))
    frames: list[Any] = []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    return np.stack(frames)[sampling.sample_indices(len(frames), FRAMES)]


def ours(path: Path) -> Frames:
    return video.decode(path, FRAMES, STORE_SIDE).frames


def readers() -> dict[str, Reader]:
    found: dict[str, Reader] = {
        "vidclf": ours,
        "opencv grab": grab,
        "opencv seek": seek,
        "opencv read all": read_all,
    }
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:
        print(f"torchcodec is left out: {str(error).splitlines()[0]}")
        return found

    def torchcodec(path: Path) -> Frames:
        decoder = VideoDecoder(str(path), seek_mode="exact")
        indices = sampling.sample_indices(len(decoder), FRAMES).tolist()
        frames: Frames = decoder.get_frames_at(indices).data.numpy()
        return frames

    return {**found, "torchcodec": torchcodec}


def milliseconds(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Medians; the calls take turns, so that a noisy moment hits all of them."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            taken[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(durations[1:]) for name, durations in taken.items()}


def show(title: str, taken: dict[str, float], base: str) -> None:
    print(f"\n{title}")
    for name, value in taken.items():
        print(f"  {name:<18} {value:8.2f} ms  {value / taken[base]:6.2f} x {base}")


def moving_picture() -> Frames:
    """180 frames of 320 x 240 with something to encode in each."""
    generator = np.random.default_rng(0)
    wall = cv2.resize(generator.integers(0, 255, (30, 60, 3), dtype=np.uint8), (640, 320))
    return np.stack([wall[40 : 40 + 240, 2 * t % 320 : 2 * t % 320 + 320] for t in range(180)])


def main(paths: list[Path]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if not paths:
            for name, codec in (("mpeg4.avi", "mpeg4"), ("h264.mp4", "libx264")):
                video.write_video(Path(folder, name), moving_picture(), codec=codec)
                paths.append(Path(folder, name))
        os.environ["VIDCLF_CACHE"] = str(Path(folder, "cache"))
        alternatives = readers()
        for path in paths:
            taken = milliseconds({name: functools.partial(read, path) for name, read in alternatives.items()})
            show(f"{path.name}: {FRAMES} frames", taken, "vidclf")
            store = ClipStore(64, STORE_SIDE)

            def cold(path: Path = path, store: ClipStore = store) -> None:
                store.entry(path).unlink(missing_ok=True)
                store.read(path)

            def warm(path: Path = path, store: ClipStore = store) -> Frames:
                grid = store.read(path)
                return grid[sampling.sample_indices(len(grid), FRAMES)]

            show(
                f"{path.name}: the clip store, 64 instants",
                milliseconds({"cold": cold, "warm": warm}),
                "cold",
            )


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
