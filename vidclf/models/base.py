"""The contract that every model keeps, deep and classical alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from vidclf.config import Dimension, PathKey, Section
from vidclf.data.clips import ClipSet
from vidclf.progress import Advance

if TYPE_CHECKING:
    from vidclf.models.pixels import Pixels
    from vidclf.models.video_network import ExportableNetwork  # torch takes a second

Report = Callable[[int, Mapping[str, float]], None]
"""Called with (step, metrics): step 0 with the sizes known before training, then
each finished epoch from 1 with its curves. It may raise to stop the fit."""

Probabilities = NDArray[np.float64]
"""Shape (clips, classes); rows sum to 1."""


class Classifier(Protocol):
    """A video classifier; `fit` or the kind's ``load`` comes before the rest."""

    def fit(self, train: ClipSet, val: ClipSet, report: Report, checkpoint: Path | None = None) -> None:
        """Trains on ``train``; ``val`` may only choose the epoch that is kept.

        A fit of many epochs keeps its state in the folder ``checkpoint``, and goes on from what it
        finds there; one that is done in seconds starts anew.
        """

    def predict_proba(self, clips: ClipSet) -> Probabilities:
        """Class probabilities of each clip, shape (clips, classes), in the order of the classes."""

    def embed(self, clips: ClipSet) -> NDArray[np.float64]:
        """What the last step of a decision sees of each clip, shape (clips, width); width 0: nothing."""

    def save(self, directory: Path) -> None:
        """Writes plain files into an existing folder, never pickle."""

    def describe(self) -> Mapping[str, float]:
        """``size/...`` metrics of the fitted model, as ``size/parameters``, ``cost/macs`` of a network."""

    @property
    def calibrated(self) -> bool:
        """Whether `fit` calibrates the probabilities itself; others are calibrated on val afterwards."""

    @property
    def by_features(self) -> "FeatureClassifier | None":
        """Itself, where it decides by hand-made features that can be drawn and exchanged."""

    def exportable(self, clips: ClipSet, temperature: float) -> "ExportableNetwork | None":
        """Its network with the first of ``clips`` as an example; ``None`` where it has none.

        Args:
            clips: One clip or more.
            temperature: By which its logits are divided where one view is all that counts.
        """

    def batched(self, clips: int) -> Self:
        """The same model, which computes so many clips at once."""

    def computation(self) -> Mapping[str, str]:
        """How it computes here: ``device`` (where it is always the same), ``precision``, ``layout``."""


class FeatureClassifier(Protocol):
    """What the figures of hand-made features need of a classifier."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in their order."""

    def blocks(self, clips: ClipSet) -> Mapping[str, NDArray[np.float64]]:
        """The values of each feature by its name, in the order of the features, (clips, values) each."""

    def probabilities(self, values: NDArray[np.float64]) -> Probabilities:
        """Class probabilities from the values of all blocks side by side, shape (clips, classes)."""

    def pixels(self, clips: ClipSet, index: int) -> "Pixels":
        """Clip ``index`` as the features see it, its flow over whole frames."""


_LARGEST = 4096
"""Pixels of an edge, and instants of a clip: a larger number is a slip, and would fill the memory."""
_Edge = Annotated[int, Field(ge=16, le=_LARGEST)]


