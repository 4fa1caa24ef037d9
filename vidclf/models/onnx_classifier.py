"""A trained network as an ONNX graph, in single precision or in eight bits: fitted by conversion."""

import copy
import dataclasses
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from vidclf.data.clips import ClipSet
from vidclf.data.manifest import content_digest
from vidclf.exceptions import InputError
from vidclf.models import graphs, training
from vidclf.models.base import Probabilities, Report
from vidclf.models.onnx_config import Bits, OnnxExperiment
from vidclf.models.saved import ModelMetadata
from vidclf.models.views import View, Views

if TYPE_CHECKING:
    from onnxruntime import InferenceSession  # an extra

GRAPH = "model.onnx"
_SETTINGS = "onnx.json"
_EXAMPLES = 32
"""Clips of train that the ranges of activations are taken from, as many of each class as can be."""

_SMALLEST = 1e-7
"""Probability below which single precision tells nothing apart."""


@dataclass(frozen=True)
class OnnxSettings:
    """How a clip becomes the input of a graph, and what its network is.

    Attributes without a word here are those of `Views`.

    Attributes:
        mean: Of each channel, for values 0 to 1.
        std: Standard deviation of each channel.
        network: Its name.
        sizes: ``size/parameters`` and ``cost/macs``, of the network.
    """

    frames: int
    size: int
    resize: int | Sequence[int]
    interpolation: str
    eval_views: int
    mean: Sequence[float]
    std: Sequence[float]
    network: str
    sizes: Mapping[str, float]

    def views(self) -> Views:
        """The views of a clip that are judged."""
        names = ("frames", "size", "resize", "interpolation", "eval_views")
        return Views(**{name: getattr(self, name) for name in names}, augment_seed=0, augment={})

    def inputs(self, clips: ClipSet, view: View, indices: Iterable[int]) -> graphs.Clips:
        """A view of some clips as the graph takes it."""
        pixels = self.views().pixels(clips, indices, view).numpy().astype(np.float32)
        mean, std = (
            255 * np.array(values, dtype=np.float32)[:, None, None] for values in (self.mean, self.std)
        )
        return (pixels - mean) / std


