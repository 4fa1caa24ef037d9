"""How a trial begins: its folder, and who it is to MLflow."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import optuna

from vidclf import config
from vidclf.attempt import SEARCHED_TAG, Attempt, Identity, now_ms
from vidclf.models.base import ExperimentConfig
from vidclf.naming import trial_name
from vidclf.search.judging import Course
from vidclf.search.record import START, OpenStudy
from vidclf.search.space import Space


@dataclass
class Running:
    """A trial that has begun and is not settled yet."""

    trial: optuna.Trial
    stem: str
    attempt: Attempt
    started: float
    course: Course = field(default_factory=Course)
    fenced: bool = False


@dataclass(frozen=True)
class Asked:
    """A configuration that is to be run."""

    trial: optuna.Trial
    stem: str
    experiment: ExperimentConfig


@dataclass(frozen=True)
class Opening:
    """Makes the folders of a session's trials.

    Attributes:
        opened: The study.
        space: What it searches.
        tags: Provenance by stem.
        dataset: The data set, as MLflow lists it.
    """

    opened: OpenStudy
    space: Space
    tags: Mapping[str, Mapping[str, str]]
    dataset: Mapping[str, str]

    def begin(self, trial: optuna.Trial, stem: str, earlier: int | None = None) -> Running:
        """Makes a trial's folder; ``earlier``: the trial whose value it takes."""
        attempt = self.opened.attempt(trial.number)
        attempt.create(self._identity(trial, stem, earlier))
        return Running(trial, stem, attempt, time.monotonic())

    def _identity(self, trial: optuna.Trial, stem: str, earlier: int | None) -> Identity:
        attributes = self.opened.frozen(trial.number).user_attrs
        base = config.dump(self.space.bases[stem])
        paths = (path for owner, path in self.space.dimensions if owner == stem and path in trial.params)
        searched = {path: trial.params[path] for path in paths}
        tags = {
            **self.tags[stem],
            "vidclf.study": self.opened.name,
            "vidclf.trial": str(trial.number),
            "vidclf.base": stem,
            SEARCHED_TAG: json.dumps(searched),
            **({"vidclf.retry_of": str(attributes["retry_of"])} if "retry_of" in attributes else {}),
            **({"vidclf.start": attributes[START]} if START in attributes else {}),
            **({"vidclf.reused_from": str(earlier)} if earlier is not None else {}),
        }
        return Identity(
            id=self.opened.attempt_id(trial.number),
            experiment=self.opened.stored["experiment"],
            run_name=trial_name(trial.number, base, searched),
            parent=self.opened.attempt_id(),
            started_ms=now_ms(),
            tags=tags,
            dataset=self.dataset,
        )
