"""Folders kept the same on two machines, and a worker that lives in another folder than its supervisor."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.clips import write_experiment, write_squares
from vidclf import config
from vidclf.exceptions import InputError
from vidclf.runs.experiment import load_experiment
from vidclf.runs.folder import Attempt, Identity, Outcome, now_ms
from vidclf.workers.protocol import (
    FinishTask,
    LatencyTask,
    Measured,
    Ready,
    RunTask,
    StepDecision,
    StepReport,
)
from vidclf.workers.ray import _travelling_manifest
from vidclf.workers.ray_actor import RemoteWorker, TaskFiles, WorkerMessage, _make_scratch, load
from vidclf.workers.sync import FolderChanges, FolderChangeTracker, apply, read_folder, write_folder

PATHS = ("metrics.jsonl", "result.json", "artifacts/a.txt", "artifacts/deep/b.png", "model/w.bin")
CHECKPOINT = ("checkpoint/fit.pt", "checkpoint/repeat-0/metrics.jsonl")
changes = st.lists(
    st.tuples(
        st.sampled_from(("append", "rewrite", "delete", "message")),
        st.sampled_from(PATHS + CHECKPOINT),
        st.binary(max_size=6),
    ),
    max_size=30,
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=changes, always=st.booleans())
def test_whatever_changes_both_folders_are_equal_at_each_message(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, str, bytes]], always: bool
) -> None:
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    write_folder({"attempt.json": b"{}", "checkpoint/fit.pt": b"old"}, here)
    write_folder(read_folder(here), there)
    sender = FolderChangeTracker(there)
    past = [_part(there, checkpoint=True)]
    for kind, path, content in [*changes, ("message", "", b"")]:
        target = there / path
        if kind == "message":
            past.append(_part(there, checkpoint=True))
            apply(sender.changes(checkpoint=True if always else None), here)
            assert _part(here, checkpoint=False) == _part(there, checkpoint=False)
            assert _part(here, checkpoint=True) in (past[-1:] if always else past)
            assert not (here / ".incoming").exists()
        elif kind == "delete":
            target.unlink(missing_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            before = target.read_bytes() if kind == "append" and target.exists() else b""
            target.write_bytes(before + content)


def _part(folder: Path, *, checkpoint: bool) -> dict[str, bytes]:
    files = read_folder(folder)
    return {path: files[path] for path in files if path.startswith("checkpoint/") == checkpoint}


def test_a_journal_travels_as_its_new_tail_and_a_large_checkpoint_rests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("vidclf.workers.sync.time.monotonic", lambda: now)
    journal, state = tmp_path / "metrics.jsonl", tmp_path / "checkpoint" / "fit.pt"
    sender = FolderChangeTracker(tmp_path)
    journal.write_text("1\n")
    write_folder({"checkpoint/fit.pt": b"1"}, tmp_path)
    assert sender.changes() == FolderChanges({"metrics.jsonl": (0, b"1\n")}, (), {"checkpoint/fit.pt": b"1"})
    now = 2.0  # the next question comes when the checkpoint has arrived: it took two seconds
    journal.write_text("1\n2\n")
    state.write_bytes(b"22")
    assert sender.changes() == FolderChanges({"metrics.jsonl": (2, b"2\n")}, (), None)
    now = 41.0
    assert sender.changes() == FolderChanges()
    now = 43.0
    assert sender.changes() == FolderChanges({}, (), {"checkpoint/fit.pt": b"22"})
    now = 44.0
    state.unlink()  # that it is done with is told at once
    assert sender.changes() == FolderChanges({}, (), {})


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "", "a\0b"])
def test_nothing_is_written_outside_of_the_folder(tmp_path: Path, path: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    for changes in (
        FolderChanges({path: (0, b"x")}),
        FolderChanges({}, (path,)),
        FolderChanges({}, (), {f"checkpoint/{path}": b""}),
    ):
        if changes.checkpoint and path in ("/x", "", "a\0b"):
            continue  # no longer absolute
        with pytest.raises(ValueError, match=r"leads out|is no checkpoint"):
            apply(changes, inside)
    with pytest.raises(ValueError, match="leads out"):
        write_folder({path: b"x"}, inside)
    assert [entry.name for entry in tmp_path.iterdir()] == ["inside"]


class Remote:
    """A remote worker with what a supervisor's end does of it, without Ray between."""

    def __init__(self) -> None:
        self.worker = RemoteWorker(threads=1, gpus=0)
        ready = self.worker.receive().message
        assert isinstance(ready, Ready)
        self.ready = ready

    def begin(self, task: RunTask | LatencyTask | FinishTask) -> None:
        self.folder = task.folder
        files, paths = load(task)
        places = {path: f"shared-{index}/{Path(path).name}" for index, path in enumerate(paths.values())}
        contents = [
            _travelling_manifest(Path(path)) if key == "data.manifest" else Path(path).read_bytes()
            for key, path in paths.items()
        ]
        manifest = places.get(paths.get("data.manifest", ""))
        task_files = TaskFiles(files, tuple(places.values()), places, paths, manifest)
        self.worker.send(task, task_files, *contents)

    def hear(self) -> WorkerMessage:
        received = self.worker.receive()
        if received.changes is not None:
            assert self.folder is not None
            apply(received.changes, self.folder)
        return received

    def outcome(self) -> Outcome:
        while isinstance(message := self.hear().message, StepReport):
            self.worker.send(StepDecision())
        assert isinstance(message, Outcome)
        return message


