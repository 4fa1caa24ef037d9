"""Ranking and the Pareto front."""

import pytest

from vidclf.evaluation import metrics, ranking
from vidclf.evaluation.ranking import CONTENDED, FILE_LATENCY, LATENCY, OTHER_LOAD, SIZE, TrialRow


def row(
    number: int, value: float | None, ms: float | None = 1.0, mb: float = 1.0, **more: object
) -> TrialRow:
    metrics = {SIZE: mb, **({} if ms is None else {LATENCY: ms})}
    state = "complete" if value is not None else "pruned"
    fields: dict[str, object] = {"base": "svm", "feasible": True, **more}
    return TrialRow("s", number, state, model="svm", value=value, params={}, metrics=metrics, **fields)  # type: ignore[arg-type]


def numbers(rows: list[TrialRow]) -> list[int]:
    return [found.number for found in rows]


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({}, ""),
        (
            {LATENCY: 10.0, FILE_LATENCY: 9.0},
            "the machine was busy (it took longer without reading the file than with it)",
        ),
        ({LATENCY: 10.0, FILE_LATENCY: 11.0, OTHER_LOAD: 0.1}, ""),
        ({LATENCY: 10.0, FILE_LATENCY: 9.0, OTHER_LOAD: 0.25}, "other programs used 25 % of the machine"),
        ({CONTENDED: 1.0}, "other trials computed"),
    ],
)
def test_latencies_that_cannot_be_believed_say_why(metrics: dict[str, float], words: str) -> None:
    assert ranking.disturbed(metrics) == words


def test_ranking_is_by_value_then_size_then_latency_then_number() -> None:
    rows = [row(0, 0.5), row(1, 0.9, mb=2.0), row(2, 0.9, ms=3.0), row(3, 0.9, ms=2.0), row(4, 0.9, ms=2.0)]
    assert numbers(ranking.ranked(rows, "maximize")) == [3, 4, 2, 1, 0]
    assert numbers(ranking.ranked(rows, "minimize"))[0] == 0


def test_only_complete_feasible_trials_are_ranked() -> None:
    rows = [row(0, None), row(1, 0.9, feasible=False), row(3, 0.9)]
    assert numbers(ranking.ranked(rows, "maximize")) == [3]


def test_the_front_holds_what_nothing_beats_at_once() -> None:
    rows = [
        row(0, 0.9, ms=9.0),
        row(1, 0.8, ms=2.0),
        row(2, 0.7, ms=5.0),
        row(3, 0.6, ms=5.0, mb=0.1),
        row(4, 0.8, ms=2.0),
    ]
    assert numbers(ranking.pareto_front(rows, "maximize")) == [0, 1, 3]


@pytest.mark.parametrize(
    "metric", ["val/loss", "epoch/val/loss", "val/ece", "val/macro_f1_std", SIZE, LATENCY]
)
def test_of_these_the_lowest_is_the_best(metric: str) -> None:
    assert metrics.lower_is_better(metric)


@pytest.mark.parametrize(
    "metric", ["val/macro_f1", "test/roc_auc", "val/recall/loss", "val/recall/weight_loss"]
)
def test_of_these_the_highest_is_the_best(metric: str) -> None:
    assert not metrics.lower_is_better(metric)


def test_who_predicts_the_same_is_one() -> None:
    said = {0: "aab", 1: "aab", 2: "aba", 3: "aba", 4: None, 5: None, 6: "aab"}
    read: list[int] = []

    def answers(one: TrialRow) -> str | None:
        read.append(one.number)
        return said[one.number]

    rows = [row(number, 0.8 if number == 6 else 0.9, mb=1.0 + number) for number in said]
    pairs = [(one.number, first.number) for one, first in ranking.with_twins(rows, answers)]
    assert pairs == [(0, 0), (1, 0), (2, 2), (3, 2), (4, 4), (5, 5), (6, 6)]
    assert sorted(read) == [0, 1, 2, 3, 4, 5], "each once, and none whose score no other has"
    same_costs = [row(number, 0.9, mb=1.0) for number in said]
    assert numbers(ranking.kept(same_costs, "maximize", 3, answers)) == [0, 2, 4]
    assert numbers(ranking.kept(same_costs, "maximize", 3)) == [0, 1, 2]
