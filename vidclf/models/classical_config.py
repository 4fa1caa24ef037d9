"""The classical kinds as a file describes them: their sections, experiments and search ranges."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from vidclf.config import Choice, Dimension, PathKey, Range, did_you_mean
from vidclf.data.clips import ClipSet
from vidclf.models import networks, pose
from vidclf.models.base import ExperimentConfig, ModelConfig
from vidclf.models.feature_store import Framing, build_features
from vidclf.models.features import DEEP, FEATURES
from vidclf.models.networks import NETWORKS, Preprocessing
from vidclf.progress import Advance

_TIMED = ("features", "pyramid", "mirror", "network", "trees", "iterations")
"""Keys of ``[model]`` that latency depends on, beside ``kind``."""


def _split_names(value: Any) -> Any:
    return tuple(name.strip() for name in value.split("+")) if isinstance(value, str) else value


FeatureNames = Annotated[
    tuple[str, ...],
    Field(min_length=1, strict=False),
    BeforeValidator(_split_names),
    # As text, so that a value that a study chose equals the config's.
    PlainSerializer("+".join),
]
"""Names of `FEATURES`, or ``deep``; in a file a list, or a text as ``hog+flow``, which a study can choose."""


class ClassicalConfig(ModelConfig):
    """What all classical models share: features side by side, scaled, perhaps reduced."""

    features: FeatureNames = ("hog", "flow")
    """Which features, side by side: ``hog``, ``flow``, ``hof``, ``mbh``, ``color``, ``lbp``, ``difference``,
    ``history``, ``moments``, ``glcm``, ``gabor``, ``edges``, ``tracks``, ``change``, ``pose``, or ``deep``,
    the pooled features of a frozen network; a list, or joined as ``hog+flow``."""
    network: Annotated[str | None, PathKey(prefix="hf:")] = None
    """With ``deep``: a key of `vidclf.models.networks.NETWORKS`, or another library's, as ``timm:NAME``."""
    weights: Annotated[str | None, PathKey(keywords=("pretrained", "none"))] = None
    """With ``deep``: ``pretrained`` (those published for it; also where unset), ``none`` (random, by
    ``seed``), or a file of the network's weights."""
    pose_model: Annotated[str | None, PathKey()] = None
    """With ``pose``: the file that holds MediaPipe's networks for it, the package ``@mediapipe/pose`` (Apache
    2.0) as ``npm pack @mediapipe/pose`` downloads it: ``mediapipe-pose-VERSION.tgz``."""
    scale: Literal["standard", "block", "none"] = "standard"
    """``standard``: each value to mean 0 and deviation 1; ``block``: the same, then every feature as a whole
    weighs alike, however many values it has."""
    pca: int | float = 0
    """Principal components: 0: none; 1 and above: so many, or as many as clips and values allow; below 1:
    the share of the variance that they keep at least."""

    flow_seconds: float = Field(0.0, ge=0, le=10)
    """Seconds between the two pictures that flow is taken between at each frame, whose kept clips take
    nearly twice the room; 0: flow is taken from one frame to the next, and grows with a clip's length."""
    pyramid: bool = False
    """Of every feature but ``deep`` the values of the clip, then those of its first and its second half."""
    follow: bool = False
    """Of ``flow``, ``hof`` and ``mbh``: the camera's motion (each picture's median) is taken out, and cells
    divide the box of what moves in the clip, in place of the whole square."""
    mirror: bool = False
    """Every feature is the mean of the clip's and of its mirror image's, in twice the time: left and right
    count alike."""

    @field_validator("features")
    @classmethod
    def _known(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        known = [*FEATURES, DEEP]
        for name in features:
            if name not in known:
                raise ValueError(f"{name!r} is none of {', '.join(known)}{did_you_mean(name, known)}")
        if len(set(features)) < len(features):
            raise ValueError("names repeat")
        return features

    @field_validator("pca")
    @classmethod
    def _components(cls, pca: float) -> float:
        if pca < 0 or (pca >= 1 and isinstance(pca, float)):
            raise ValueError("should be 0, a whole number of components, or a share between 0 and 1")
        return pca

    @model_validator(mode="after")
    def _network(self) -> Self:
        if DEEP not in self.features:
            idle = [f"model.{key}" for key in ("network", "weights") if getattr(self, key) is not None]
            if idle:
                raise ValueError(f"{' and '.join(idle)}: no effect without the feature deep")
            return self
        if self.network is None:
            raise ValueError(f"the feature deep needs model.network: one of {', '.join(NETWORKS)}")
        networks.check_network(self.network, self.weights or "pretrained")
        return self

    @model_validator(mode="after")
    def _pose(self) -> Self:
        wanted = any(FEATURES[name].body for name in self.features if name != DEEP)
        if wanted and self.pose_model is None:
            raise ValueError(f"the feature pose needs model.pose_model, a file: {pose.CURE}")
        if self.pose_model is not None and not wanted:
            raise ValueError("model.pose_model: no effect without the feature pose")
        return self

    def deep(self) -> tuple[str, str] | None:
        """Network and weights of the feature ``deep``, ``None`` without it."""
        return (self.network, self.weights or "pretrained") if self.network else None

    def preprocessing(self) -> Preprocessing:
        """What the network's weights want; without one, that of untrained ones."""
        deep = self.deep()
        return networks.preprocessing(*deep) if deep else networks.UNTRAINED


class WeightedConfig(ClassicalConfig):
    """Of a model that can weigh clips by their class."""

    class_weight: Literal["balanced", "none"] = "balanced"
    """``balanced``: clips of rarer classes weigh more, and probabilities are those of equally frequent
    classes; ``none``: of classes as frequent as in training."""


class SvmConfig(WeightedConfig):
    """A support vector machine."""

    kind: Literal["svm"]
    """Which kind of model."""
    C: float = Field(1.0, gt=0)
    """Cost of a training clip on the wrong side of the margin."""
    kernel: Literal["linear", "rbf", "chi2", "intersection"] = "linear"
    """Similarity of two clips; ``chi2`` and ``intersection`` compare histograms, unscaled and without pca."""
    gamma: float | Literal["scale"] = "scale"
    """Inverse width of the rbf and chi2 kernels, ``scale``: 1 / (number of values * their variance), for chi2
    1 / the mean distance of two training clips; the other kernels have none."""

    @field_validator("gamma", mode="before")
    @classmethod
    def _positive(cls, gamma: Any) -> Any:
        if gamma != "scale" and not (isinstance(gamma, int | float) and gamma > 0):
            raise ValueError("should be a number above 0, or 'scale'")
        return gamma

    @model_validator(mode="after")
    def _histograms(self) -> Self:
        if self.kernel not in ("chi2", "intersection"):
            return self
        mends = []
        histograms = [name for name, spec in FEATURES.items() if spec.histogram]
        others = [name for name in self.features if name not in histograms]
        if others:
            mends.append(
                f"take {', '.join(others)} out of model.features (histograms are {', '.join(histograms)})"
            )
        if self.scale != "none":
            mends.append('set model.scale = "none"')
        if self.pca:
            mends.append("set model.pca = 0")
        if mends:
            raise ValueError(f"model.kernel = {self.kernel!r} compares plain histograms: {', '.join(mends)}")
        return self


class LogisticConfig(WeightedConfig):
    """Multinomial logistic regression with an L2 penalty."""

    kind: Literal["logistic"]
    """Which kind of model."""
    C: float = Field(0.01, gt=0)
    """Inverse strength of the penalty; of thousands of values a large one makes probabilities too sure."""


class ForestConfig(WeightedConfig):
    """A random forest; without pca, scaling has no effect on it."""

    kind: Literal["forest"]
    """Which kind of model."""
    trees: int = Field(300, ge=1)
    """Number of trees, each on its own bootstrap sample."""
    min_leaf: int = Field(1, ge=1)
    """Fewest training clips in a leaf."""
    split_values: Literal["sqrt"] | Annotated[float, Field(gt=0, le=1)] = "sqrt"
    """Values that a split chooses among: the square root of their number, or a share."""


class BoostingConfig(WeightedConfig):
    """Gradient-boosted trees on binned values; without pca, scaling has no effect on it."""

    kind: Literal["boosting"]
    """Which kind of model."""
    iterations: int = Field(100, ge=1)
    """Number of trees, for each class where there are more than two."""
    learning_rate: float = Field(0.1, gt=0)
    """What each tree's outputs are multiplied by."""
    leaves: int = Field(8, ge=2)
    """Most leaves of a tree."""
    min_leaf: int = Field(5, ge=1)
    """Fewest training clips in a leaf."""
    l2: float = Field(0.0, ge=0)
    """L2 penalty on the outputs of leaves."""


class KnnConfig(ClassicalConfig):
    """The nearest training clips."""

    kind: Literal["knn"]
    """Which kind of model."""
    neighbours: int = Field(5, ge=1)
    """How many training clips vote, all of them where there are fewer."""
    metric: Literal["euclidean", "cosine"] = "euclidean"
    """Distance of two clips."""
    vote: Literal["uniform", "distance"] = "uniform"
    """``distance``: a vote weighs 1 / its clip's distance."""


class MajorityConfig(ModelConfig):
    """The most frequent class of the training clips; it looks at no frame."""

    kind: Literal["majority"]
    """Which kind of model."""


class ClassicalExperiment(ExperimentConfig):
    """An experiment with features; ``data.normalize`` has an effect on ``deep`` only."""

    model: ClassicalConfig
    """The model and its features."""

    @property
    def framing(self) -> Framing:
        """The frames and pixels that the features see."""
        edges = self.model.preprocessing().edges(self.data.size, self.data.resize)
        model = self.model
        return Framing(
            self.data.frames, *edges, self.apart, model.pyramid, model.follow and self._moving, model.mirror
        )

    def with_pose(self) -> Framing:
        """The framing with the networks of the feature ``pose``, where it is among the features."""
        named = self.model.pose_model
        return replace(self.framing, pose=pose.read(named)) if named else self.framing

    @property
    def apart(self) -> float:
        return self.model.flow_seconds if self._moving else 0.0

    @property
    def _moving(self) -> bool:
        return any(FEATURES[name].flow for name in self.model.features if name != DEEP)

    @property
    def seeded(self) -> bool:
        deep = self.model.deep()
        return deep is not None and deep[1] == "none"

    @model_validator(mode="after")
    def _check(self) -> Self:
        networks.check_crop(self.framing.size, self.framing.resize, self.data.store_side)
        if self.model.network:
            networks.check_input(self.model.network, self.data.frames, self.framing.size)
        return self

    def resolved(self) -> Self:
        framing, deep = self.framing, self.model.deep()
        data = self.data.model_copy(update={"size": framing.size, "resize": framing.resize})
        model = self.model.model_copy(update={"weights": deep[1]} if deep else {})
        return self.model_copy(update={"data": data, "model": model})

    def check_weights(self) -> None:
        if deep := self.model.deep():
            from vidclf.models.weights import load_backbone  # torch takes seconds

            load_backbone(*deep)
        if networks_of_pose := self.with_pose().pose:
            networks_of_pose.check()

    def notes(self, train: int, val: int) -> list[str]:
        deep = self.model.deep()
        return networks.licence_notes(*deep) if deep else []

    def warm(self, clips: ClipSet, progress: Advance) -> None:
        names = [name for name in self.model.features if name != DEEP]
        if names:
            build_features(clips, names, self.with_pose(), progress)

    def shape(self) -> Mapping[str, Any]:
        model = {f"model.{key}": getattr(self.model, key, None) for key in _TIMED}
        return {
            "model.kind": self.kind,
            **{key: value for key, value in model.items() if value is not None},
            "data.frames": self.data.frames,
            "data.size": self.framing.size,
            "data.resize": self.framing.resize,
            "data.grid": self.data.grid,
            "data.store_side": self.data.store_side,
            "model.flow_seconds": self.apart,
            "model.follow": self.framing.follow,
        }


class SvmExperiment(ClassicalExperiment):
    """An experiment with a support vector machine."""

    model: SvmConfig
    """The classifier and its features."""


class LogisticExperiment(ClassicalExperiment):
    """An experiment with logistic regression."""

    model: LogisticConfig
    """The classifier and its features."""


class ForestExperiment(ClassicalExperiment):
    """An experiment with a random forest."""

    model: ForestConfig
    """The classifier and its features."""

    @property
    def seeded(self) -> bool:
        return True


class BoostingExperiment(ClassicalExperiment):
    """An experiment with gradient-boosted trees."""

    model: BoostingConfig
    """The classifier and its features."""


class KnnExperiment(ClassicalExperiment):
    """An experiment with nearest neighbours."""

    model: KnnConfig
    """The classifier and its features."""


class MajorityExperiment(ExperimentConfig):
    """The floor of every comparison; of ``[data]`` only the manifest and the folds have an effect."""

    model: MajorityConfig
    """The majority class."""

    @property
    def seeded(self) -> bool:
        return False


_C = Range(low=1e-4, high=1e2, log=True)
_SHARED_SPACE: dict[str, Dimension] = {
    "model.scale": Choice(choices=("standard", "block")),
    "model.pca": Choice(choices=(0, 0.8, 0.95)),
    "model.flow_seconds": Choice(choices=(0.0, 0.08)),
    "model.pyramid": Choice(choices=(False, True)),
    "model.follow": Choice(choices=(False, True)),
    "model.mirror": Choice(choices=(False, True)),
}
SVM_SPACE: dict[str, Dimension] = {
    **_SHARED_SPACE,
    "model.C": _C,
    "model.kernel": Choice(choices=("linear", "rbf")),
    "model.gamma": Range(low=1e-5, high=0.1, log=True, when={"model.kernel": "rbf"}),
}
LOGISTIC_SPACE: dict[str, Dimension] = {**_SHARED_SPACE, "model.C": _C}
FOREST_SPACE: dict[str, Dimension] = {
    **_SHARED_SPACE,
    "model.trees": Range(low=100, high=800, log=True),
    "model.min_leaf": Range(low=1, high=8),
    "model.split_values": Choice(choices=("sqrt", 0.1, 0.3)),
}
BOOSTING_SPACE: dict[str, Dimension] = {
    **_SHARED_SPACE,
    "model.iterations": Range(low=25, high=200, log=True),
    "model.learning_rate": Range(low=0.02, high=0.5, log=True),
    "model.leaves": Range(low=2, high=16),
    "model.min_leaf": Range(low=1, high=8),
    "model.l2": Range(low=1e-3, high=10.0, log=True),
}
KNN_SPACE: dict[str, Dimension] = {
    **_SHARED_SPACE,
    "model.neighbours": Range(low=1, high=15),
    "model.metric": Choice(choices=("euclidean", "cosine")),
    "model.vote": Choice(choices=("uniform", "distance")),
}
