"""Study files, and what may change between a study's start and its resume."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from tests.clips import write_experiment, write_squares
from tests.studies import STUDY
from vidclf import config
from vidclf.exceptions import InputError
from vidclf.runs.store import Store, open_store
from vidclf.search.definition import study_file
from vidclf.search.definition.study_file import StudyFile, load_study, open_study
from vidclf.search.execution.tune import TuneRequest, check, describe_plan, plan
from vidclf.search.record import study
from vidclf.search.record.names import study_names
from vidclf.search.record.storage import open_storage
from vidclf.search.record.study import DEFINITION, OpenStudy


@pytest.fixture
def store() -> Store:
    return open_store()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_experiment(tmp_path / "svm.toml", "svm", write_squares(tmp_path / "squares"))
    return tmp_path


def write(folder: Path, base: str = '"svm.toml"', more: str = "", name: str = "s.toml") -> Path:
    path = folder / name
    path.write_text(STUDY.format(base=base, more=more))
    return path


def refusal(path: Path, store: Store, **overrides: object) -> str:
    with pytest.raises(InputError) as caught:
        load_study(path, overrides, store)
    return str(caught.value)


def test_a_resume_finds_the_study_it_left(folder: Path, store: Store) -> None:
    path = write(folder)
    first = open_study(load_study(path, {}, store), store)
    second = open_study(load_study(path, {}, store), store)
    assert second.stored == first.stored
    assert study_names(store) == ["s"]


def test_a_study_file_with_its_defaults_written_out_is_the_same_study(folder: Path, store: Store) -> None:
    """A session stores its study file so."""
    file = load_study(write(folder), {}, store).file
    config.write_toml(config.dump(file), folder / "study.toml")
    tree = config.read_toml(folder / "study.toml")
    assert tree["objective"]["repeat_by"] == "seed"
    assert config.validate(StudyFile, tree, "study.toml") == file


def test_settings_of_an_open_study_are_checked_once(folder: Path, store: Store) -> None:
    """Each row of a table asks for them, and a study has thousands."""
    more = '[[constraint]]\nmetric = "size/file_mb"\nmax = 3'
    opened = open_study(load_study(write(folder, more=more), {}, store), store)
    assert opened.objectives is opened.objectives
    assert opened.objective is opened.objective
    assert opened.constraints is opened.constraints
    assert [constraint.metric for constraint in opened.constraints] == ["size/file_mb"]


def test_asking_for_studies_creates_no_database(store: Store) -> None:
    assert study_names(store) == []
    assert study.stored_definition(store, "s") is None
    assert not (store.folder / "optuna.db").exists()


def test_a_changed_question_is_refused_with_its_differences(folder: Path, store: Store) -> None:
    open_study(load_study(write(folder), {}, store), store)
    path = write(folder)
    path.write_text(path.read_text().replace("high = 10.0", "high = 100.0"))
    write_experiment(
        folder / "svm.toml", "svm", folder / "squares/manifest.csv", model="class_weight = 'none'"
    )
    with pytest.raises(InputError) as caught:
        open_study(load_study(path, {}, store), store)
    text = str(caught.value)
    assert "svm: model.C.high: 10.0 -> 100.0" in text
    assert "base svm: model.class_weight: balanced -> none" in text


def test_other_clips_are_another_question_but_another_place_is_not(folder: Path, store: Store) -> None:
    open_study(load_study(write(folder), {}, store), store)
    moved = folder / "moved"
    (folder / "squares").rename(moved)
    write_experiment(folder / "svm.toml", "svm", moved / "manifest.csv")
    open_study(load_study(write(folder), {}, store), store)
    lines = (moved / "manifest.csv").read_text().splitlines()
    (moved / "manifest.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(InputError, match="base svm: clips"):
        open_study(load_study(write(folder), {}, store), store)


def test_budget_workers_sampler_and_pruner_may_change(folder: Path, store: Store) -> None:
    open_study(load_study(write(folder), {}, store), store)
    more = 'sampler = { name = "random" }'
    path = write(folder, more=more)
    path.write_text(
        path.read_text().replace("trials = 4", "trials = 9").replace("base =", "workers = 2\nbase =")
    )
    text = path.read_text().replace(more, "") + '\n[sampler]\nname = "random"\n[pruner]\nname = "median"\n'
    path.write_text(text)
    assert open_study(load_study(path, {}, store), store).name == "s"


def test_a_resume_repeats_the_overrides_and_refuses_others(folder: Path, store: Store) -> None:
    path = write(folder)
    open_study(load_study(path, {"model.kernel": "linear"}, store), store)
    again = load_study(path, {}, store)
    assert again.overrides == {"model.kernel": "linear"}
    open_study(again, store)
    with pytest.raises(InputError, match=r"base svm: model\.kernel: linear -> rbf"):
        open_study(load_study(path, {"model.kernel": "rbf"}, store), store)


def test_a_successor_keeps_its_own_overrides_and_begins_with_its_predecessors(
    folder: Path, store: Store
) -> None:
    path = write(folder)
    open_study(load_study(path, {"model.kernel": "linear"}, store), store)
    assert load_study(path, {}, store, "next").overrides == {"model.kernel": "linear"}
    begun = replace(load_study(path, {"model.kernel": "rbf"}, store, "next"), name="next")
    open_study(begun, store)
    assert load_study(path, {}, store, "next").overrides == {"model.kernel": "rbf"}
    assert load_study(path, {}, store).overrides == {"model.kernel": "linear"}


def test_what_cannot_be_taken_over_is_refused_before_a_study_is_made(folder: Path, store: Store) -> None:
    path = write(folder)
    open_study(load_study(path, {}, store), store)
    with pytest.raises(InputError, match=r"cannot be taken over(.|\n)*base svm: model\.kernel: .* -> rbf"):
        plan(TuneRequest(path, {"model.kernel": "rbf"}, continue_as="next"), store)
    assert study_names(store) == ["s"]


def test_an_override_of_the_start_is_not_taken_for_one_of_the_resume(folder: Path, store: Store) -> None:
    path = write(folder)
    open_study(load_study(path, {"data.frames": 2}, store), store)
    path.write_text(path.read_text() + '"data.frames" = { choices = [2, 4] }\n')
    assert refusal(path, store) == (
        f"the study s was started with --set data.frames: {path} searches over it; change its [space]"
    )
    assert refusal(path, store, **{"data.frames": 4}).startswith("--set data.frames: ")


def test_weights_are_those_of_the_bases_that_have_a_network(folder: Path, store: Store) -> None:
    write_experiment(folder / "tiny.toml", "frames2d", folder / "squares" / "manifest.csv")
    path = write(folder, base='["svm.toml", "tiny.toml"]')
    bases = load_study(path, {"model.weights": "none"}, store).space.bases
    assert (bases["svm"].model.weights, bases["tiny"].model.weights) == (None, "none")
    given = {"model.weights": "none", "model.network": "tiny2d", "model.features": "deep"}
    assert load_study(path, given, store).space.bases["svm"].model.weights == "none"


def test_overrides_must_be_a_bases_and_not_searched(folder: Path, store: Store) -> None:
    path = write(folder)
    assert "searches over it" in refusal(path, store, **{"model.C": 1.0})
    assert "did you mean model.kernel?" in refusal(path, store, **{"model.kernl": "rbf"})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            '[pruner]\nname = "hyperband"\npatience = 3',
            "no effect with the pruner hyperband; it is an option of",
        ),
        (
            '[pruner]\nname = "wilcoxon"',
            "s.toml: the pruner wilcoxon compares repeats; set objective.repeats",
        ),
        ('[sampler]\nname = "grid"', "s.toml: the sampler grid tries every value, but model.C has no step"),
        ('[sampler]\nname = "tpee"', "unknown sampler 'tpee', did you mean tpe?"),
        ('[sampler]\nname = "random"\nstartup_trials = 3', "no effect with the sampler random"),
        ("[sampler]\nname = 3", "unknown sampler 3 (there are tpe, gp, "),
        (
            "[sampler]\nstartup_trial = 3",
            "unknown key sampler.startup_trial, did you mean sampler.startup_trials?",
        ),
        (
            '[pruner]\nname = "asha"\nmin_epochs = 0\nreduction_factor = 1',
            "pruner.reduction_factor: Input should be greater than or equal to 2",
        ),
        (
            '[[constraint]]\nmetric = "size/file_mb"\nmin = 1\n'
            '[[constraint]]\nmetric = "size/file_mb"\nmax = 3',
            "two [[constraint]]s on size/file_mb: give one with both its min and its max",
        ),
        (
            '[[constraint]]\nmetric = "latency/p50"\nmax = 3',
            "'latency/p50' cannot be constrained, did you mean latency/p50_ms? (there are size/file_mb",
        ),
        ('[gates]\nmin = { "test/acuracy" = 1 }', "did you mean test/accuracy"),
        ("[budgett]\ntrials = 3", "unknown key budgett, did you mean budget?"),
    ],
)
def test_what_a_study_cannot_do_is_refused_by_name(
    folder: Path, store: Store, more: str, message: str
) -> None:
    assert message in refusal(write(folder, more=more), store)


def test_a_study_file_is_kept_with_all_options_and_read_again(folder: Path, store: Store) -> None:
    more = '[sampler]\nname = "cmaes"\npopulation_size = 6\n[pruner]\nname = "threshold"\nlower = 0.5'
    file = load_study(write(folder, more=more), {}, store).file
    tree = config.dump(file)
    assert tree["sampler"] == {"name": "cmaes", "seed": 0, "startup_trials": 1, "population_size": 6}
    assert tree["pruner"] == {"name": "threshold", "lower": 0.5, "warmup_epochs": 0}
    tree["objective"] = {"metric": "val/macro_f1", "direction": "maximize"}
    assert config.validate(StudyFile, tree, "study.toml") == file


def test_bases_may_be_compared_as_they_are_but_one_needs_a_space(folder: Path, store: Store) -> None:
    """Each base's own values come first, so that as many trials as bases try each once."""
    write_experiment(folder / "forest.toml", "forest", folder / "squares" / "manifest.csv")
    path = write(folder, '["svm.toml", "forest.toml"]')
    path.write_text(path.read_text().partition("[space]")[0])
    opened = open_study(load_study(path, {}, store), store)
    assert [trial.system_attrs["fixed_params"] for trial in opened.study.get_trials()] == [
        {"base": "svm"},
        {"base": "forest"},
    ]
    assert not load_study(path, {}, store).space.notes()
    path = write(folder, name="t.toml")
    path.write_text(path.read_text().partition("[space]")[0])
    assert "t.toml: space is required: with one base there is nothing else to search" in refusal(path, store)


