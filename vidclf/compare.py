"""Which trial is best, and which are worth keeping: pure functions over summaries of trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

SIZE = "size/file_mb"
LATENCY = "latency/p50_ms"
FILE_LATENCY = "latency/file_p50_ms"


@dataclass(frozen=True)
class TrialRow:
    """One trial of a study.

    Attributes:
        study: Name of the study.
        number: Number of the trial.
        state: ``complete``, ``pruned``, ``failed``, ``interrupted``, ``running`` or ``waiting``.
        base: Stem of its base experiment.
        model: ``model.kind``.
        value: The objective, ``None`` unless complete.
        params: Searched values by dotted path.
        metrics: Final metrics.
        feasible: Whether it keeps the constraints.
        reason: Why it is not complete.
        reused_from: The earlier trial of the same configuration whose value it took.
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
    reused_from: int | None = None


def ranked(rows: Sequence[TrialRow], direction: str) -> list[TrialRow]:
    """Complete, feasible trials, best first; ties go to the smaller, then the faster, then the earlier.

    Trials that took over an earlier trial's value are left out.
    """
    sign = -1.0 if direction == "maximize" else 1.0
    complete = [
        (sign * row.value, _coarse(row.metrics.get(SIZE)), _coarse(row.metrics.get(LATENCY)), row.number, row)
        for row in rows
        if row.value is not None and row.feasible and row.reused_from is None
    ]
    return [row for *_, row in sorted(complete, key=lambda item: item[:4])]


def pareto_front(rows: Sequence[TrialRow], direction: str) -> list[TrialRow]:
    """Ranked trials that no other beats in objective, latency and size at once.

    Of trials that are equal in all three the best ranked stands for them.
    """
    sign = -1.0 if direction == "maximize" else 1.0
    front: dict[tuple[float, float, float], TrialRow] = {}
    costs = [
        ((sign * (row.value or 0.0), _coarse(row.metrics.get(LATENCY)), _coarse(row.metrics.get(SIZE))), row)
        for row in ranked(rows, direction)
    ]
    for mine, row in costs:
        beaten = any(
            other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other, _ in costs
        )
        if not beaten:
            front.setdefault(mine, row)
    return list(front.values())


def _coarse(value: float | None) -> float:
    """Two significant digits: a few bytes or microseconds make no difference."""
    return float("inf") if value is None else float(f"{value:.1e}")


def leaderboard(rows: Sequence[TrialRow], metric: str, direction: str, top: int = 10) -> Table:
    """The best trials as a table, with the best of each base and the Pareto front however they rank."""
    best = ranked(rows, direction)
    measured = any(LATENCY in row.metrics for row in best)
    front = pareto_front(rows, direction) if measured else []
    leaders = {row.base: row for row in reversed(best)}.values()
    shown = [row for rank, row in enumerate(best) if rank < top or row in front or row in leaders]
    table = Table(
        title=f"Best trials by {metric}", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for heading in ("rank", "trial", "base", metric.partition("/")[2], "ms/clip", "ms/file", "MB"):
        table.add_column(heading, justify="left" if heading == "base" else "right", no_wrap=True)
    table.add_column("searched values", overflow="fold", min_width=20)
    for row in shown:
        params = ", ".join(f"{key.rpartition('.')[2]} {_short(value)}" for key, value in row.params.items())
        table.add_row(
            str(best.index(row) + 1),
            f"{row.number}{'*' if row in front else ' '}",
            row.base,
            _figure(row.value, ".4f"),
            _figure(row.metrics.get(LATENCY), ".1f"),
            _figure(row.metrics.get(FILE_LATENCY), ".1f"),
            _figure(row.metrics.get(SIZE), ".2f"),
            params,
        )
    notes = ["Figures are selected on val and so optimistic; test was not read."]
    if front:
        notes.insert(0, "* Pareto front: no other trial is better, faster and smaller at once.")
    if len(shown) < len(best):
        notes.insert(0, f"{len(best) - len(shown)} complete trials are not shown.")
    table.caption = "\n".join(notes)
    table.caption_justify = "left"
    return table


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
