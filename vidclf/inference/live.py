"""A model on a camera or a stream: each window is labelled as it ends, in bounded memory."""

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vidclf.data.live import LiveVideo
from vidclf.data.remote import public
from vidclf.data.windows import Window, windows
from vidclf.inference.predict import Prediction, label_windows
from vidclf.models.saved import SavedModel

_WAITING = 2
"""Windows that wait to be labelled; the source is not read on while so many do."""
_LATE = 2.0
"""Windows' lengths of lag from which on windows are left out until the model has caught up."""


@dataclass(frozen=True)
class LivePrediction:
    """A window of a live source with its label.

    Attributes:
        prediction: As of a file.
        lag: Seconds from the window's end to its label; 0 where the source sends faster than it plays.
        lost: Frames that the source has lost so far.
        skipped: Windows that were left out so far, for the model was late.
    """

    prediction: Prediction
    lag: float
    lost: int
    skipped: int


def predict_live(
    saved: SavedModel, source: str, window: float, every: float | None = None
) -> Iterator[LivePrediction]:
    """Labels the windows of a live source, with the labels that a recording of it would get.

    A thread reads the source while the model is at work.

    Args:
        saved: The model.
        source: As of `LiveVideo`.
        window: Seconds of each window.
        every: Seconds from one window to the next; ``None``: they do not overlap.

    Raises:
        InputError: The source cannot be opened, or sends no video.
    """
    live, card = LiveVideo(source), saved.card
    waiting: queue.Queue[Window | Exception | None] = queue.Queue(_WAITING)
    stopped = threading.Event()

    def put(item: Window | Exception | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=0.1)
                return

    def lag(ended: Window) -> float:
        return max(0.0, time.monotonic() - live.begun - ended.end)

    def read() -> None:
        try:
            frames = live.frames(card.store_side)
            for found in windows(frames, window, card.grid, every=every, counted=False, apart=card.apart):
                put(found)
                if stopped.is_set():
                    return
            put(None)
        except Exception as error:  # raised again where windows are waited for
            put(error)

    reader = threading.Thread(target=read, name="live source", daemon=True)
    reader.start()
    skipped = 0
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, Exception):
                raise item
            if not waiting.empty() and lag(item) > _LATE * window:
                skipped += 1
                continue
            for prediction in label_windows(saved, Path(source), public(source), [item]):
                yield LivePrediction(prediction, lag(item), live.lost, skipped)
    finally:
        stopped.set()