class DataConfig(Section):
    """Which clips, and which of their frames and pixels."""

    manifest: Annotated[str, PathKey()]
    """CSV file with clip_path, label, group, split; also a URL that fsspec opens, as ``s3://bucket/m.csv``."""
    frames: int = Field(16, ge=1)
    """Frames taken from each clip, at the midpoints of equal parts of its grid."""
    size: int | None = Field(None, ge=16, le=_LARGEST)
    """Edge of the square crop in pixels; unset: the weights' own, else 112."""
    resize: _Edge | Annotated[tuple[_Edge, _Edge], Field(strict=False)] | None = None
    """Short side, or (height, width), in pixels before the crop; unset: the weights' own, else the crop's."""
    normalize: str = Field("weights", pattern="^(weights|imagenet|kinetics)$")
    """Channel mean and deviation: the weights' own, ImageNet's or Kinetics'."""
    grid: int = Field(64, ge=1, le=_LARGEST)
    """Instants of a clip that are decoded and stored."""
    store_side: int = Field(256, ge=16, le=_LARGEST)
    """Upper limit of the stored frames' short side in pixels."""
    folds: int = Field(0, ge=0)
    """Folds of whole groups that train and val are split into anew; 0: as the manifest says."""
    fold: int = Field(0, ge=0)
    """The fold that is val."""
    augment_seed: int = Field(0, ge=0)
    """Seed of the augmented views."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.folds == 1:
            raise ValueError("data.folds = 1: two folds are the fewest; 0 is the manifest's own split")
        if self.fold >= max(self.folds, 1):
            raise ValueError(f"data.fold = {self.fold} is not below data.folds = {self.folds}")
        if self.frames > self.grid:
            raise ValueError(
                f"data.frames = {self.frames} is larger than data.grid = {self.grid}, the frames that are "
                "kept of each clip; raise data.grid as well, or take fewer frames"
            )
        if self.size is not None and self.size > self.store_side:
            raise ValueError(f"data.size = {self.size} is larger than data.store_side = {self.store_side}")
        return self


class ModelConfig(Section):
    """The ``[model]`` section; kinds narrow ``kind`` to a literal and add their keys."""

    kind: str
    """Which kind of model: a key of MODELS."""


class Published(Section):
    """Figures that a source gives for a setting, shown beside our own."""

    source: str
    """Where the figures come from."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Metric by its name here, as ``test/accuracy``."""


class AbstainConfig(Section):
    """When the model answers nothing: ``predict`` and the served model then give no label."""

    error: float = Field(gt=0, lt=1)
    """Share of wrong answers that is accepted; the confidence that keeps to it is chosen on val, by group."""


class ExperimentConfig(Section):
    """The part of an experiment that all kinds share; each kind adds its own sections."""

    seed: int = Field(0, ge=0)
    """Seed of initialisation, order and splits inside training."""
    experiment: str | None = Field(None, min_length=1)
    """MLflow experiment; unset: the name of the manifest's folder."""
    data: DataConfig
    """Which clips, and which of their frames and pixels."""
    model: ModelConfig
    """The model; each kind has its own keys."""
    abstain: AbstainConfig | None = None
    """Let the model answer nothing where it is not confident; unset: it always answers."""
    published: Published | None = None
    """Figures that a source gives for this setting."""

    @property
    def kind(self) -> str:
        """``model.kind``: the key into `vidclf.models.MODELS`."""
        return self.model.kind

    @property
    def seeded(self) -> bool:
        """Whether another seed makes another model; where none does, repeats by seed are one run."""
        return True

    @property
    def apart(self) -> float:
        """Seconds to the later pictures that the model takes motion from; 0: none are kept."""
        return 0.0

    def resolved(self) -> Self:
        """This config with every ``auto`` and weight-dependent default replaced by its value here."""
        return self

    def check_weights(self) -> None:
        """Loads pretrained weights once, so that a study fails before its first trial.

        Raises:
            InputError: The weights cannot be had, or don't fit the network.
        """

    def warm(self, clips: ClipSet, progress: Advance) -> None:
        """Computes and keeps what every fit on these stored clips would look up; progress after each clip."""

    def own_range(self, path: str) -> Dimension | None:
        """The recommended range, where it depends on this config."""
        return None

    def notes(self, train: int, val: int) -> list[str]:
        """What a user should know before so many clips are trained on and judged by."""
        return []

    def shape(self) -> Mapping[str, Any]:
        """What latency depends on; equal shapes share one measurement."""
        return {"model.kind": self.kind}


@dataclass(frozen=True)
class ModelSpec:
    """One kind of model: its file format and how it is made.

    Attributes:
        config: The strict schema of a whole experiment of this kind.
        build: An untrained classifier for a config of that schema and the classes.
        load: A classifier from the folder that its ``save`` wrote.
        space: Recommended search ranges, by dotted path.
        initialise: Gives what ``build`` makes random weights, where that makes it as fast as a trained model;
            ``None`` for kinds that are not networks.
        learns: Whether ``fit`` learns from clips; else it converts what another model has learned, and a fit
            on other clips says nothing.
        packages: What a saved model imports beside what vidclf always needs, as pip names it; ``None``: that
            of its network.
    """

    config: type[ExperimentConfig]
    build: Callable[[Any, Sequence[str]], Classifier]
    load: Callable[[Path], Classifier]
    space: Mapping[str, Dimension]
    initialise: Callable[[Any], None] | None = None
    learns: bool = True
    packages: tuple[str, ...] | None = None
