"""`vidclf export` and `vidclf bench`: graphs that give what the model gives, and figures that say how."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.command import run
from tests.saved_models import save_model, save_network
from vidclf.data.manifest import Manifest
from vidclf.exceptions import InputError
from vidclf.inference import benchmark, export
from vidclf.models import graphs
from vidclf.models.classifier import NeuralClassifier
from vidclf.models.video_network import multiply_accumulates

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("volume3d", {}),
        ("frames2d", {"pooling": '"attention"', "eval_views": 3, "frozen_stages": 2}),
        *(("frames2d", {"pooling": f'"{pooling}"'}) for pooling in ("gru", "conv", "transformer")),
    ],
)
@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_a_graph_gives_what_the_model_gives(
    tmp_path: Path, squares: Manifest, kind: str, model: dict[str, object], form: export.Format
) -> None:
    if form == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name)
    folder = save_network(tmp_path, kind, squares, **model)
    clip = squares.entries[0].clip_path
    exported = export.export(folder, form, tmp_path / f"graph.{form}", clip)
    assert exported.difference <= 1e-5
    assert exported.served_difference < 0.02
    notes = json.loads(exported.notes.read_text())
    assert exported.notes.name == f"graph.{form}.json"
    assert notes["input"]["shape"] == ["clips", 4, 3, 32, 32]
    assert (notes["output"]["classes"], notes["input"]["views"]) == (
        ["down", "right"],
        model.get("eval_views", 1),
    )
    assert len(notes["input"]["mean"]) == len(notes["input"]["std"]) == 3
    assert {path.name for path in tmp_path.iterdir()} >= {f"graph.{form}", f"graph.{form}.json"}
    assert not list(tmp_path.glob(".*"))
    several = np.zeros((5, 4, 3, 32, 32), dtype=np.float32)
    if form == "pt2":
        with torch.inference_mode():
            probabilities = torch.export.load(exported.file).module()(torch.from_numpy(several)).numpy()
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(exported.file, providers=["CPUExecutionProvider"])
        [probabilities] = session.run(["probabilities"], {"clips": several})
    assert probabilities.shape == (5, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_a_graph_that_differs_is_not_written(
    tmp_path: Path, squares: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_network(tmp_path, "volume3d", squares)

    def wrong(classifier: NeuralClassifier, views: torch.Tensor, file: Path) -> export.Run:
        file.write_bytes(b"graph")
        return lambda clips: np.array([[0.9, 0.1]])

    monkeypatch.setattr(export, "_write_pt2", wrong)
    with pytest.raises(InputError, match="not written: its outputs differ"):
        export.export(folder, "pt2", tmp_path / "graph.pt2", squares.entries[0].clip_path)
    assert not list(tmp_path.glob("*graph*"))


def test_what_cannot_be_exported_says_why(
    tmp_path: Path, squares: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = squares.entries[0].clip_path
    save_model(tmp_path / "majority")
    with pytest.raises(InputError, match="the kind 'majority', which has no network to export"):
        export.export(tmp_path / "majority", "pt2", tmp_path / "x.pt2", clip)
    folder = save_network(tmp_path, "volume3d", squares)
    with pytest.raises(InputError, match="there is no folder"):
        export.export(folder, "pt2", tmp_path / "absent" / "x.pt2", clip)
    with pytest.raises(InputError, match="a folder; name the file to write"):
        export.export(folder, "pt2", tmp_path, clip)
    monkeypatch.setattr(graphs, "TO_WRITE", ("onnx_that_nobody_has",))
    with pytest.raises(InputError, match=r"pip install 'vidclf\[onnx\]'"):
        export.export(folder, "onnx", tmp_path / "x.onnx", clip)


def test_multiply_accumulates_are_those_of_the_layers() -> None:
    """tiny2d at 32 pixels: maps of 16, 8 and 4 pixels a side; 3x3 kernels; then the head, once a clip."""
    convolutions = 9 * (3 * 16 * 16**2 + 16 * 32 * 8**2 + 32 * 64 * 4**2)
    assert multiply_accumulates("tiny2d", "avg", 5, 4, 32) == 4 * convolutions + 64 * 5
    of_frames = 4 * 64 * 64 + 4 * 2 * 64 * 3 * 64 + 64 * 64  # narrow, two products a gate, widen
    assert multiply_accumulates("tiny2d", "gru", 5, 4, 32) == 4 * convolutions + of_frames + 64 * 5
    assert multiply_accumulates("r3d_18", "avg", 400, 16, 112) == pytest.approx(40.7e9, rel=1e-3)


@pytest.mark.slow
def test_bench_shows_what_was_measured_and_how(tmp_path: Path, squares: Manifest) -> None:
    folder = save_network(tmp_path, "volume3d", squares)
    clip = squares.entries[0].clip_path
    measured = benchmark.bench(folder, clip, batch=3)
    assert measured.clip == f"{clip}: mpeg4, 32 x 32, 8 frames"
    assert measured.conditions["model"] == "volume3d"
    assert measured.conditions.keys() >= {"threads", "device", "precision", "layout", "torch"}
    assert measured.metrics["throughput/batch"] == 3
    assert measured.metrics["throughput/clips_per_s"] > 0
    assert measured.metrics["cost/macs"] > 0
    assert measured.metrics["size/file_mb"] == pytest.approx(0.27, abs=0.02)
    assert ("cost/cuda_allocated_mb" in measured.metrics) == torch.cuda.is_available()
    result = run("bench", folder, "--batch", "2")
    for words in (
        "a rendered clip",
        "tensor to probabilities",
        "file to label",
        "2 at once",
        "multiply-accumulates",
    ):
        assert words in result.stdout
