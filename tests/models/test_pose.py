"""The feature pose: on drawn figures, whose landmarks a stand-in for LiteRT knows by their colours."""

import io
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import flatbuffers
import numpy as np
import pytest

from tests.classical_models import experiment, silent
from tests.clips import CLASSES
from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.manifest import Entry
from vidclf.data.pictures import Frames
from vidclf.data.video import write_video
from vidclf.exceptions import InputError
from vidclf.models import MODELS, feature_store, pose
from vidclf.models.body_movement import mirrored
from vidclf.models.feature_store import Framing, build_features, feature_matrix
from vidclf.models.features import compute_features
from vidclf.models.pose import PoseModel
from vidclf.runs.experiment import portable

LEFT = ["eye inner", "eye", "eye outer"]
NAMES = [
    "nose",
    *(f"{side} {part}" for side in ("left", "right") for part in LEFT),
    *(
        f"{side} {part}"
        for part in ("ear", "mouth", "shoulder", "elbow", "wrist", "pinky", "index", "thumb", "hip", "knee")
        for side in ("left", "right")
    ),
    *(f"{side} {part}" for part in ("ankle", "heel", "foot") for side in ("left", "right")),
]
"""MediaPipe's landmarks in their order."""
TWINS = [
    NAMES.index(name.replace("left", "?").replace("right", "left").replace("?", "right")) for name in NAMES
]
HEIGHT, WIDTH = 240, 320


