"""Labels of windows as segments of a video: one for each stretch of time with one label."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from vidclf.data.tables import no_formula
from vidclf.inference.predict import Prediction

_NOTHING = frozenset({"nothing", "none", "other", "others", "background", "noaction", "idle"})
Answer = Callable[[NDArray[np.float64]], str | None]
"""As `vidclf.models.saved.SavedModel.answer`."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a video with one label.

    Attributes:
        clip_path: The video.
        start: Seconds from its first frame.
        end: Likewise.
        label: ``None`` where the model is not confident enough.
        probability: That of the most probable class, the mean over the stretch.
    """

    clip_path: str
    start: float
    end: float
    label: str | None
    probability: float


def segments(predictions: Iterable[Prediction], answer: Answer) -> Iterator[Segment]:
    """Merges windows that follow each other; each segment is given once it has ended.

    Where windows overlap, an instant has the mean of the probabilities of all windows that hold it, which
    smooths: a window of another label between two of one changes nothing that these outweigh.

    Args:
        predictions: By window, of one video after another, in order of their starts.
        answer: The label of a row of probabilities.

    Example:
        >>> windows = [Prediction("a", "x", {"x": 0.9, "y": 0.1}, 0.0, None, k, k + 1) for k in range(3)]
        >>> [(each.start, each.end, each.label) for each in segments(windows, lambda row: "xy"[row.argmax()])]
        [(0, 3, 'x')]
    """
    last: Segment | None = None
    for piece in _pieces(predictions, answer):
        if last and (piece.clip_path, piece.start, piece.label) == (last.clip_path, last.end, last.label):
            before, now = last.end - last.start, piece.end - piece.start
            mean = (last.probability * before + piece.probability * now) / (before + now)
            last = Segment(last.clip_path, last.start, piece.end, last.label, mean)
            continue
        if last:
            yield last
        last = piece
    if last:
        yield last


def _pieces(predictions: Iterable[Prediction], answer: Answer) -> Iterator[Segment]:
    """The stretches in which the same windows hold, each as a segment of its own."""
    holding: list[Prediction] = []
    reached = 0.0
    for prediction in predictions:
        if prediction.error or prediction.start is None or prediction.end is None:
            continue
        until = prediction.start
        if holding and holding[0].clip_path != prediction.clip_path:
            until = float("inf")
        yield from _passed(holding, reached, until, answer)
        holding = [each for each in holding if (each.end or 0.0) > until]
        reached = prediction.start
        holding.append(prediction)
    yield from _passed(holding, reached, float("inf"), answer)


def _passed(holding: list[Prediction], start: float, until: float, answer: Answer) -> Iterator[Segment]:
    """The stretches from ``start`` to ``until``, after which other windows may begin."""
    ends = sorted({min(each.end or 0.0, until) for each in holding if (each.end or 0.0) > start})
    for end in ends:
        held = [each for each in holding if (each.end or 0.0) >= end]
        if end > start:
            row = np.mean([[*each.probabilities.values()] for each in held], axis=0)
            yield Segment(held[0].clip_path, start, end, answer(row), float(row.max()))
        start = end


def stands_for_nothing(label: str) -> bool:
    """Whether a class is what is left where none of the others happens, by its name.

    Example:
        >>> [stands_for_nothing(name) for name in ("Nothing", "no_action", "other", "Punch")]
        [True, True, True, False]
    """
    return re.sub(r"[\W_]+", "", label).casefold() in _NOTHING


def write_segments(found: Iterable[Segment], path: Path) -> None:
    """Writes segments as they come: a table (.csv), subtitles (.srt) or a list (.json)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        WRITERS[path.suffix.lower()](found, file)


def _write_table(found: Iterable[Segment], file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["clip_path", "start", "end", "label", "probability"])
    for each in found:
        times, label = (f"{each.start:.3f}", f"{each.end:.3f}"), no_formula(each.label or "")
        writer.writerow([no_formula(each.clip_path), *times, label, f"{each.probability:.4f}"])
        file.flush()


def _write_subtitles(found: Iterable[Segment], file: TextIO) -> None:
    """What is not known has no subtitle, nor has a class that stands for nothing."""
    shown = (each for each in found if each.label is not None and not stands_for_nothing(each.label))
    for number, each in enumerate(shown, start=1):
        file.write(f"{number}\n{_stamp(each.start)} --> {_stamp(each.end)}\n{each.label}\n\n")
        file.flush()


def _write_list(found: Iterable[Segment], file: TextIO) -> None:
    json.dump([asdict(each) for each in found], file, indent=1)
    file.write("\n")


WRITERS = {".csv": _write_table, ".srt": _write_subtitles, ".json": _write_list}
"""By the suffix of a file."""


def _stamp(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02},{rest % 1000:03}"
