"""Studies and runs side by side: what is ranked with what, what is said of it, and what a page holds."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import command as command_line
from tests.clips import CLASSES, write_experiment
from tests.comparison.fabricated import TRIALS, comparison_of, confirmed, labels, measured_of, repeated, run
from vidclf.cli import compare
from vidclf.comparison import data, label_errors, learning_curve, verdict_text
from vidclf.comparison.baselines import Baselines, baselines
from vidclf.comparison.data import separate
from vidclf.comparison.gathering import gather
from vidclf.comparison.rows import EvaluationClips, ModelRow, RowGroup
from vidclf.data.clips import ClipSet
from vidclf.data.manifest import Entry, Manifest
from vidclf.data.splitting import group_of
from vidclf.evaluation import metrics
from vidclf.evaluation.ranking import FILE_LATENCY, LATENCY, LATENCY_HIGH, OTHER_LOAD, SIZE
from vidclf.evaluation.significance import PairedComparison
from vidclf.exceptions import InputError
from vidclf.models import MODELS
from vidclf.runs.experiment import clip_store, load_experiment
from vidclf.runs.store import Store


def test_rows_are_ranked_only_with_rows_of_the_same_clips(
    made: tuple[Store, Path], squares: Manifest
) -> None:
    here, there = gather([], made[0])
    assert labels(here.ranked) == ["trial 0 of s", "trial 1 of s", "trial 2 of s", "run svm", "trial 3 of s"]
    assert labels(there.ranked) == ["trial 0 of foreign"]  # though its figure is the best of all
    assert (here.clips.name, len(here.rows)) == (squares.path.parent.name, 6)


def test_the_best_of_each_family_and_study_lead_with_the_front(made: tuple[Store, Path]) -> None:
    group = gather(["s"], made[0])[0]
    assert labels(group.leaders) == ["trial 0 of s", "trial 2 of s", "trial 3 of s"]
    assert labels(group.front) == ["trial 0 of s", "trial 2 of s", "trial 3 of s"]
    assert labels(group.best) == ["trial 0 of s", "trial 2 of s"]
    assert [row.family for row in group.best] == ["svm", "frames2d tiny2d"]


def test_what_was_asked_for_by_itself_is_shown_however_it_ranks(made: tuple[Store, Path]) -> None:
    group = gather(["svm-1"], made[0])[0]
    assert labels(group.leaders) == ["run svm"]
    assert "model.features" in group.leaders[0].params
    assert not any("manifest" in key for key in group.leaders[0].params)


def test_a_trial_is_found_by_its_run(made: tuple[Store, Path]) -> None:
    store, _ = made
    attempt = store.attempt("s-s-012345", "00001")
    receipt = {
        "uri": store.mlflow_uri,
        "run_id": "abc",
        "config": None,
        "offset": 0,
        "files": {},
        "ended": None,
    }
    (attempt.folder / "delivery.json").write_text(json.dumps({**receipt, "model_id": None}))
    group = gather(["abc", "svm-1"], store)[0]
    assert labels(group.leaders) == ["trial 1 of s", "run svm"]
    both = gather(["abc", "s"], store)[0]
    assert len(both.rows) == 5  # the study holds it anyway
    assert "trial 1 of s" in labels(both.leaders)  # which no study alone would show
    assert "trial 1 of s" not in labels(gather(["s"], store)[0].leaders)


def test_names_that_mean_nothing_are_refused_all_at_once(made: tuple[Store, Path]) -> None:
    with pytest.raises(InputError) as refused:
        gather(["foreigm", "nothing"], made[0])
    assert len(refused.value.problems) == 2
    assert "did you mean foreign?" in refused.value.problems[0]
    assert "studies: s, foreign; runs: svm-1" in refused.value.problems[1]
    with pytest.raises(InputError, match="did you mean val/accuracy"):
        gather([], made[0], "val/acuracy")
    experiment = made[1] / "squares" / "known.toml"
    with pytest.raises(InputError, match=r"known\.toml: this is an experiment; name a study or a run"):
        gather([str(experiment)], made[0])


def test_an_empty_store_is_left_empty(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to compare"):
        gather([], Store(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_losses_rank_from_the_lowest(made: tuple[Store, Path]) -> None:
    group = gather(["s"], made[0], SIZE)[0]
    assert group.ranked[0].label == "trial 3 of s"  # as small as trial 2, and faster


def without_folders(group: RowGroup) -> RowGroup:
    """A group whose clips nobody recorded."""
    return replace(group, studies={}, rows=[replace(row, attempt=None) for row in group.rows])


def test_the_majority_scores_what_a_trained_one_does(made: tuple[Store, Path], squares: Manifest) -> None:
    group = gather(["s"], made[0])[0]
    floor = baselines(group, made[1]).majority
    assert floor is not None
    # 4 of "down" and 2 of "right" to train on, 2 and 2 to judge by.
    assert floor.metrics["val/accuracy"] == 0.5
    assert floor.metrics["val/macro_f1"] == pytest.approx(2 * 2 / (4 + 2) / 2)
    assert floor.metrics["val/loss"] == pytest.approx(-np.log([4 / 6, 2 / 6]).mean())
    experiment = load_experiment(write_experiment(made[1].parent / "m.toml", "majority", squares.path))
    store = clip_store(experiment)
    model = MODELS["majority"].build(experiment, squares.classes)
    val = ClipSet.of_split(squares, "val", store)
    model.fit(ClipSet.of_split(squares, "train", store), val, lambda step, values: None)
    trained = metrics.evaluate(val.labels, model.predict_proba(val), squares.classes)
    from_manifest = baselines(without_folders(group), made[1]).majority
    assert from_manifest is not None
    assert {f"val/{name}": value for name, value in trained.items()} == pytest.approx(from_manifest.metrics)


@pytest.mark.parametrize(("folds", "val_clips"), [("fold 1 of 2", {4, 6}), ("2 folds", {10})])
def test_folds_are_counted_as_they_were_judged(
    made: tuple[Store, Path], folds: str, val_clips: set[int]
) -> None:
    group = gather(["s"], made[0])[0]
    folded = replace(group, clips=replace(group.clips, folds=folds))
    assert "holds other clips now" in baselines(folded, made[1]).notes[0]  # than were recorded
    unrecorded = baselines(without_folders(folded), made[1])
    assert unrecorded.val_clips in val_clips
    assert unrecorded.majority is not None
    assert 0.3 <= unrecorded.majority.metrics["val/accuracy"] <= 0.7


def test_published_figures_are_those_of_the_data_set_and_never_ranked(made: tuple[Store, Path]) -> None:
    group = gather(["s"], made[0])[0]
    (row,) = baselines(group, made[1]).published
    assert (row.label, row.family) == ("published, squares/known", "volume3d tiny3d")
    assert row.metrics == {"test/accuracy": 0.99}
    assert group.rank(row) is None


def test_a_broken_experiment_file_is_a_note_and_no_end(made: tuple[Store, Path], tmp_path: Path) -> None:
    (tmp_path / "torn.toml").write_text("[data")
    measured = baselines(gather(["s"], made[0])[0], tmp_path)
    assert ["torn.toml: not valid TOML" in note for note in measured.notes] == [True]


def with_floor(made: tuple[Store, Path], floor: float) -> RowGroup:
    return replace(gather(["s"], made[0])[0], floor=floor)


def test_the_answer_names_the_best_and_what_is_cheaper(made: tuple[Store, Path]) -> None:
    found = verdict_text.answer(with_floor(made, 0.3), measured_of(clips_=8))
    assert found.headline == (
        "Ship svm: trial 0 of s, macro F1 0.900 selected on val of 8 clips, 20.0 ms a clip, 2.00 MB."
    )
    assert found.others == [
        "5.0 times faster and 10.0 times smaller: frames2d tiny2d, trial 2 of s, macro F1 0.800, "
        "4.0 ms a clip, 0.20 MB.",
        "No more than one val clip lies between it and 2 other models, a difference within chance: "
        "svm, frames2d tiny2d.",
    ]


@pytest.mark.parametrize(
    "doubt",
    [{LATENCY_HIGH: 18.5}, {LATENCY_HIGH: math.inf}, {OTHER_LOAD: 0.5}],
    ids=["overlap", "unknown", "busy"],
)
def test_faster_is_what_the_intervals_tell(made: tuple[Store, Path], doubt: dict[str, float]) -> None:
    group = with_floor(made, 0.3)
    rows = [replace(row, metrics={**row.metrics, **(doubt if row.number else {})}) for row in group.rows]
    said = verdict_text.answer(replace(group, rows=rows), measured_of(clips_=8)).others[0]
    assert said.startswith("10.0 times smaller: frames2d tiny2d, trial 2 of s")


def test_a_single_kind_of_model_is_no_comparison_of_kinds(made: tuple[Store, Path]) -> None:
    group = with_floor(made, 0.3)
    alone = replace(group, rows=[row for row in group.rows if row.model == "svm"])
    said = "Nothing but svm was tried on these clips; another kind may do better."
    assert verdict_text.answer(alone, measured_of()).others[-1] == said
    assert said not in verdict_text.answer(group, measured_of()).others


def test_the_answer_names_the_split_that_the_metric_is_of(made: tuple[Store, Path]) -> None:
    found = verdict_text.answer(gather(["s"], made[0], SIZE)[0], measured_of(clips_=8))
    assert found.headline == ("Ship frames2d tiny2d: trial 3 of s, file mb 0.200, 2.0 ms a clip, 0.20 MB.")
    tested = [replace(row, metrics={**row.metrics, "test/accuracy": 0.5}) for row in with_floor(made, 0).rows]
    group = RowGroup(EvaluationClips("c", ""), "test/accuracy", "maximize", tested, {})
    measured = measured_of(clips_=8)
    assert "accuracy 0.900 selected on test, 20.0 ms" in verdict_text.answer(group, measured).headline
    first = verdict_text.notes(group, measured, [], lambda _: 1)[0]
    assert first.startswith("Ranked by test, which so chooses among 4 models: the best figure is selected")
    by_fold = replace(group, metric="val/accuracy", clips=EvaluationClips("c", "", "3 folds"))
    assert "0.900 selected, mean over 3 folds of 8 clips" in verdict_text.answer(by_fold, measured).headline


@pytest.mark.parametrize(("says", "by_fold", "score"), [("abc", True, 1 / 6), (["", "a", "a"], False, 4 / 9)])
def test_a_score_of_several_repeats_lies_in_its_interval(
    tmp_path: Path, says: Sequence[str], by_fold: bool, score: float
) -> None:
    """Folds that each say another class: all clips together have 1/3; of seeds the first alone has 1."""
    row = repeated(tmp_path / "s", says, by_fold=by_fold)
    group = RowGroup(row.clips, "val/macro_f1", "maximize", [row], {})
    found = data.interval_of(row, group)
    assert found is not None
    assert found.low < found.estimate < found.high
    assert found.estimate == pytest.approx(row.score) == pytest.approx(score)
    chance = data.chance_of(group)
    assert chance is not None
    if by_fold:
        assert (chance.level, chance.p) == (pytest.approx(1 / 6), 1.0)


def test_nothing_is_to_be_shipped_that_the_majority_beats(made: tuple[Store, Path]) -> None:
    hopeless = verdict_text.answer(with_floor(made, 0.95), measured_of())
    assert hopeless.headline.startswith("Ship none of these: the best, trial 0")
    # What is cheaper and no better than the floor is no alternative.
    assert "faster" not in " ".join(verdict_text.answer(with_floor(made, 0.87), measured_of()).others)
    assert labels(with_floor(made, 0.7).front) == ["trial 0 of s", "trial 2 of s"]


def test_clips_without_groups_and_impossible_latencies_are_noted(made: tuple[Store, Path]) -> None:
    group = with_floor(made, 0.3)

    def said(of: RowGroup) -> str:
        return "\n".join(verdict_text.notes(of, measured_of(), [], lambda _: 0))

    assert verdict_text.leak_doubt(verdict_text.tags(group)) == ""
    assert "took longer without reading the file" not in said(group)
    best = group.ranked[0]
    odd = replace(best, metrics={**best.metrics, FILE_LATENCY: best.metrics[LATENCY] - 1.0})
    rows = [odd if row is best else row for row in group.rows]
    for tag, told in (
        ({"split/grouped": "false"}, "groups unknown: leaks cannot be excluded. "),
        ({"split/doubt": "groups guessed: …; 3 suspected pairs"}, "groups guessed: …; 3 suspected pairs. "),
    ):
        assert verdict_text.leak_doubt(tag).startswith(told)
    assert "took longer without reading the file" in said(replace(group, rows=rows))
    assert "too high" not in said(group)
    for share, told in (
        (0.05, ""),
        (0.42, "One model's latency was measured while other programs used 42 %"),
    ):
        busy = replace(best, metrics={**best.metrics, OTHER_LOAD: share})
        rows = [busy if row is best else row for row in group.rows]
        assert told in said(replace(group, rows=rows))
        assert ("too high" in said(replace(group, rows=rows))) == bool(told)
    rows = [replace(row, metrics={**row.metrics, OTHER_LOAD: 0.42}) for row in group.rows]
    timed = [row for row in replace(group, rows=rows).ranked if LATENCY in row.metrics]
    told = f"The latencies of {len(timed)} models, as that of {timed[0].label}, were measured while other"
    assert told in said(replace(group, rows=rows))


def test_the_notes_say_what_flatters(made: tuple[Store, Path]) -> None:
    group, asked = with_floor(made, 0.7), []

    def reads(digest: str) -> int:
        asked.append(digest)
        return 3 * (len(asked) - 1)

    said = verdict_text.notes(group, measured_of(), [], reads)
    text = "\n".join(said)
    assert "the best of 4 is partly the luckiest of 4" in text
    assert "The test split was not read." in said
    assert "moves accuracy by 25.0 points" in text
    assert "1 model is no better than always saying the most frequent class." in said
    assert "Not ranked because not complete: 1 pruned." in said
    assert "vidclf confirm" in text
    assert "The test split was read 3 times." in verdict_text.notes(group, measured_of(), [], reads)
    assert asked == 2 * ["t" * 64]


def test_a_label_that_all_models_contradict_is_in_doubt() -> None:
    right = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8]])
    assert label_errors.label_doubts(np.array([0, 0, 1, 1]), right) == []
    # The last is labelled 0 and looks as class 1 does; the one before is only unsure.
    probabilities = np.vstack([right, [[0.55, 0.45]], [[0.05, 0.95]]])
    assert label_errors.label_doubts(np.array([0, 0, 1, 1, 0, 0]), probabilities) == [(5, 1)]


@given(st.integers(2, 5), st.integers(0, 1000))
def test_doubts_are_below_their_class_and_suggest_a_likelier_one(classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(classes), 30)
    given_ = generator.integers(0, classes, 30)
    found = label_errors.label_doubts(given_, probabilities)
    gaps = [probabilities[row, other] - probabilities[row, given_[row]] for row, other in found]
    assert gaps == sorted(gaps, reverse=True)
    for row, other in found:
        mine, theirs = probabilities[given_ == given_[row]], probabilities[given_ == other]
        assert probabilities[row, given_[row]] < mine[:, given_[row]].mean()
        assert probabilities[row, other] >= theirs[:, other].mean()


def test_clips_that_every_model_gets_wrong_are_pooled(made: tuple[Store, Path], squares: Manifest) -> None:
    pooled = label_errors.pool(gather(["s"], made[0])[0].best)
    assert pooled is not None
    assert pooled.models == 2
    wrong = pooled.always_wrong()
    entry = squares.split("val")[1]
    assert list(wrong.index) == [str(entry.clip_path)]
    other = next(name for name in CLASSES if name != entry.label)
    assert wrong.iloc[0]["said"] == other
    assert [(doubt.clip_path, doubt.suggested) for doubt in pooled.doubts()] == [
        (str(entry.clip_path), other)
    ]
    assert pooled.doubts()[0].given == pytest.approx(0.15)


def test_only_predictions_that_selected_nothing_give_a_verdict(
    made: tuple[Store, Path], tmp_path: Path
) -> None:
    assert separate(gather(["s"], made[0])[0].ranked, "macro_f1") == []
    best = confirmed(tmp_path / "best", set())
    alike = confirmed(tmp_path / "alike", {3})
    poor = confirmed(tmp_path / "poor", set(range(24)) - {0, 5, 13})
    which, behind = separate([best, alike, poor], "accuracy")
    assert which.startswith(
        "At 95 % the best of the 3 is one of 2: trial 0 of best (at most 0.147 behind), trial 0 of alike (at"
    )
    assert "; for clips of new groups, weighed by clips; from 12 groups of" in which
    assert behind.startswith("Behind the best: trial 0 of poor by 0.5")


def test_growing_parts_hold_every_class_and_whole_groups(squares: Manifest) -> None:
    entries = [
        Entry(Path(f"{label}{group}{take}"), label, f"g{group}", "train")
        for group in range(8)
        for label in ("a", "b")
        for take in range(2)
        if label == "a" or group == 5
    ]
    for draw in range(learning_curve.DRAWS):
        parts = learning_curve._parts(entries, draw)
        sizes = [len({group_of(entry) for entry in part}) for part in parts]
        assert sizes == sorted(sizes)
        assert sizes[-1] == 8
        for part in parts:
            assert {entry.label for entry in part} == {"a", "b"}
            chosen = {group_of(entry) for entry in part}
            assert part == [entry for entry in entries if group_of(entry) in chosen]


@pytest.mark.slow
def test_a_learning_curve_trains_on_more_and_more(made: tuple[Store, Path]) -> None:
    group = gather(["svm-1"], made[0])[0]
    steps: list[int] = []
    curve = learning_curve.grow(group.ranked[0], "size/file_mb", lambda: steps.append(1))
    assert curve.metric == "val/macro_f1"
    assert len(steps) == learning_curve.DRAWS * len(learning_curve.SHARES)
    assert curve.groups[-1] == 3  # squares have three groups to train on
    assert all(0 <= score <= 1 for draws in curve.scores for score in draws)
    assert "too few training groups" in curve.words
    of_folds = replace(group.ranked[0], clips=replace(group.clips, folds="2 folds"))
    assert (
        "Judged on the first of 2 folds." in learning_curve.grow(of_folds, "val/macro_f1", lambda: None).words
    )


@pytest.mark.parametrize(
    ("half", "gain", "said"),
    [
        ((0.7, 0.7, 0.7), (0.10, 0.04, 0.16, "better"), "It still rises"),
        (
            (0.7, 0.7, 0.7),
            (0.10, -0.01, 0.21, "cannot tell"),
            "cannot be decided: the last half of the groups",
        ),
        ((0.5, 0.7, 0.9), (0.10, 0.04, 0.16, "better"), "cannot be decided"),
        ((0.8, 0.8, 0.8), (0.00, -0.01, 0.01, "cannot tell"), "It has levelled off"),
        ((0.9, 0.9, 0.9), (-0.10, -0.16, -0.04, "worse"), "It falls at the end"),
        ((0.7, 0.7, 0.7), None, "val has too few groups"),
    ],
)
def test_a_curve_says_what_it_shows(half: Sequence[float], gain: Any, said: str) -> None:
    row = ModelRow("s", 1, "complete", "svm", "svm", 0.8, {}, {})
    found = gain and PairedComparison(*gain[:3], 0.01, 12, 0.05, gain[3])
    scores = [[0.5] * 3, half, [0.8] * 3, [0.8] * 3]
    assert said in learning_curve.LearningCurve(row, "val/macro_f1", (2, 4, 6, 8), scores, found).words


def test_expensive_models_are_left_out_of_curves(
    made: tuple[Store, Path], caplog: pytest.LogCaptureFixture
) -> None:
    group = gather(["svm-1"], made[0])[0]
    slow = [replace(row, metrics={"cost/fit_seconds": 100.0}) for row in group.rows]
    assert learning_curve.chosen(replace(group, rows=slow)) == []
    assert "12 minutes" in caplog.messages[0]


@pytest.mark.usefixtures("beside")
def test_the_command_prints_one_json_document(made: tuple[Store, Path]) -> None:
    found = json.loads(run(made, "s", "--json").stdout)
    assert [(row["study"], row["trial"], row["model"]) for row in found["rows"]] == [
        ("s", 0, "svm"),
        ("s", 2, "frames2d"),
        ("s", 3, "frames2d"),
        (None, None, "majority"),
        (None, None, "volume3d"),
    ]
    assert [row["rank"] for row in found["rows"]] == [1, 3, 4, None, None]
    assert found["rows"][0]["params"] == {"model.C": 0.05}
    assert found["pareto"] == []  # nothing was delivered to MLflow
    assert "The test split was not read." in found["notes"]
    everything = json.loads(run(made, "--all", "--json").stdout)
    assert len([row for row in everything["rows"] if row["study"] == "s"]) == len(TRIALS)
    assert {row["state"] for row in everything["rows"]} == {"complete", "pruned", "published"}
    assert everything["notes"][0].startswith("2 sets of clips are compared, each by itself: ")


@pytest.mark.usefixtures("beside")
def test_a_long_table_is_cut_before_the_baselines(
    made: tuple[Store, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "_MOST_ROWS", 1)
    result = run(made, "s", "--all")
    assert "trial 0 of s" in result.stdout
    assert "trial 1 of s" not in result.stdout
    assert "majority" in result.stdout
    assert "4 more rows are not shown" in result.stderr


@pytest.mark.slow
def test_a_page_that_cannot_be_written_is_one_message(made: tuple[Store, Path], tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    assert "cannot be written" in run(made, "--to", tmp_path / "page.html", expect=2).stderr


def test_the_table_marks_the_front_and_says_what_to_ship(
    made: tuple[Store, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(data, "chance_of", lambda _: None)  # nothing is told of four clips
    shown = " ".join(run(made, "s").stdout.split())
    assert "1* svm trial 0 of s 0.9000 – 20.0 – 2.00 C 0.05" in shown
    assert "– majority always the most frequent class 0.3333" in shown
    assert "Ship svm: trial 0 of s" in shown


def test_where_no_model_has_finished_the_table_is_empty(made: tuple[Store, Path]) -> None:
    failed = ModelRow("s", 0, "failed", "svm", "svm", None, {}, {})
    group = RowGroup(EvaluationClips("c", ""), "val/macro_f1", "maximize", [failed], {})
    comparison = comparison_of(made[0], group, Baselines([], None, [], []))
    assert comparison.as_dict()["rows"] == []
    assert comparison.as_table().empty


@pytest.mark.usefixtures("beside")
def test_without_mlflow_models_are_compared_and_registered_ones_are_said_to_be_away(
    made: tuple[Store, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store = ["--store", made[0].folder]
    notes = json.loads(run(made, "s", "--json").stdout)["notes"]
    assert "How often the test split was read is not known, as MLflow is away." in notes
    for command in (
        ["predict", "squares@champion", "clip.avi"],
        ["bench", "squares@champion"],
        ["rollback", "squares"],
        ["promote", 32 * "0", "--as", "squares"],
        ["export", "squares/1", "--format", "pt2", "--to", "squares.pt2"],
    ):
        said = command_line.run(*command, *store, expect=2).stderr
        assert "error: MLflow does not answer (API request to http://127.0.0.1:9/" in said, command
