"""Rows of a comparison: trials from Optuna's database, and the folders of single runs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from vidclf import config
from vidclf.evaluation import metrics, ranking
from vidclf.evaluation.predictions import read_predictions
from vidclf.evaluation.ranking import TrialRow
from vidclf.exceptions import InputError
from vidclf.runs.folder import Attempt, Identity
from vidclf.runs.store import TRAIN, Store
from vidclf.search.record.study import OpenStudy, all_studies, find_study, study_names

if TYPE_CHECKING:
    from vidclf.registry.confirm_report import FinalistReport

Origin = Literal["trial", "run", "majority", "published"]
PredictionSource = Literal["val", "confirm"]
"""Predictions for the clips of val, or those of `vidclf confirm`, out of fold for the clips of train."""
FOLDS = " folds"
_MOST_TWINS = 200
"""Predictions that are read to find the twins of a model, at most."""
METRIC = "val/macro_f1"
"""What rows are ranked by where their studies have no objective in common."""


@dataclass(frozen=True)
class EvaluationClips:
    """What a row was judged on: only rows of equal clips are ranked together.

    Attributes:
        name: The data set's folder.
        digest: Of its manifest: content, label, group and split of every clip.
        folds: How train and val were divided anew, as ``fold 0 of 5``, or ``5 folds`` where each was val
            once; empty: as the manifest says.
    """

    name: str
    digest: str
    folds: str = ""


@dataclass(frozen=True)
class ModelRow(TrialRow):
    """A row of the comparison; of a single run, ``study`` is empty and ``base`` its name.

    Attributes:
        clips: What it was judged on.
        origin: A ``trial`` of a study, a single ``run``, the ``majority`` class, or a ``published`` figure.
        attempt: Its folder; ``None`` for baselines.
        source: Where a published figure comes from.
        named: Whether it was asked for by itself.
        confirmed: What `vidclf confirm` found; ``None`` where it was not asked, or judged by another metric.
    """

    clips: EvaluationClips = EvaluationClips("", "")
    origin: Origin = "trial"
    network: str = ""
    attempt: Attempt | None = None
    manifest: str = ""
    source: str = ""
    named: bool = False
    confirmed: "FinalistReport | None" = None

    @property
    def won(self) -> bool:
        """Whether `vidclf confirm` found it the best of its study, by what is ranked here."""
        return self.confirmed is not None and self.confirmed.won

    @property
    def score(self) -> float:
        """Of a ranked row: what `vidclf confirm` gave it, else the figure that it is ranked by."""
        return self.confirmed.mean if self.confirmed else self.value or 0.0

    @property
    def family(self) -> str:
        """``model.kind`` and the network."""
        return f"{self.model} {self.network}".strip()

    @property
    def label(self) -> str:
        """Which one it is, in words."""
        if self.origin == "trial":
            return f"trial {self.number} of {self.study}"
        return {"run": f"run {self.base}", "majority": "always the most frequent class"}.get(
            self.origin, f"published, {self.base}"
        )

    @property
    def marked(self) -> str:
        """The same for a table, where the winner of a confirmation is to be seen."""
        return f"{self.label}, confirmed" if self.won else self.label

    def identity(self) -> Identity | None:
        """What its attempt recorded when it began; ``None`` where that is not on this machine."""
        if self.attempt is None or not self.attempt.exists():
            return None
        return self.attempt.identity()

    def predictions(self, source: PredictionSource) -> pd.DataFrame | None:
        """As `read_predictions`, with a column ``repeat`` from confirm; ``None`` where none are on disk.

        After a search by folds val is every fold's: each clip was judged by the model that had not seen it.
        """
        if self.attempt is None:
            return None
        folders = [self.attempt.artifacts / source]
        if source == "val" and self.clips.folds.endswith(FOLDS):
            folders += sorted((self.attempt.artifacts / "repeats").glob("*/val"))
        try:
            tables = [read_predictions(folder / "predictions.csv") for folder in folders]
        except FileNotFoundError:
            return None
        return pd.concat(tables, ignore_index=True) if len(tables) > 1 else tables[0]


@dataclass(frozen=True)
class RowGroup:
    """Rows that were judged on the same clips, ranked by one metric.

    Attributes:
        rows: Every trial and run.
        studies: Those that have a row here, by name.
        floor: What the most frequent class scores; ``None`` where that is not known.
    """

    clips: EvaluationClips
    metric: str
    direction: str
    rows: Sequence[ModelRow]
    studies: Mapping[str, OpenStudy]
    floor: float | None = None

    @cached_property
    def ranked(self) -> list[ModelRow]:
        """Complete, feasible rows, best first."""
        return ranking.ranked(self.rows, self.direction)

    @cached_property
    def front(self) -> list[ModelRow]:
        """Those above the floor that no other beats in score, latency and size at once."""
        return [row for row in ranking.pareto_front(self.rows, self.direction) if self.useful(row)]

    @cached_property
    def choice(self) -> ModelRow | None:
        """What to ship, if anything: what `vidclf confirm` found best, else what val puts ahead.

        All studies of a group are confirmed on the same clips, so that the winners of several can be
        compared. What was not confirmed comes after them, however far ahead: its figure chose it.
        """
        sign = -1.0 if self.direction == "maximize" else 1.0
        winners = sorted((row for row in self.ranked if row.won), key=lambda row: sign * row.score)
        others = [row for row in self.ranked if row.study not in self.settled]
        candidates = [*winners[:1], *others[:1]]
        return next(filter(self.useful, candidates), candidates[0] if candidates else None)

    @cached_property
    def settled(self) -> set[str]:
        """Studies whose confirmed winner is here, so that val no longer decides among their trials."""
        return {row.study for row in self.ranked if row.won}

    @cached_property
    def choice_first(self) -> list[ModelRow]:
        """`choice`, then the other ranked rows as they rank."""
        return sorted(self.ranked, key=lambda row: row is not self.choice)

    @cached_property
    def best(self) -> list[ModelRow]:
        """The best of each family, best first."""
        first: dict[str, ModelRow] = {}
        for row in self.choice_first:
            first.setdefault(row.family, row)
        return list(first.values())

    @cached_property
    def leaders(self) -> list[ModelRow]:
        """The best of each family and study, the front, what won a confirmation, and what was asked for by
        itself, in the order of their ranks."""
        first: dict[tuple[str, str, str], ModelRow] = {}
        for row in self.ranked:
            first.setdefault((row.study, row.base if row.origin == "run" else "", row.family), row)
        chosen = {id(row) for row in (*first.values(), *self.front)}
        unranked = [row for row in self.rows if row.named and self.rank(row) is None]
        return [row for row in self.ranked if row.named or row.won or id(row) in chosen] + unranked

    @cached_property
    def twins(self) -> dict[int, list[ModelRow]]:
        """By `id` of a leader: the ranked rows after it that say the same of every clip of val."""
        known = [name for name, metric in metrics.METRICS.items() if metric.ratio]
        alike: dict[tuple[float | None, ...], list[ModelRow]] = {}
        for row in self.ranked:  # who says the same scores the same
            alike.setdefault(tuple(row.metrics.get(f"val/{name}") for name in known), []).append(row)
        leaders = {id(row) for row in self.leaders}
        found: dict[int, list[ModelRow]] = {}
        for rows in alike.values():
            if len(rows) > 1 and any(id(row) in leaders for row in rows):
                said: dict[str, ModelRow] = {}
                for row in rows[:_MOST_TWINS]:
                    if (table := row.predictions("val")) is not None:
                        by_clip = table.sort_values("clip_path")["predicted"]
                        first = said.setdefault("\n".join(by_clip), row)
                        if first is not row:
                            found.setdefault(id(first), []).append(row)
        return found

    def rank(self, row: ModelRow) -> int | None:
        """From 1; ``None`` where the row is not ranked."""
        return self._ranks.get(id(row))

    @cached_property
    def _ranks(self) -> dict[int, int]:
        return {id(row): rank for rank, row in enumerate(self.ranked, start=1)}

    def useful(self, row: ModelRow) -> bool:
        """Whether a ranked row scores better than the most frequent class does on val: by the figure that
        did not choose it, where there is one."""
        return self.floor is None or self.better(row.score, self.floor)

    def better(self, value: float, than: float) -> bool:
        """Whether one score beats another, in this group's direction."""
        return value > than if self.direction == "maximize" else value < than


