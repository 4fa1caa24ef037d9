"""One experiment: the only place where data, model and metrics meet.

It knows neither MLflow nor Optuna: everything an attempt produces goes into
its own folder.
"""

import json
import logging
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vidclf import config
from vidclf.data import cache, remote
from vidclf.data.answers import read_answers
from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.leaks import find_leaks
from vidclf.data.manifest import SPLITS, Entry, Manifest, Split, content_digest, read_manifest
from vidclf.data.splitting import group_doubt, split_by_fold
from vidclf.evaluation.abstention import Abstention, abstention
from vidclf.evaluation.calibration import apply_temperature, calibrate
from vidclf.exceptions import InputError, TrialPruned
from vidclf.inference import profiling
from vidclf.models import MODELS, Classifier, devices
from vidclf.models.base import ExperimentConfig, Probabilities, Report
from vidclf.models.saved import ModelMetadata, folder_digest, write_card
from vidclf.progress import Progress, counted, silent
from vidclf.runs.folder import Attempt, Outcome, now_ms
from vidclf.runs.repeats import Repeats, run_repeats

logger = logging.getLogger(__name__)

_HOW = ("data.manifest", "experiment", "train.cache", "train.compile")
"""Keys that don't decide a result: where files lie, and how the same is computed."""

__all__ = [
    "ExperimentConfig",
    "TrialPruned",
    "load_experiment",
    "parse_experiment",
    "prepare",
    "run_experiment",
]


def load_experiment(path: Path, overrides: Mapping[str, Any] | None = None) -> ExperimentConfig:
    """Reads an experiment file.

    Args:
        path: A TOML file; paths in it are relative to it.
        overrides: Values by dotted path; paths among them are relative to the current folder.

    Raises:
        InputError: Every problem of the file and the overrides.
    """
    tree = config.read_toml(path)
    overrides = overrides or {}
    schema = _schema(config.override(tree, overrides), str(path))
    tree = config.override(tree, config.resolve_paths(schema, config.flatten(tree), path.parent.absolute()))
    tree = config.override(tree, config.resolve_paths(schema, overrides, Path.cwd()))
    return config.validate(schema, tree, str(path))


def parse_experiment(tree: Mapping[str, Any], source: str) -> ExperimentConfig:
    """A checked experiment from a tree whose paths are absolute.

    Raises:
        InputError: Every problem, each beginning with ``source``.
    """
    return config.validate(_schema(tree, source), tree, source)


def experiment_of(attempt: Attempt) -> ExperimentConfig:
    """What an attempt was made with.

    Raises:
        InputError: Its ``config.toml`` is damaged.
    """
    return parse_experiment(config.read_toml(attempt.config), str(attempt.config))


def _schema(tree: Mapping[str, Any], source: str) -> type[ExperimentConfig]:
    kind = config.lookup(tree, "model.kind")
    if kind is None and "space" in tree:
        raise InputError(f"{source}: this is a study; run it with: vidclf tune {source}")
    if kind is None:
        raise InputError(f"{source}: model.kind is required: one of {', '.join(MODELS)}")
    if kind not in MODELS:
        known = ", ".join(MODELS)
        raise InputError(
            f"{source}: model.kind: {kind!r} is none of {known}{config.did_you_mean(str(kind), list(MODELS))}"
        )
    return MODELS[kind].config


def experiment_name(experiment: ExperimentConfig) -> str:
    """The MLflow experiment: the config's own, else the name of the manifest's folder."""
    return experiment.experiment or Path(experiment.data.manifest).parent.name


def portable(experiment: ExperimentConfig) -> dict[str, Any]:
    """The flat values that decide a result, free of places: of files and a parent their content counts."""
    values = config.flatten(config.dump(experiment))
    values = {
        path: value
        for path, value in values.items()
        if path not in _HOW and not path.startswith("published.")
    }
    weights = values.get("model.weights")
    if weights not in (None, "pretrained", "none"):
        values["model.weights"] = f"sha256 {content_digest(remote.local_file(weights))}"
    if (package := values.get("model.pose_model")) is not None:
        values["model.pose_model"] = f"sha256 {content_digest(remote.local_file(package))}"
    if (parent := values.get("model.parent")) is not None:
        values["model.parent"] = f"sha256 {folder_digest(Path(parent))}"
    return values


def clip_store(experiment: ExperimentConfig) -> ClipStore:
    return ClipStore(experiment.data.grid, experiment.data.store_side, experiment.apart)


def dataset_record(experiment: ExperimentConfig, manifest: Manifest) -> dict[str, str]:
    """The data set as MLflow lists it beside a run."""
    return {
        "name": Path(experiment.data.manifest).parent.name,
        "digest": manifest.digest()[:32],
        "source": manifest.name,
        "profile": json.dumps(clip_counts(manifest.entries)),
    }


