"""``vidclf export``: a neural model as a graph that runs without vidclf."""

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidclf.exceptions import InputError
from vidclf.models import graphs, load_model
from vidclf.models.saved import SavedModel
from vidclf.models.video_network import ExportableNetwork, ProbabilityGraph

Format = Literal["onnx", "pt2"]
Run = Callable[[Tensor], NDArray[np.float64]]
"""Probabilities (B, classes) of normalised clips (B, T, 3, size, size)."""

TOLERANCE = 1e-4
"""Largest difference of a probability that an export may have; single precision gives about 1e-6."""


@dataclass(frozen=True)
class ExportResult:
    """An export that was compared with its original.

    Attributes:
        file: The graph.
        notes: The JSON file beside it that says what goes in and what comes out.
        difference: Largest difference of a probability between graph and original, both in single precision.
        served_difference: The same to the original in the precision in which vidclf runs it here.
    """

    file: Path
    notes: Path
    difference: float
    served_difference: float

    def as_dict(self) -> dict[str, Any]:
        fields = asdict(self)
        return {**fields, "file": str(self.file), "notes": str(self.notes)}


def export(model: Path, form: Format, to: Path, clip: Path) -> ExportResult:
    """Writes a model as one file with its weights, and a JSON file of the same name and ``.json`` beside it.

    The graph takes any number of normalised clips, float32 (B, T, 3, size, size), and gives
    probabilities, float32 (B, classes). Nothing stays where it does not give the original's.

    Args:
        model: Folder of a saved neural model.
        form: ``pt2``, what `torch.export.load` reads, or ``onnx``.
        to: The file; replaced where it exists.
        clip: A video file to compare on.

    Raises:
        InputError: The model is no network, ``to`` cannot be a file, ``onnx`` is not installed, or the
            outputs differ.
        ClipError: The clip gives no frames.
    """
    saved = load_model(model)
    if to.is_dir():
        raise InputError(f"{to}: a folder; name the file to write, as {to / f'model.{form}'}")
    if not to.parent.is_dir():
        raise InputError(f"{to}: there is no folder {to.parent}")
    if form == "onnx":
        graphs.check_onnx()
    network = saved.classifier.exportable(saved.clips([clip]), saved.card.temperature)
    if network is None:
        raise InputError(
            f"the model is of the kind {saved.card.kind!r}, which has no network to export; frames2d and "
            "volume3d have"
        )
    partial = to.with_name(f".{to.name}.partial.{form}")
    try:
        reference, views = network.graph, network.views
        run = (_write_onnx if form == "onnx" else _write_pt2)(reference, views, partial)
        outputs = run(views).mean(axis=0)
        with torch.inference_mode():
            original = reference(views).double().mean(dim=0).numpy()
        difference = float(np.abs(outputs - original).max())
        if not difference <= TOLERANCE:  # nor may it be no number
            raise InputError(
                f"{to}: not written: its outputs differ from the original's by {difference:.2g}, more than "
                f"{TOLERANCE:g}"
            )
        served = saved.predict([clip])[0]
        partial.replace(to)
    finally:
        partial.unlink(missing_ok=True)
    notes = to.with_name(f"{to.name}.json")
    notes.write_text(json.dumps(_notes(saved, network, form), indent=1) + "\n", encoding="utf-8")
    return ExportResult(to, notes, difference, float(np.abs(outputs - served).max()))


def _write_pt2(graph: ProbabilityGraph, views: Tensor, file: Path) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how torch groups the tensors that it writes
        torch.export.save(graphs.traced(graph, views), file)
    module = torch.export.load(file).module()

    def run(clips: Tensor) -> NDArray[np.float64]:
        with torch.inference_mode():
            return np.asarray(module(clips).double().numpy())

    return run


def _write_onnx(graph: ProbabilityGraph, views: Tensor, file: Path) -> Run:
    graphs.write_onnx(graph, views, file)
    running = graphs.session(file.read_bytes(), torch.get_num_threads())
    return lambda clips: graphs.probabilities(running, clips.numpy())


def _notes(saved: SavedModel, network: ExportableNetwork, form: Format) -> dict[str, Any]:
    """What whoever runs the graph must know to give it what the model was trained on."""
    made = network.settings
    return {
        "format": form,
        "input": {
            "name": "clips",
            "dtype": "float32",
            "shape": ["clips", made["frames"], 3, made["size"], made["size"]],
            "layout": "clip, time, channel (red, green, blue), height, width",
            "made_by": [
                f"take {saved.card.grid} frames at the midpoints of equal parts of the video, or all if it "
                f"has fewer, reduced to a short side of {saved.card.store_side} pixels (area interpolation)",
                f"of these take {made['frames']}, at the midpoints of equal parts; of fewer repeat the last",
                f"resize to {made['resize']} ({made['interpolation']}; one number is the short side, "
                "two are height and width)",
                f"crop the central {made['size']} x {made['size']} pixels",
                "divide by 255, subtract mean, divide by std, channel by channel",
            ],
            "mean": list(made["mean"]),
            "std": list(made["std"]),
            "views": len(network.views),
            "views_are": "at other instants of the parts; the mean of their probabilities counts",
            "least_confidence": saved.card.confidence,
            "least_confidence_is": "of the likeliest class, under which there is no answer; 0: always one",
            "temperature": network.temperature,
            "temperature_is": "what the logarithm of that mean is divided by before another softmax; 1: "
            "nothing is left to do",
        },
        "output": {
            "name": "probabilities",
            "dtype": "float32",
            "shape": ["clips", len(saved.card.classes)],
            "classes": list(saved.card.classes),
        },
        "network": made["network"],
        "precision": "fp32",
    }
