"""Which trial is best, and which are worth keeping: pure functions over summaries of trials."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

SIZE = "size/file_mb"
LATENCY = "latency/p50_ms"
LATENCY_LOW, LATENCY_HIGH = "latency/p50_low_ms", "latency/p50_high_ms"
"""Ends of the median's 95 % interval."""
FILE_LATENCY = "latency/file_p50_ms"
FIT_SECONDS, PEAK_MEMORY = "cost/fit_seconds", "cost/peak_memory_mb"
OTHER_LOAD = "latency/other_load"
"""Share of the machine's cores that other processes used while latencies were measured."""
CONTENDED = "latency/contended"
"""Marks a latency that was measured beside other trials: it rejects nothing, and is measured again."""
MOST_TWINS = 200
"""Of the best models those among which twins are looked for: each takes its predictions to be read."""
_BUSY = 0.1
"""Share of the machine's cores from which on other work makes latencies too long to be believed."""


@dataclass(frozen=True)
class TrialRow:
    """One trial of a study.

    Attributes:
        study: Name of the study.
        number: Number of the trial.
        state: ``complete``, ``pruned``, ``failed``, ``interrupted``, ``died``, ``running`` or
            ``waiting``.
        base: Stem of its base experiment.
        model: ``model.kind``.
        value: The objective, ``None`` unless complete.
        params: Searched values by dotted path.
        metrics: Final metrics.
        feasible: Whether it keeps the constraints.
        reason: Why it is not complete.
        shape: Equal for models of equal latency.
    """

    study: str
    number: int
    state: str
    base: str
    model: str
    value: float | None
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    feasible: bool = True
    reason: str = ""
    shape: str = ""


Row = TypeVar("Row", bound=TrialRow)


def disturbed(metrics: Mapping[str, float]) -> str:
    """What else was computed while latencies were measured, in words; empty where that does not matter."""
    if CONTENDED in metrics:
        return "other trials computed"
    load = metrics.get(OTHER_LOAD, 0.0)
    if load <= _BUSY and metrics.get(FILE_LATENCY, math.inf) < metrics.get(LATENCY, 0.0):
        return "the machine was busy (it took longer without reading the file than with it)"
    return f"other programs used {100 * load:.0f} % of the machine" if load > _BUSY else ""


def is_faster(metrics: Mapping[str, float], than: Mapping[str, float]) -> bool:
    """Whether one model is faster than another: the intervals of undisturbed medians do not overlap."""
    high, low = metrics.get(LATENCY_HIGH, math.inf), than.get(LATENCY_LOW, 0.0)
    return high < low and not disturbed(metrics) and not disturbed(than)


def ranked(rows: Sequence[Row], direction: str) -> list[Row]:
    """Complete, feasible trials, best first; ties go to the smaller, then the faster, then the earlier."""
    sign = -1.0 if direction == "maximize" else 1.0
    complete = [
        (sign * row.value, _coarse(row.metrics.get(SIZE)), _coarse(row.metrics.get(LATENCY)), row.number, row)
        for row in rows
        if row.value is not None and row.feasible
    ]
    return [row for *_, row in sorted(complete, key=lambda item: item[:4])]


def pareto_front(rows: Sequence[Row], direction: str) -> list[Row]:
    """Ranked trials that no other beats in objective, latency and size at once.

    Of trials that are equal in all three the best ranked stands for them.
    """
    sign = -1.0 if direction == "maximize" else 1.0
    front: dict[tuple[float, float, float], Row] = {}
    for row in ranked(rows, direction):  # whatever beats a trial ranks before it
        mine = (sign * (row.value or 0.0), _coarse(row.metrics.get(LATENCY)), _coarse(row.metrics.get(SIZE)))
        if not any(all(a <= b for a, b in zip(other, mine, strict=True)) for other in front):
            front[mine] = row
    return list(front.values())


