"""Finds what is to be compared: trials in Optuna's database, and the folders of single runs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidclf import config
from vidclf.comparison.parents import parent_model
from vidclf.comparison.rows import FOLDS, EvaluationClips, ModelRow, RowGroup
from vidclf.evaluation import metrics
from vidclf.exceptions import InputError
from vidclf.registry.confirm_report import finalists_of
from vidclf.runs.folder import Attempt
from vidclf.runs.store import TRAIN, Store
from vidclf.search.record.names import study_names
from vidclf.search.record.study import OpenStudy, all_studies, find_study
from vidclf.tracking.lookup import attempt_of, run_id_of
from vidclf.tracking.relocation import adopt

METRIC = "val/macro_f1"
"""What rows are ranked by where their studies have no objective in common."""


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
        attempt = single.get(name) or attempt_of(store, name)
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
    found.runs.update(dict.fromkeys(_made_of(found, single.values()), True))
    return found


def _made_of(found: _Selection, single: Iterable[Attempt]) -> Iterator[Path]:
    """Folders of the single runs that were made of what is compared."""
    series = {study.series for name, study in found.studies.items() if name in found.whole}
    for attempt in single:
        model = parent_model(attempt)
        if model is not None and (model.parent.parent.name in series or model.parent in found.runs):
            yield attempt.folder


def _unknown(name: str, store: Store, studies: Sequence[str], runs: Sequence[str]) -> str:
    known = [
        f"studies: {', '.join(studies)}" if studies else "no study",
        f"runs: {', '.join(runs)}" if runs else "no single run",
    ]
    guess = config.did_you_mean(name, [*studies, *runs])
    return f"{name}: no study or run of {store.folder}{guess} ({'; '.join(known)})"


def _trials(study: OpenStudy, metric: str, found: _Selection) -> Iterator[ModelRow]:
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
    adopt(store)
    return {id(row): run_id_of(store, row.attempt) for row in rows if row.attempt is not None}
