"""What a comparison says to ship is what `vidclf confirm` found best, as `vidclf promote` takes it."""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.clips import write_experiment
from tests.comparison.fabricated import add_study, confirmed, labels, measured_of, run
from tests.pages import read_page
from vidclf import config
from vidclf.comparison import learning_curve, verdict_text
from vidclf.comparison.data import build, separate
from vidclf.comparison.gathering import gather
from vidclf.comparison.page import write_page
from vidclf.comparison.rows import EvaluationClips, ModelRow, RowGroup
from vidclf.data.manifest import Manifest
from vidclf.registry.confirm_report import REPORT, FinalistReport, finalists_of
from vidclf.registry.promote import find_candidate
from vidclf.runs.experiment import load_experiment
from vidclf.runs.folder import Attempt, Identity
from vidclf.runs.store import Store
from vidclf.search.record.study import find_study
from vidclf.tracking.deliverer import Deliverer

# Of the study "s": trials 0 and 1 (svm) have 0.90 and 0.85 on val, 2 and 3 (tiny2d) 0.80 and 0.60.
LED, SMALLER = 0, 2
REVERSED = {SMALLER: 0.86, LED: 0.576}
"""What the fresh seeds gave: the trial that was ahead is not the best."""


@pytest.fixture
def store(store: Store, tmp_path: Path, squares: Manifest) -> Store:
    """The study ``s``, which nobody confirmed."""
    add_study(store, "s", trees(tmp_path, squares), squares.digest())
    return store


def trees(folder: Path, squares: Manifest) -> dict[str, Any]:
    """The bases of a study."""
    kinds = {"svm": "svm", "tiny": "frames2d"}
    files = {
        stem: write_experiment(folder / f"{stem}.toml", kind, squares.path) for stem, kind in kinds.items()
    }
    return {stem: config.dump(load_experiment(path)) for stem, path in files.items()}


def confirm(store: Store, study: str, means: Mapping[int, float], *, optimistic: bool = False) -> None:
    """Leaves what `vidclf confirm` leaves; the best comes first in ``means``."""
    finalists = [{"trial": trial, "mean": mean} for trial, mean in means.items()]
    artifacts = find_study(study, store).own_attempt.artifacts
    artifacts.mkdir(exist_ok=True)
    (artifacts / REPORT).write_text(json.dumps({"optimistic": optimistic, "finalists": finalists}))


def answer(
    store: Store, names: Sequence[str] = (), floor: float = 1 / 3, metric: str | None = None
) -> verdict_text.Recommendation:
    (found,) = gather(names, store, metric)
    return verdict_text.answer(replace(found, floor=floor), measured_of(clips_=8))


def row(study: str, number: int, value: float, judged: FinalistReport | None = None, **more: Any) -> ModelRow:
    return ModelRow(study, number, "complete", "svm", "svm", value, {}, {}, confirmed=judged, **more)


def group_of(*rows: ModelRow, floor: float = 0.3, direction: str = "maximize") -> RowGroup:
    return RowGroup(EvaluationClips("c", ""), "val/macro_f1", direction, rows, {}, floor)


def test_the_answer_is_the_confirmed_winner_as_promote_takes_it(store: Store) -> None:
    assert answer(store).headline.startswith(
        "Ship svm: trial 0 of s, macro F1 0.900 selected on val of 8 clips, 20.0 ms"
    )
    confirm(store, "s", REVERSED)
    found = answer(store)
    assert found.headline == (
        "Ship frames2d tiny2d: trial 2 of s, confirmed with macro F1 0.860 out of fold on fresh seeds, "
        "0.800 selected on val of 8 clips, 4.0 ms a clip, 0.20 MB. On val trial 0 of s was ahead with 0.900; "
        "confirm gave it 0.576."
    )
    # What is cheaper is cheaper than this one, and one val clip more or less chose nothing.
    assert found.others == [
        "2.0 times faster: frames2d tiny2d, trial 3 of s, macro F1 0.600 selected on val, 2.0 ms a "
        "clip, 0.20 MB."
    ]
    assert find_candidate("s", store).label == "trial 2 of s (tiny, selected val/macro_f1 0.8000, confirmed)"


