"""A study read once, for all that is written about it."""

import csv
import io
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import tomli_w
from optuna.trial import FrozenTrial, TrialState, create_trial

from vidclf import config
from vidclf.evaluation import ranking
from vidclf.evaluation.ranking import TrialRow
from vidclf.labels import plural
from vidclf.search.record.owners import live_owners, silent_owners
from vidclf.search.record.study import REPEATS, OpenStudy
from vidclf.tracking.lookup import ledger_begun, run_id_of, words
from vidclf.tracking.relocation import adopt

MIN_TRIALS = 10
"""Complete trials from which on something is said about searched values."""
_TOP = 5
"""Complete trials of the better part, at least, that importances are computed from."""
_MOST = 2000
"""Trials that importances are computed from, at most, evenly from the worst to the best."""
_PART = 0.1
"""The better part of many trials."""


@dataclass(frozen=True)
class StudyData:
    """A study at one moment, read once for all that is written about it.

    Attributes:
        opened: The study.
        rows: Every attempt, in order.
        trials: Optuna's record of each, by number.
        ranked: Complete, feasible trials, best first.
        front: Those that no other beats in objective, latency and size at once.
        test: How often the test split was read, in words.
    """

    opened: OpenStudy
    rows: Sequence[TrialRow]
    trials: Mapping[int, FrozenTrial]
    ranked: Sequence[TrialRow]
    front: Sequence[TrialRow]
    test: str

    @property
    def optimistic(self) -> str:
        """What must be said beside every figure."""
        return selected_figures(self.opened)

    @classmethod
    def of(cls, opened: OpenStudy) -> "StudyData":
        rows, direction = opened.rows(), opened.objective.direction
        trials = {trial.number: trial for trial in opened.trials()}
        best, front = ranking.ranked(rows, direction), ranking.pareto_front(rows, direction)
        return cls(opened, rows, trials, best, front, test_words(opened))

    @property
    def metric(self) -> str:
        return self.opened.objective.metric

    @property
    def stems(self) -> list[str]:
        return list(self.opened.stored["bases"])

    def completed(self, stem: str | None = None) -> list[TrialRow]:
        """Complete trials, of all bases or of one."""
        return [row for row in self.rows if row.value is not None and stem in (None, row.base)]

    @cached_property
    def importances(self) -> dict[str, dict[str, float]]:
        """The importances of each base, empty where trials are few: bases differ by more than values."""
        return {stem: self._importances(stem) for stem in self.stems}

    def _importances(self, stem: str) -> dict[str, float]:
        """Share of each value that a base searches in being among its best (PED-ANOVA), largest first.

        Values that only some trials have are weighed by how many have them. Empty where trials are few.
        """
        from optuna.importance import (  # they import scikit-learn
            PedAnovaImportanceEvaluator,
            get_param_importances,
        )

        rows = self.completed(stem)
        if len(rows) < MIN_TRIALS or len({row.value for row in rows}) == 1:
            return {}
        rows = ranking.thinned(sorted(rows, key=lambda row: row.value or 0.0), _MOST)
        part = max(_PART, min(0.5, _TOP / len(rows)))
        study = self.as_study(rows, numbered=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=part))
        varied = {name for row in rows for name in self.trials[row.number].params} - self._fixed(rows)
        return {name: float(share) for name, share in found.items() if name in varied}

    def _fixed(self, rows: Sequence[TrialRow]) -> set[str]:
        """Searched values that were the same in all of these trials."""
        seen: dict[str, set[Any]] = {}
        for row in rows:
            for name, value in self.trials[row.number].params.items():
                seen.setdefault(name, set()).add(value)
        return {name for name, values in seen.items() if len(values) == 1}

    def as_study(self, rows: Sequence[TrialRow], *, numbered: bool = True) -> optuna.Study:
        """A study in memory with these trials, under their own numbers or any, and their first objective."""
        numbers = {row.number: row for row in rows} if numbered else dict(enumerate(rows))
        study = optuna.create_study(direction=self.opened.objective.direction)
        bounded = not all(row.feasible for row in rows)
        for number in range(max(numbers, default=-1) + 1):
            if number not in numbers:
                study.add_trial(create_trial(state=TrialState.FAIL))
                continue
            row = numbers[number]
            trial = self.trials[row.number]
            study.add_trial(
                create_trial(
                    value=row.value,
                    params=dict(trial.params),
                    distributions=dict(trial.distributions),
                    constraints={"infeasible": 0.0 if row.feasible else 1.0} if bounded else None,
                )
            )
        return study

    def seconds(self, row: TrialRow) -> float | None:
        """How long an attempt took."""
        duration = self.trials[row.number].duration
        return None if duration is None else duration.total_seconds()

    def counts(self) -> str:
        """How many attempts there are of each kind, in words."""
        if not self.rows:
            return "No trial has started yet."
        states = Counter(row.state for row in self.rows)
        complete = [row for row in self.rows if row.value is not None]
        large = sum(row.state == "pruned" and not row.feasible for row in self.rows)
        broken = sum(not row.feasible for row in complete)
        note = f"{broken} of them outside a constraint" if broken else ""
        kinds = [
            (states["complete"], f"complete ({note})" if note else "complete"),
            (states["pruned"] - large, "pruned early"),
            (large, "not trained because infeasible"),
            (states["stopped"], "stopped when the time was used up"),
            *((states[state], state) for state in ("failed", "interrupted", "died", "running", "waiting")),
        ]
        parts = ", ".join(f"{count} {text}" for count, text in kinds if count)
        repeated = sum(REPEATS in trial.user_attrs for trial in self.trials.values())
        again = f" {plural(repeated, 'proposal')} not run: an earlier trial's again." if repeated else ""
        return f"{plural(len(self.rows), 'attempt')}: {parts}.{again}"

    @cached_property
    def best_config(self) -> str | None:
        """The best trial's configuration as a whole TOML file; ``None`` where nothing feasible has finished.

        Values that depend on the machine stay as the base has them, as ``auto``.
        """
        if not self.ranked:
            return None
        best = self.ranked[0]
        base = {
            key: value for key, value in self.opened.stored["bases"][best.base].items() if key != "published"
        }
        tree = config.override(base, best.params)
        data = Path(config.expand_path("$VIDCLF_DATA", Path.cwd()))
        manifest = Path(tree["data"]["manifest"])
        if manifest.is_relative_to(data):
            tree["data"]["manifest"] = f"$VIDCLF_DATA/{manifest.relative_to(data).as_posix()}"
        origin = f"trial {best.number} of the study {self.opened.name}, base {best.base}"
        value = ranking.figure(best.value, ".4f")
        figure = f"{self.metric} {value}, selected {selected_on(self.opened)} and so optimistic"
        comment = "".join(f"# {' '.join(line.split())}\n" for line in (origin, figure))
        scalars = {key: value for key, value in tree.items() if not isinstance(value, Mapping)}
        return comment + tomli_w.dumps({**scalars, **tree})


