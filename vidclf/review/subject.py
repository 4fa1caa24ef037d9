"""What is reviewed: a manifest by itself, judged by quick models, or a study's with its own predictions."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidclf import config
from vidclf.comparison.gathering import gather
from vidclf.comparison.label_errors import predictions_of
from vidclf.comparison.rows import ModelRow, RowGroup
from vidclf.data import remote
from vidclf.data.clips import ClipSet
from vidclf.data.manifest import Entry, Manifest, content_digest, read_manifest
from vidclf.data.sources import named_group
from vidclf.data.splitting import every_fold, group_of
from vidclf.exceptions import InputError
from vidclf.inference.predict import find_videos, predict_files
from vidclf.labels import plural
from vidclf.models import MODELS, load_model
from vidclf.models.base import ExperimentConfig
from vidclf.models.saved import ModelMetadata, SavedModel
from vidclf.progress import Progress, counted, silent
from vidclf.review.questions import Tables
from vidclf.review.retrain import FOLDS, cross_validate, quick_experiments
from vidclf.runs.experiment import clip_store, experiment_of, load_experiment
from vidclf.runs.store import Store
from vidclf.search.record.names import study_names, unknown_study

_EXPERIMENTS = Path("experiments")
"""Files that may be about the manifest; where there is no such folder, none are."""
_MOST_COMMANDS = 3
_TYPICAL = 3
"""Clips of each class that are kept to compare with."""


@dataclass(frozen=True)
class Subject:
    """What is reviewed, and what is known of it.

    Attributes:
        manifest: The clips.
        judged: Out-of-fold predictions, see `label_questions`.
        experiment: What a retraining compares.
        row: The study's best; ``None`` without a study.
        notes: What a user should know of the judgement.
    """

    manifest: Manifest
    judged: Sequence[Tables]
    experiment: ExperimentConfig
    row: ModelRow | None
    notes: Sequence[str]

    def examples(self) -> dict[str, list[Entry]]:
        """Of each class some clips, of different groups, whose label models are the surest of."""
        known = {entry.name: entry for entry in self.manifest.entries}
        sure: dict[str, list[tuple[float, str]]] = {}
        for table in (table for tables in self.judged for _, table in tables):
            right = table[table["predicted"] == table["label"]]
            for clip, label, confidence in zip(
                right["clip_path"], right["label"], right["confidence"], strict=True
            ):
                sure.setdefault(label, []).append((confidence, clip))
        found: dict[str, list[Entry]] = {}
        for label, clips in sure.items():
            by_group = {group_of(known[clip]): known[clip] for _, clip in sorted(clips)}
            found[label] = [*by_group.values()][: -_TYPICAL - 1 : -1]
        return found

    def commands(self, manifest: Path, store: Path | None) -> list[str]:
        """Commands that train on a new manifest what was trained on the old one.

        Args:
            manifest: The new one.
            store: The store that was asked for, where it is not the usual one.
        """
        new = f"--set {shlex.quote(f'data.manifest={manifest}')}"
        if self.row is not None and self.row.attempt is not None:
            where = f" --store {shlex.quote(str(store))}" if store else ""
            return [f"vidclf train {shlex.quote(str(self.row.attempt.config))} {new}{where}"]
        files = [*_about(self.manifest)][:_MOST_COMMANDS] or [Path("EXPERIMENT.toml")]
        return [f"vidclf train {shlex.quote(str(file))} {new}" for file in files]

    def model(self) -> SavedModel:
        """The study's best model that is kept; without a study a quick one, trained on train and val.

        Raises:
            InputError: No model of the study is kept.
        """
        if self.row is not None:
            if self.row.attempt is None or not self.row.attempt.model.is_dir():
                raise InputError(
                    f"{self.row.label}: its model is not kept here, and --unlabelled asks it; vidclf confirm "
                    f"{self.row.study} trains the best ones again"
                )
            return load_model(self.row.attempt.model)
        entries = [entry for entry in self.manifest.entries if entry.split != "test"]
        clips = ClipSet.of_entries(entries, self.manifest.classes, clip_store(self.experiment))
        classifier = MODELS[self.experiment.kind].build(self.experiment, self.manifest.classes)
        classifier.fit(clips, clips, silent)
        data = self.experiment.data
        card = ModelMetadata(
            *(self.experiment.kind, self.manifest.classes, data.grid, data.store_side, {}),
            trained_on=(),
            versions={},
        )
        return SavedModel(card, classifier)


def subject_of(name: str, store: Store, progress: Progress = silent) -> Subject:
    """What a name on the command line means: a study where the store has it, else a manifest.

    Args:
        name: A study's name or file, or a manifest's path.
        store: Where studies lie.
        progress: Called with (steps done, steps in all) while quick models judge.

    Raises:
        InputError: It is neither, or the manifest is not the one that the study was made on.
    """
    if name.endswith(".toml") or (name in study_names(store) and not Path(name).is_file()):
        return _of_study(name, store)
    if not Path(name).suffix and not Path(name).exists() and not config.is_url(name):
        raise InputError(
            f"{unknown_study(name, study_names(store), store)}; nor is it a manifest, as clips.csv"
        )
    return _of_manifest(_local_manifest(name), progress)


def _local_manifest(name: str) -> Manifest:
    if config.is_url(name):
        raise InputError(f"{name}: what is decided is written beside the manifest: copy it to this machine")
    return read_manifest(name)


def _of_manifest(manifest: Manifest, progress: Progress) -> Subject:
    entries = [entry for entry in manifest.entries if entry.split != "test"]
    experiments = quick_experiments(str(manifest.path.absolute()))
    first = next(iter(experiments.values()))
    try:
        folds = every_fold(entries, FOLDS)
    except InputError as error:
        note = f"no label was judged: {error}"
        return Subject(manifest, [], first, None, [note])
    advance = counted(progress, 2 * len(entries) + len(experiments) * len(folds))
    store = clip_store(first)
    clips = ClipSet.of_entries(entries, manifest.classes, store)
    warnings = store.build(clips.paths, advance)
    first.warm(clips, advance)
    tables = [
        (name, cross_validate(experiment, folds, manifest.classes, advance))
        for name, experiment in experiments.items()
    ]
    note = (
        f"{plural(len(entries), 'clip')} of train and val were judged by {' and '.join(experiments)} on "
        f"hand-made features, {len(folds)} folds of whole groups; test by none: who looks has read it"
    )
    return Subject(manifest, [tables], first, None, [*warnings, note])


def _of_study(name: str, store: Store) -> Subject:
    group = gather([name], store)[0]
    row = group.choice
    if row is None or row.attempt is None or not row.attempt.config.exists():
        raise InputError(f"{name}: has no complete trial here; vidclf tune {name} makes some")
    manifest = _local_manifest(row.manifest)
    if manifest.digest() != group.clips.digest:
        raise InputError(
            f"{manifest.name}: its clips, labels or splits are not those any more that the study was made "
            "on: review the manifest by itself, or tune again"
        )
    judged = [each for each in (predictions_of(group.best), predictions_of(group.ranked, "confirm")) if each]
    return Subject(manifest, judged, experiment_of(row.attempt), row, [_judged_by(group, judged)])


def _judged_by(group: RowGroup, judged: Sequence[Tables]) -> str:
    if not judged:
        return "no predictions of the study are on this machine, so no label was judged"
    clips = {clip for tables in judged for _, table in tables for clip in table["clip_path"]}
    names = ", ".join(dict.fromkeys(family for tables in judged for family, _ in tables))
    more = "" if len(judged) > 1 or group.clips.folds else "; vidclf confirm judges those of train too"
    return f"{plural(len(clips), 'clip')} were judged by the study's models ({names}){more}"


def _about(manifest: Manifest) -> Iterator[Path]:
    """Experiment files of the current folder that name the manifest."""
    for file in sorted(_EXPERIMENTS.rglob("*.toml")):
        try:
            named = load_experiment(file).data.manifest
        except InputError:
            continue
        if Path(named).absolute() == manifest.path.absolute():
            yield file


def unlabelled_clips(
    subject: Subject, folder: Path, progress: Progress = silent
) -> tuple[list[tuple[Path, str, Mapping[str, float]]], list[str]]:
    """The clips of a folder that the manifest does not have, as the subject's model sees them.

    Args:
        subject: What is reviewed.
        folder: Of videos, in it and below.
        progress: Called with (clips done, clips in all).

    Returns:
        Each clip, its group by its name and the probabilities of the classes; and what could not be read.

    Raises:
        InputError: There is no such folder, or no model.
    """
    if not folder.is_dir():
        raise InputError(f"--unlabelled {folder}: no such folder")
    known = {content_digest(entry.clip_path) for entry in subject.manifest.entries}
    files = [Path(name).absolute() for name in find_videos([str(folder)])]
    files = [file for file in files if file.is_file() and content_digest(file) not in known]
    found, problems = [], []
    if files:
        for file, said in zip(files, predict_files(subject.model(), files, progress), strict=True):
            if said.error:
                problems.append(f"{remote.named(file)}: {said.error}")
            else:
                found.append((file, named_group(file.name), said.probabilities))
    return found, problems