def gather(names: Sequence[str], store: Store, metric: str | None = None) -> list[RowGroup]:
    """The rows of studies and runs, by what they were judged on; those with most rows first.

    Reads Optuna's database and the folders of single runs; MLflow is asked only for the confirmations of
    studies that ran in another store.

    Args:
        names: Studies' names or files, run ids, or names of runs' folders; none: all of the store.
        store: Where they lie.
        metric: What to rank by; ``None``: the studies' objective where it is the same, else `METRIC`.

    Raises:
        InputError: A name means nothing here, there is nothing to compare, or no row has the metric.
    """
    found = _find(names, store)
    objectives = {study.objective.metric: study.objective.direction for study in found.studies.values()}
    common = next(iter(objectives)) if len(objectives) == 1 else METRIC
    metric = metric or (common if common.startswith("val/") else METRIC)
    direction = objectives.get(metric) or ("minimize" if metrics.lower_is_better(metric) else "maximize")
    rows = [row for study in found.studies.values() for row in _trials(study, metric, found)]
    rows += [row for run, named in found.runs.items() if (row := _run(Attempt(run), metric, named))]
    if not rows:
        raise InputError(
            f"{store.folder}: there is nothing to compare yet; vidclf train EXPERIMENT.toml or "
            "vidclf tune STUDY.toml makes something"
        )
    known = sorted({name for row in rows for name in row.metrics})
    if known and metric not in known:
        meant = config.did_you_mean(metric, known) or f" (there are {', '.join(known)})"
        raise InputError(f"--metric {metric}: no line has it{meant}")
    by_clips: dict[EvaluationClips, list[ModelRow]] = {}
    for row in rows:
        by_clips.setdefault(row.clips, []).append(row)
    groups = []
    for clips, members in sorted(by_clips.items(), key=lambda item: -len(item[1])):
        names_here = {row.study for row in members}
        studies = {name: study for name, study in found.studies.items() if name in names_here}
        groups.append(RowGroup(clips, metric, direction, members, studies))
    return groups


