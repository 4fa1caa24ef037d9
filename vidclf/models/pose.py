"""Body landmarks in whole pictures: MediaPipe's pose networks, run by LiteRT.

Bazarevsky et al., "BlazePose: on-device real-time body pose tracking", 2020: a
detector finds a body in the whole picture, a second network its landmarks in
the region around it. The landmarks say where to look in the next frame, so that
the detector is asked again only once the body is lost.
"""

import functools
import hashlib
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import cv2
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from vidclf.data import remote
from vidclf.data.manifest import content_digest
from vidclf.data.pictures import Frames
from vidclf.exceptions import InputError
from vidclf.models.pixels import LANDMARKS, Body

PACKAGES = ("ai-edge-litert",)
"""What a model with the feature ``pose`` needs beside what vidclf always needs, as pip names it."""
CURE = "npm pack @mediapipe/pose downloads it, as mediapipe-pose-VERSION.tgz"

_MEMBERS = ("package/pose_landmark_full.tflite", "package/pose_solution_packed_assets.data")
_LARGEST = 2**26
"""Bytes of a network; the larger one of the two has 6.4 million."""
_SAVED = "pose.safetensors"
_SURE = 0.5
"""Probability from which on there is a body."""
_MARGIN = 1.25
"""Edge of a region by the diameter of the circle that a body fills."""
_LANDMARK_EDGE, _DETECTOR_EDGE = 256, 224
"""Pixels of the squares that the networks see."""
_POINTS, _PER_POINT = 39, 5
"""Landmarks of the body, then two that say where it is and four more; what is said of each."""
_GRIDS = ((28, 2), (14, 2), (7, 6))
"""Cells along an edge of the detector's grids, and candidates of each cell."""
_CANDIDATES, _PER_CANDIDATE = 2254, 12


class _Region(NamedTuple):
    """A square in a picture, turned clockwise: its centre (right, down) and edge in pixels, its angle."""

    centre: NDArray[np.float64]
    edge: float
    angle: float