def figure(
    time: float, at: tuple[float, float] = (160, 130), size: float = 50, lean: float = 0
) -> np.ndarray:
    """Landmarks in pixels, (33, 2): a body with its hips at a place lifts an arm; it leans by radians."""
    places = np.zeros((33, 2))
    for number in range(11):  # of the face
        places[number] = (0.25 * (number % 4) - 0.4, 0.25 * (number // 4) - 2)
    for part, across, down in (("shoulder", 0.35, -1.0), ("hip", 0.25, 0.0), ("knee", 0.3, 0.7)):
        for name, side in ((f"left {part}", 1), (f"right {part}", -1)):
            places[NAMES.index(name)] = (across * side, down)
    for number, part in enumerate(("ankle", "heel", "foot")):
        places[NAMES.index(f"left {part}")] = (0.3 + 0.25 * number, 1.2)
        places[NAMES.index(f"right {part}")] = (-0.3 - 0.25 * number, 1.2)
    for number, part in enumerate(("elbow", "wrist", "pinky", "index", "thumb")):
        places[NAMES.index(f"left {part}")] = (0.6 + 0.25 * number, -0.9 - 0.5 * time)
        places[NAMES.index(f"right {part}")] = (-0.6 - 0.25 * number, -0.3)
    turn = np.array([[np.cos(lean), -np.sin(lean)], [np.sin(lean), np.cos(lean)]])
    return np.asarray(size * places @ turn.T + at)


def drawn(*figures: np.ndarray) -> np.ndarray:
    """A frame of bodies: each landmark a disc, whose red says which it is and whose blue says whose."""
    frame = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    for person, places in enumerate(figures):
        for number, (right, down) in enumerate(places):
            colour = (20 + 7 * number, 255, 255 * person)
            cv2.circle(frame, (round(16 * right), round(16 * down)), 16 * 2, colour, -1, cv2.LINE_AA, 4)
    return frame


def clip(frames: int = 6, **how: Any) -> Frames:
    return np.stack([drawn(figure(time, **how)) for time in np.linspace(0, 1, frames)])


class Interpreter:
    """Finds what `drawn` draws; its model's content says which network it is."""

    made: list[bytes] = []  # noqa: RUF012
    calls: list[bytes] = []  # noqa: RUF012

    def __init__(self, model_content: bytes, num_threads: int) -> None:
        if not model_content.startswith((b"landmarks", b"detector")):
            raise ValueError("The model is not a valid Flatbuffer buffer")
        assert num_threads == 1
        self.which = model_content[:9]
        self.edge, self.shapes = (
            (256, [(1, 1), (1, 195)]) if self.which == b"landmarks" else (224, [(1, 2254, 1), (1, 2254, 12)])
        )
        self.made.append(self.which)

    def allocate_tensors(self) -> None:
        pass

    def get_input_details(self) -> list[dict[str, Any]]:
        return [{"shape": np.array([1, self.edge, self.edge, 3]), "index": 0}]

    def get_output_details(self) -> list[dict[str, Any]]:
        return [{"shape": np.array(shape), "index": len(shape) + shape[-1]} for shape in self.shapes]

    def set_tensor(self, index: int, values: np.ndarray) -> None:
        assert (index, values.shape, values.dtype) == (0, (1, self.edge, self.edge, 3), np.float32)
        low = 0 if self.which == b"landmarks" else -1
        assert low <= values.min() <= values.max() <= 1
        self.seen = (values[0] - low) / (1 - low)

    def invoke(self) -> None:
        self.calls.append(self.which)
        rows, columns = np.nonzero(self.seen[..., 1] > 0.4)
        red, green, blue = self.seen[rows, columns].T
        self.people = {}
        for person in (0, 1):
            own = np.round(blue / green) == person
            numbers = np.round((255 * red / green - 20) / 7)[own]
            places = np.stack([columns, rows], axis=1)[own]
            self.people[person] = {
                number: np.median(places[numbers == number], axis=0)
                for number in range(33)
                if np.count_nonzero(numbers == number) > 2
            }

    def get_tensor(self, index: int) -> np.ndarray:
        shape = next(shape for shape in self.shapes if len(shape) + shape[-1] == index)
        outputs = self.landmarks() if self.which == b"landmarks" else self.detections()
        return outputs[shape[-1]].reshape(shape).astype(np.float32)

    def landmarks(self) -> dict[int, np.ndarray]:
        found = max(self.people.values(), key=len)
        points = np.zeros((39, 5))
        points[:33, 3:5] = -20
        for number, place in found.items():
            points[number] = (*place, 0, 20, 20)
        hips = points[23:25, :2].mean(axis=0)
        right, down = torso = points[11:13, :2].mean(axis=0) - hips
        points[33, :2], points[34, :2] = hips, hips + 1.8 * torso
        # As of the real network: bodies have to stand upright in the region.
        return {195: points, 1: np.array([float(len(found) > 25 and abs(right) < -0.5 * down)])}

    def detections(self) -> dict[int, np.ndarray]:
        candidates, scores = np.zeros((2254, 12)), np.full(2254, -200.0)
        # The first grid has 28 x 28 cells of two candidates each.
        for person, found in self.people.items():
            if len(found) < 25:
                continue
            known = np.array(list(found.values()))
            hips, shoulders = (np.mean([found[a], found[a + 1]], axis=0) for a in (23, 11))
            column, row = (known.mean(axis=0) // 8).astype(int)
            index = 2 * (28 * row + column) + person
            anchor = 8 * (np.array([column, row]) + 0.5)
            candidates[index, 2:4] = np.ptp(known, axis=0)
            candidates[index, 4:8] = [*(hips - anchor), *(hips + 1.8 * (shoulders - hips) - anchor)]
            scores[index] = 3 - person
        return {12: candidates, 1: scores}


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> type[Interpreter]:
    monkeypatch.setattr(Interpreter, "made", [])
    monkeypatch.setattr(Interpreter, "calls", [])
    litert: Any = ModuleType("ai_edge_litert")
    litert.interpreter = ModuleType("ai_edge_litert.interpreter")
    litert.interpreter.Interpreter, litert.__version__ = Interpreter, "1"
    monkeypatch.setitem(sys.modules, "ai_edge_litert", litert)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", litert.interpreter)
    return Interpreter


MODEL = PoseModel(b"landmarks", b"detector")


def vector(frames: Frames, **how: bool) -> np.ndarray:
    """The feature of whole pictures."""
    body = replace(MODEL).body(frames)
    return compute_features(frames[:, :64, :64], ["pose"], body=body, **how)["pose"]


@pytest.mark.parametrize(
    "how",
    [{}, {"at": (80, 90), "size": 36}, {"size": 40, "lean": np.pi / 2}, {"size": 40, "lean": -1.0}],
    ids=["upright", "small and aside", "lying", "leaning"],
)
def test_landmarks_are_found_where_they_were_drawn(library: type[Interpreter], how: dict[str, Any]) -> None:
    body = MODEL.body(clip(**how))
    drawn_at = np.stack([figure(time, **how) for time in np.linspace(0, 1, 6)])
    assert (body.shape, body.dtype) == ((6, 33, 4), np.float32)
    assert HEIGHT * body[..., :2] == pytest.approx(drawn_at, abs=1.0)
    assert body[..., 2:] == pytest.approx(1)


def test_a_landmark_outside_the_picture_is_unsure(library: type[Interpreter]) -> None:
    body = replace(MODEL).body(clip(at=(160, 190)))
    hidden = [number for number, name in enumerate(NAMES) if name.split()[-1] in ("ankle", "heel", "foot")]
    assert body[:, hidden, 2] == pytest.approx(0, abs=1e-6)
    assert body[:, :23, 2] == pytest.approx(1)


def test_neither_place_nor_size_counts(library: type[Interpreter]) -> None:
    here, *others = (
        vector(clip(at=at, size=size)) for at, size in (((160, 130), 50), ((100, 110), 50), ((200, 140), 40))
    )
    still = vector(np.repeat(clip(1), 6, axis=0))
    assert len(here) == 467
    for other in others:
        assert other == pytest.approx(here, abs=0.06)
    left_wrist = 2 * 15 + 1
    mean, deviation, lowest, highest = here[: 4 * 66].reshape(4, 66)[:, left_wrist]
    assert mean == pytest.approx(-0.9 - 0.25, abs=0.05)
    assert (lowest, highest) == pytest.approx((-1.4, -0.9), abs=0.05)
    assert deviation == pytest.approx(0.5 * np.std(np.linspace(0, 1, 6)), abs=0.02)
    assert here[4 * 66 + left_wrist] == pytest.approx(0.1, abs=0.02)
    assert still[[*range(66, 132), *range(264, 400)]] == pytest.approx(0, abs=0.02)


def test_a_body_that_travels_says_how_far(library: type[Interpreter]) -> None:
    walk = np.stack([drawn(figure(0, at=(100 + 12 * step, 130))) for step in range(6)])
    right, down, varies_right, _ = vector(walk)[396:400]
    assert (right, down, varies_right) == pytest.approx((12 / 50, 0, 0), abs=0.02)


def test_a_mirror_swaps_left_and_right(library: type[Interpreter]) -> None:
    assert [NAMES[twin] for twin in TWINS[:4]] == ["nose", "right eye inner", "right eye", "right eye outer"]
    frames = clip(4)
    image = np.stack([drawn((WIDTH, 0) + figure(t)[TWINS] * (-1, 1)) for t in np.linspace(0, 1, 4)])
    turned = mirrored(MODEL.body(frames)) + np.array([WIDTH / HEIGHT, 0, 0, 0], dtype=np.float32)
    assert MODEL.body(image) == pytest.approx(turned, abs=0.005)
    both = vector(frames, mirror=True)
    assert both == pytest.approx((vector(frames) + vector(image)) / 2, abs=0.02)
    assert vector(image, mirror=True) == pytest.approx(both, abs=0.02)


def test_a_pyramid_is_the_clip_and_its_halves(library: type[Interpreter]) -> None:
    body = MODEL.body(clip(5))
    tall = compute_features(clip(5)[:, :64, :64], ["pose"], body=body, pyramid=True)["pose"]
    parts = (body, body[:3], body[2:])
    whole = [compute_features(clip(1)[:, :64, :64], ["pose"], body=part)["pose"] for part in parts]
    np.testing.assert_array_equal(tall, np.concatenate(whole))


def test_frames_without_a_body_take_the_nearest_ones(library: type[Interpreter]) -> None:
    blank = np.zeros((1, HEIGHT, WIDTH, 3), dtype=np.uint8)
    shown = clip(4)
    gap = vector(np.concatenate([blank, shown[:2], blank, shown[2:]]))
    filled = vector(shown[[0, 0, 1, 1, 2, 3]])
    assert gap[:-1] == pytest.approx(filled[:-1], abs=0.02)
    assert (gap[-1], filled[-1]) == pytest.approx((4 / 6, 1))
    assert not vector(np.repeat(blank, 3, axis=0)).any()
    assert np.isfinite(vector(shown[:1])).all()


def test_the_detector_is_asked_only_while_nobody_is_followed(library: type[Interpreter]) -> None:
    blank = np.zeros((2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    replace(MODEL).body(np.concatenate([clip(4), blank, clip(3)]))
    assert "".join("d" if call == b"detector" else "." for call in library.calls) == "d....." + "d." + "d..."


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_bodies_the_largest_is_followed(library: type[Interpreter], order: int) -> None:
    large, small = figure(0, at=(90, 130), size=48), figure(0, at=(245, 110), size=36)
    frames = np.stack([drawn(*(large, small)[::order])] * 3)
    assert HEIGHT * replace(MODEL).body(frames)[..., :2] == pytest.approx(np.stack([large] * 3), abs=1.0)


def stored(folder: Path, count: int = 2) -> ClipSet:
    paths = [folder / f"clip{index}.mp4" for index in range(count)]
    for index, path in enumerate(paths):
        write_video(path, clip(size=40 + 10 * index))
    entries = [Entry(path, "a", "", "train") for path in paths]
    return ClipSet.of_entries(entries, ("a", "b"), ClipStore(64, 256))


def test_vectors_are_kept_by_what_the_networks_are(library: type[Interpreter], tmp_path: Path) -> None:
    clips, framing = stored(tmp_path), Framing(4, 32, 32, pose=replace(MODEL))
    build_features(clips, ["pose"], framing)
    done = len(library.calls)
    assert done >= 2 * 4
    values = feature_matrix(clips, ["pose"], framing)
    assert values.any(axis=1).all()
    for same in ({"size": 48, "resize": 48}, {"apart": 0.1}, {"follow": True}, {"pose": replace(MODEL)}):
        np.testing.assert_array_equal(feature_matrix(clips, ["pose"], replace(framing, **same)), values)
    assert len(library.calls) == done
    for other in ({"frames": 3}, {"mirror": True}, {"pose": PoseModel(b"landmarks 2", b"detector")}):
        feature_matrix(clips, ["pose"], replace(framing, **other))
        done, before = len(library.calls), done
        assert done > before
    assert feature_store.FEATURES["pose"].body


def package(folder: Path, **parts: bytes | None) -> Path:
    """A packed file with these networks."""
    given = {"landmarks": b"landmarks", "detector": b"detector", **parts}
    names = ("package/pose_landmark_full.tflite", "package/pose_solution_packed_assets.data")
    path = folder / "mediapipe-pose-0.5.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in zip(names, given.values(), strict=True):
            if content is not None:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def described(path: Path | str, **values: Any) -> Any:
    keys = {"features": "pose+hof", "pose_model": str(path), "scale": "block", **values}
    return experiment("knn", **{f"model__{key}": value for key, value in keys.items()})


def test_a_saved_model_has_its_networks_with_it(library: type[Interpreter], tmp_path: Path) -> None:
    frames = [clip(size=size) if index % 2 else clip()[::-1] for index, size in enumerate((40, 50, 45, 48))]
    clips = ClipSet(
        tuple(Path(f"{index}") for index in range(4)),
        np.array([0, 1, 0, 1]),
        ("a", "b", "c", "d"),
        CLASSES,
        lambda path: frames[int(str(path))],
    )
    path = package(tmp_path)
    settings = described(path, neighbours=1)
    settings.check_weights()
    classifier: Any = MODELS["knn"].build(settings, CLASSES)
    classifier.fit(clips, clips, silent)
    (tmp_path / "model").mkdir()
    classifier.save(tmp_path / "model")
    path.unlink()
    files = {saved.name for saved in (tmp_path / "model").iterdir()}
    assert files == {"classical.json", "estimator.skops", "pose.safetensors"}
    loaded: Any = MODELS["knn"].load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(clips), classifier.predict_proba(clips))
    assert classifier.blocks(clips)["pose"].any(axis=1).all()
    assert loaded.framing == classifier.framing
    assert loaded.framing.pose.digest == classifier.framing.pose.digest
    assert loaded.describe() == classifier.describe()


def test_a_result_depends_on_the_packages_content(library: type[Interpreter], tmp_path: Path) -> None:
    first = portable(described(package(tmp_path)))["model.pose_model"]
    assert first.startswith("sha256 ")
    assert portable(described(package(tmp_path, detector=b"detector 2")))["model.pose_model"] != first


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"detector": None}, "not the package @mediapipe/pose (filename 'package/pose_solution"),
        ({"landmarks": b"other"}, "its network for landmarks is not MediaPipe's (The model is not a valid"),
        ({"detector": b"landmarks"}, "its network that detects bodies is not MediaPipe's (other inputs"),
    ],
)
def test_a_package_of_something_else_is_named(
    library: type[Interpreter], tmp_path: Path, parts: dict[str, bytes | None], message: str
) -> None:
    with pytest.raises(InputError) as refused:
        described(package(tmp_path, **parts)).check_weights()
    assert message in str(refused.value)
    assert "npm pack @mediapipe/pose" in str(refused.value)


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"cut"])
def test_a_file_that_is_no_package_is_named(
    library: type[Interpreter], tmp_path: Path, content: bytes | None
) -> None:
    path = package(tmp_path, landmarks=bytes(np.random.default_rng(0).bytes(5000)))
    if content is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:3000] if content == b"cut" else content)
    with pytest.raises(InputError) as refused:
        described(path).check_weights()
    reason = "no such file" if content is None else "not the package @mediapipe/pose"
    assert str(refused.value).startswith(f"model.pose_model: {path}: {reason}")
    assert "\n" not in str(refused.value)
    assert "npm pack @mediapipe/pose downloads it" in str(refused.value)


