"""Paired tests over groups between the best row and each other row."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vidclf.comparison.rows import ModelRow

_ALPHA = 0.05
"""How often any verdict is wrong where all models are equal."""
_KEYS = ["clip_path", "repeat"]


def separate(rows: Sequence[ModelRow], metric: str) -> list[str]:
    """Tests the other rows against the first on the clips of the same repeats; a sentence each.

    Figures on val were selected and allow no verdict, so rows without predictions of `vidclf confirm` are
    left out.

    Args:
        rows: Best first.
        metric: What to compare, as ``macro_f1``, which also stands in for what no interval is known for.
    """
    from vidclf.evaluation import intervals

    tables = [(row, table) for row in rows if (table := row.predictions("confirm")) is not None]
    metric = intervals.comparable(metric)
    verdicts = []
    each = intervals.pair_alpha(len(tables), _ALPHA)
    level = f"{100 * (1 - _ALPHA):.0f} %" + (f" over all {len(tables)}" if len(tables) > 2 else "")
    for row, theirs in tables[1:]:
        best, mine = tables[0]
        both = mine.merge(theirs[[*_KEYS, "predicted"]], on=_KEYS, suffixes=("", "_other"))
        found = intervals.paired(metric, *_arrays(both), each) if len(both) else None
        if found is None:
            continue
        figures = f"difference {found.difference:+.3f}, interval {found.low:+.3f} to {found.high:+.3f}"
        tail = f"({metric}, {figures}, {found.groups} groups)"
        unclear = found.verdict == "cannot tell"
        relation = "not distinguishable from" if unclear else f"{found.verdict} than"
        verdicts.append(f"{row.label} is {relation} {best.label} at {level} {tail}.")
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
