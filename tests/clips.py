"""Rendered clips for tests, a square that moves right or down over noise, and files that run on them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from vidclf.data import video
from vidclf.data.manifest import Entry, write_manifest
from vidclf.data.pictures import Frames

CLASSES = ("down", "right")


def moving_square(label: str, generator: np.random.Generator, frames: int = 8, size: int = 32) -> Frames:
    """A bright square on dark noise, uint8 (frames, size, size, 3)."""
    clip = generator.integers(0, 60, (frames, size, size, 3), dtype=np.uint8)
    row, column = generator.integers(0, size // 4, 2)
    for time in range(frames):
        step = time * (size // 2) // frames
        top, left = (row + step, column) if label == "down" else (row, column + step)
        clip[time, top : top + size // 4, left : left + size // 4] = 220
    return clip


def write_squares(folder: Path, groups: int = 6, takes: int = 1, frames: int = 8, size: int = 32) -> Path:
    """A data set of moving squares with its manifest: groups go round train, train, val, test.

    Returns:
        The manifest.
    """
    generator = np.random.default_rng(0)
    splits = ("train", "val", "test", "train")
    entries = []
    for label in CLASSES:
        (folder / label).mkdir(parents=True, exist_ok=True)
        for group in range(groups):
            for take in range(takes):
                path = folder / label / f"v_{label}_g{group:02}_c{take:02}.avi"
                video.write_video(path, moving_square(label, generator, frames, size))
                entries.append(Entry(path.absolute(), label, f"g{group:02}", splits[group % len(splits)]))
    write_manifest(entries, folder / "manifest.csv")
    return folder / "manifest.csv"


def room(number: int) -> np.ndarray:
    """A still background, uint8 (96, 128, 3)."""
    coarse = np.random.default_rng(number).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (128, 96), interpolation=cv2.INTER_CUBIC)


def write_scene(path: Path, number: int, take: int) -> Path:
    """A square wanders through a room."""
    generator = np.random.default_rng([number, take])
    clip = np.repeat(room(number)[None], 16, axis=0)
    places = np.linspace(generator.integers(0, 80, 2), generator.integers(0, 80, 2), 16).astype(int)
    for frame, (top, left) in zip(clip, places, strict=True):
        frame[top : top + 10, left : left + 10] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    video.write_video(path, clip)
    return path


def write_furnished(path: Path, number: int, take: str) -> Path:
    """A patterned board swings through a room full of things, 40 frames."""
    furniture = np.random.default_rng(number)
    still = room(number)
    for _ in range(60):
        top, left, height, width = furniture.integers([0, 0, 4, 4], [90, 120, 20, 20])
        still[top : top + height, left : left + width] = furniture.integers(0, 255, 3)
    board = cv2.resize(furniture.integers(0, 255, (6, 5, 3), dtype=np.uint8), (30, 36), interpolation=0)
    moves = np.random.default_rng([number, ord(take)]).integers(0, 12, (4, 2))
    clip = np.repeat(still[None], 40, axis=0)
    for time, frame in enumerate(clip):
        swing = sum(moves[k] * np.sin((k + 1) * time / 9 + moves[k, ::-1]) for k in range(4))
        top, left = np.clip((np.array([30, 50]) + swing).astype(int), 0, [60, 98])
        frame[top : top + 36, left : left + 30] = board
    video.write_video(path, clip)
    return path


def write_experiment(path: Path, kind: str, manifest: Path, **values: object) -> Path:
    """A small experiment file; ``values`` are further lines by section, as ``train="epochs = 1"``."""
    models = {
        "majority": 'kind = "majority"',
        "svm": 'kind = "svm"\nfeatures = ["difference"]',
        "logistic": 'kind = "logistic"\nfeatures = ["difference"]',
        "forest": 'kind = "forest"\nfeatures = ["difference"]\ntrees = 30',
        "boosting": 'kind = "boosting"\nfeatures = ["difference"]\niterations = 10\nmin_leaf = 2',
        "knn": 'kind = "knn"\nfeatures = ["difference"]\nneighbours = 3',
        "frames2d": 'kind = "frames2d"\nnetwork = "tiny2d"\nweights = "none"',
        "volume3d": 'kind = "volume3d"\nnetwork = "tiny3d"\nweights = "none"',
        "onnx": 'kind = "onnx"\nparent = "parent/model"',  # of `tests.saved_models.save_parent`
    }
    sections = {"data": f'manifest = "{manifest}"\nframes = 4\nsize = 32\ngrid = 8', "model": models[kind]}
    return _write_toml(path, "", sections, values)


def write_study(
    path: Path, base: str | Sequence[str], *, trials: int = 4, top: str = "", **values: object
) -> Path:
    """A small study of experiments beside it, for the best macro F1.

    Args:
        path: The file.
        base: Name of the experiment's file, or of several.
        trials: Its budget.
        top: Lines before the first section.
        values: Further lines by section, as ``space='"model.C" = { low = 0.1, high = 10.0 }'``.
    """
    sections = {
        "objective": 'metric = "val/macro_f1"\ndirection = "maximize"',
        "budget": f"trials = {trials}",
    }
    return _write_toml(path, f"base = {json.dumps(base)}\n{top}\n", sections, values)


def _write_toml(path: Path, top: str, sections: dict[str, str], more: Mapping[str, object]) -> Path:
    for name, lines in more.items():
        sections[name] = f"{sections.get(name, '')}\n{lines}".strip()
    body = "".join(f"[{name}]\n{lines}\n\n" for name, lines in sections.items())
    path.write_text(f"{top}{body}", encoding="utf-8")
    return path
