"""Paired tests over groups between the best row and each other row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vidclf.comparison.rows import ModelRow
from vidclf.evaluation.predictions import read_predictions

ALPHA = 0.05
_KEYS = ["clip_path", "repeat"]


@dataclass(frozen=True)
class PairVerdict:
    """One line against the best.

    Attributes:
        line: The other one.
        verdict: ``better``, ``worse`` (than the best) or ``cannot tell``.
        words: The same in a sentence.
    """

    line: ModelRow
    verdict: str
    words: str


def unselected(line: ModelRow) -> pd.DataFrame | None:
    """Predictions that chose nothing: those of `vidclf confirm`, ``None`` where there are none.

    Returns:
        Columns ``clip_path``, ``label``, ``predicted``, ``group`` and ``repeat``.
    """
    if line.attempt is None:
        return None
    path = line.attempt.artifacts / "confirm" / "predictions.csv"
    if not path.exists():
        return None
    return read_predictions(path)


def separate(lines: Sequence[ModelRow], metric: str, alpha: float = ALPHA) -> list[PairVerdict]:
    """Tests the other lines against the first on the clips of the same repeats.

    Figures on val were selected and allow no verdict, so lines without other predictions are left out.

    Args:
        lines: Best first.
        metric: What to compare, as ``macro_f1``, which also stands in for what no interval is known for.
        alpha: How often any verdict is wrong where all are equal.
    """
    from vidclf.evaluation import intervals  # noqa: PLC0415

    tables = [(line, table) for line in lines if (table := unselected(line)) is not None]
    metric = intervals.comparable(metric)
    verdicts = []
    each = intervals.pair_alpha(len(tables), alpha)
    level = f"{100 * (1 - alpha):.0f} %" + (f" over all {len(tables)}" if len(tables) > 2 else "")
    for line, theirs in tables[1:]:
        best, mine = tables[0]
        both = mine.merge(theirs[[*_KEYS, "predicted"]], on=_KEYS, suffixes=("", "_other"))
        found = intervals.paired(metric, *_arrays(both), each) if len(both) else None
        if found is None:
            continue
        figures = f"difference {found.difference:+.3f}, interval {found.low:+.3f} to {found.high:+.3f}"
        tail = f"({metric}, {figures}, {found.groups} groups)"
        if found.verdict == "cannot tell":
            words = f"{line.label} is not distinguishable from {best.label} at {level} {tail}."
        else:
            words = f"{line.label} is {found.verdict} than {best.label} at {level} {tail}."
        verdicts.append(PairVerdict(line, found.verdict, words))
    return verdicts


def _arrays(
    both: pd.DataFrame,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Labels (clips,), both models' guesses (repeats, clips), and groups.

    Where repeats are of different clips, as folds are, each prediction counts as a clip of its own.
    """
    texts = both[["label", "predicted", "predicted_other"]]
    classes = sorted(set(texts.to_numpy().ravel()))
    labels, best, other = (
        np.array([classes.index(name) for name in texts[column]], dtype=np.int64) for column in texts.columns
    )
    order = np.lexsort((both["clip_path"], both["repeat"]))
    repeats, clips = both["repeat"].nunique(), both["clip_path"].nunique()
    if repeats * clips != len(both):
        return labels, other, best, list(both["group"])
    first = order[:clips]
    shape = (repeats, clips)
    return (
        labels[first],
        other[order].reshape(shape),
        best[order].reshape(shape),
        list(both["group"].iloc[first]),
    )