def test_seconds_alone_end_a_search(folder: Path, store: Store) -> None:
    path = write(folder)
    path.write_text(path.read_text().replace("trials = 4", "seconds = 60"))
    budget = load_study(path, {}, store).file.budget
    assert (budget.trials, budget.seconds) == (1000, 60.0)


def test_problems_of_the_file_and_of_its_space_are_told_together(folder: Path, store: Store) -> None:
    path = write(folder, more="[budgett]\ntrials = 3")
    path.write_text(path.read_text().replace("[space]", '[space]\n"model.gama" = { low = 0, high = 1 }'))
    told = refusal(path, store)
    assert "unknown key budgett" in told
    assert "no base has the key model.gama, did you mean model.gamma?" in told
    path.write_text(path.read_text().replace("base =", "bass ="))
    told = refusal(path, store)
    assert "model.gama" not in told  # without a base nothing can be said of it
    assert told.index("unknown key bass") < told.index("base is required")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("trials = 4", "trials = 4\nseconds = 0"), "budget.seconds: Input should be greater than 0"),
        (("trials = 4", "trials = 4\npatience = 0"), "budget.patience: Input should be greater than or"),
        (
            ('direction = "maximize"', 'direction = "maximize"\nrepeat_by = "fold"'),
            "repeat_by has no effect without objective.repeats of 2 or more",
        ),
        (("val/macro_f1", "size/file_mb"), "the smallest model would win"),
        (("val/macro_f1", "latency/p50_ms"), "a study optimises a val/… metric"),
        (("val/macro_f1", "val/acuracy"), "did you mean val/accuracy?"),
        (("trials = 4", "patience = 4"), "budget: trials or seconds is required: when does the search end?"),
        (("trials = 4", "trials = 0"), "budget.trials: Input should be greater than or equal to 1"),
        (('"svm.toml"', '["svm.toml", "sub/svm.toml"]'), "two files are called svm"),
        (('"svm.toml"', '"smv.toml"'), "smv.toml: no such file"),
    ],
)
def test_bad_values_are_refused(folder: Path, store: Store, change: tuple[str, str], message: str) -> None:
    path = write(folder)
    path.write_text(path.read_text().replace(*change))
    assert message in refusal(path, store)


