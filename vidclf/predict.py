"""``vidclf predict``: a saved model on video files."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vidclf.data.video import ClipError
from vidclf.models import load_model


@dataclass(frozen=True)
class Prediction:
    """What a model makes of one file.

    Attributes:
        clip_path: The file, as given.
        label: The most probable class; ``None`` on an error.
        probabilities: By class; empty on an error.
        seconds: From file to label, the model being loaded.
        error: Why there is no label.
    """

    clip_path: str
    label: str | None
    probabilities: Mapping[str, float]
    seconds: float
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def predict_files(
    model: Path, videos: Sequence[Path], progress: Callable[[int, int], None]
) -> list[Prediction]:
    """Labels each file by itself; a bad file spoils no other.

    Args:
        model: Folder of a saved model.
        videos: Video files.
        progress: Called with (files done, files in all).

    Raises:
        InputError: The folder holds no model.
    """
    saved = load_model(model)
    predictions = []
    for done, video in enumerate(videos, start=1):
        started = time.perf_counter()
        label, probabilities, error = None, {}, None
        try:
            if not video.is_file():
                raise ClipError(video, "unreadable", "a folder" if video.is_dir() else "no such file")
            row = saved.predict([video])[0]
            probabilities = dict(zip(saved.card.classes, row.tolist(), strict=True))
            label = max(probabilities, key=lambda name: probabilities[name])
        except ClipError as found:
            error = f"{found.verdict}: {found.reason}"
        predictions.append(Prediction(str(video), label, probabilities, time.perf_counter() - started, error))
        progress(done, len(videos))
    return predictions


def as_table(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """One row a file, one column a class."""
    return pd.DataFrame(
        {
            "clip_path": item.clip_path,
            "label": item.label,
            **item.probabilities,
            "seconds": item.seconds,
            "error": item.error,
        }
        for item in predictions
    )
