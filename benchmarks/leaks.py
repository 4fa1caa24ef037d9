"""How many planted copies and scenes are found: python benchmarks/leaks.py CLIPS_FOLDER [--planted 20].

CLIPS_FOLDER has a folder per class. Of some clips copies of every kind are made, and looked for among all;
what else is called a copy is counted as a false alarm. Scenes are looked for among clips that are cut out of
some, at other times, of other sizes and codecs: in two halves, one of which thresholds were tuned on. Where
names carry groups (UCF-101's), scenes are compared with these too, each class with its own.
"""

import argparse
import itertools
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from vidclf.data import video
from vidclf.data.fingerprints import fingerprint_of
from vidclf.data.importing import read_sources
from vidclf.data.manifest import Entry
from vidclf.data.pictures import Frames, rgb_frames
from vidclf.data.scenes import find_scenes, looks_of

RATE = 25


def each(change: Callable[[Frames], Frames]) -> Callable[[Frames], Frames]:
    """A change of one picture as one of all pictures of a clip."""
    return lambda frames: np.stack([change(frame) for frame in frames])


def gray(frame: Frames) -> Frames:
    levels = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    rgb: Frames = np.stack([levels] * 3, axis=2).astype(np.uint8)
    return rgb


def brighter(frame: Frames) -> Frames:
    values: Frames = np.clip(frame * 1.3 + 25, 0, 255).astype(np.uint8)
    return values


def marked(frame: Frames) -> Frames:
    height, width = frame.shape[:2]
    place, size = (width // 10, round(height * 0.55)), width / 200
    drawn = cv2.putText(frame.copy(), "SAMPLE", place, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 2)
    return drawn.astype(np.uint8)


def cropped(frame: Frames) -> Frames:
    height, width = frame.shape[:2]
    top, left = round(height * 0.025), round(width * 0.025)
    return cv2.resize(frame[top : height - top, left : width - left], (width, height)).astype(np.uint8)


def turned(frame: Frames) -> Frames:
    height, width = frame.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 2, 1)
    return cv2.warpAffine(frame, matrix, (width, height)).astype(np.uint8)


def letterboxed(frame: Frames) -> Frames:
    bar = frame.shape[0] // 8
    return cv2.copyMakeBorder(frame, bar, bar, 0, 0, cv2.BORDER_CONSTANT).astype(np.uint8)