def test_where_the_leader_of_the_search_wins_nothing_was_overturned(store: Store) -> None:
    confirm(store, "s", {LED: 0.81, SMALLER: 0.42})
    found = answer(store)
    assert found.headline == (
        "Ship svm: trial 0 of s, confirmed with macro F1 0.810 out of fold on fresh seeds, 0.900 "
        "selected on val of 8 "
        "clips, 20.0 ms a clip, 2.00 MB."
    )
    assert found.others[0] == (
        "5.0 times faster and 10.0 times smaller: frames2d tiny2d, trial 2 of s, macro F1 0.800 "
        "selected on val "
        "(0.420 by confirm), 4.0 ms a clip, 0.20 MB."
    )
    # A cheaper one that confirm found no better than the floor is no alternative; the next is.
    confirm(store, "s", {LED: 0.81, SMALLER: 0.32})
    assert "trial 3 of s, macro F1 0.600 selected on val, 2.0 ms" in answer(store).others[0]


def test_a_trial_that_came_after_the_confirmation_is_told_of(store: Store) -> None:
    confirm(store, "s", {SMALLER: 0.86, 1: 0.7})
    found = answer(store)
    assert found.headline.startswith("Ship frames2d tiny2d: trial 2 of s, confirmed with macro F1 0.860")
    assert found.headline.endswith(" On val trial 1 of s was ahead with 0.850; confirm gave it 0.700.")
    assert found.others[0] == (
        "Ahead on val, but come since s was confirmed: svm, trial 0 of s, macro F1 0.900; vidclf confirm "
        "s judges it."
    )
    assert "trial 0 has come since" in find_candidate("s", store).label


@pytest.mark.slow
def test_what_nobody_confirmed_is_told_of_and_not_shipped(
    store: Store, tmp_path: Path, squares: Manifest
) -> None:
    confirm(store, "s", REVERSED)
    add_study(store, "t", trees(tmp_path, squares), squares.digest(), [("svm", 0.95, 20.0, 2.0)])
    found = answer(store)
    assert found.headline.startswith("Ship frames2d tiny2d: trial 2 of s, confirmed")
    assert found.headline.endswith("trial 0 of s was ahead with 0.900; confirm gave it 0.576.")
    assert found.others[0] == (
        "Ahead on val, but not confirmed: svm, trial 0 of t, macro F1 0.950; vidclf confirm t judges it."
    )
    # Confirmed as well, it is compared by what did not choose it.
    confirm(store, "t", {0: 0.85})
    assert answer(store).headline.startswith("Ship frames2d tiny2d: trial 2 of s, confirmed")
    assert "Ahead" not in " ".join(answer(store).others)
    confirm(store, "t", {0: 0.87})
    assert answer(store).headline.startswith("Ship svm: trial 0 of t, confirmed with macro F1 0.870")
    assert labels(gather([], store)[0].best) == [
        "trial 0 of t",
        "trial 2 of s",
    ]


def test_only_what_is_really_ahead_is_told_of() -> None:
    winner, lost = (
        row("s", 1, 0.8, FinalistReport(0.7, True, False)),
        row("s", 0, 0.9, FinalistReport(0.5, False, False)),
    )

    def said(*others: ModelRow) -> str:
        return " ".join(verdict_text.answer(group_of(winner, lost, *others), measured_of()).others)

    assert "Ahead" not in said(row("t", 0, 0.8), row("t", 1, 0.7))
    # A run is no study, which could be confirmed.
    single = ModelRow("", 0, "complete", "mine", "knn", 0.85, {}, {}, origin="run")
    assert "Ahead on val, but not confirmed: knn, run mine, macro F1 0.850. " in said(single) + " "
    # Nor is it worth a word what the most frequent class beats.
    poor = replace(winner, value=0.2)
    told = verdict_text.answer(group_of(poor, row("t", 0, 0.25), row("u", 0, 0.21), floor=0.3), measured_of())
    assert "Ahead" not in " ".join(told.others)
    # Behind the trial that confirm judged, the others of a study are what it left out.
    assert "Ahead" not in said(row("s", 2, 0.85))


