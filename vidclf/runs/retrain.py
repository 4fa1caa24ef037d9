"""Trains the model of a finished trial again, and draws a trial's pictures afterwards."""

import shutil

from vidclf.data import remote
from vidclf.data.manifest import read_manifest
from vidclf.data.remote import named
from vidclf.exceptions import InputError
from vidclf.models import load_model
from vidclf.models.base import Report
from vidclf.runs.experiment import ExperimentConfig, clip_sets, divided, experiment_of, train_and_score
from vidclf.runs.folder import Attempt
from vidclf.runs.repeats import Repeats


def train_model(attempt: Attempt, repeats: Repeats | None, report: Report = lambda *_: None) -> None:
    """Trains the model of a complete trial that has none: one of repeats by fold, or one that fell out.

    It is trained on the manifest's train and judged by its val; where all clips of a study by fold are
    in train, the first fold is val. The figures are added to the trial's as ``final/val/…``.

    Args:
        attempt: The trial.
        repeats: The study's.
        report: Told of each epoch.
    """
    experiment = _final_experiment(attempt, repeats)
    part = Attempt(attempt.checkpoint / "final")
    part.artifacts.mkdir(parents=True, exist_ok=True)
    figures = train_and_score(experiment, part, report)
    target = attempt.artifacts / "final"
    shutil.copytree(part.artifacts, target, dirs_exist_ok=True)
    final = {f"final/{name}": value for name, value in figures.items() if name.startswith("val/")}
    attempt.add_metrics({**final, "size/file_mb": figures["size/file_mb"]})
    part.model.rename(attempt.model)  # last: a trial with a model is not asked for its figures again
    attempt.drop_checkpoint()


def draw(attempt: Attempt, repeats: Repeats | None) -> None:
    """Writes the pictures of a complete trial's model that cost too much to have of every trial."""
    from vidclf.reports import diagnostics  # matplotlib and scikit-learn take seconds

    experiment = _final_experiment(attempt, repeats)
    train, val = clip_sets(experiment, read_manifest(experiment.data.manifest))
    classifier = load_model(attempt.model).classifier
    diagnostics.write_pictures(classifier, train, val, attempt.artifacts, seed=experiment.seed)
    diagnostics.write_wrong_clips(attempt.artifacts, val.read)
    attempt.drawn.touch()


def _final_experiment(attempt: Attempt, repeats: Repeats | None) -> ExperimentConfig:
    """What the trial's model is trained with."""
    experiment = experiment_of(attempt)
    if repeats is None or repeats.by == "seed":
        return experiment
    splits = divided(experiment, read_manifest(experiment.data.manifest))
    return experiment if all(splits.values()) else repeats.variant(experiment, 0)


def check_clips(attempt: Attempt) -> None:
    """Refuses a trial whose clips have changed since.

    Raises:
        InputError: The clips, labels or splits are not those that it was made from.
    """
    source = experiment_of(attempt).data.manifest
    path = remote.local_file(source)
    if not path.is_file():
        raise InputError(f"{named(path)}: the manifest that this trial was made from is not there any more")
    if read_manifest(source).digest()[:32] != attempt.identity().dataset.get("digest"):
        raise InputError(
            f"{named(path)}: its clips or splits are not those any more that this trial was made from"
        )
