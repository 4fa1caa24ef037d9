"""The ledger of test reads: every read of a test split, recorded in MLflow before it happens.

Whoever looks at a test split often enough finds a model that does well on it by luck. So each read is
numbered, and promotion asks more of a challenger the more often models were compared on its test split. A
read of any clip of the split is one of the split: a clip is known by its content, whatever its file, label,
group, split or data set is called.
"""

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow.artifacts
from mlflow.entities import LifecycleStage, Metric, Run, RunStatus, ViewType
from mlflow.exceptions import MlflowException

from vidclf.exceptions import InputError
from vidclf.runs.folder import Attempt, now_ms
from vidclf.runs.store import Store
from vidclf.tracking.deliverer import Deliverer, metric_key
from vidclf.tracking.lookup import LEDGER, mlflow_exists, words

if TYPE_CHECKING:  # to look at a study is to be quick
    import pandas as pd

_SPLIT, _MODEL, _CHAMPION = "vidclf.test_digest", "vidclf.model", "vidclf.champion"
_SEQUENCE = "vidclf.sequence"
"""Tag that orders the reads, one more than that of the last read: clocks of clients may be wrong."""
_CLIPS = "vidclf.test_clips."
"""Tags that hold the contents of the clips that were read, `_HASH` characters each."""
_HASH = 12
_CLIPS_A_TAG = 600
"""MLflow takes 8000 characters in a tag."""
_SHOWN = "vidclf.shown"
"""Tag: whether people saw the ``figures`` that a read found, or the ``verdict`` alone."""
_MOST = 50_000


@dataclass(frozen=True)
class TestRead:
    """One read of a test split.

    Attributes:
        number: Its place among the reads of clips of that split, from 1.
        comparison: Its place among those of them that compared two models; 0 where it compared nothing.
        run_id: The ledger's run.
        split: Digest of the split that was read.
        model: Attempt that was read for.
        champion: Attempt that it was compared with, empty where there was none.
        when_ms: Milliseconds since the epoch.
        complete: Whether its predictions are known; the same read goes on where they are not.
    """

    number: int
    comparison: int
    run_id: str
    split: str
    model: str
    champion: str
    when_ms: int
    complete: bool


