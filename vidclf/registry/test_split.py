"""Scores models on the test split: the one module that reads its labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vidclf import config
from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.manifest import Entry, Manifest, content_digest, read_manifest
from vidclf.data.splitting import group_of
from vidclf.evaluation import intervals, metrics
from vidclf.evaluation.abstention import answered_metrics
from vidclf.evaluation.intervals import CONFIDENCE
from vidclf.evaluation.predictions import predictions_table, write_predictions
from vidclf.exceptions import NotComparableError
from vidclf.models import load_model
from vidclf.models.saved import read_card
from vidclf.progress import Progress, counted, silent
from vidclf.runs.folder import Attempt
from vidclf.runs.store import Store
from vidclf.tracking.ledger import Ledger, TestRead


@dataclass(frozen=True)
class TestSplit:
    """The test split that an attempt's data set has; ``name`` is that of its folder."""

    __test__ = False  # no test case, whatever pytest thinks of its name

    manifest: Manifest
    name: str

    @classmethod
    def of(cls, attempt: Attempt) -> "TestSplit":
        """As the manifest has it now.

        Raises:
            InputError: The manifest or the attempt's config cannot be read.
        """
        source = config.read_toml(attempt.config)["data"]["manifest"]
        return cls(read_manifest(source), Path(source).parent.name)

    @cached_property
    def digest(self) -> str:
        """Equal for equal clips, labels and groups."""
        return self.manifest.digest(["test"])

    @cached_property
    def entries(self) -> list[Entry]:
        """Its clips, in the order of the manifest."""
        return list(self.manifest.split("test"))

    @cached_property
    def contents(self) -> list[str]:
        """Digests of its clips' contents."""
        return [content_digest(entry.clip_path) for entry in self.entries]

    def reads(self, store: Store) -> list[TestRead]:
        """Every read of one of its clips, the first one first."""
        return Ledger(store).reads(self.digest, self.contents)

    def shared_groups(self, model: Path) -> list[str]:
        """Groups that a model had in training too, by their names: clips of the same scene or person."""
        trained = {group for _, group in read_card(model).trained_on}
        return sorted({group_of(entry) for entry in self.entries} & trained)

    def check(self, model: Path) -> None:
        """Refuses a model whose figures on this split would mean nothing.

        Raises:
            NotComparableError: It knows other classes, or was trained on one of the clips.
        """
        card = read_card(model)
        if card.classes != self.manifest.classes:
            raise NotComparableError(
                f"it knows the classes {', '.join(card.classes)}, and the test split of "
                f"{self.manifest.name} has {', '.join(self.manifest.classes)}"
            )
        trained = {clip for clip, _ in card.trained_on}
        pairs = zip(self.entries, self.contents, strict=True)
        known = [entry.name for entry, content in pairs if content in trained]
        if known:
            raise NotComparableError(
                f"it was trained on {len(known)} of the {len(self.entries)} test clips, one is {known[0]}"
            )

    def predictions(self, model: Path, progress: Progress = silent) -> pd.DataFrame:
        """A `predictions_table` of every test clip, by the saved model in a folder."""
        saved = load_model(model)
        store = ClipStore(saved.card.grid, saved.card.store_side, saved.card.apart)
        clips = ClipSet.of_split(self.manifest, "test", store)
        store.build(clips.paths, counted(progress, len(clips)))
        return predictions_table(
            clips.paths, clips.labels, saved.probabilities(clips), clips.classes, clips.groups
        )


