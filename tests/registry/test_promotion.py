"""Promotion: gates, reads of the test split, the champion beaten on the same clips, and the way back."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.clips import write_experiment, write_squares
from tests.command import run
from tests.comparison.fabricated import add_study
from vidclf import config
from vidclf.comparison.data import build
from vidclf.data.manifest import Manifest, read_manifest, write_manifest
from vidclf.evaluation.significance import PairedComparison
from vidclf.exceptions import InputError
from vidclf.models.saved import read_card
from vidclf.registry import aliases, card, gates
from vidclf.registry import promote as promotion
from vidclf.registry.gates import Acceptance, Candidacy, Gate
from vidclf.registry.test_split import ScoredClips, TestResult, TestSplit, read_test
from vidclf.runs.experiment import load_experiment
from vidclf.runs.folder import Attempt
from vidclf.runs.store import Store
from vidclf.search.record.owners import Ownership
from vidclf.search.record.settings import Gates
from vidclf.search.record.study import find_study
from vidclf.tracking.deliverer import Deliverer
from vidclf.tracking.ledger import Ledger, words


def train(tmp_path: Path, manifest: Path, kind: str) -> str:
    experiment = write_experiment(tmp_path / f"{kind}.toml", kind, manifest)
    return str(json.loads(run("train", experiment, "--json").stdout)["run_id"])


def promote(run_id: str, *options: str, expect: int = 0) -> dict[str, object]:
    answer: dict[str, object] = json.loads(
        run("promote", run_id, "--as", "squares", "--json", *options, expect=expect).stdout
    )
    return answer


def failed(answer: dict[str, object]) -> list[str]:
    judged = answer["gates"]
    assert isinstance(judged, list)
    return [gate["gate"] for gate in judged if not gate["passed"]]


@pytest.mark.slow
def test_a_champion_is_beaten_by_who_is_better_on_its_clips_and_comes_back(
    tmp_path: Path, store: Store
) -> None:
    manifest = write_squares(tmp_path / "squares", groups=48)
    digest = read_manifest(manifest).digest(["test"])
    reads = Ledger(store)
    floor, better = train(tmp_path, manifest, "majority"), train(tmp_path, manifest, "svm")

    # What is too large costs no read.
    answer = promote(better, "--max", "size/file_mb=0.000001", expect=3)
    assert (answer["version"], answer["created"]) == (None, False)
    assert failed(answer) == ["size/file_mb at most"]
    assert reads.reads(digest) == []

    assert failed(promote(floor, expect=3)) == ["better than chance"]
    answer = promote(floor, "--accept", "untested")
    assert (answer["version"], answer["test_reads"], failed(answer)) == (1, 1, [])
    assert [gate["gate"] for gate in answer["gates"] if gate["waived"]] == ["better than chance"]
    [read] = reads.reads(digest)
    client = Deliverer(store).client
    assert client.get_run(read.run_id).data.metrics["test/accuracy"] == 0.5
    version = client.get_model_version_by_alias("squares", "champion")
    assert version.tags["test/accuracy"] == "0.5"
    assert version.tags["test"] == "test read once"
    assert "12 groups" in version.description
    assert "Intervals are for clips of new groups, weighed by clips; from 12 groups of" in version.description
    assert "| accuracy | 0.5000 | " in version.description
    again = promote(floor)  # it is the champion: nothing to judge
    assert (again["version"], again["test_reads"]) == (1, 1)
    assert len(reads.reads(digest)) == 1

    answer = promote(better)
    assert (answer["version"], answer["test_reads"], failed(answer)) == (2, 2, [])
    assert client.get_model_version_by_alias("squares", "previous").version in (1, "1")
    metrics = answer["metrics"]
    assert isinstance(metrics, dict)
    assert metrics["test/accuracy"] > 0.9
    [report] = build([better], store, metric=None, every=False).reports
    champion, figure = (
        report.answer.others[0],
        f"on test macro F1 {metrics['test/macro_f1']:.3f}, 95 % interval",
    )
    assert champion.startswith("squares@champion is version 2: svm, run ")
    assert figure in champion
    for name in ("accuracy", "loss"):
        low, high = (metrics[f"test/{name}_{end}"] for end in ("low", "high"))
        assert low <= metrics[f"test/{name}"] <= high

    refused = run("promote", floor, "--as", "squares", "--json", expect=3)
    answer = json.loads(refused.stdout)
    assert failed(answer) == ["better than version 2"]
    assert [gate["value"] for gate in answer["gates"] if gate["gate"].startswith("better")] == [None]
    assert "p =" not in refused.stderr
    third = reads.reads(digest)[2]
    noted = client.get_run(third.run_id).data
    assert (third.comparison, noted.tags["vidclf.shown"], noted.metrics) == (2, "verdict", {})
    shown = run("promote", floor, "--as", "squares", "--show", expect=3)
    assert "p =" in shown.stderr
    noted = client.get_run(third.run_id).data
    assert (noted.tags["vidclf.shown"], noted.metrics["test/accuracy"]) == ("figures", 0.5)
    assert len(reads.reads(digest)) == 3
    assert failed(promote(floor, "--accept", "not-worse=0.9", expect=3)) == ["better than version 2"]
    assert len(reads.reads(digest)) == 3  # the same model against the same champion
    assert failed(promote(floor, "--min", "test/accuracy=0.8", expect=3)) == [
        "test/accuracy at least",
        "better than version 2",
    ]

    back = json.loads(run("rollback", "squares", "--json").stdout)
    assert (back["version"], back["before"]) == (1, 2)
    assert client.get_model_version_by_alias("squares", "champion").version in (1, "1")
    assert "previous" not in client.get_registered_model("squares").aliases
    assert "only champion" in run("rollback", "squares", expect=2).stderr
    assert [move.action for move in aliases.history(client, "squares")] == ["promote", "promote", "rollback"]


@pytest.mark.slow
def test_of_two_promotions_at_once_the_better_model_is_champion(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_squares(tmp_path / "squares", groups=48)
    floor, better = train(tmp_path, manifest, "majority"), train(tmp_path, manifest, "svm")
    judging, done = threading.Event(), threading.Event()

    def slow(store: Store, attempt: Attempt, *others: Any) -> TestResult:
        result = read_test(store, attempt, *others)
        if attempt.folder == candidates[0].attempt.folder and not judging.is_set():
            judging.set()
            done.wait(2.0)  # for the other one to overtake, if nothing holds it back
        return result

    monkeypatch.setattr(promotion, "read_test", slow)
    candidates = [promotion.find_candidate(run_id, store) for run_id in (floor, better)]
    request = promotion.PromoteRequest("squares", accepted=Acceptance(untested=True))
    with ThreadPoolExecutor() as pool:
        first = pool.submit(promotion.promote, store, candidates[0], request)
        assert judging.wait(60)
        promotion.promote(store, candidates[1], request)
        done.set()
        first.result()
    client = Deliverer(store).client
    assert client.get_model_version_by_alias("squares", "champion").run_id == better
    assert client.get_model_version_by_alias("squares", "previous").run_id == floor


@pytest.mark.slow
def test_before_a_comparison_that_can_decide_nothing_test_is_not_read(tmp_path: Path, store: Store) -> None:
    manifest = write_squares(tmp_path / "squares", groups=20)  # 5 of them in test
    floor, better = train(tmp_path, manifest, "majority"), train(tmp_path, manifest, "svm")
    promote(floor, "--accept", "untested")
    refused = run("promote", better, "--as", "squares", expect=3).stderr
    assert "comparison 1 on these clips asks for p < 0.025, and 5 groups give no less than 0.062" in refused
    assert "7 groups could tell; test was not read" in refused
    assert len(TestSplit.of(find(store, better)).reads(store)) == 1


@pytest.mark.slow
def test_a_champion_that_knows_groups_of_the_split_is_not_compared_without_a_word(
    tmp_path: Path, store: Store
) -> None:
    manifest = write_squares(tmp_path / "squares", groups=32)
    floor = train(tmp_path, manifest, "majority")
    promote(floor, "--accept", "untested")
    known = read_card(find(store, floor).model).trained_on[0][1]
    entries = read_manifest(manifest).entries
    taken = next(entry.group for entry in entries if entry.split == "test")
    write_manifest([replace(e, group=known if e.group == taken else e.group) for e in entries], manifest)
    told = f"; version 1 had clips of 1 group of them in training ({known}): its figures may be too good"
    for run_id, code in ((train(tmp_path, manifest, "majority"), 3), (train(tmp_path, manifest, "svm"), 0)):
        gate = promote(run_id, expect=code)["gates"][0]  # type: ignore[index]
        assert gate["detail"] == f"intervals can be given{told}", "a refusal does not hide it"


def find(store: Store, run_id: str) -> Attempt:
    return promotion.find_candidate(run_id, store).attempt


@pytest.mark.slow
def test_few_groups_tell_nothing(tmp_path: Path, store: Store) -> None:
    manifest = write_squares(tmp_path / "squares", groups=4)
    run_id = train(tmp_path, manifest, "majority")
    assert failed(promote(run_id, expect=3)) == ["groups in test"]
    assert promote(run_id, "--accept", "untested", "--alias", "trial")["version"] == 1
    version = Deliverer(store).client.get_model_version_by_alias("squares", "trial")
    assert "vidclf predict squares@trial CLIP" in version.description
    assert "squares@champion" not in version.description
    assert version.tags["vidclf.untested"] == "true"
    assert "**Untested**" in version.description
    entries = [replace(e, group="") for e in read_manifest(manifest).entries if e.split != "test"]
    write_manifest(entries, manifest)
    run_id = train(tmp_path, manifest, "majority")
    refused = run("promote", run_id, "--as", "squares", "--accept", "untested", "--json", expect=3)
    assert failed(json.loads(refused.stdout)) == ["a test split"]
    assert refused.stderr.startswith("groups unknown: leaks cannot be excluded")


@pytest.mark.slow
def test_a_champion_is_not_compared_on_clips_it_was_trained_on(tmp_path: Path, store: Store) -> None:
    manifest = write_squares(tmp_path / "squares", groups=28)
    assert promote(train(tmp_path, manifest, "majority"), "--accept", "untested")["version"] == 1
    turned = {"train": "test", "test": "train", "val": "val"}
    entries = read_manifest(manifest).entries
    write_manifest([replace(entry, split=turned[entry.split]) for entry in entries], manifest)  # type: ignore[arg-type]
    challenger = train(tmp_path, manifest, "svm")
    answer = promote(challenger, expect=3)
    assert failed(answer) == ["comparison with version 1"]
    assert Ledger(store).reads(read_manifest(manifest).digest(["test"])) == []


def verdict(difference: float, low: float, word: str) -> PairedComparison:
    return PairedComparison(difference, low, 2 * difference - low, 0.5, 9, 0.01, word)  # type: ignore[arg-type]


def case(**known: Any) -> Candidacy:
    return Candidacy(**{"rules": Gates(), "accepted": Acceptance(), "manifest": "m", "groups": [], **known})


@pytest.mark.parametrize(
    ("compared", "accept", "passed"),
    [
        (verdict(0.1, 0.01, "better"), [], True),
        (verdict(0.1, -0.01, "cannot tell"), [], False),
        (verdict(0.1, -0.01, "cannot tell"), ["not-worse=0"], False),
        (verdict(0.1, -0.01, "cannot tell"), ["not-worse=0.02"], True),
        (verdict(-0.02, -0.2, "cannot tell"), ["not-worse=0.02"], False),
        (verdict(-0.02, -0.2, "cannot tell"), ["not-worse=0.2"], False),
        (verdict(-0.02, -0.2, "cannot tell"), ["not-worse=0.21"], True),
        (verdict(-0.1, -0.2, "worse"), ["not-worse=0.5"], False),
        (None, ["not-worse=0.5"], False),
        (None, ["untested"], True),
    ],
)
def test_what_a_challenger_needs(compared: PairedComparison | None, accept: list[str], passed: bool) -> None:
    known = {"champion": "version 1", "compared_by": "test/macro_f1", "paired": compared}
    [gate] = gates.champion_gate(case(accepted=Acceptance.parse(accept), **known))
    assert gate.passed is passed


def test_a_class_is_refused_only_where_it_is_certainly_below_the_floor() -> None:
    labels = np.repeat([0, 1], 40)
    groups = [f"g{number % 20}" for number in range(80)]
    guesses = labels.copy()
    guesses[45:] = 0  # 5 of 40 of the second class are right

    def judged(floor: float | None) -> list[Gate]:
        own = ScoredClips(labels, guesses, np.eye(2)[guesses], groups, ("a", "b"))
        return list(gates.recall_gates(case(rules=Gates(class_recall=floor), own=own)))

    first, second = judged(0.5)
    assert (first.passed, second.passed, second.value) == (True, False, 0.125)
    guesses = labels.copy()
    guesses[58:] = 0  # 18 of 40
    assert all(gate.passed for gate in judged(0.5))
    assert judged(None) == []


@pytest.mark.parametrize("accept", [[], ["untested"]])
def test_a_class_that_cannot_be_judged_has_not_passed(accept: list[str]) -> None:
    labels = np.repeat([0, 1], [40, 4])
    groups = [f"g{number % 10}" for number in range(44)]  # the second class is in four groups
    own = ScoredClips(labels, labels, np.eye(2)[labels], groups, ("a", "b"))
    rules, accepted = Gates(class_recall=0.5), Acceptance.parse(accept)
    first, second = gates.recall_gates(case(rules=rules, accepted=accepted, own=own))
    assert (first.passed, second.passed, second.value) == (True, bool(accept), 1.0)
    assert (first.waived, second.waived) == (False, bool(accept))
    assert "cannot be judged" in second.detail


def test_groups_that_clips_do_not_name_are_no_silent_evidence() -> None:
    names = [f"/{name}.avi" for name in "abcde"]
    [named], [unnamed] = (gates.group_gate(case(groups=names, grouped=grouped)) for grouped in (True, False))
    assert named.passed
    assert unnamed.passed
    assert named.detail == "intervals can be given"
    assert "clips name none, so each counts as one" in unnamed.detail


def test_gates_of_the_file_and_of_the_command_line() -> None:
    merged = Gates(min={"test/accuracy": 0.8}, max={"size/file_mb": 9}, class_recall=0.2).merged(
        Gates(max={"size/file_mb": 5})
    )
    assert (merged.min, merged.max, merged.class_recall) == ({"test/accuracy": 0.8}, {"size/file_mb": 5}, 0.2)
    found = list(gates.cost_gates(case(rules=merged, metrics={"size/file_mb": 6.0})))
    assert [(gate.gate, gate.passed, gate.limit) for gate in found] == [("size/file_mb at most", False, 5)]
    assert "missed by 1" in found[0].detail
    for metrics, passed in (({"test/accuracy": 0.8}, True), ({}, False)):
        [gate] = gates.score_gates(case(rules=merged, metrics=metrics))
        assert gate.passed is passed
    known = {"test/accuracy": 0.8, "test/accuracy_low": 0.61, "test/accuracy_high": 0.9}
    [gate] = gates.score_gates(case(rules=merged, metrics=known))
    assert gate.detail == "0.8, kept on these clips; of new groups 0.610 to 0.900 at 95 %"
    with pytest.raises(ValueError, match="did you mean test/accuracy"):
        Gates(min={"test/acuracy": 0.8})
    for text in ("not-worse", "not-worse=2", "not-worse=-0.1", "unseen"):
        with pytest.raises(InputError, match=text):
            Acceptance.parse([text])


def test_the_card_has_every_class_whatever_it_is_called() -> None:
    names = ("accuracy", "accuracy_low", "accuracy_high", "recall/kick_low", "recall/kick_high", "recall/a|b")
    metrics = {f"test/{name}": 0.1 * number for number, name in enumerate(names, start=1)}
    evidence = SimpleNamespace(metrics=metrics)
    rows = card._scores(evidence).splitlines()[4:]  # type: ignore[arg-type]
    assert rows == [
        "| accuracy | 0.1000 | 0.200 to 0.300 | – |",
        "| recall/kick_low | 0.4000 | – | – |",
        "| recall/kick_high | 0.5000 | – | – |",
        r"| recall/a\|b | 0.6000 | – | – |",
    ]


@pytest.mark.slow
def test_a_lost_database_is_said_before_anything_is_judged(tmp_path: Path, store: Store) -> None:
    run_id = train(tmp_path, write_squares(tmp_path / "squares", groups=4), "majority")
    (store.folder / "mlflow.db").unlink()
    refused = run("promote", run_id, "--as", "squares", "--yes", expect=2)
    assert "vidclf doctor --fix makes it anew" in " ".join(refused.stderr.split())
    assert not (store.folder / "mlflow.db").exists()


def test_how_often_test_was_read_in_words() -> None:
    assert [words(count) for count in (0, 1)] == ["test was not read", "test read once"]
    assert words(3) == "test read 3 times"


@pytest.mark.slow
def test_train_reads_test_when_asked_and_writes_it_down(tmp_path: Path, store: Store) -> None:
    manifest = write_squares(tmp_path / "squares", groups=20)
    experiment = write_experiment(tmp_path / "svm.toml", "svm", manifest)
    first = json.loads(run("train", experiment, "--json").stdout)
    assert not [name for name in first["metrics"] if name.startswith("test/")]
    again = json.loads(run("train", experiment, "--test", "--json").stdout)
    assert again["reused"] is True
    assert again["metrics"]["test/accuracy"] > 0.5
    digest = read_manifest(manifest).digest(["test"])
    [read] = Ledger(store).reads(digest)
    mirrored = Deliverer(store).client.get_run(first["run_id"])
    noted = Deliverer(store).client.get_run(read.run_id)
    assert mirrored.data.metrics["test/accuracy"] == noted.data.metrics["test/accuracy"]
    assert json.loads(run("train", experiment, "--test", "--json").stdout)["metrics"] == again["metrics"]
    assert len(Ledger(store).reads(digest)) == 1
    told = run("train", experiment, "--test").stdout.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in told if line.strip()}
    value, low, high = (again["metrics"][f"test/macro_f1{end}"] for end in ("", "_low", "_high"))
    assert rows["macro_f1"][1:] == [f"{value:.4f}", f"({low:.3f}", "to", f"{high:.3f})"]
    assert not {"macro_f1_low", "macro_f1_high"} & rows.keys()
    write_manifest([e for e in read_manifest(manifest).entries if e.split != "test"], manifest)
    assert "has no test clips" in run("train", experiment, "--test", expect=2).stderr


def test_a_study_that_runs_yet_is_said_to(
    tmp_path: Path, squares: Manifest, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    bases = {
        "svm": config.dump(load_experiment(write_experiment(tmp_path / "svm.toml", "svm", squares.path)))
    }
    add_study(store, "s", bases, squares.digest(), [("svm", 0.9, 20.0, 2.0)])
    running = Ownership(find_study("s", store))
    assert promotion.find_candidate("s", store).label.startswith(
        "trial 0 of s (svm, selected val/macro_f1 0.9"
    )
    assert "the study s is still running: a trial that is better may yet come" in caplog.text
    running.release()
    caplog.clear()
    promotion.find_candidate("s", store)
    assert not caplog.text
