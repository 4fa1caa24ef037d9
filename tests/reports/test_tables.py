"""Leaderboards for the terminal, for pages and in Markdown."""

from dataclasses import replace

from rich.table import Table

from vidclf.evaluation import ranking
from vidclf.evaluation.ranking import FILE_LATENCY, LATENCY, OTHER_LOAD, SIZE, TrialRow
from vidclf.reports.tables import (
    html_table,
    markdown_table,
    params_column,
    study_leaderboard,
    trial_columns,
)


def row(number: int, value: float, ms: float | None = 1.0, base: str = "svm", shape: str = "") -> TrialRow:
    metrics = {SIZE: 1.0, **({} if ms is None else {LATENCY: ms, FILE_LATENCY: 2 * ms})}
    return TrialRow("s", number, "complete", base, "svm", value, {"model.C": 0.5}, metrics, shape=shape)


def cells(table: Table) -> list[list[str]]:
    """Headings and rows of a table."""
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    return [list(line) for line in zip(*columns, strict=True)]


def leaderboard(rows: list[TrialRow], direction: str = "maximize") -> Table:
    return study_leaderboard(rows, "val/macro_f1", direction, caution="Selected.", twins={}, top=2)


def test_the_leaderboard_shows_the_best_every_base_and_the_whole_front() -> None:
    rows = [row(number, 0.9 - number / 100, ms=5.0) for number in range(5)]
    rows += [row(5, 0.5, ms=5.0, base="tiny2d"), row(6, 0.4, ms=0.5, base="tiny2d")]
    rows += [row(7, 0.3, ms=9.0, base="tiny2d")]
    table = leaderboard(rows)
    assert cells(table) == [
        ["rank", "trial", "base", "macro_f1", "ms/clip", "ms/file", "MB", "searched values"],
        ["1", "0*", "svm", "0.9000", "5.0", "10.0", "1.00", "C 0.5"],
        ["2", "1 ", "svm", "0.8900", "5.0", "10.0", "1.00", "C 0.5"],
        ["6", "5 ", "tiny2d", "0.5000", "5.0", "10.0", "1.00", "C 0.5"],
        ["7", "6*", "tiny2d", "0.4000", "0.5", "1.0", "1.00", "C 0.5"],
    ]
    assert table.title == "Best trials by val/macro_f1"
    first, *_, last = str(table.caption).splitlines()
    assert first == "4 complete trials are not shown."
    assert last == "Selected."
    assert [column.justify for column in table.columns] == [*["right"] * 2, "left", *["right"] * 4, "left"]
    assert [column.no_wrap for column in table.columns] == [*[True] * 7, False]
    assert (table.columns[7].overflow, table.columns[7].min_width) == ("fold", 20)
    assert [line[1] for line in cells(leaderboard(rows, "minimize"))[1:3]] == ["7*", "6*"]


def test_equal_latencies_of_one_shape_are_explained() -> None:
    once = "measured once for all trials of one shape"
    assert once in str(leaderboard([row(0, 0.9, shape="a"), row(1, 0.8, shape="a")]).caption)
    assert once not in str(leaderboard([row(0, 0.9, shape="a"), row(1, 0.8, shape="b")]).caption)


def test_without_latency_there_is_no_front() -> None:
    table = leaderboard([row(0, 0.9, ms=None), row(1, 0.8, ms=None)])
    assert [line[1] for line in cells(table)] == ["trial", "0 ", "1 "]
    assert [line[4] for line in cells(table)] == ["ms/clip", "–", "–"]
    assert "Pareto" not in str(table.caption)


def test_pages_and_markdown_have_the_same_columns() -> None:
    ranked = ranking.ranked([row(3, 0.8, base="a|b"), row(4, 0.9)], "maximize")
    columns = [*trial_columns("val/f1", ranked), params_column({})]
    table = html_table(columns, ranked[::-1], lambda row: "front" if row.number == 3 else "")
    assert table.headings == ["rank", "trial", "base", "val/f1", "ms a clip", "MB", "searched values"]
    assert table.left == {"base", "searched values"}
    assert table.rows == [
        ("front", ["2", "3", "a|b", "0.8000", "1.0", "1.00", "C 0.5"]),
        ("", ["1", "4", "svm", "0.9000", "1.0", "1.00", "C 0.5"]),
    ]
    assert markdown_table(columns, ranked[1:], lambda text: text.replace("|", r"\|")).splitlines() == [
        "| rank | trial | base | val/f1 | ms a clip | MB | searched values |",
        "| --: | --: | :-- | --: | --: | --: | :-- |",
        r"| 2 | 3 | a\|b | 0.8000 | 1.0 | 1.00 | C 0.5 |",
    ]


def test_who_predicts_the_same_stands_in_one_row() -> None:
    rows = [row(number, 0.9 - number // 3 / 100, ms=5.0) for number in range(5)]
    table = study_leaderboard(rows, "val/macro_f1", "maximize", caution="", twins={1: 0, 2: 0, 4: 3}, top=3)
    assert [(line[0], line[1].strip(), line[-1]) for line in cells(table)[1:]] == [
        ("1", "0*", "C 0.5; 2 more predict the same"),
        ("4", "3", "C 0.5; 1 more predicts the same"),
    ]
    assert str(table.caption).startswith("3 complete trials are not shown.")


def test_a_table_says_where_latencies_were_measured_beside_other_work() -> None:
    quiet = row(0, 0.9)
    busy = replace(quiet, metrics={**quiet.metrics, OTHER_LOAD: 0.96})
    for rows, told in (([busy], True), ([quiet], False)):
        words = (
            "measured while other programs used 96 % of the machine: too high. vidclf bench measures again."
        )
        assert (words in str(leaderboard(rows).caption)) == told