@dataclass(eq=False)
class OnnxClassifier:
    """What computes a graph with onnxruntime, on the CPU.

    Attributes:
        classes: Number of classes.
        precision: Of weights and activations.
        parent: Folder of the saved network that `fit` turns into a graph.
        batch_size: Clips that are computed at once.
        graph_: The graph, as a file of ONNX.
        settings_: What stands between a clip and it.
    """

    classes: int
    precision: Bits
    _: KW_ONLY
    parent: str = ""
    batch_size: int = 1
    graph_: bytes = field(init=False)
    settings_: OnnxSettings = field(init=False)
    _sessions: dict[int, "InferenceSession"] = field(init=False, default_factory=dict)

    def fit(self, train: ClipSet, val: ClipSet, report: Report, checkpoint: Path | None = None) -> None:
        """Writes the graph, whose ranges are those of clips of ``train``; trains nothing.

        Raises:
            InputError: The parent is not there, has learned from clips that are not in ``train``, so that
                val may be among them, or cannot be a graph.
        """
        from vidclf.models import load_model  # which knows this module

        saved = load_model(Path(self.parent))
        check_clips(saved.card, train, self.parent)
        network = saved.classifier.exportable(train, 1.0)  # the temperature is fitted anew, on val
        if network is None:
            raise InputError(f"{self.parent}: the kind {saved.card.kind!r} has no network")
        names = [item.name for item in dataclasses.fields(OnnxSettings) if item.name != "sizes"]
        described = saved.classifier.describe()
        sizes = {name: described[name] for name in ("size/parameters", "cost/macs")}
        self.settings_ = OnnxSettings(**{name: network.settings[name] for name in names}, sizes=sizes)
        with tempfile.TemporaryDirectory(prefix="vidclf-") as folder:
            single, eight = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
            graphs.write_onnx(network.graph, network.views, single)
            if self.precision == "int8":
                graphs.write_int8(single, eight, self._examples(train))
            self.graph_ = (eight if self.precision == "int8" else single).read_bytes()
        self._sessions.clear()

    def _examples(self, train: ClipSet) -> Iterator[graphs.Clips]:
        (view, *_) = self.settings_.views().evaluation()
        in_order = np.argsort(train.labels, kind="stable")
        places = np.unique(np.linspace(0, len(train) - 1, _EXAMPLES).round().astype(int))
        for index in in_order[places].tolist():
            yield self.settings_.inputs(train, view, [index])

    def predict_proba(self, clips: ClipSet) -> Probabilities:
        """Class probabilities of each clip, the mean over its evaluation views; shape (clips, classes)."""
        running, summed = self._session(), np.zeros((len(clips), self.classes))
        batches = training.batches(range(len(clips)), self.batch_size)
        for view in self.settings_.views().evaluation():
            inputs_of_batches = training.prefetched(partial(self.settings_.inputs, clips, view), batches)
            for indices, inputs in zip(batches, inputs_of_batches, strict=True):
                summed[indices] += graphs.probabilities(running, inputs)
        return np.asarray(summed / summed.sum(axis=1, keepdims=True))

    def _session(self) -> "InferenceSession":
        """A session with as many threads as torch has now, as those of a session cannot be changed."""
        threads = torch.get_num_threads()
        if threads not in self._sessions:
            self._sessions.clear()
            self._sessions[threads] = graphs.session(self.graph_, threads)
        return self._sessions[threads]

    def embed(self, clips: ClipSet) -> NDArray[np.float64]:
        """Logarithms of the probabilities, (clips, classes): a graph gives nothing before them."""
        return np.asarray(np.log(np.maximum(self.predict_proba(clips), _SMALLEST)))

    def save(self, directory: Path) -> None:
        """Writes the graph, and what stands before it."""
        (directory / GRAPH).write_bytes(self.graph_)
        arguments = {"classes": self.classes, "precision": self.precision}
        text = json.dumps({**arguments, "settings": dataclasses.asdict(self.settings_)}, indent=1)
        (directory / _SETTINGS).write_text(text + "\n", encoding="utf-8")

    def describe(self) -> Mapping[str, float]:
        """``size/parameters`` and ``cost/macs`` of the network."""
        return self.settings_.sizes

    @property
    def calibrated(self) -> bool:
        """Its softmax is calibrated on val, as its parent's was."""
        return False

    @property
    def by_features(self) -> None:
        """It makes its features itself."""
        return None

    def exportable(self, clips: ClipSet, temperature: float) -> None:
        """It is a graph already."""
        return

    def batched(self, clips: int) -> Self:
        """A classifier of the same graph that takes so many clips at once."""
        other = copy.copy(self)
        other.batch_size = clips
        return other

    def computation(self) -> Mapping[str, str]:
        """See `Classifier.computation`."""
        return {"device": "cpu", "precision": self.precision, "layout": "contiguous"}


def check_clips(parent: ModelMetadata, train: ClipSet, name: str) -> None:
    """Refuses a parent that may have seen val."""
    here = {content_digest(path) for path in train.paths}
    foreign = sum(clip not in here for clip, _ in parent.trained_on)
    if foreign:
        raise InputError(
            f"{name}: {foreign} of the {len(parent.trained_on)} clips that it has learned from are not in "
            "train here, so that val could be among them; take the manifest and fold that it was trained with"
        )


def build(experiment: OnnxExperiment, classes: Sequence[str]) -> OnnxClassifier:
    """A classifier whose graph `fit` will write."""
    model = experiment.model
    return OnnxClassifier(len(classes), model.precision, parent=model.parent)


def load(directory: Path) -> OnnxClassifier:
    """The classifier that `OnnxClassifier.save` wrote into ``directory``; needs onnxruntime alone.

    Raises:
        InputError: onnxruntime is not installed, or the graph takes or gives something else than it should.
    """
    arguments: dict[str, Any] = json.loads((directory / _SETTINGS).read_text(encoding="utf-8"))
    classifier = OnnxClassifier(arguments["classes"], arguments["precision"])
    made = classifier.settings_ = OnnxSettings(**arguments["settings"])
    classifier.graph_ = (directory / GRAPH).read_bytes()  # as bytes it can name no other file
    running = classifier._session()
    ends = [list(end.shape[1:]) for end in (*running.get_inputs(), *running.get_outputs())]
    wanted = [[made.frames, 3, made.size, made.size], [classifier.classes]]
    if ends != wanted:
        raise InputError(f"{directory / GRAPH}: takes and gives {ends}, and not {wanted}")
    return classifier