@dataclass(frozen=True)
class ScoredClips:
    """Predictions of known clips as arrays.

    Attributes:
        labels: Indices of the true classes, shape (clips,).
        guesses: Indices of the predicted classes, shape (clips,).
        probabilities: Shape (clips, classes).
    """

    labels: NDArray[np.int64]
    guesses: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    groups: list[str]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, table: pd.DataFrame, classes: tuple[str, ...]) -> "ScoredClips":
        """From a `vidclf.evaluation.predictions.predictions_table` and the names of its classes by index."""
        index = {name: place for place, name in enumerate(classes)}
        return cls(
            labels=np.array([index[name] for name in table["label"]], dtype=np.int64),
            guesses=np.array([index[name] for name in table["predicted"]], dtype=np.int64),
            probabilities=table[[f"probability/{name}" for name in classes]].to_numpy(np.float64),
            groups=list(table["group"]),
            classes=classes,
        )

    def basis(self, metric: str) -> str:
        """What intervals of these clips are for and rest on, in words."""
        return intervals.basis(metric, self.labels, self.guesses, self.groups)

    def evaluated(self) -> Mapping[str, float]:
        """See `vidclf.evaluation.metrics.evaluate`."""
        return metrics.evaluate(self.labels, self.probabilities, self.classes, self.groups)

    def metrics(self) -> Mapping[str, float]:
        """All metrics as ``test/…``, those that have intervals with ``…_low`` and ``…_high`` at 95 %."""
        scores = {f"test/{name}": value for name, value in self.evaluated().items()}
        reached = {
            name: intervals.interval(name, self.labels, self.guesses, self.groups, CONFIDENCE)
            for name in intervals.KNOWN
        } | {
            name: intervals.mean_interval(name, self.labels, self.probabilities, self.groups, CONFIDENCE)
            for name in intervals.MEANS
        }
        for name, ends in reached.items():
            if ends is not None:
                scores |= {f"test/{name}_low": ends.low, f"test/{name}_high": ends.high}
        return scores

    def answered(self, confidence: float) -> Mapping[str, float]:
        """Of a model that answers from ``confidence`` on, as ``test/…``: see `answered_metrics`."""
        found = answered_metrics(self.labels, self.probabilities, self.groups, confidence)
        return {f"test/{name}": value for name, value in found.items()}


@dataclass(frozen=True)
class Champion:
    """The model that a challenger is compared with: version, attempt id, folder of the saved model."""

    version: int
    attempt: str
    model: Path


@dataclass(frozen=True)
class TestResult:
    """What a read of the test split found.

    Attributes:
        table: The model's `vidclf.evaluation.predictions.predictions_table`.
        own: The same as arrays.
        champion: The champion's on the same clips, where there is one.
        reads: How often its clips have been read by now.
        confidence: The least at which the model answers; 0: always.
    """

    __test__ = False

    read: TestRead
    table: pd.DataFrame
    own: ScoredClips
    champion: ScoredClips | None
    reads: int
    confidence: float = 0.0

    @cached_property
    def figures(self) -> Mapping[str, float]:
        """See `ScoredClips.metrics` and `ScoredClips.answered`."""
        return {**self.own.metrics(), **(self.own.answered(self.confidence) if self.confidence else {})}


def read_test(
    store: Store,
    attempt: Attempt,
    champion: Champion | None = None,
    progress: Progress = silent,
) -> TestResult:
    """Reads the test split for an attempt's model, after having written down that it does.

    The same model against the same champion is not read again: what was found then is taken. Nothing is
    shown of it, see `show`.

    Args:
        store: Where the ledger is.
        attempt: A complete attempt with its model.
        champion: Whom to compare it with.
        progress: Called with (clips done, clips in all) while clips are decoded.

    Raises:
        NotComparableError: One of the models cannot be judged on these clips; nothing was read then.
    """
    split = TestSplit.of(attempt)
    for model in (attempt.model, *((champion.model,) if champion else ())):
        split.check(model)
    ledger, identity = Ledger(store), attempt.identity()
    against = f" beside version {champion.version}" if champion else ""
    words = f"{split.name}: {len(split.entries)} test clips for {identity.run_name}{against}"
    against_id = champion.attempt if champion else ""
    read = ledger.begin(split.digest, split.contents, identity.id, against_id, words)
    if read.complete:
        tables = {"model": ledger.predictions(read, "model")}
        tables |= {"champion": ledger.predictions(read, "champion")} if champion else {}
    else:
        tables = {"model": split.predictions(attempt.model, progress)}
        tables |= {"champion": split.predictions(champion.model)} if champion else {}
    classes = split.manifest.classes
    scored = {name: ScoredClips.of(table, classes) for name, table in tables.items()}
    if not read.complete:
        ledger.finish(read, tables)
    reads = len(split.reads(store))
    confidence = read_card(attempt.model).confidence
    return TestResult(read, tables["model"], scored["model"], scored.get("champion"), reads, confidence)


def show(store: Store, attempt: Attempt, result: TestResult) -> None:
    """Adds what was found to the attempt, its figures as ``test/…``; the ledger notes that people see it."""
    Ledger(store).shown(result.read, result.figures)
    outcome = attempt.outcome()
    if outcome is None or not result.figures.keys() <= outcome.metrics.keys():
        write_predictions(result.table, attempt.artifacts / "test")
        attempt.add_metrics(result.figures)
