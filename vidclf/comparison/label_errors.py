"""Clips that all models misclassify, and clips whose label looks wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vidclf.comparison.rows import ModelRow, PredictionSource
from vidclf.evaluation.predictions import PROBABILITY


@dataclass(frozen=True)
class LabelDoubt:
    """A clip whose label looks wrong.

    Attributes:
        given: The mean probability of the given label.
        other: That of the suggested one.
    """

    clip_path: str
    label: str
    suggested: str
    given: float
    other: float


@dataclass(frozen=True)
class PooledPredictions:
    """The predictions of several models for the same clips, none of them for a clip it was trained on.

    Attributes:
        table: By clip path: ``label``, ``models`` (that predicted it), ``wrong`` (of them), ``said`` (what
            they said where they were wrong), ``each`` (what each said, and how surely), ``group``, and the
            mean of each ``probability/<class>``.
        models: How many models there are.
    """

    table: pd.DataFrame
    models: int

    @property
    def classes(self) -> list[str]:
        return [name.removeprefix(PROBABILITY) for name in self.table.columns if name.startswith(PROBABILITY)]

    def always_wrong(self) -> pd.DataFrame:
        """Rows that every model gets wrong, the surest of the wrong class first."""
        wrong = self.table[(self.table["wrong"] == self.models) & (self.table["models"] == self.models)]
        surest = wrong[[PROBABILITY + name for name in self.classes]].max(axis=1)
        return wrong.loc[surest.sort_values(ascending=False, kind="stable").index]

    def borderline(self) -> pd.DataFrame:
        """Rows that no model gets wrong, those first whose second class comes closest.

        Two columns more: ``second``, that class, and ``ahead``, by how much the label is more probable.
        """
        right = self.table[self.table["wrong"] == 0]
        if right.empty or len(self.classes) < 2:
            return right.assign(second=[], ahead=[])[:0]
        given = right[[PROBABILITY + name for name in self.classes]].to_numpy()
        order = np.argsort(given, axis=1, kind="stable")[:, ::-1]
        first, second = (np.take_along_axis(given, order[:, [place]], axis=1)[:, 0] for place in (0, 1))
        names = np.array(self.classes)[order[:, 1]]
        return right.assign(second=names, ahead=first - second).sort_values("ahead", kind="stable")

    def doubts(self) -> list[LabelDoubt]:
        """Labels that look wrong, the worst first; see `label_doubts`."""
        classes = self.classes
        probabilities = self.table[[PROBABILITY + name for name in classes]].to_numpy()
        labels = np.array([classes.index(label) for label in self.table["label"]], dtype=np.int64)
        return [
            LabelDoubt(
                str(self.table.index[row]),
                classes[labels[row]],
                classes[suggested],
                float(probabilities[row, labels[row]]),
                float(probabilities[row, suggested]),
            )
            for row, suggested in label_doubts(labels, probabilities)
        ]


def pool(rows: Sequence[ModelRow], source: PredictionSource = "val") -> PooledPredictions | None:
    """The predictions of all rows that have some; ``None`` where none has."""
    tables = predictions_of(rows, source)
    return pool_tables(tables) if tables else None


def predictions_of(
    rows: Sequence[ModelRow], source: PredictionSource = "val"
) -> list[tuple[str, pd.DataFrame]]:
    """Family and predictions of each row that has some, one a clip."""
    tables = [(row.family, table) for row in rows if (table := row.predictions(source)) is not None]
    # confirm has one prediction of each seed: the first stands for all.
    return [(family, table.drop_duplicates("clip_path")) for family, table in tables]


def pool_tables(tables: Sequence[tuple[str, pd.DataFrame]]) -> PooledPredictions:
    """Of one or more models, by name, the predictions that they made of clips that they had not seen."""
    together = pd.concat(table.assign(family=family) for family, table in tables)
    together["each"] = [
        f"{family}: {said} {100 * confidence:.0f} %"
        for family, said, confidence in zip(
            together["family"], together["predicted"], together["confidence"], strict=True
        )
    ]
    together["wrong"] = together["predicted"] != together["label"]
    clips = together.groupby("clip_path", sort=True)
    probabilities = [name for name in together.columns if name.startswith(PROBABILITY)]
    wrong = together[together["wrong"]].groupby("clip_path")["predicted"]
    table = clips[probabilities].mean()
    table.insert(0, "label", clips["label"].first())
    table.insert(1, "models", clips.size())
    table.insert(2, "wrong", clips["wrong"].sum())
    said = wrong.agg(lambda labels: ", ".join(labels.value_counts().index))
    table.insert(3, "said", said.reindex(table.index, fill_value=""))
    table.insert(4, "each", clips["each"].agg(list))
    table.insert(5, "group", clips["group"].first().fillna(""))
    return PooledPredictions(table, len(tables))


def worst_doubts(judged: Sequence[PooledPredictions]) -> list[LabelDoubt]:
    """Labels that look wrong to any of several pools, the worst first, each clip once."""
    worst: dict[str, LabelDoubt] = {}
    every = (doubt for pooled in judged for doubt in pooled.doubts())
    for doubt in sorted(every, key=lambda doubt: doubt.given - doubt.other):
        worst.setdefault(doubt.clip_path, doubt)
    return list(worst.values())


def label_doubts(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Clips whose given label looks wrong, by confident learning.

    A class's threshold is the mean probability of it over the clips labelled so. A label is in doubt where
    its own probability is below its threshold, and another class's is not below that class's and larger; of
    several such classes the most probable is suggested (Northcutt, Jiang and Chuang 2021, equations 1 and 2,
    https://arxiv.org/abs/1911.00068). The probabilities must come from models that were not trained on these
    clips.

    Args:
        labels: Given ones, shape (clips,).
        probabilities: Shape (clips, classes).

    Returns:
        Index of the clip and of the suggested class, the widest gap between their probabilities first.
    """
    classes = probabilities.shape[1]
    thresholds = np.array(
        [
            probabilities[labels == label, label].mean() if (labels == label).any() else np.inf
            for label in range(classes)
        ]
    )
    rows = np.arange(len(labels))
    given = probabilities[rows, labels]
    others = np.where(probabilities >= thresholds, probabilities, -np.inf)
    others[rows, labels] = -np.inf
    suggested = others.argmax(axis=1)
    gaps = others[rows, suggested] - given
    doubtful = np.flatnonzero((given < thresholds[labels]) & (gaps > 0))
    return [(int(row), int(suggested[row])) for row in doubtful[np.argsort(-gaps[doubtful], kind="stable")]]