def test_a_value_that_may_have_one_of_two_shapes_is_refused_once(folder: Path, store: Store) -> None:
    path = write(folder)
    text = path.read_text()
    path.write_text(text.replace("val/macro_f1", "val/macrof1"))
    assert refusal(path, store).startswith(f"{path}: objective: objective.metric = 'val/macrof1': a study")
    assert "\n" not in refusal(path, store)
    several = text.replace("[objective]", "[[objective]]").replace(
        'direction = "maximize"', 'direction = "up"'
    )
    path.write_text(several)
    assert refusal(path, store) == (
        f"{path}: objective.0.direction: Input should be 'maximize' or 'minimize' (given: 'up')"
    )
    path.write_text(text.replace("[objective]", "[other]"))
    assert "objective is required" in refusal(path, store)


def test_an_objective_without_a_curve_cannot_be_pruned_on(folder: Path, store: Store) -> None:
    path = write(folder, more='[pruner]\nname = "median"')
    path.write_text(path.read_text().replace("val/macro_f1", "val/weighted_f1"))
    assert "has no curve to prune on" in refusal(path, store)


def test_an_unknown_study_is_named_with_the_known_ones(folder: Path, store: Store) -> None:
    with pytest.raises(InputError, match="it has none yet"):
        study.find_study("demo", store)
    open_study(load_study(write(folder, name="gestures.toml"), {}, store), store)
    with pytest.raises(InputError, match=r"did you mean gestures\?"):
        study.find_study("gesture", store)
    assert study.find_study(str(folder / "gestures.toml"), store).name == "gestures"