@dataclass(frozen=True)
class _Selection:
    """What the names on the command line mean.

    Attributes:
        whole: Names of the studies of which every trial is compared.
        numbers: Trials that were asked for by their runs, by study.
        runs: Folders of single runs, and whether each was asked for by itself.
    """

    studies: dict[str, OpenStudy]
    whole: set[str]
    numbers: dict[str, set[int]]
    runs: dict[Path, bool]


def _find(names: Sequence[str], store: Store) -> _Selection:
    found = _Selection({}, set(), {}, {})
    files = sorted((store.attempts / TRAIN).glob("*/attempt.json"))
    single = {file.parent.name: Attempt(file.parent) for file in files}
    if not names:
        found.studies.update({study.name: study for study in all_studies(store)})
        found.whole.update(found.studies)
        found.runs.update({attempt.folder: False for attempt in single.values()})
        return found
    known = study_names(store)
    studies = [name for name in names if name in known or name.endswith(".toml")]
    found.studies.update({study.name: study for study in (find_study(name, store) for name in studies)})
    found.whole.update(found.studies)
    problems = []
    for name in (name for name in names if name not in studies):
        attempt = single.get(name) or _of_run(name, store)
        tags = attempt.identity().tags if attempt else {}
        if attempt and attempt.folder.parent.name == TRAIN:
            found.runs[attempt.folder] = True
        elif tags.get("vidclf.study") in known:
            study = find_study(tags["vidclf.study"], store)
            found.studies.setdefault(study.name, study)
            if "vidclf.trial" not in tags:
                found.whole.add(study.name)
            else:
                found.numbers.setdefault(study.name, set()).add(int(tags["vidclf.trial"]))
        else:
            problems.append(_unknown(name, store, known, list(single)))
    if problems:
        raise InputError(*problems)
    return found


