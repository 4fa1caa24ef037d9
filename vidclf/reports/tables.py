"""Tables of ranked trials and models, for the terminal, for pages and in Markdown."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vidclf.evaluation import ranking
from vidclf.evaluation.ranking import FILE_LATENCY, FIT_SECONDS, LATENCY, PEAK_MEMORY, SIZE, TrialRow


@dataclass(frozen=True)
class Column:
    """A column of a leaderboard.

    Attributes:
        heading: Its heading.
        cell: A row's cell, a text; for a page also what `HtmlTable` allows.
        left: Whether it is aligned left, as words are.
        wrap: Least width in the terminal, where long cells are broken; ``None``: they never are.
    """

    heading: str
    cell: Callable[[Any], Any]
    left: bool = False
    wrap: int | None = None


@dataclass(frozen=True)
class HtmlTable:
    """A table.

    Attributes:
        headings: Of its columns.
        left: Those of columns that are aligned left, as words are.
        rows: Each row's CSS classes, of those that the page's style knows, and its cells: texts,
            `MarkedCell` or `BarCell`.
    """

    headings: Sequence[str]
    left: Collection[str]
    rows: Sequence[tuple[str, Sequence["str | MarkedCell | BarCell"]]]


@dataclass(frozen=True)
class MarkedCell:
    """A cell whose text has a CSS colour before it and a note in a second line."""

    text: str
    colour: str
    note: str


@dataclass(frozen=True)
class BarCell:
    """A cell with an interval as a text and as a bar on a scale from 0 to 1."""

    text: str
    low: float
    value: float
    high: float


def score_column(heading: str) -> Column:
    """The figure that rows are ranked by."""
    return Column(heading, lambda row: ranking.figure(row.value, ".4f"))


def cost_columns(*metrics: str) -> list[Column]:
    """Latencies, sizes and what training took."""
    forms = {
        LATENCY: ("ms a clip", ".1f"),
        FILE_LATENCY: ("ms a file", ".1f"),
        SIZE: ("MB", ".2f"),
        FIT_SECONDS: ("s to train", ".1f"),
        PEAK_MEMORY: ("MB to train", ".0f"),
    }

    def column(metric: str) -> Column:
        heading, form = forms[metric]
        return Column(heading, lambda row: ranking.figure(row.metrics.get(metric), form))

    return [column(metric) for metric in metrics]


PARAMS_WIDTH = 20
"""Characters of a line of searched values, at least."""


def params_column(twins: Mapping[int, int]) -> Column:
    """Searched values of a trial, and how many others predict the same.

    Args:
        twins: See `ranking.twins`.
    """
    others = Counter(twins.values())

    def words(row: TrialRow) -> str:
        same = f"{others[row.number]} more predict{'s' * (others[row.number] == 1)} the same"
        parts = (ranking.param_words(row.params), same if others[row.number] else "")
        return "; ".join(filter(None, parts))

    return Column("searched values", words, left=True, wrap=PARAMS_WIDTH)


def trial_columns(
    heading: str,
    ranked: Sequence[TrialRow],
    *,
    costs: Sequence[str] = (LATENCY, SIZE),
    starred: Collection[TrialRow] | None = None,
) -> list[Column]:
    """The columns that every leaderboard of a study has.

    Args:
        heading: Of the objective.
        ranked: All ranked trials, best first.
        costs: Metrics that have a column.
        starred: Trials with a star, for tables that shade no rows.
    """
    ranks = {row.number: rank for rank, row in enumerate(ranked, start=1)}
    marks = {row.number: "*" for row in starred or ()}
    unmarked = "" if starred is None else " "
    return [
        Column("rank", lambda row: str(ranks[row.number])),
        Column("trial", lambda row: f"{row.number}{marks.get(row.number, unmarked)}"),
        Column("base", lambda row: row.base, left=True),
        score_column(heading),
        *cost_columns(*costs),
    ]


def rich_table(title: str, columns: Sequence[Column], rows: Iterable[TrialRow], caption: str = "") -> Table:
    """A leaderboard for the terminal."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(
            column.heading.replace(" a ", "/"),
            justify="left" if column.left else "right",
            no_wrap=column.wrap is None,
            overflow="ellipsis" if column.wrap is None else "fold",
            min_width=column.wrap,
        )
    for row in rows:
        table.add_row(*(column.cell(row) for column in columns))
    if caption:
        table.caption, table.caption_justify = caption, "left"
    return table


def html_table(
    columns: Sequence[Column], rows: Iterable[TrialRow], classes: Callable[[Any], str]
) -> HtmlTable:
    """A leaderboard for a page; ``classes`` gives a row's CSS classes, of those that the style knows."""
    left = {column.heading for column in columns if column.left}
    cells = [(classes(row), [column.cell(row) for column in columns]) for row in rows]
    return HtmlTable([column.heading for column in columns], left, cells)


def markdown_table(columns: Sequence[Column], rows: Iterable[TrialRow], escaped: Callable[[str], str]) -> str:
    """A leaderboard in Markdown, its texts passed through ``escaped``."""
    lines = [[escaped(column.heading) for column in columns]]
    lines.append([":--" if column.left else "--:" for column in columns])
    lines += [[escaped(column.cell(row)) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def study_leaderboard(
    rows: Sequence[TrialRow],
    metric: str,
    direction: str,
    *,
    caution: str,
    twins: Mapping[int, int],
    top: int = 10,
) -> Table:
    """The best trials for the terminal, with the best of each base and the Pareto front however they rank.

    Args:
        rows: All trials.
        metric: They are ranked by.
        direction: Of that.
        caution: What must be said beside every figure.
        twins: See `ranking.twins`: those are not shown.
        top: Trials that are shown in any case.
    """
    best = ranking.ranked(rows, direction)
    measured = any(LATENCY in row.metrics for row in best)
    front = ranking.pareto_front(rows, direction) if measured else []
    shown = ranking.leaders([row for row in rows if row.number not in twins], direction, front, top)
    notes = []
    if hidden := len(best) - len(shown):
        notes.append(f"{hidden} complete {'trial is' if hidden == 1 else 'trials are'} not shown.")
    if front:
        notes.append("* Pareto front: no other trial is better, faster and smaller at once, to two digits.")
    if measured and len({row.shape for row in shown}) < len(shown):
        notes.append("ms: measured once for all trials of one shape (network, frames, size, machine).")
    if busy := next(filter(None, (ranking.disturbed(row.metrics) for row in shown)), ""):
        notes.append(f"Latencies were measured while {busy}: too high. vidclf bench measures again.")
    notes.append(caution)
    heading, costs = metric.partition("/")[2], (LATENCY, FILE_LATENCY, SIZE)
    columns = [*trial_columns(heading, best, costs=costs, starred=front), params_column(twins)]
    return rich_table(f"Best trials by {metric}", columns, shown, "\n".join(notes))