@pytest.mark.parametrize(("state", "reason_kind", "expected"), [
    (TrialState.COMPLETE, None, True),
    (TrialState.PRUNED, None, True),
    (TrialState.FAIL, "failed", True),
    (TrialState.FAIL, "interrupted", False),
    (TrialState.RUNNING, None, False),
])  # fmt: skip
def test_what_counts_against_the_budget(state: TrialState, reason_kind: str | None, expected: bool) -> None:
    trial = create_trial(
        state=state,
        value=0.5 if state == TrialState.COMPLETE else None,
        user_attrs={"reason_kind": reason_kind} if reason_kind else {},
    )
    assert study.counts(trial) is expected


def test_relative_overrides_mean_the_same_from_another_folder(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(folder)
    monkeypatch.chdir(folder)
    open_study(load_study(path, {"data.manifest": "squares/manifest.csv"}, store), store)
    monkeypatch.chdir(folder / "squares")
    again = load_study(path, {}, store)
    assert again.overrides == {"data.manifest": str(folder / "squares/manifest.csv")}
    open_study(again, store)


def test_a_study_cut_off_while_it_was_made_is_made_anew(folder: Path, store: Store) -> None:
    optuna.create_study(study_name="s", storage=open_storage(store), direction="minimize")
    opened = open_study(load_study(write(folder), {}, store), store)
    assert opened.study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert opened.stored["objectives"][0]["metric"] == "val/macro_f1"


@pytest.mark.slow
def test_what_another_command_may_be_making_on_a_server_is_not_deleted(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDCLF_STUDY_STORAGE", f"sqlite:///{folder}/shared.db")
    monkeypatch.setattr(study_file, "_MAKING_SECONDS", 0.3)
    shared = open_store()
    storage = open_storage(shared)
    begun = optuna.create_study(study_name="s", storage=storage, direction="maximize")
    definition = load_study(write(folder), {}, shared)
    with pytest.raises(InputError, match="was begun by another command and is not there after"):
        open_study(definition, shared)
    begun.set_user_attr(DEFINITION, json.dumps({"uuid": "theirs", "fingerprint": definition.fingerprint()}))
    assert open_study(definition, shared).stored["uuid"] == "theirs"


@pytest.mark.slow
def test_commands_that_start_a_study_at_the_same_moment_make_one(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second looks whether there is a study before the first has made it, and goes on after that."""
    open_storage(store)
    path, check_same = write(folder), study_file.check_same
    looked, made = threading.Event(), threading.Event()

    def check(*arguments: Any) -> dict[str, Any] | None:
        found = check_same(*arguments)
        if threading.current_thread() is second:
            looked.set()
            made.wait(1.0)
        return found

    def start() -> OpenStudy:
        return open_study(replace(load_study(path, {}, store), join=True), store)

    monkeypatch.setattr(study_file, "check_same", check)
    opened: list[OpenStudy] = []
    second = threading.Thread(target=lambda: opened.append(start()))
    second.start()
    assert looked.wait(60)
    opened.append(start())
    made.set()
    second.join(60)
    assert opened[0].stored["uuid"] == opened[1].stored["uuid"]
    assert [trial.number for trial in open_study(load_study(path, {}, store), store).trials()] == [0]


def test_a_plan_refuses_what_the_run_would_refuse(folder: Path, store: Store) -> None:
    open_study(load_study(write(folder), {}, store), store)
    path = write(folder)
    path.write_text(path.read_text().replace("high = 10.0", "high = 100.0"))
    with pytest.raises(InputError, match="asks something else"):
        describe_plan(load_study(path, {}, store), store)


def test_bases_on_different_clips_cannot_be_ranked(folder: Path, store: Store) -> None:
    other = write_squares(folder / "other", groups=8)
    write_experiment(folder / "other.toml", "majority", other)
    definition = load_study(write(folder, base='["svm.toml", "other.toml"]'), {}, store)
    with pytest.raises(InputError, match="different clips or splits"):
        check(definition)


STUDIES = sorted((Path(__file__).parents[3] / "studies").glob("*.toml"))


def test_there_are_study_files() -> None:
    names = {path.stem for path in STUDIES}
    assert {
        "demo",
        "gestures3-families",
        "gestures3-2d",
        "gestures3-classical",
        "ucf101-3-classical",
    } <= names


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_file_is_sound(path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDCLF_DATA", "/clips")
    definition = load_study(path, {}, store)
    assert definition.name == path.stem
    assert definition.file.question
    searched = set(definition.space.bases) if definition.file.space else set()
    assert {stem for stem, _ in definition.space.dimensions} == searched


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_file_samples_valid_configs(path: Path, store: Store) -> None:
    definition = load_study(path, {}, store)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    stems = set()
    for _ in range(60):
        trial = study.ask()
        stems.add(definition.space.suggest(trial)[0])
        study.tell(trial, 0.0)
    assert stems == set(definition.space.bases)
