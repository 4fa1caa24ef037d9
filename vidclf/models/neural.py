"""Builder of neural models, and what their frozen parts keep."""

from collections.abc import Sequence

import torch

from vidclf.models import networks
from vidclf.models.classifier import NeuralClassifier
from vidclf.models.neural_config import Frames2dConfig, NeuralExperiment
from vidclf.models.video_network import VideoNetwork


def build(experiment: NeuralExperiment, classes: Sequence[str]) -> NeuralClassifier:
    """An untrained network, of single frames or of volumes."""
    experiment = experiment.resolved()
    model, data = experiment.model, experiment.data
    statistics = networks.statistics(data.normalize, model.preprocessing())
    return NeuralClassifier(
        classes=len(classes),
        **{"pooling": "avg", **model.model_dump(exclude={"kind"})},
        **data.model_dump(include={"frames", "size", "resize", "augment_seed"}),
        interpolation=model.preprocessing().interpolation,
        mean=statistics.mean,
        std=statistics.std,
        seed=experiment.seed,
        augment=experiment.augment.model_dump(),
        **experiment.train.model_dump(),
    )


def kept_bytes(experiment: NeuralExperiment) -> int:
    """Bytes of the frozen part's output for one view, in half precision; found without computing it."""
    experiment = experiment.resolved()
    model, size = experiment.model, experiment.data.size
    assert size is not None
    with torch.device("meta"):
        network = VideoNetwork(
            model.network,
            weights="none",
            classes=2,
            dropout=0,
            frozen_stages=model.frozen_stages,
            pooling=model.pooling if isinstance(model, Frames2dConfig) else "avg",
        )
        output = network.prefix(torch.empty(1, experiment.data.frames, 3, size, size))
    return output.numel() * torch.float16.itemsize
