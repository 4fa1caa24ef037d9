"""The ledger of test reads: every read of a test split, recorded in MLflow before it happens.

Whoever looks at a test split often enough finds a model that does well on it by luck. So each read is
numbered, and promotion asks more of a challenger the more often its test split was read.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow.artifacts
from mlflow.entities import LifecycleStage, Metric, Run, RunStatus, ViewType
from mlflow.exceptions import MlflowException

from vidclf.exceptions import InputError
from vidclf.runs.folder import Attempt, now_ms
from vidclf.runs.store import Store
from vidclf.tracking.deliverer import Deliverer, metric_key, mlflow_exists

if TYPE_CHECKING:  # to look at a study is to be quick
    import pandas as pd

EXPERIMENT = "vidclf ledger"
"""The MLflow experiment whose runs are the reads."""
_SPLIT, _MODEL, _CHAMPION = "vidclf.test_digest", "vidclf.model", "vidclf.champion"
_SEQUENCE = "vidclf.sequence"
"""Tag that orders the reads, one more than that of the last read: clocks of clients may be wrong."""
_REPORT = "read.json"
_MOST = 50_000


@dataclass(frozen=True)
class TestRead:
    """One read of a test split.

    Attributes:
        number: Its place among the reads of that split, from 1.
        run_id: The ledger's run.
        model: Attempt that was read for.
        champion: Attempt that it was compared with, empty where there was none.
        when_ms: Milliseconds since the epoch.
        metrics: What was found; empty where the read was cut short.
    """

    number: int
    run_id: str
    model: str
    champion: str
    when_ms: int
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether its figures are known; the same read goes on where they are not."""
        return bool(self.metrics)


class Ledger:
    """The reads of all test splits."""

    def __init__(self, store: Store) -> None:
        self._deliverer = Deliverer(store)

    def reads(self, split: str) -> list[TestRead]:
        """The reads of one test split, the first one first; deleted ones count, they have happened."""
        if not mlflow_exists(self._deliverer.store):
            return []
        found = self._deliverer.client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            return []
        query = f"tags.`{_SPLIT}` = '{split}'"
        runs = self._deliverer.client.search_runs([found.experiment_id], query, ViewType.ALL, _MOST)
        ordered = sorted(runs, key=lambda run: (_sequence(run), run.info.start_time, run.info.run_id))
        return [_read(run, number) for number, run in enumerate(ordered, start=1)]

    def begin(self, split: str, model: str, champion: str, words: str) -> TestRead:
        """Writes a read down, unless the same model was read against the same champion before.

        Args:
            split: Digest of the test split.
            model: Attempt that is read for.
            champion: Attempt that it is compared with; empty: none.
            words: What is read and why, for people.

        Raises:
            InputError: The ledger was deleted in MLflow.
        """
        reads = self.reads(split)
        for read in reads:
            if (read.model, read.champion) == (model, champion):
                return read
        experiment = self._deliverer.experiment(EXPERIMENT)
        if experiment is None or experiment.lifecycle_stage != LifecycleStage.ACTIVE:
            raise InputError(
                f"the MLflow experiment {EXPERIMENT!r} was deleted, and with it the count of reads of the "
                "test split: restore it in MLflow's UI"
            )
        tags = {
            _SPLIT: split,
            _MODEL: model,
            _CHAMPION: champion,
            _SEQUENCE: str(len(reads) + 1),
            "mlflow.note.content": words,
        }
        run = self._deliverer.client.create_run(
            experiment.experiment_id, now_ms(), tags, run_name=f"test read of {model}"
        )
        # Another process may have begun one at the same moment: the order of all decides.
        return next(read for read in self.reads(split) if read.run_id == run.info.run_id)

    def finish(
        self, read: TestRead, metrics: Mapping[str, float], predictions: Mapping[str, "pd.DataFrame"]
    ) -> TestRead:
        """Adds what was found: metrics, and tables of predictions by the name of the model."""
        client = self._deliverer.client
        for name, table in predictions.items():
            client.log_text(read.run_id, table.to_csv(index=False), f"{name}.csv")
        client.log_text(read.run_id, json.dumps(dict(metrics), indent=1), _REPORT)
        shown = [Metric(metric_key(key), value, now_ms(), 0) for key, value in metrics.items()]
        client.log_batch(read.run_id, metrics=shown)
        client.set_terminated(read.run_id, RunStatus.to_string(RunStatus.FINISHED))
        return replace(read, metrics=dict(metrics))

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


def _read(run: Run, number: int) -> TestRead:
    tags = run.data.tags
    finished = run.info.status == RunStatus.to_string(RunStatus.FINISHED)
    return TestRead(
        number=number,
        run_id=run.info.run_id,
        model=tags[_MODEL],
        champion=tags[_CHAMPION],
        when_ms=run.info.start_time,
        metrics=dict(run.data.metrics) if finished else {},
    )


def words_for(store: Store, attempt: Attempt) -> str:
    """How often the test split of an attempt's data set was read, for reports."""
    split = attempt.identity().tags.get("vidclf.test_digest", "")
    try:
        return words(len(Ledger(store).reads(split)))
    except MlflowException:
        return "how often test was read is not known, as MLflow is away"


def words(reads: int) -> str:
    """How often a test split was read, for reports."""
    if reads == 0:
        return "test was not read"
    return f"test read {reads} times" if reads > 1 else "test read once"
