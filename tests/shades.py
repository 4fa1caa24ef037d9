"""Videos of plain shades, and a model that tells how light they are."""

from pathlib import Path

import numpy as np

from vidclf.data import video
from vidclf.data.clips import ClipSet
from vidclf.models.saved import ModelMetadata, SavedModel

CLASSES = ("dark", "light")


class Brightness:
    """Says how light a clip's frames are, and remembers them."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def predict_proba(self, clips: ClipSet) -> np.ndarray:
        grids = [clips.grid(index) for index in range(len(clips))]
        self.seen += grids
        light = np.array([grid.mean() / 255 for grid in grids])
        return np.stack([1 - light, light], axis=1)


def saved_brightness(model: Brightness | None = None) -> SavedModel:
    """It as a model that was loaded, for grids of 8 pictures of 64 pixels."""
    card = ModelMetadata("svm", CLASSES, 8, 64, {}, (), {})
    return SavedModel(card, model or Brightness())  # type: ignore[arg-type]


def write_shades(path: Path, shades: list[int], frames: int = 25) -> Path:
    """Each shade for so many frames, 25 a second."""
    pictures = [np.full((frames, 32, 32, 3), shade, dtype=np.uint8) for shade in shades]
    video.write_video(path, np.concatenate(pictures))
    return path