class Ledger:
    """The reads of all test splits."""

    def __init__(self, store: Store) -> None:
        self._deliverer = Deliverer(store)

    def reads(self, split: str, clips: Collection[str] = ()) -> list[TestRead]:
        """The reads of one test split, the first one first; deleted ones count, they have happened.

        Args:
            split: Its digest.
            clips: Digests of its clips' contents; none: those that reads of this very split have recorded.
        """
        if not mlflow_exists(self._deliverer.store):
            return []
        found = self._deliverer.client.get_experiment_by_name(LEDGER)
        if found is None:
            return []
        runs = self._deliverer.client.search_runs([found.experiment_id], "", ViewType.ALL, _MOST)
        same = [run for run in runs if run.data.tags.get(_SPLIT) == split]
        own = {clip[:_HASH] for clip in clips}.union(*map(_clips, same))
        shared = [run for run in runs if run in same or not own.isdisjoint(_clips(run))]
        comparisons = itertools.count(1)
        return [
            _read(run, number, next(comparisons) if run.data.tags.get(_CHAMPION) else 0)
            for number, run in enumerate(sorted(shared, key=_order), start=1)
        ]

    def begin(self, split: str, clips: Collection[str], model: str, champion: str, words: str) -> TestRead:
        """Writes a read down, unless the same model was read against the same champion before.

        Args:
            split: Digest of the test split.
            clips: Digests of its clips' contents.
            model: Attempt that is read for.
            champion: Attempt that it is compared with; empty: none.
            words: What is read and why, for people.

        Raises:
            InputError: The ledger was deleted in MLflow.
        """
        for read in self.reads(split, clips):
            if (read.split, read.model, read.champion) == (split, model, champion):
                return read
        experiment = self._deliverer.experiment(LEDGER)
        if experiment is None or experiment.lifecycle_stage != LifecycleStage.ACTIVE:
            raise InputError(
                f"the MLflow experiment {LEDGER!r} was deleted, and with it the count of reads of the "
                "test split: restore it in MLflow's UI"
            )
        contents = sorted({clip[:_HASH] for clip in clips})
        tags = {
            **{
                f"{_CLIPS}{start // _CLIPS_A_TAG:03}": "".join(contents[start : start + _CLIPS_A_TAG])
                for start in range(0, len(contents), _CLIPS_A_TAG)
            },
            _SPLIT: split,
            _MODEL: model,
            _CHAMPION: champion,
            _SEQUENCE: str(self._last(experiment.experiment_id) + 1),
            "mlflow.note.content": words,
        }
        run = self._deliverer.client.create_run(
            experiment.experiment_id, now_ms(), tags, run_name=f"test read of {model}"
        )
        # Another process may have begun one at the same moment: the order of all decides.
        return next(read for read in self.reads(split, clips) if read.run_id == run.info.run_id)

    def _last(self, experiment: str) -> int:
        runs = self._deliverer.client.search_runs([experiment], "", ViewType.ALL, _MOST)
        return max(map(_sequence, runs), default=0)

    def finish(self, read: TestRead, predictions: Mapping[str, "pd.DataFrame"]) -> None:
        """Adds what was found: tables of predictions by the name of the model."""
        client = self._deliverer.client
        for name, table in predictions.items():
            client.log_text(read.run_id, table.to_csv(index=False), f"{name}.csv")
        client.set_terminated(read.run_id, RunStatus.to_string(RunStatus.FINISHED))

    def shown(self, read: TestRead, metrics: Mapping[str, float]) -> None:
        """Notes what people see of a read: these figures; none: the verdict alone."""
        client = self._deliverer.client
        if metrics:
            values = [Metric(metric_key(key), value, now_ms(), 0) for key, value in metrics.items()]
            client.log_batch(read.run_id, metrics=values)
            client.set_tag(read.run_id, _SHOWN, "figures")
        elif _SHOWN not in client.get_run(read.run_id).data.tags:
            client.set_tag(read.run_id, _SHOWN, "verdict")

    def predictions(self, read: TestRead, name: str) -> "pd.DataFrame":
        """A table that `finish` was given."""
        from vidclf.evaluation.predictions import read_predictions

        store = self._deliverer.store
        path = mlflow.artifacts.download_artifacts(
            run_id=read.run_id, artifact_path=f"{name}.csv", tracking_uri=store.mlflow_uri
        )
        return read_predictions(Path(path))


def _sequence(run: Run) -> int:
    """Of a read whose tag was edited or lost 0: that it counts as an early one makes no later one cheaper."""
    given = run.data.tags.get(_SEQUENCE, "")
    return int(given) if given.isdecimal() else 0


def _order(run: Run) -> tuple[int, int, str]:
    return _sequence(run), run.info.start_time, run.info.run_id


def _clips(run: Run) -> set[str]:
    """Contents of the clips that were read."""
    tags = run.data.tags
    parts = [tags[key] for key in tags if key.startswith(_CLIPS)]
    return {part[start : start + _HASH] for part in parts for start in range(0, len(part), _HASH)}


def _read(run: Run, number: int, comparison: int) -> TestRead:
    tags = run.data.tags
    return TestRead(
        number=number,
        comparison=comparison,
        run_id=run.info.run_id,
        split=tags.get(_SPLIT, ""),
        model=tags.get(_MODEL, ""),
        champion=tags.get(_CHAMPION, ""),
        when_ms=run.info.start_time,
        complete=run.info.status == RunStatus.to_string(RunStatus.FINISHED),
    )


def reads_of(store: Store, split: str) -> int | None:
    """How often a test split was read, by its digest; ``None`` where MLflow is away."""
    try:
        return len(Ledger(store).reads(split))
    except MlflowException:
        return None


def words_for(store: Store, attempt: Attempt) -> str:
    """How often the test split of an attempt's data set was read, for reports."""
    return words(reads_of(store, attempt.identity().tags.get("vidclf.test_digest", "")))