@pytest.fixture
def remote() -> Iterator[Remote]:
    made = Remote()
    yield made
    made.worker.close()


def make_attempt(folder: Path) -> Attempt:
    attempt = Attempt(folder)
    attempt.create(Identity("u/0", "e", "r", "u/study", now_ms()))
    return attempt


@pytest.mark.slow
def test_a_trial_elsewhere_leaves_the_folder_that_it_leaves_here(tmp_path: Path, remote: Remote) -> None:
    manifest = write_squares(tmp_path / "squares")
    path = write_experiment(tmp_path / "svm.toml", "svm", manifest)
    attempt = make_attempt(tmp_path / "attempt")
    remote.begin(RunTask(config.dump(load_experiment(path)), attempt.folder))
    outcome = remote.outcome()
    assert outcome.status == "complete"
    assert attempt.outcome() == outcome
    assert config.read_toml(attempt.config)["data"]["manifest"] == str(manifest)
    remote.begin(FinishTask(attempt.folder))
    remote.hear()
    assert attempt.drawn.exists()
    remote.begin(LatencyTask(next((tmp_path / "squares").rglob("*.avi")), attempt.model))
    measured = remote.worker.receive().message
    assert isinstance(measured, Measured)
    assert measured.metrics["latency/p50_ms"] > 0
    for name, content in read_folder(attempt.folder).items():
        assert b"vidclf-workers" not in content, name


@pytest.mark.slow
def test_a_fit_goes_on_elsewhere_from_the_checkpoint_that_travelled(tmp_path: Path) -> None:
    path = write_experiment(
        tmp_path / "t.toml",
        "frames2d",
        write_squares(tmp_path / "squares"),
        train="epochs = 4\nbatch_size = 2\nlr = 0.001",
    )
    tree = config.dump(load_experiment(path))
    first, attempt = Remote(), make_attempt(tmp_path / "first")
    first.begin(RunTask(tree, attempt.folder))
    steps = []
    while steps[-1:] != [3]:
        message = first.hear().message
        assert isinstance(message, StepReport)
        steps.append(message.step)
        if message.step < 3:
            time.sleep(1.5)  # a checkpoint rests after the one before
            first.worker.send(StepDecision())
    first.worker._worker.process.kill()
    died = first.hear()
    assert (died.message, died.exit_reason) == (None, "the worker died: SIGKILL")
    first.worker.close()
    (state,) = attempt.checkpoint.iterdir()
    saved = torch.load(state, weights_only=True)
    assert len(saved["history"]) >= 2
    saved["history"][0]["epoch/train/loss"] = 123.0
    torch.save(saved, state)
    again, second = make_attempt(tmp_path / "second"), Remote()
    again.take_checkpoint(attempt)
    second.begin(RunTask(tree, again.folder))
    assert second.outcome().status == "complete"
    second.worker.close()
    assert (1, 123.0) in [(step, values.get("epoch/train/loss")) for step, values in again.records()]
    assert not again.checkpoint.exists()


@pytest.mark.slow
def test_a_clip_that_a_node_lacks_is_named_with_what_to_do(tmp_path: Path, remote: Remote) -> None:
    manifest = write_squares(tmp_path / "squares")
    path = write_experiment(tmp_path / "svm.toml", "svm", manifest)
    clip = next((tmp_path / "squares").rglob("*.avi"))
    tree = config.dump(load_experiment(path))
    clip.unlink()
    attempt = make_attempt(tmp_path / "attempt")
    remote.begin(RunTask(tree, attempt.folder))
    outcome = remote.outcome()
    assert outcome.status == "failed"
    assert (
        f"1 of 12 clips are missing on the node {remote.ready.node}: {clip}; put the clips" in outcome.reason
    )


def test_a_manifest_travels_with_absolute_clips_and_addresses_as_they_are(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("clip_path,label,group,split\nx/a.avi,1,,train\ns3://b/c.avi,None,,val\n")
    expected = f"clip_path,label,group,split\n{tmp_path}/x/a.avi,1,,train\ns3://b/c.avi,None,,val\n"
    assert _travelling_manifest(manifest).decode() == expected
    with pytest.raises(InputError, match="no such manifest"):
        _travelling_manifest(tmp_path / "none.csv")


def test_scratch_folders_of_the_dead_are_removed_whoever_else_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidclf.workers.ray_actor.tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr("vidclf.workers.ray_actor._YOUNG_SECONDS", 0.0)
    living, lock = _make_scratch()
    dead = living.parent / "dead"
    dead.mkdir()
    (living.parent / "gone").symlink_to(tmp_path / "nowhere")  # as one that is removed just now
    mine, _ = _make_scratch()
    assert mine.is_dir()
    assert living.is_dir()
    assert not dead.exists()
    lock.release()
