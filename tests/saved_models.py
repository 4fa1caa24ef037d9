"""Small models as saved folders and kept attempts."""

import base64
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.attempts import end, make_trial
from tests.clips import write_experiment
from vidclf import config, models
from vidclf.data.clips import ClipSet
from vidclf.data.manifest import Manifest, content_digest
from vidclf.models import untrained_model
from vidclf.models.base import ExperimentConfig
from vidclf.models.saved import ModelMetadata, read_card, write_card
from vidclf.runs.experiment import load_experiment
from vidclf.runs.folder import Attempt
from vidclf.runs.store import Store


def save_network(folder: Path, kind: str, manifest: Manifest, **model: object) -> Path:
    """A network of random weights, saved like a trained one."""
    lines = "\n".join(f"{key} = {value}" for key, value in model.items())
    file = write_experiment(folder / f"{kind}.toml", kind, manifest.path, model=lines)
    return save_untrained(folder, load_experiment(file))


def save_untrained(folder: Path, experiment: ExperimentConfig) -> Path:
    """A model of random weights, saved like a trained one."""
    saved = untrained_model(experiment.resolved())
    directory = folder / "model"
    directory.mkdir()
    saved.classifier.save(directory)
    write_card(saved.card, directory)
    return directory


def save_parent(folder: Path, manifest: Manifest, kind: str = "frames2d", **model: object) -> Path:
    """A network of random weights as in a run: its card says what it was made with, and from which clips."""
    (folder / "parent").mkdir()
    directory = save_network(folder / "parent", kind, manifest, **model)
    experiment = load_experiment(folder / "parent" / f"{kind}.toml").resolved()
    trained_on = tuple((content_digest(entry.clip_path), entry.group) for entry in manifest.split("train"))
    card = replace(read_card(directory), experiment=config.dump(experiment), trained_on=trained_on)
    write_card(card, directory)
    return directory


CLASSES = ("climb", "jump", "run")


def save_model(directory: Path) -> None:
    """A majority model: it says ``jump`` (3 of 4) without looking at a frame."""
    labels = np.array([1, 1, 1, 2])
    clips = ClipSet(tuple(Path(f"{number}.mp4") for number in range(4)), labels, tuple("abcd"), CLASSES, open)  # type: ignore[arg-type]
    tree = {"data": {"manifest": "/data/manifest.csv"}, "model": {"kind": "majority"}}
    spec = models.MODELS["majority"]
    classifier = spec.build(spec.config.model_validate(tree), CLASSES)
    classifier.fit(clips, clips, lambda step, metrics: None)
    directory.mkdir()
    classifier.save(directory)
    write_card(ModelMetadata("majority", CLASSES, 16, 256, tree, (("sha", "a"),), {}), directory)


def make_kept(store: Store, number: int = 0) -> Attempt:
    """A finished trial that kept its model."""
    trial = make_trial(store, number, parent="study-1")
    save_model(trial.model)
    end(trial, metrics={"val/macro_f1": 0.75, "latency/p50_ms": 3.0})
    return trial


def data_url(content: bytes) -> str:
    return "data:video/x-msvideo;base64," + base64.b64encode(content).decode()