def clip_counts(entries: Iterable[Entry]) -> dict[str, dict[str, int]]:
    """Clips by split and class."""
    counts: dict[str, dict[str, int]] = {}
    for (split, label), count in sorted(Counter((entry.split, entry.label) for entry in entries).items()):
        counts.setdefault(split, {})[label] = count
    return counts


def divided(experiment: ExperimentConfig, manifest: Manifest) -> dict[Split, list[Entry]]:
    """The clips to train on and those to judge by: the manifest's own, or a fold. Never test."""
    entries: Sequence[Entry] = manifest.entries
    if experiment.data.folds:
        entries = split_by_fold(entries, experiment.data.folds, experiment.data.fold, seed=0)
    return {split: [entry for entry in entries if entry.split == split] for split in ("train", "val")}


def clip_sets(experiment: ExperimentConfig, manifest: Manifest) -> tuple[ClipSet, ClipSet]:
    """The clips of train and of val, see `divided`."""
    splits, store = divided(experiment, manifest), clip_store(experiment)
    train, val = (ClipSet.of_entries(splits[split], manifest.classes, store) for split in ("train", "val"))
    return train, val


def provenance(experiment: ExperimentConfig, manifest: Manifest) -> dict[str, str]:
    """Tags that say what a run was made from: the data, its splits, the code."""
    tags = {
        "vidclf.kind": experiment.kind,
        "vidclf.data_digest": manifest.digest(),
        **{f"vidclf.{split}_digest": manifest.digest([split]) for split in SPLITS},
        "split/grouped": str(manifest.grouped).lower(),
        "split/leak": str(manifest.leaks).lower(),
        "split/doubt": _leak_doubt(manifest),
    }
    if commit := profiling.git_commit():
        tags["mlflow.source.git.commit"] = commit
    return tags


def _leak_doubt(manifest: Manifest) -> str:
    """What is to be said of leaks where groups are unknown or guessed; empty where they are known."""
    if not group_doubt(manifest.entries):
        return ""
    return find_leaks(manifest.entries, answers=read_answers(manifest.path)).summary


def prepare(
    experiment: ExperimentConfig,
    progress: Progress = silent,
) -> tuple[Manifest, list[str]]:
    """Everything that can be wrong before training, and what is computed once for all trials.

    Manifest, weights and every clip's pictures are checked; hand-made features are kept.

    Args:
        experiment: What is to be run.
        progress: Called with (clips done, clips in all) while clips are fetched, then from the first one
            again while they are decoded, and again while what the model wants of them is computed.

    Returns:
        The manifest, and warnings about clips.

    Raises:
        InputError: Nothing has been written then but entries of the cache.
    """
    manifest = read_manifest(experiment.data.manifest, progress)
    splits = divided(experiment, manifest)
    for split, entries in splits.items():
        if not entries:
            raise InputError(
                f"{manifest.name}: split {split} is empty; import again with a share for it, "
                "as --shares 70,15,15, or set data.folds"
            )
    experiment.check_weights()
    entries = [entry for each in splits.values() for entry in each]
    store = clip_store(experiment)
    clips = ClipSet.of_entries(entries, manifest.classes, store)

    warnings = store.build(clips.paths, counted(progress, len(entries)))
    experiment.warm(clips, counted(progress, len(entries)))
    for note in experiment.notes(len(splits["train"]), len(splits["val"])):
        logger.info(note)
    if doubt := _leak_doubt(manifest):
        warnings.insert(0, f"{manifest.name}: {doubt}")
    if manifest.leaks:
        warnings.append(f"{manifest.name}: groups stand in several splits, so the figures are too good")
    return manifest, warnings