def test_without_the_extra_the_pip_line_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(
        InputError, match=r"the feature pose needs ai_edge_litert.*pip install 'vidclf\[pose\]'"
    ):
        described(package(tmp_path)).check_weights()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pose_model": None}, "the feature pose needs model.pose_model, a file: npm pack @mediapipe/pose"),
        ({"features": "hof"}, "model.pose_model: no effect without the feature pose"),
    ],
)
def test_the_key_and_the_feature_go_together(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        described("/p.tgz", **values)
    assert message in str(refused.value)


def network(edge: int, outputs: dict[tuple[int, ...], np.ndarray]) -> bytes:
    """A LiteRT file whose outputs are these values, (n, 3), times the mean colour of its picture."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers, graph.tensors, graph.operators = 3, [graph], [], [], []
    codes = {"MEAN": 0, "FULLY_CONNECTED": 1, "RESHAPE": 2}
    model.operatorCodes = []
    for name in codes:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        code.version = 1
        model.operatorCodes.append(code)

    def tensor(shape: Sequence[int], values: np.ndarray | None = None) -> int:
        buffer, made = schema.BufferT(), schema.TensorT()
        buffer.data = None if values is None else np.frombuffer(values.tobytes(), np.uint8)
        made.shape, made.buffer = list(shape), len(model.buffers)
        whole = values is not None and values.dtype == np.int32
        made.type = schema.TensorType.INT32 if whole else schema.TensorType.FLOAT32
        model.buffers.append(buffer)
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    def operator(name: str, inputs: list[int], output: int, options: Any) -> None:
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = codes[name], inputs, [output]
        made.builtinOptions, made.builtinOptionsType = (
            options,
            getattr(schema.BuiltinOptions, type(options).__name__[:-1]),
        )
        graph.operators.append(made)

    tensor([0])  # the first buffer is that of tensors without values
    picture, mean = tensor((1, edge, edge, 3)), tensor((1, 3))
    operator("MEAN", [picture, tensor((2,), np.array([1, 2], np.int32))], mean, schema.ReducerOptionsT())
    graph.inputs, graph.outputs = [picture], []
    for shape, values in outputs.items():
        flat, shaped = tensor((1, len(values))), tensor(shape)
        weights = tensor(values.shape, values.astype(np.float32))
        operator("FULLY_CONNECTED", [mean, weights, -1], flat, schema.FullyConnectedOptionsT())
        sizes = tensor((len(shape),), np.array(shape, np.int32))
        operator("RESHAPE", [flat, sizes], shaped, schema.ReshapeOptionsT())
        graph.outputs.append(shaped)
    builder = flatbuffers.Builder(2**20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_litert_runs_the_networks(tmp_path: Path) -> None:
    points = np.zeros((39, 5, 3))
    points[:, 0, 0], points[:, 1, 1] = 128, np.arange(39)  # right by the mean red, down by the mean green
    points[:, 3:5, 2] = 2
    presence = np.array([[1.0, 0, 0]])
    candidates, scores = np.zeros((2254, 12, 3)), np.full((2254, 3), 1.0)  # the mean colour is below 0
    files = {
        "landmarks": network(256, {(1, 195): points.reshape(195, 3), (1, 1): presence}),
        "detector": network(224, {(1, 2254, 12): candidates.reshape(-1, 3), (1, 2254, 1): scores}),
    }
    model = pose.read(str(package(tmp_path, **files)))
    model.check()
    frames = np.full((1, 128, 128, 3), (255, 102, 0), dtype=np.uint8)
    body = model.body(frames)
    # A little less, as pixels at the edge are mixed with the black outside.
    assert body[0, :, 0] == pytest.approx(64 / 128, rel=0.01)
    assert body[0, :, 1] == pytest.approx(0.4 * np.arange(33) / 2 / 128, rel=0.01)
    assert body[0, :, 2:] == pytest.approx(np.tile([0.5, 1.0], (33, 1)), rel=0.01)
