"""A vidclf model behind MLflow's pyfunc interface: MLflow runs this file, nothing is pickled.

An item is a video as a ``data:`` URL in base64. A ``file:`` URL is read only below the folder that
``VIDCLF_SERVE_ROOT`` names, and nothing else is opened. Clips are decoded in child processes within
`vidclf.data.guarded.Limits`, so that no item can take the server down, nor hold up the others for long.
"""

import base64
import binascii
import os
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from vidclf.exceptions import ClipError, ItemError

_ESCAPES = {"%2B": "+", "%2b": "+", "%2F": "/", "%2f": "/", "%3D": "=", "%3d": "="}
"""Base64 holds no other character that URLs escape; `urllib.parse.unquote` would take 80 bytes for each."""
_CHUNK = 2**20
"""Characters that are decoded at a time; divisible by 4."""


class VideoClassifier(PythonModel):
    """Labels videos with the model that lies in the artifact ``model``."""

    def load_context(self, context: Any) -> None:
        """Loads the model; MLflow calls it once before the first prediction."""
        from vidclf import models  # MLflow runs this file to package it, without the model
        from vidclf.data.guarded import GuardedDecoder, Limits

        self._limits = Limits.of_environment()
        self._model = models.load_model(Path(context.artifacts["model"]))
        card = self._model.card
        self._decoder = GuardedDecoder(card.grid, card.store_side, self._limits, card.apart)

    def predict(self, model_input: list[str]) -> list[dict[str, Any]]:  # type: ignore[override]
        """One dict an item: ``label``, ``probabilities`` by class, and ``error`` where it has none.

        A model that may abstain (``[abstain]``) gives no label where it is not confident enough.

        Where MLflow serves the model, items that it has no time for any more get an error at once: nobody
        waits for their labels.

        Raises:
            ItemError: The request has too many items, or is too large.
        """
        ends = time.monotonic() + float(os.environ.get("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT") or "inf")
        if len(model_input) > self._limits.items:
            raise ItemError(f"{len(model_input)} items are over the limit of {self._limits.items:g}")
        if sum(map(len, model_input)) > self._limits.request_mb * 2**20:
            raise ItemError(f"the items are over the limit of {self._limits.request_mb:g} MiB")
        return [self._predict(item, ends) for item in model_input]

    def _predict(self, item: str, ends: float) -> dict[str, Any]:
        try:
            with self._video(item) as path:
                left = ends - time.monotonic()
                if left <= 0:
                    raise ItemError("cancelled: the request's time is over")
                frames = self._decoder.decode(path, left)
        except (ItemError, ClipError) as error:
            reason = f"{error.verdict}: {error.reason}" if isinstance(error, ClipError) else str(error)
            return {"label": None, "probabilities": {}, "error": reason}
        row = self._model.predict_frames(path, frames)[0]
        probabilities = {
            name: float(share) for name, share in zip(self._model.card.classes, row, strict=True)
        }
        return {
            "label": self._model.answer(row),
            "probabilities": probabilities,
            "error": None,
        }

    @contextmanager
    def _video(self, item: str) -> Iterator[Path]:
        """The item as a readable file."""
        scheme = item[:5].partition(":")[0].lower()
        if scheme == "data":
            with tempfile.NamedTemporaryFile(dir=self._decoder.scratch) as file:
                for part in _payload(item, int(self._limits.file_mb * 2**20)):
                    file.write(part)
                file.flush()
                yield Path(file.name)
        elif scheme == "file":
            yield _served_file(item)
        else:
            raise ItemError("not a data: URL in base64, nor a file: URL that this server serves")


def _payload(item: str, limit: int) -> Iterator[bytes]:
    """What a ``data:`` URL holds, in parts; at most ``limit`` bytes."""
    # Before anything is made of it: base64 takes 4 characters for 3 bytes, percent signs only add to that.
    if len(item) > limit // 3 * 4 + 256:
        raise ItemError(f"oversized: over the limit of {limit / 2**20:.3g} MiB")
    comma = item.find(",", 0, 256)
    if comma < 0 or not item[:comma].lower().endswith(";base64"):
        raise ItemError("a data: URL must be in base64, as in data:video/mp4;base64,AAAA")
    start = comma + 1
    if item.find("%", start) >= 0:
        for escape, character in _ESCAPES.items():
            item = item.replace(escape, character)
        start = item.index(",") + 1
    if item.find("=", start, len(item) - 2) >= 0:  # else each part might end by itself
        raise ItemError("the data: URL is not valid base64")
    for position in range(start, len(item), _CHUNK):
        try:
            yield base64.b64decode(item[position : position + _CHUNK], validate=True)
        except (binascii.Error, ValueError):
            raise ItemError("the data: URL is not valid base64") from None


def _served_file(item: str) -> Path:
    root = os.environ.get("VIDCLF_SERVE_ROOT")
    if not root:
        raise ItemError("this server reads no file: URLs (VIDCLF_SERVE_ROOT is not set)")
    try:
        url = urllib.parse.urlsplit(item)
        path = Path(urllib.parse.unquote(url.path)).resolve()
        inside = url.netloc in ("", "localhost") and path.is_relative_to(Path(root).resolve())
        readable = inside and path.is_file()
    except (OSError, ValueError):
        raise ItemError("not a file: URL that can be read") from None
    if not inside:
        raise ItemError("the file lies outside the folder that this server reads")
    if not readable:
        raise ItemError("no such file")
    return path


set_model(VideoClassifier())
