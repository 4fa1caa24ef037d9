"""Fabricated studies: trials in Optuna's database with their folders."""

import json
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState, create_trial

from tests.attempts import STARTED, end
from vidclf.runs.folder import Attempt, Identity
from vidclf.runs.store import Store
from vidclf.search.record.settings import Direction
from vidclf.search.record.storage import open_storage
from vidclf.search.record.study import DEFINITION, OpenStudy
from vidclf.tracking.deliverer import Deliverer

METRIC = "val/macro_f1"


def fabricated(
    store: Store, storage: BaseStorage, name: str = "s", *, direction: Direction = "maximize", **stored: Any
) -> OpenStudy:
    """A study without trials; ``stored`` replaces parts of its definition."""
    definition = {
        "uuid": "0123456789abcdef",
        "question": "?",
        "objectives": [{"metric": METRIC, "direction": direction}],
        "constraints": [],
        "bases": {"svm": {"model": {"kind": "svm"}}},
        "experiment": "gestures",
        **stored,
    }
    study = optuna.create_study(study_name=name, storage=storage, direction=direction)
    study.set_user_attr(DEFINITION, json.dumps(definition))
    return OpenStudy(study, storage, definition, store)


def make_optuna_study(store: Store) -> OpenStudy:
    """A study with one complete trial, which has its folder and its run."""
    opened = fabricated(store, open_storage(store), "search")
    own = opened.own_attempt
    own.create(Identity(opened.attempt_id(), "gestures", "search", None, STARTED, {}, {"objective": METRIC}))
    end(own)
    add_trial(opened, TrialState.COMPLETE)
    make_folder(opened, 0)
    end(opened.attempt(0), metrics={METRIC: 0.5})
    for attempt in (own, opened.attempt(0)):
        Deliverer(store).deliver(attempt)
    return opened


def add_trial(opened: OpenStudy, state: TrialState, **attributes: Any) -> None:
    complete = state == TrialState.COMPLETE
    made = create_trial(
        state=state,
        values=[0.5] if complete else None,
        params={"model.C": 1.0},
        distributions={"model.C": optuna.distributions.FloatDistribution(0.1, 10.0)},
        user_attrs={"metrics": {METRIC: 0.5} if complete else {}, **attributes},
    )
    opened.study.add_trial(made)


def make_folder(opened: OpenStudy, number: int) -> Attempt:
    attempt = opened.attempt(number)
    identity = opened.attempt_id(number), "gestures", f"search {number}", opened.attempt_id(), STARTED
    attempt.create(Identity(*identity, params={"model.C": 1.0}))
    return attempt


STUDY = """
base = {base}
[objective]
metric = "val/macro_f1"
direction = "maximize"
[budget]
trials = 4
{more}
[space]
"model.C" = {{ low = 0.1, high = 10.0, log = true }}
"""
