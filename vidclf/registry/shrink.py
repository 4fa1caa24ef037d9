"""Smaller and quicker forms of a trained network, each a run of its own beside its parent."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidclf.data.manifest import read_manifest
from vidclf.evaluation.predictions import predictions_table, write_predictions
from vidclf.exceptions import InputError
from vidclf.inference import profiling
from vidclf.models import MODELS, load_model
from vidclf.models.base import ExperimentConfig
from vidclf.models.onnx_config import Bits
from vidclf.models.saved import SavedModel, read_card
from vidclf.progress import Progress, silent
from vidclf.registry.download import fetch_trial
from vidclf.registry.promote import find_candidate
from vidclf.registry.resolve import resolve_model
from vidclf.runs.experiment import clip_sets, parse_experiment
from vidclf.runs.folder import PARENT, Attempt
from vidclf.runs.store import Store
from vidclf.search.record.names import study_names
from vidclf.search.record.study import OpenStudy, find_study
from vidclf.tracking.deliverer import Deliverer
from vidclf.tracking.train import train


@dataclass(frozen=True)
class Parent:
    """A trained network to be shrunk.

    Attributes:
        label: Which one it is, in words.
    """

    model: Path
    label: str


@dataclass(frozen=True)
class Shrunk:
    """A form of it, as a finished run.

    Attributes:
        run_id: Its MLflow run; ``None`` where it was not delivered yet.
    """

    precision: Bits
    attempt: Attempt
    run_id: str | None
    metrics: Mapping[str, float]


def find_parent(reference: str, store: Store) -> Parent:
    """The best network of a study, or any saved model.

    Args:
        reference: A study, a run id, ``NAME@champion``, ``NAME/3``, or a folder.
        store: Where it is.

    Raises:
        InputError: There is no such model.
    """
    if not reference.endswith(".toml") and ({"@", "/"} & set(reference) or Path(reference).is_dir()):
        return Parent(resolve_model(store, reference).absolute(), reference)
    if reference in study_names(store) or reference.endswith(".toml"):
        return _best_network(find_study(reference, store))
    candidate = find_candidate(reference, store)
    if not candidate.attempt.model.is_dir():
        raise InputError(
            f"{candidate.label}: its model is not kept; the best of a study are, or train it again"
        )
    return Parent(candidate.attempt.model, candidate.label)


def _best_network(opened: OpenStudy) -> Parent:
    for row in opened.require_ranked():
        if MODELS[row.model].initialise is not None:
            attempt, label = fetch_trial(opened, row.number), f"trial {row.number} of {opened.name}"
            if attempt.model.is_dir():
                return Parent(attempt.model, label)
            raise InputError(f"{label}, its best network: the model is not kept; train it again")
    raise InputError(f"{opened.name}: none of its trials is of a network; frames2d and volume3d are")


def plan(parent: Parent, precision: Bits) -> ExperimentConfig:
    """The experiment that turns a parent into a graph, on the clips that the parent has seen.

    Raises:
        InputError: The parent is of no network, or its clips are not there any more.
    """
    card = read_card(parent.model)
    tree = {
        key: card.experiment[key]
        for key in ("seed", "experiment", "data", "abstain")
        if key in card.experiment
    }
    tree["model"] = {"kind": "onnx", "parent": str(parent.model), "precision": precision}
    experiment = parse_experiment(tree, f"{parent.label} in {precision}")
    experiment.check_weights()
    manifest = read_manifest(experiment.data.manifest)
    if manifest.classes != card.classes:
        raise InputError(
            f"{manifest.name}: has other classes than {parent.label} knows: {', '.join(card.classes)}"
        )
    from vidclf.models.onnx_classifier import check_clips  # torch takes seconds

    check_clips(card, clip_sets(experiment, manifest)[0], parent.label)
    return experiment.resolved()


def shrink(
    parent: Parent, experiments: Mapping[Bits, ExperimentConfig], store: Store, progress: Progress = silent
) -> list[Shrunk]:
    """Runs each experiment of `plan`, then times all beside their parent, in turn.

    A run that was made of the same parent on the same clips before is not made again, but timed.

    Raises:
        InputError: A network cannot be written as ONNX; says why.
        KeyboardInterrupt: What was finished stays.
    """
    made: dict[Bits, Attempt] = {}
    for precision, experiment in experiments.items():
        name = f"{_stem(parent)}-{precision}"
        result = train(experiment, name, store, again=False, report=silent, progress=progress)
        if result.outcome.status != "complete":
            raise InputError(f"{parent.label} in {precision}: {result.outcome.reason}")
        made[precision] = result.attempt
    saved = load_model(parent.model)
    _beside_parent(saved, next(iter(experiments.values())), list(made.values()))
    clip = _clip(next(iter(experiments.values())))
    models: dict[Bits | None, SavedModel] = {None: saved}
    models |= {precision: load_model(each.model) for precision, each in made.items()}
    measured = profiling.measure_side_by_side(models, clip)
    costs = {**measured[None], "size/file_mb": profiling.folder_size_mb(parent.model)}
    for precision, attempt in made.items():
        theirs = {f"{PARENT}/{name}": value for name, value in costs.items()}
        attempt.add_metrics({**measured[precision], **theirs}, instead="latency/")
        Deliverer(store).deliver(attempt)
    return [_shrunk(precision, attempt, store) for precision, attempt in made.items()]


def _stem(parent: Parent) -> str:
    """What a run of it is called: of the parent's own run, or by how it was asked for."""
    attempt = Attempt(parent.model.parent)
    label = attempt.identity().run_name if attempt.exists() else parent.label
    return re.sub(r"[^\w.-]+", "-", label.partition(" · ")[0]).strip("-.") or "model"


def _clip(experiment: ExperimentConfig) -> Path:
    return clip_sets(experiment, read_manifest(experiment.data.manifest))[1].paths[0]


def _beside_parent(saved: SavedModel, experiment: ExperimentConfig, attempts: Sequence[Attempt]) -> None:
    """Writes beside each run's predictions of val those of its parent, and the parent's scores."""
    from vidclf.evaluation import metrics

    _, val = clip_sets(experiment, read_manifest(experiment.data.manifest))
    probabilities = saved.probabilities(val)
    table = predictions_table(val.paths, val.labels, probabilities, val.classes, val.groups)
    scores = metrics.evaluate(val.labels, probabilities, val.classes, val.groups)
    for attempt in attempts:
        write_predictions(table, attempt.artifacts / PARENT)
        attempt.add_metrics({f"{PARENT}/val/{name}": value for name, value in scores.items()})


def _shrunk(precision: Bits, attempt: Attempt, store: Store) -> Shrunk:
    outcome = attempt.outcome()
    assert outcome is not None
    return Shrunk(precision, attempt, Deliverer(store).receipt(attempt).run_id, outcome.metrics)
