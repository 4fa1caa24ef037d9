"""``vidclf predict``: a saved model on video files, as wholes or window by window."""

import glob
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vidclf.config import is_url
from vidclf.data import remote
from vidclf.data.remote import named, public
from vidclf.data.sources import VIDEO_SUFFIXES
from vidclf.data.video import each_frame
from vidclf.data.windows import Window, windows
from vidclf.exceptions import ClipError, FalseTimestampsError, InputError
from vidclf.models.saved import SavedModel
from vidclf.progress import Progress, silent

if TYPE_CHECKING:  # half a second, for a table alone
    import pandas as pd


@dataclass(frozen=True)
class Prediction:
    """What a model makes of one file, or of one window of it.

    Attributes:
        clip_path: The file or URL, as given, without passwords.
        label: The most probable class; ``None`` on an error, and where the model is not confident enough.
        probabilities: By class; empty on an error.
        seconds: From file to label, the model being loaded.
        error: Why there are no probabilities.
        start: Where the window begins, in seconds from the first frame; ``None`` without windows.
        end: Where it ends.
    """

    clip_path: str
    label: str | None
    probabilities: Mapping[str, float]
    seconds: float
    error: str | None = None
    start: float | None = None
    end: float | None = None

    def as_dict(self, *, windowed: bool = False) -> dict[str, Any]:
        """All of it; ``start`` and ``end`` only of predictions by window."""
        fields = asdict(self)
        return fields if windowed else {key: fields[key] for key in fields if key not in ("start", "end")}


def find_videos(given: Sequence[str]) -> list[str]:
    """The files that names on the command line mean, in their order, each once.

    A folder means the videos in it and below; a pattern as ``clips/*/*.mp4`` the files that it matches.
    What means nothing stays as it is, to be an error of its own; so does a URL, which is that of a file.
    """
    found: dict[str, None] = {}
    for name in given:
        path = Path(name).expanduser()
        if is_url(name):
            found[name] = None
            continue
        if path.is_dir():
            below = (item for item in path.rglob("*") if item.suffix.lower() in VIDEO_SUFFIXES)
            means = sorted(item for item in below if item.is_file())
        elif not path.exists() and glob.has_magic(name):
            matches = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207  Path.glob takes no absolute ones
            means = sorted(item for item in matches if item.is_file())
        else:
            means = [path]
        found |= dict.fromkeys(map(str, means or [path]))
    return list(found)


def predict_files(
    saved: SavedModel,
    videos: Sequence[str | Path],
    progress: Progress = silent,
    window: float | None = None,
    every: float | None = None,
) -> list[Prediction]:
    """Labels each file by itself; a bad file spoils no other.

    Args:
        saved: The model.
        videos: Paths or URLs.
        progress: Called with (files done, files in all).
        window: Label every window of so many seconds, each sampled like a clip; ``None``: files as wholes.
        every: Seconds from one window to the next; ``None``: they do not overlap.

    Returns:
        One prediction a file, or one a window. A file that is damaged late gives one error, and no windows.
    """
    predictions: list[Prediction] = []
    for done, name in enumerate(videos, start=1):
        started = time.perf_counter()
        shown = public(str(name))
        try:
            video = remote.local_file(str(name))
            if not video.is_file():
                raise ClipError(video, "unreadable", _absence(video), named(video))
            predictions += _labelled(saved, video, window, every)
        except (ClipError, InputError) as found:
            if isinstance(found, ClipError):
                error = f"{found.verdict}: {found.reason}"
            else:
                error = f"unreadable: {str(found).removeprefix(f'{shown}: ')}"
            predictions.append(Prediction(shown, None, {}, time.perf_counter() - started, error))
        progress(done, len(videos))
    return predictions


def _absence(video: Path) -> str:
    if video.is_dir():
        return "a folder without videos"
    return "no file matches" if glob.has_magic(str(video)) and not is_url(named(video)) else "no such file"


def _labelled(saved: SavedModel, video: Path, window: float | None, every: float | None) -> list[Prediction]:
    if window is None:
        started = time.perf_counter()
        return [_prediction(saved, named(video), saved.predict([video])[0], started)]

    def by_window(*, counted: bool) -> list[Prediction]:
        card = saved.card
        found = windows(
            each_frame(video, card.store_side),
            window,
            card.grid,
            every=every,
            counted=counted,
            apart=card.apart,
        )
        return list(label_windows(saved, video, named(video), found))

    try:
        return by_window(counted=False)
    except FalseTimestampsError:
        return by_window(counted=True)


def label_windows(saved: SavedModel, video: Path, name: str, found: Iterable[Window]) -> Iterator[Prediction]:
    """Labels windows one after another, as they come; ``name`` is what their video is called."""
    started = time.perf_counter()
    for window in found:
        row = saved.predict_frames(video, window.frames)[0]
        yield replace(_prediction(saved, name, row, started), start=window.start, end=window.end)
        started = time.perf_counter()


def _prediction(saved: SavedModel, name: str, row: NDArray[np.float64], started: float) -> Prediction:
    probabilities = dict(zip(saved.card.classes, row.tolist(), strict=True))
    return Prediction(name, saved.answer(row), probabilities, time.perf_counter() - started)


def as_table(predictions: Sequence[Prediction], *, windowed: bool = False) -> "pd.DataFrame":
    """One row a prediction, ``probability/…`` for each class; ``start`` and ``end`` only if ``windowed``."""
    import pandas as pd

    return pd.DataFrame(
        {
            "clip_path": item.clip_path,
            **({"start": item.start, "end": item.end} if windowed else {}),
            "label": item.label,
            **{f"probability/{name}": value for name, value in item.probabilities.items()},
            "seconds": item.seconds,
            "error": item.error,
        }
        for item in predictions
    )