def status(opened: OpenStudy) -> dict[str, Any]:
    """Where a study stands, in the shape of ``--json``."""
    rows = opened.rows()
    found = dict.fromkeys(
        ("complete", "pruned", "failed", "stopped", "interrupted", "died", "running", "waiting"), 0
    )
    for row in rows:
        found[row.state] += 1
    best = best_of(opened, rows)
    if best is not None:
        adopt(opened.store)
        best["run_id"] = run_id_of(opened.store, opened.attempt(best["number"]))
    return {
        "study": opened.name,
        "question": opened.stored["question"],
        "objective": dict(opened.stored["objectives"][0]),
        "trials": found,
        "budget": {"total": opened.budget(), "used": opened.logical()},
        "best": best,
        "owners": [{"host": owner.host, "pid": owner.pid} for owner in live_owners(opened)],
        "silent": [{"host": owner.host, "pid": owner.pid} for owner in silent_owners(opened)],
    }


def best_of(opened: OpenStudy, rows: Sequence[TrialRow]) -> dict[str, Any] | None:
    """The best of a study's trials; ``None`` where nothing feasible has finished."""
    for row in opened.ranked(rows):
        return {"number": row.number, "value": row.value, "base": row.base, "params": dict(row.params)}
    return None


def selected_on(opened: OpenStudy) -> str:
    """By which predictions a search chose."""
    repeats = opened.repeats
    return f"on the mean over {repeats.count} folds" if repeats and repeats.by == "fold" else "on val"


def selected_figures(opened: OpenStudy) -> str:
    """What must be said beside every figure of a study."""
    return f"All figures are selected {selected_on(opened)} and so optimistic; {test_words(opened)}."


def test_words(opened: OpenStudy) -> str:
    """How often the study's test split was read."""
    for trial in opened.trials() if ledger_begun(opened.store) else ():
        attempt = opened.attempt(trial.number)
        if attempt.exists():
            from vidclf.tracking.ledger import words_for  # imports mlflow: some seconds

            return words_for(opened.store, attempt)
    return words(0)


def trials_csv(overview: StudyData) -> str:
    """One line an attempt, in order: how it ended, its searched values, its metrics."""
    params = sorted({key for row in overview.rows for key in row.params})
    metrics = sorted({key for row in overview.rows for key in row.metrics})
    ranks = {row.number: rank for rank, row in enumerate(overview.ranked, start=1)}
    columns = ["trial", "state", "base", "value", "rank", "reason", "feasible"]
    columns += ["started", "seconds"]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, *params, *metrics], lineterminator="\n")
    writer.writeheader()
    for row in overview.rows:
        start = overview.trials[row.number].datetime_start
        own = {
            "trial": row.number,
            "rank": ranks.get(row.number),
            "started": start and start.isoformat(timespec="seconds"),
            "seconds": overview.seconds(row),
        }
        known = {name: value for name, value in vars(row).items() if name in columns}
        writer.writerow({**known, **own, **row.params, **row.metrics})
    return text.getvalue()
