"""A vidclf model behind MLflow's pyfunc interface: MLflow runs this file, nothing is pickled.

An item is a video as a ``data:`` URL in base64. A ``file:`` URL is read only below the folder that
``VIDCLF_SERVE_ROOT`` names, and nothing else is opened. Clips are decoded in a child process within
`vidclf.data.guarded.Limits`, so that no item can take the server down.
"""

import base64
import binascii
import os
import tempfile
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from vidclf.exceptions import ClipError, ItemError


class VideoClassifier(PythonModel):
    """Labels videos with the model that lies in the artifact ``model``."""

    def load_context(self, context: Any) -> None:
        """Loads the model; MLflow calls it once before the first prediction."""
        from vidclf import models  # noqa: PLC0415  MLflow runs this file to package it, without the model
        from vidclf.data.guarded import GuardedDecoder, Limits  # noqa: PLC0415

        self._limits = Limits.of_environment()
        self._model = models.load_model(Path(context.artifacts["model"]))
        card = self._model.card
        self._decoder = GuardedDecoder(card.grid, card.store_side, self._limits)

    def predict(self, model_input: list[str]) -> list[dict[str, Any]]:  # type: ignore[override]
        """One dict an item: ``label``, ``probabilities`` by class, and ``error`` where it has none."""
        return [self._predict(item) for item in model_input]

    def _predict(self, item: str) -> dict[str, Any]:
        try:
            with _video(item, int(self._limits.file_mb * 2**20)) as path:
                frames = self._decoder.decode(path)
        except (ItemError, ClipError) as error:
            reason = f"{error.verdict}: {error.reason}" if isinstance(error, ClipError) else str(error)
            return {"label": None, "probabilities": {}, "error": reason}
        row = self._model.predict_frames(path, frames)[0]
        probabilities = {
            name: float(share) for name, share in zip(self._model.card.classes, row, strict=True)
        }
        return {
            "label": max(probabilities, key=probabilities.__getitem__),
            "probabilities": probabilities,
            "error": None,
        }


@contextmanager
def _video(item: str, limit: int) -> Iterator[Path]:
    """The item as a readable file; a ``data:`` URL may hold ``limit`` bytes."""
    scheme = item[:5].partition(":")[0].lower()
    if scheme == "data":
        with tempfile.TemporaryDirectory(prefix="vidclf-") as folder:
            path = Path(folder, "clip")
            path.write_bytes(_payload(item, limit))
            yield path
    elif scheme == "file":
        yield _served_file(item)
    else:
        raise ItemError("not a data: URL in base64, nor a file: URL that this server serves")


def _payload(item: str, limit: int) -> bytes:
    # Before anything is made of it: base64 takes 4 characters for 3 bytes, percent signs only add to that.
    if len(item) > limit // 3 * 4 + 256:
        raise ItemError(f"oversized: over the limit of {limit / 2**20:.3g} MiB")
    header, comma, text = item.partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise ItemError("a data: URL must be in base64, as in data:video/mp4;base64,AAAA")
    try:
        return base64.b64decode(urllib.parse.unquote(text), validate=True)
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