def leaders(rows: Sequence[Row], direction: str, front: Sequence[Row], top: int) -> list[Row]:
    """The best trials, the best of each base, and the front, in the order of their ranks."""
    on_front = {row.number for row in front}
    found: list[Row] = []
    bases: set[str] = set()
    for rank, row in enumerate(ranked(rows, direction), start=1):
        if rank <= top or row.number in on_front or row.base not in bases:
            found.append(row)
        bases.add(row.base)
    return found


def with_twins(rows: Sequence[Row], answers: Callable[[Row], object]) -> Iterator[tuple[Row, Row]]:
    """Each row with the first that predicts the same, which may be itself; reads no more than it must.

    Args:
        rows: In any order.
        answers: What a row predicts, in what can be compared; ``None`` where that is not known.
    """
    alike: dict[tuple[float | None, ...], list[tuple[Row, list[object]]]] = {}
    for row in rows:  # who says the same scores the same
        scores = (row.value, *(row.metrics.get(f"val/{name}") for name in ("accuracy", "macro_f1", "recall")))
        others = alike.setdefault(scores, [])
        mine = [answers(row)] if others else []
        for other, theirs in others:
            theirs[:] = theirs or [answers(other)]
            if theirs == mine and mine != [None]:
                yield row, other
                break
        else:
            others.append((row, mine))
            yield row, row


def twins(rows: Sequence[Row], answers: Callable[[Row], object]) -> dict[int, int]:
    """Of the best trials those that predict as a better ranked one does, with its number.

    Args:
        rows: Of one study, best first; those beyond the first 200 are not looked at.
        answers: See `with_twins`.
    """
    pairs = with_twins(rows[:MOST_TWINS], answers)
    return {row.number: first.number for row, first in pairs if first is not row}


def kept(
    rows: Sequence[TrialRow],
    direction: str,
    keep: int,
    answers: Callable[[TrialRow], object] = lambda _: None,
) -> list[TrialRow]:
    """Ranked trials whose models are worth their place: the best ``keep``, and the Pareto front.

    Trials that predict the same are one: the best ranked stands for them, see `with_twins`. While latencies
    are still to be measured, what is on the front of its own shape may yet be on that of all.
    """
    best = ranked(rows, direction)
    groups = [best]
    if any(LATENCY not in row.metrics for row in best):
        groups = [[row for row in best if row.shape == shape] for shape in {row.shape for row in best}]
    front = {row.number for group in groups for row in pareto_front(group, direction)}
    own = (row.number for row, first in with_twins(best, answers) if first is row)
    front.update(itertools.islice(own, keep))
    return [row for row in best if row.number in front]


def thinned(rows: Sequence[Row], most: int) -> list[Row]:
    """At most ``most`` trials (2 or more), evenly from the first to the last."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(place * (len(rows) - 1) / (most - 1))] for place in range(most)]


def _coarse(value: float | None) -> float:
    """Two significant digits: a few bytes or microseconds make no difference."""
    return float("inf") if value is None else float(f"{value:.1e}")


def figure(value: float | None, form: str) -> str:
    """The value as text, a dash where there is none."""
    return "–" if value is None else format(value, form)


def short(value: Any) -> str:
    """A searched value as text, with three digits that count."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def cost_words(metrics: Mapping[str, float]) -> str:
    """Latency and size in words, as far as they are known."""
    kinds = ((LATENCY, ".1f", "ms a clip"), (SIZE, ".2f", "MB"))
    return ", ".join(f"{metrics[key]:{form}} {unit}" for key, form, unit in kinds if key in metrics)


def clips_words(clips: int, folds: int = 0) -> str:
    """How much one of the clips that are judged counts; with ``folds`` each is in one of them."""
    where = "val has" if folds == 0 else f"the {folds} folds have"
    return f"{where} {clips} clips: one of them right or wrong moves accuracy by {100 / clips:.1f} points."


def param_words(params: Mapping[str, Any]) -> str:
    """Searched values in words, each under the last part of its dotted path."""
    return ", ".join(f"{key.rpartition('.')[2]} {short(value)}" for key, value in params.items())