def _of_run(run_id: str, store: Store) -> Attempt | None:
    from vidclf.tracking.deliverer import Deliverer  # imports mlflow: some seconds

    return Deliverer(store).attempt_of(run_id)


def _unknown(name: str, store: Store, studies: Sequence[str], runs: Sequence[str]) -> str:
    known = [
        f"studies: {', '.join(studies)}" if studies else "no study",
        f"runs: {', '.join(runs)}" if runs else "no single run",
    ]
    guess = config.did_you_mean(name, [*studies, *runs])
    return f"{name}: no study or run of {store.folder}{guess} ({'; '.join(known)})"


def _trials(study: OpenStudy, metric: str, found: _Selection) -> Iterator[ModelRow]:
    from vidclf.registry.confirm_report import finalists_of  # imports mlflow: some seconds

    whole, asked = study.name in found.whole, found.numbers.get(study.name, set())
    bases = {stem: config.flatten(base) for stem, base in study.stored["bases"].items()}
    digests = {stem: study.stored.get("fingerprint", {}).get(f"base {stem}: clips", "") for stem in bases}
    repeats, own = study.repeats, study.objective.metric == metric
    judged = finalists_of(study) if own else {}
    parts = f"{repeats.count}{FOLDS}" if repeats and repeats.by == "fold" else ""
    for row in study.rows():
        if not whole and row.number not in asked:
            continue
        settings = {**bases[row.base], **row.params}
        manifest = str(settings["data.manifest"])
        folds = parts or _folds(settings.get("data.folds"), settings.get("data.fold"))
        value = row.value if own or row.value is None else row.metrics.get(metric)
        yield ModelRow(
            **{**vars(row), "value": value},
            clips=EvaluationClips(Path(manifest).parent.name, digests[row.base], folds),
            network=str(settings.get("model.network") or ""),
            attempt=study.attempt(row.number),
            manifest=manifest,
            named=row.number in asked,
            confirmed=judged.get(row.number),
        )


def _folds(folds: int | None, fold: int | None) -> str:
    return f"fold {fold or 0} of {folds}" if folds else ""


def _run(attempt: Attempt, metric: str, named: bool) -> ModelRow | None:
    """A single run; ``None`` where it was cut off before it had a config."""
    if not attempt.config.exists():
        return None
    identity, outcome, tree = attempt.identity(), attempt.outcome(), config.read_toml(attempt.config)
    complete = outcome is not None and outcome.status == "complete"
    manifest = str(config.lookup(tree, "data.manifest") or "")
    folds = _folds(config.lookup(tree, "data.folds"), config.lookup(tree, "data.fold"))
    hidden = {"data.manifest", "experiment"}
    params = {
        path: value
        for path, value in config.flatten(tree).items()
        if path not in hidden and not path.startswith("published.")
    }
    metrics = dict(outcome.metrics) if outcome else {}
    return ModelRow(
        study="",
        number=0,
        state=outcome.status if outcome else "running",
        base=identity.run_name,
        model=str(config.lookup(tree, "model.kind")),
        value=metrics.get(metric) if complete else None,
        params=params,
        metrics=metrics,
        reason=outcome.reason if outcome else "",
        clips=EvaluationClips(Path(manifest).parent.name, identity.tags.get("vidclf.data_digest", ""), folds),
        origin="run",
        network=str(config.lookup(tree, "model.network") or ""),
        attempt=attempt,
        manifest=manifest,
        named=named,
    )


def run_ids(rows: Iterable[ModelRow], store: Store) -> dict[int, str | None]:
    """The MLflow run of each row, by `id` of the row."""
    from vidclf.tracking.deliverer import Deliverer

    receipt = Deliverer(store).receipt
    return {id(row): receipt(row.attempt).run_id for row in rows if row.attempt is not None}