def test_losses_are_confirmed_from_the_lowest() -> None:
    low, high = (
        row("s", 0, 0.2, FinalistReport(0.6, True, False)),
        row("t", 0, 0.1, FinalistReport(0.9, True, False)),
    )
    assert group_of(low, high, floor=0.7, direction="minimize").choice is low
    assert group_of(low, high, floor=0.7).choice is high
    assert verdict_text.answer(
        group_of(high, low, floor=0.7, direction="minimize"), measured_of()
    ).headline.endswith("On val trial 0 of t was ahead with 0.100; confirm gave it 0.900.")


@pytest.mark.slow
def test_a_winner_that_the_majority_beats_is_not_to_be_shipped(
    store: Store, tmp_path: Path, squares: Manifest
) -> None:
    confirm(store, "s", {SMALLER: 0.31, LED: 0.3})
    found = answer(store)
    assert found.headline == (
        "Ship none of these: the best, trial 2 of s (frames2d tiny2d: confirmed with macro F1 0.310 out "
        "of fold on fresh seeds, 0.800 selected on val of 8 clips, 4.0 ms a clip, 0.20 MB), is no "
        "better than "
        "always saying the most frequent class (macro F1 0.333). On val trial 0 of s was ahead with "
        "0.900; confirm gave it 0.300."
    )
    assert found.others == []
    confirm(store, "s", {SMALLER: 0.31})
    assert ["come since s was confirmed" in other for other in answer(store).others] == [True]
    confirm(store, "s", {SMALLER: 0.31, LED: 0.3})
    add_study(store, "t", trees(tmp_path, squares), squares.digest(), [("svm", 0.7, 20.0, 2.0)])
    assert answer(store).headline == (
        "Ship svm: trial 0 of t, macro F1 0.700 selected on val of 8 clips, 20.0 ms a clip, 2.00 MB. "
        "On val trial "
        "0 of s was ahead with 0.900; confirm gave it 0.300."
    )
    assert [found["ship"] for found in build_rows(store, "t")] == [True, False]


def build_rows(store: Store, *names: str, **options: Any) -> list[dict[str, Any]]:
    settings = {"metric": None, "every": False, **options}
    rows: list[dict[str, Any]] = build(names, store, **settings).as_dict()["rows"]
    return rows


def test_a_confirmation_by_another_metric_decides_nothing(store: Store) -> None:
    confirm(store, "s", REVERSED)
    found = answer(store, metric="val/accuracy")
    assert found.headline.startswith("Ship svm: trial 0 of s, accuracy 0.900 selected on val of 8 clips")
    assert all(each.confirmed is None for each in gather([], store, "val/accuracy")[0].rows)


def test_a_finalist_that_lost_carries_its_figure_where_it_stands_alone(store: Store) -> None:
    alone = verdict_text.answer(
        group_of(row("s", 0, 0.9, FinalistReport(0.5, False, False))), measured_of(clips_=8)
    )
    assert alone.headline == (
        "Ship svm: trial 0 of s, to which confirm gave macro F1 0.500 out of fold on fresh seeds, 0.900 "
        "selected on val of 8 clips."
    )
    assert "confirmed" not in alone.headline


def test_after_a_search_by_folds_the_figure_is_not_of_other_clips(store: Store) -> None:
    confirm(store, "s", REVERSED, optimistic=True)
    assert (
        "again macro F1 0.860 on fresh seeds but the clips that chose it, 0.800 selected on val"
        in answer(store).headline
    )


def test_the_best_of_two_is_told_in_whatever_order_they_rank(tmp_path: Path) -> None:
    lucky, best = confirmed(tmp_path / "lucky", set(range(0, 24, 2))), confirmed(tmp_path / "best", set())
    for rows in ([lucky, best], [lucky, replace(best, confirmed=FinalistReport(1.0, True, False))]):
        which, behind = separate(group_of(*rows).choice_first, "accuracy")
        assert which.startswith("At 95 % the best of the 2 is trial 0 of best (accuracy, 12 groups")
        assert behind.startswith("Behind the best: trial 0 of lucky by 0.")