KINDS: dict[str, Callable[[Frames], Frames]] = {
    "encoded anew": lambda frames: frames,
    "gray": each(gray),
    "1.25 times as fast": lambda frames: frames[(np.arange(len(frames) / 1.25) * 1.25).astype(int)],
    "brighter": each(brighter),
    "first fifth cut off": lambda frames: frames[len(frames) // 5 :],
    "last fifth cut off": lambda frames: frames[: len(frames) - len(frames) // 5],
    "watermark": each(marked),
    "first second cut off": lambda frames: frames[min(RATE, len(frames) // 2) :],
    "cropped by 5 %": each(cropped),
    "turned by 2 degrees": each(turned),
    "letterboxed": each(letterboxed),
    "mirrored": lambda frames: frames[:, :, ::-1],
}


CUTS: tuple[tuple[Callable[[Frames], Frames], str], ...] = (
    (lambda frames: frames, "mpeg4"),
    (lambda frames: frames[:, frames.shape[1] // 10 :, : -(frames.shape[2] // 10)], "libx264"),
    (each(lambda frame: cv2.resize(frame, None, fx=0.7, fy=0.7).astype(np.uint8)), "libx264"),
)


def all_frames(path: Path) -> Frames:
    return rgb_frames([picture() for _, _, picture in video.each_frame(path, 100_000)])


def plant(entries: Sequence[Entry], folder: Path) -> dict[Path, tuple[str, Path]]:
    """Writes a copy of every kind of each clip.

    Returns:
        For each copy its kind and original.
    """
    planted = {}
    for number, entry in enumerate(entries):
        frames = all_frames(entry.clip_path)
        for kind, change in KINDS.items():
            changed = change(frames)
            even = changed[:, : changed.shape[1] // 2 * 2, : changed.shape[2] // 2 * 2]
            path = folder / f"{number}-{kind.replace(' ', '_')}.mp4"
            video.write_video(path, np.ascontiguousarray(even), RATE, "libx264", {"crf": "28"})
            planted[path] = kind, entry.clip_path
    return planted


def copies(entries: Sequence[Entry], count: int, seed: int) -> None:
    """Prints how many copies of each kind are found among all clips."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = random.Random(seed).sample(list(entries), min(count, len(entries)))
        planted = plant(chosen, Path(folder))
        paths = [entry.clip_path for entry in entries] + list(planted)
        started = time.process_time()
        for path in paths:
            fingerprint_of(path)
        seen = time.process_time()
        looks = looks_of(paths)
        compared = time.process_time()
    pairs = [(paths[looks.readable[a]], paths[looks.readable[b]]) for a, b in looks.copies]
    found = Counter(
        planted[copy][0]
        for pair in pairs
        for copy, original in (pair, pair[::-1])
        if copy in planted and planted[copy][1] == original
    )
    origin = {path: original for path, (_, original) in planted.items()}
    false = {tuple(sorted((origin.get(a, a), origin.get(b, b)))) for a, b in pairs}
    print(
        f"{len(paths)} clips, fingerprints in {seen - started:.0f} s of CPU, compared in "
        f"{compared - seen:.1f} s; found of {len(chosen)} copies of each kind:"
    )
    for kind in KINDS:
        print(f"  {kind:22} {found[kind]}")
    print(f"  pairs of originals called copies: {sum(a != b for a, b in false)}")


def cut(entries: Sequence[Entry], folder: Path) -> list[Entry]:
    """The first, middle and last quarter of each clip; the second is cropped, the third smaller."""
    cuts = []
    for number, entry in enumerate(entries):
        frames = all_frames(entry.clip_path)
        length = max(1, len(frames) // 4)
        for place, (change, codec) in enumerate(CUTS):
            first = place * (len(frames) - length) // 2
            changed = change(frames[first : first + length])
            even = changed[:, : changed.shape[1] // 2 * 2, : changed.shape[2] // 2 * 2]
            path = folder / f"{number}-{place}.{'avi' if codec == 'mpeg4' else 'mp4'}"
            video.write_video(path, np.ascontiguousarray(even), RATE, codec)
            cuts.append(Entry(path, entry.label, str(number), ""))
    return cuts


def cut_scenes(entries: Sequence[Entry], count: int, seed: int) -> None:
    """Prints `scenes` of clips cut out of some, one of each group, in two halves."""
    ordered = random.Random(seed).sample(list(entries), len(entries))
    chosen = list({entry.group or str(entry.clip_path): entry for entry in ordered}.values())[: 2 * count]
    for name, half in (("tuned on", chosen[::2]), ("held out", chosen[1::2])):
        with tempfile.TemporaryDirectory() as folder:
            print(f"cut out of {len(half)} clips, {name}: ", end="")
            scenes(cut(half, Path(folder)))


def scenes(entries: Sequence[Entry]) -> None:
    """Prints recall and precision of pairs of clips of one scene."""
    started = time.perf_counter()
    numbers = find_scenes([entry.clip_path for entry in entries]).numbers
    seconds = time.perf_counter() - started
    found = same = both = 0
    for (a, one), (b, other) in itertools.combinations(zip(entries, numbers, strict=True), 2):
        together, truth = one == other, a.group == b.group
        found, same, both = found + together, same + truth, both + (together and truth)
    groups = len({entry.group for entry in entries})
    print(
        f"{len(entries)} clips, {groups} groups, {len(set(numbers))} scenes: "
        f"recall {both / max(same, 1):.2f}, precision {both / max(found, 1):.2f}, {seconds:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--planted", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="another one chooses other clips")
    arguments = parser.parse_args()
    entries, _ = read_sources([arguments.folder], group_scope="class")
    if all(entry.group for entry in entries):
        scenes(entries)
    cut_scenes(entries, arguments.planted, arguments.seed)
    copies(entries, arguments.planted, arguments.seed)


if __name__ == "__main__":
    main()