@dataclass(frozen=True)
class PoseModel:
    """The two networks.

    Attributes:
        landmarks: The LiteRT file of that for landmarks.
        detector: That of the detector.
    """

    landmarks: bytes = field(repr=False)
    detector: bytes = field(repr=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what landmarks depend on: both networks, and what runs them."""
        litert = _library()
        return hashlib.sha256(
            b" ".join([self.landmarks, self.detector, litert.__version__.encode()])
        ).hexdigest()

    @cached_property
    def _idle(self) -> list["_Networks"]:
        """Those that no thread uses now: an interpreter serves one at a time, and is slow to make."""
        return []

    @contextmanager
    def _networks(self) -> Iterator["_Networks"]:
        networks = self._idle.pop() if self._idle else _Networks(self)
        yield networks
        self._idle.append(networks)

    def check(self) -> None:
        """Raises `InputError` where LiteRT is missing or these are not the networks."""
        with self._networks():
            pass

    def body(self, frames: Frames) -> Body:
        """The body in each RGB frame, uint8 (T, H, W, 3), in units of the frames' height.

        Of several bodies it is the largest one, followed until it is lost.
        """
        height, width = frames.shape[1:3]
        whole = _Region(np.array([width / 2, height / 2]), max(height, width), 0.0)
        body = np.empty((len(frames), LANDMARKS, 4), dtype=np.float32)
        followed = None
        with self._networks() as networks:
            for frame, found in zip(frames, body, strict=True):
                region = followed or networks.detected(frame, whole) or whole
                points, found[:, 2], found[:, 3] = networks.located(frame, region)
                found[:, :2] = points[:LANDMARKS] / height
                followed = _around(*points[LANDMARKS : LANDMARKS + 2]) if found[0, 3] > _SURE else None
        return body

    def save(self, directory: Path) -> None:
        """Writes the networks into an existing folder, for `load`."""
        parts = {name: np.frombuffer(getattr(self, name), np.uint8) for name in ("landmarks", "detector")}
        safetensors.numpy.save_file(parts, directory / _SAVED)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The networks that were saved into ``directory``."""
        parts = safetensors.numpy.load_file(directory / _SAVED)
        return cls(parts["landmarks"].tobytes(), parts["detector"].tobytes())


def read(source: str) -> PoseModel:
    """The networks of MediaPipe's pose package as npm packs it, a path or URL.

    Raises:
        InputError: There is no such file, or it is another.
    """
    path = remote.local_file(source)
    said = f"model.pose_model: {remote.named(path)}"
    if not path.is_file():
        raise InputError(f"{said}: no such file; {CURE}")
    try:
        return _read(path, content_digest(path))
    except (tarfile.TarError, EOFError, OSError, zlib.error, KeyError, ValueError) as error:
        reason = str(error).strip("'\"") or type(error).__name__
        raise InputError(f"{said}: not the package @mediapipe/pose ({reason}); {CURE}") from None


@functools.lru_cache(maxsize=2)
def _read(path: Path, digest: str) -> PoseModel:
    """Unpacks the networks, once while the file is the same: it takes a third of a second."""
    with tarfile.open(path, "r:gz") as package:
        members = [package.getmember(name) for name in _MEMBERS]
        if not all(member.isfile() and member.size <= _LARGEST for member in members):
            raise ValueError("a network is no file, or too large")
        files = [package.extractfile(member) for member in members]
        return PoseModel(*(file.read() for file in files if file))


def _library() -> Any:
    try:
        import ai_edge_litert.interpreter
    except ModuleNotFoundError as missing:
        raise InputError(f"the feature pose needs {missing.name}: pip install 'vidclf[pose]'") from None
    return ai_edge_litert


class _Networks:
    """Interpreters of both networks, for one thread at a time."""

    def __init__(self, model: PoseModel) -> None:
        self._landmarks = _interpreter(
            model.landmarks, _LANDMARK_EDGE, [(1, _POINTS * _PER_POINT), (1, 1)], "for landmarks"
        )
        self._detector = _interpreter(
            model.detector,
            _DETECTOR_EDGE,
            [(1, _CANDIDATES, _PER_CANDIDATE), (1, _CANDIDATES, 1)],
            "that detects bodies",
        )

    def detected(self, frame: NDArray[np.uint8], whole: _Region) -> _Region | None:
        """The region of the largest body in a frame; ``None``: there is none."""
        square, matrix = _cut(frame, whole, _DETECTOR_EDGE)
        candidates, scores = self._detector(square / np.float32(127.5) - 1)
        sure = np.flatnonzero(scores >= 0)  # logits
        if not len(sure):
            return None
        largest = sure[candidates[sure, 2:4].prod(axis=1).argmax()]
        points = candidates[largest, 4:8].reshape(2, 2) + _anchors()[largest] * _DETECTOR_EDGE
        return _around(*_back(points, matrix))

    def located(
        self, frame: NDArray[np.uint8], region: _Region
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Points of a body in pixels of the frame; how surely landmarks are seen, and that it is there."""
        from scipy.special import expit  # it takes a tenth of a second

        square, matrix = _cut(frame, region, _LANDMARK_EDGE)
        said, presence = self._landmarks(square / np.float32(255))
        points = said.reshape(_POINTS, _PER_POINT)
        # A landmark may be outside the picture, or hidden.
        sure = expit(points[:LANDMARKS, 3:5]).mean(axis=1)
        return _back(points[:, :2], matrix), sure, float(presence.item())


def _interpreter(content: bytes, edge: int, shapes: Sequence[tuple[int, ...]], which: str) -> Any:
    """A function from a square, float32 (edge, edge, 3), to the outputs of these shapes, without their 1."""
    litert = _library()
    try:
        interpreter = litert.interpreter.Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
        given = interpreter.get_input_details()
        outputs = {tuple(output["shape"]): output["index"] for output in interpreter.get_output_details()}
        if [tuple(one["shape"]) for one in given] != [(1, edge, edge, 3)] or not set(shapes) <= set(outputs):
            raise ValueError("other inputs or outputs")
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"model.pose_model: its network {which} is not MediaPipe's ({error}); {CURE}"
        ) from None

    def run(square: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        interpreter.set_tensor(given[0]["index"], square[None])
        interpreter.invoke()
        return [np.squeeze(interpreter.get_tensor(outputs[shape])) for shape in shapes]

    return run


@functools.cache
def _anchors() -> NDArray[np.float64]:
    """Where the detector's candidates are, as shares of the square, shape (2254, 2)."""
    grids = []
    for cells, each in _GRIDS:
        middles = (np.arange(cells) + 0.5) / cells
        places = np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 2)
        grids.append(places.repeat(each, axis=0))
    return np.concatenate(grids)


def _around(centre: NDArray[np.float64], end: NDArray[np.float64]) -> _Region:
    """The region of a body from the middle of its hips and a point above, on the circle that it fills."""
    right, down = end - centre
    return _Region(centre, 2 * float(np.hypot(right, down)) * _MARGIN, float(np.arctan2(right, -down)))


def _cut(
    frame: NDArray[np.uint8], region: _Region, edge: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The region as an upright square of ``edge`` pixels, and the affine matrix from it to the frame."""
    cosine, sine = np.array([np.cos(region.angle), np.sin(region.angle)]) * region.edge / edge
    linear = np.array([[cosine, -sine], [sine, cosine]])
    matrix = np.column_stack([linear, region.centre - linear @ [edge / 2, edge / 2]])
    square = cv2.warpAffine(frame, matrix, (edge, edge), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return square.astype(np.uint8, copy=False), matrix


def _back(points: NDArray[np.floating[Any]], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (n, 2) of a square where they are in the frame."""
    moved: NDArray[np.float64] = points @ matrix[:, :2].T + matrix[:, 2]
    return moved