@pytest.mark.slow
def test_without_a_verdict_the_note_does_not_send_for_what_was_done(store: Store) -> None:
    def said() -> str:
        return "\n".join(verdict_text.notes(gather([], store)[0], measured_of(), [], lambda _: 0))

    assert "vidclf confirm tests that" in said()
    confirm(store, "s", REVERSED)
    assert "vidclf confirm tests that" not in said()
    assert "was not tested: that takes predictions of two finalists" in said()


def test_curves_are_of_every_family_and_first_of_what_is_to_be_shipped(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path)
    attempt.config.write_text("")
    ahead = ModelRow("s", 0, "complete", "n", "volume3d", 0.9, {}, {}, attempt=attempt)
    winner = ModelRow(
        "s",
        1,
        "complete",
        "n",
        "frames2d",
        0.8,
        {},
        {},
        attempt=attempt,
        confirmed=FinalistReport(0.7, True, False),
    )
    assert labels(learning_curve.chosen(group_of(ahead, winner))) == ["trial 1 of s", "trial 0 of s"]


@pytest.mark.slow
def test_the_winner_is_marked_wherever_it_is_shown(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    confirm(store, "s", {1: 0.9, LED: 0.5})  # an svm behind another svm: no leader on val
    rows = [row for row in build_rows(store) if row["rank"]]
    assert [(row["trial"], row["rank"], row["confirmed"], row["ship"]) for row in rows] == [
        (0, 1, 0.5, False),
        (1, 2, 0.9, True),
        (2, 3, None, False),
        (3, 4, None, False),
    ]
    shown = " ".join(run((store, tmp_path), "s", "--csv", tmp_path / "rows.csv").stdout.split())
    assert "1* svm trial 0 of s 0.9000" in shown
    assert "2 svm trial 1 of s, confirmed 0.8500" in shown
    assert "Ship svm: trial 1 of s, confirmed with macro F1 0.900" in shown
    written = list(csv.DictReader((tmp_path / "rows.csv").open(encoding="utf-8")))
    assert [(row["confirmed"], row["ship"]) for row in written[:3]] == [
        ("0.5", "False"),
        ("0.9", "True"),
        ("", "False"),
    ]
    write_page(build(["s"], store, metric=None, every=False), tmp_path / "page.html")
    page = read_page(tmp_path / "page.html")
    facts = page["Which classifier to ship"].text
    for fact in ("0.900macro F1 by confirm", "0.850macro F1 selected on val", "30.0ms a clip"):
        assert fact in facts
    board = page["Side by side"]
    winners = [row["model"] for row in board.table if "confirmed" in row["model"]]
    assert winners == ["svm trial 1 of s, confirmed"]
    assert (board.marked["1"], board.marked["2"]) == ("front", "best")


def test_a_torn_report_is_none(store: Store) -> None:
    confirm(store, "s", REVERSED)
    opened = find_study("s", store)
    assert finalists_of(opened) == {
        SMALLER: FinalistReport(0.86, True, False),
        LED: FinalistReport(0.576, False, False),
    }
    report = opened.own_attempt.artifacts / REPORT
    for text in (report.read_text()[:-9], '{"optimistic": false, "finalists": [{"trial": 0}]}'):
        report.write_text(text)
        assert finalists_of(opened) == {}


@pytest.mark.slow
def test_the_confirmation_of_a_study_that_ran_elsewhere_comes_from_mlflow(store: Store) -> None:
    opened = find_study("s", store)
    own = opened.own_attempt
    shutil.rmtree(own.folder)
    assert finalists_of(opened) == {}
    own.create(
        Identity(opened.attempt_id(), opened.stored["experiment"], "s", None, 1, {"vidclf.role": "study"})
    )
    confirm(store, "s", REVERSED)
    assert Deliverer(store).deliver(own)
    shutil.rmtree(own.folder)
    assert "Ship frames2d tiny2d: trial 2 of s, confirmed" in answer(store).headline