def run_experiment(
    experiment: ExperimentConfig, attempt: Attempt, report: Report, repeats: Repeats | None = None
) -> Outcome:
    """Trains, scores and saves one model into the attempt's folder.

    The test split is not read.

    Args:
        experiment: What to run.
        attempt: Its folder, already carrying its identity.
        report: Called at every report of the model, or after every repeat; may raise `TrialPruned`.
        repeats: Run it so often; the figures are then means.

    Returns:
        How it ended, as also written to ``result.json``: a crash is ``failed``,
        with its traceback among the artifacts, never ``pruned``.

    Raises:
        RuntimeError: The device no longer computes in this process, so that a trial is to run in another.
    """
    trial = attempt.identity().parent is not None

    def record(step: int, values: Mapping[str, float]) -> None:
        attempt.record(step, values)
        report(step, values)

    try:
        experiment = experiment.resolved()
        config.write_toml(config.dump(experiment), attempt.config)
        run = partial(train_and_score, draw=not trial)
        if repeats is None:
            final = run(experiment, attempt, record)
        else:
            final = run_repeats(experiment, attempt, record, repeats, run)
        outcome = Outcome("complete", "", final, now_ms())
    except TrialPruned as decision:
        outcome = Outcome("pruned", str(decision), {}, now_ms())
    except Exception as error:
        (attempt.artifacts / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        if trial and devices.failed():
            raise
        reason = f"{type(error).__name__}: {error}"
        outcome = Outcome("failed", reason, {}, now_ms(), _fingerprint(error))
    attempt.finish(outcome)
    attempt.drop_checkpoint()
    return outcome


def _fingerprint(error: BaseException) -> str:
    """Type and place of an exception: what makes two failures the same failure."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__} at {place}"


def train_and_score(
    experiment: ExperimentConfig, attempt: Attempt, record: Report, *, draw: bool = False
) -> dict[str, float]:
    """Fits, scores on val and saves one model; the final metrics.

    Args:
        experiment: Resolved.
        attempt: Where model, checkpoint and artifacts go.
        record: Called at every report of the model.
        draw: Whether to write pictures of the model, beside the confusion matrix that all have.
    """
    from vidclf.reports import diagnostics  # matplotlib and scikit-learn take seconds

    manifest = read_manifest(experiment.data.manifest)
    train, val = clip_sets(experiment, manifest)
    classifier = MODELS[experiment.kind].build(experiment, manifest.classes)

    profiling.reset_peak_memory()
    lookups = replace(cache.lookups)
    started = time.perf_counter()
    classifier.fit(train, val, record, attempt.checkpoint)
    fit_seconds = time.perf_counter() - started

    probabilities = classifier.predict_proba(val)
    scores = diagnostics.write_scores(probabilities, val, "val", attempt.artifacts)
    scaled = None if classifier.calibrated else calibrate(val.labels, probabilities, val.groups)
    if draw:
        diagnostics.draw_reliability(probabilities, scaled, val, "val", attempt.artifacts)
    temperature = scaled.temperature if scaled else 1.0
    abstains = _abstention(experiment, val, apply_temperature(probabilities, temperature))
    confidence = abstains.confidence if abstains else 0.0
    _save(classifier, experiment, train, attempt.model, temperature=temperature, confidence=confidence)
    final = {
        **scores,
        **(abstains.metrics() if abstains else {}),
        **(scaled.effect if scaled else {}),
        **classifier.describe(),
        "size/file_mb": profiling.folder_size_mb(attempt.model),
        "cost/fit_seconds": fit_seconds,
        "cost/peak_memory_mb": profiling.peak_memory_mb(),
        "cost/cache_lookups": float(cache.lookups.asked - lookups.asked),
        "cost/cache_hits": float(cache.lookups.found - lookups.found),
        **profiling.cuda_memory_mb(),
    }
    monitor = config.lookup(config.dump(experiment), "train.monitor") or "val/macro_f1"
    diagnostics.write_environment_and_curves(attempt.records(), monitor, attempt.artifacts)
    if draw:
        diagnostics.write_pictures(classifier, train, val, attempt.artifacts, seed=experiment.seed)
        diagnostics.write_wrong_clips(attempt.artifacts, val.read)
    attempt.record(max((step for step, _ in attempt.records()), default=0), final)
    return final


def _abstention(
    experiment: ExperimentConfig, val: ClipSet, probabilities: Probabilities
) -> Abstention | None:
    """When the model answers nothing, where the experiment lets it."""
    if experiment.abstain is None:
        return None
    found = abstention(val.labels, probabilities, val.groups, experiment.abstain.error)
    if found is None:
        logger.warning(
            "abstain.error = %g: no confidence keeps to it on %d clips of val, so the model always answers; "
            "more clips, a better model or a larger share would help",
            experiment.abstain.error,
            len(val),
        )
    return found


def _save(
    classifier: Classifier,
    experiment: ExperimentConfig,
    train: ClipSet,
    directory: Path,
    *,
    temperature: float,
    confidence: float,
) -> None:
    directory.mkdir(exist_ok=True)
    classifier.save(directory)
    card = ModelMetadata(
        kind=experiment.kind,
        classes=train.classes,
        grid=experiment.data.grid,
        store_side=experiment.data.store_side,
        experiment=config.dump(experiment),
        trained_on=tuple(
            (content_digest(path), group) for path, group in zip(train.paths, train.groups, strict=True)
        ),
        versions=profiling.environment(),
        apart=experiment.apart,
        temperature=temperature,
        confidence=confidence,
    )
    write_card(card, directory)
