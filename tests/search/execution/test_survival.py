"""Studies whose processes are killed again and again, and files that are cut: nothing is lost or doubled."""

import multiprocessing
import os
import random
import signal
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.entities import ViewType
from optuna.trial import TrialState

from tests.attempts import ENDED, end
from tests.interruptions import SESSION_SECONDS, TRIALS, InterruptedStudy, check_survival
from tests.rounds import rounds
from tests.scripted_study import ScriptedStudy
from tests.services import MlflowServer
from tests.studies import METRIC, add_trial, make_folder, make_optuna_study
from vidclf.data import cache
from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.manifest import Manifest
from vidclf.maintenance.doctor import examine
from vidclf.models import feature_store
from vidclf.models.activations import ActivationCache
from vidclf.models.feature_store import Framing, feature_matrix
from vidclf.runs.store import Store, open_store
from vidclf.search.execution.recovery import reconcile
from vidclf.search.record.study import find_study
from vidclf.tracking.deliverer import ATTEMPT_TAG, Deliverer
from vidclf.workers.local import LocalWorker


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_study_survives_the_death_of_its_workers_and_of_itself(tmp_path: Path, store: Store) -> None:
    ordeal = InterruptedStudy(tmp_path, store, int(os.environ.get("VIDCLF_TEST_SEED", "17")))
    for session in range(rounds(brief=1, full=2)):
        process = ordeal.start()
        ordeal.wait_for_worker(process)
        killed_at = time.monotonic() + ordeal.random.uniform(2, 4) * rounds(brief=1, full=2)
        while ordeal.watch(process, time.monotonic() + ordeal.random.uniform(1, 2)) is None:
            if time.monotonic() > killed_at:
                ordeal.note("SIGKILL to the supervisor")
                process.kill()
                break
            ordeal.kill_a_worker(process)
        code = process.wait()
        assert code == -signal.SIGKILL, f"session {session} ended with {code}\n{ordeal}"
    process = ordeal.start()
    ordeal.wait_for_worker(process)
    for _ in range(rounds(brief=1, full=3)):
        if ordeal.watch(process, time.monotonic() + ordeal.random.uniform(1, 2)) is None:
            ordeal.kill_a_worker(process)
    code = ordeal.watch(process, time.monotonic() + SESSION_SECONDS)
    ordeal.note(f"exit {code}")
    if code is None:
        process.kill()
    assert code == 0, ordeal
    opened = check_survival(ordeal)
    kinds = Counter(str(trial.user_attrs.get("reason_kind", "complete")) for trial in opened.trials())
    assert kinds["died"] + kinds["failed"] > 0, f"no kill hit a trial: {kinds}\n{ordeal}"
    deaths = Counter(t.user_attrs.get("root", t.number) for t in opened.trials([TrialState.FAIL])
                     if t.user_attrs["reason_kind"] == "died")  # fmt: skip
    assert max(deaths.values(), default=0) <= 2, f"{deaths}\n{ordeal}"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_study_stops_at_any_moment_and_goes_on(tmp_path: Path, store: Store) -> None:
    ordeal = InterruptedStudy(tmp_path, store, int(os.environ.get("VIDCLF_TEST_SEED", "4")))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) * rounds(brief=1, full=3):
        process = ordeal.start()
        if ordeal.watch(process, time.monotonic() + ordeal.random.uniform(0.2, 7)) is not None:
            assert process.returncode == 0, ordeal
            continue  # it was done before
        ordeal.note(f"{number.name}")
        if number != signal.SIGTERM:  # as a terminal does: to the whole group
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        code = ordeal.watch(process, time.monotonic() + SESSION_SECONDS)
        ordeal.note(f"exit {code}")
        if code is None:
            process.kill()
        # The signal may come when there is nothing left to stop.
        assert code == 130 or (code == 0 and find_study("ordeal", store).logical() == TRIALS), ordeal
    ordeal.finish()
    opened = check_survival(ordeal)
    kinds = Counter(str(trial.user_attrs.get("reason_kind", "complete")) for trial in opened.trials())
    assert not kinds["died"] + kinds["failed"], f"a stop is no failure: {kinds}\n{ordeal}"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_study_goes_on_while_its_mlflow_server_is_away(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = MlflowServer(tmp_path / "server")
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    try:
        ordeal = InterruptedStudy(tmp_path, store, 5)
        process = ordeal.start()
        results = "attempts/*/*/result.json"
        end = time.monotonic() + SESSION_SECONDS
        while len(list(store.folder.glob(results))) < 4 and time.monotonic() < end:
            assert ordeal.watch(process, time.monotonic() + 0.2) is None, ordeal
        before = len(list(store.folder.glob(results)))
        server.stop()
        ordeal.note(f"the server is killed after {before} trials")
        ordeal.watch(process, time.monotonic() + 20)
        meanwhile = len(list(store.folder.glob(results))) - before
        server.start()
        ordeal.note(f"the server is back after {meanwhile} further trials")
        code = ordeal.watch(process, time.monotonic() + SESSION_SECONDS)
        ordeal.note(f"exit {code}")
        assert code == 0, ordeal
        assert meanwhile > 0, ordeal
        ordeal.finish()  # delivers what the first session could not
        check_survival(ordeal)
    finally:
        server.stop()


def test_a_supervisor_that_dies_after_its_worker_gives_no_configuration_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    scripted = ScriptedStudy(tmp_path, open_store(), monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("vidclf.search.execution.trials.settle", die)
        with pytest.raises(KeyboardInterrupt):
            scripted.run(lambda task, _: None)
    opened = scripted.open()
    assert reconcile(opened) == 1
    first, *_, last = opened.trials()
    assert (first.state, first.user_attrs["reason_kind"]) == (TrialState.FAIL, "interrupted")
    assert (last.state, last.user_attrs["retry_of"]) == (TrialState.WAITING, 0)
    assert opened.logical() == 0


def test_a_worker_that_dies_in_the_middle_of_a_message_is_dead() -> None:
    worker = object.__new__(LocalWorker)
    worker.connection, theirs = multiprocessing.Pipe()
    os.write(theirs.fileno(), struct.pack("!i", 100) + b"half")
    theirs.close()
    assert worker.receive() is None


def cut(path: Path, generator: random.Random) -> Callable[[], None]:
    """Cuts the file at a random byte; the result brings it back as it was."""
    before, content = path.stat(), path.read_bytes()
    path.write_bytes(content[: generator.randrange(len(content))])

    def mend() -> None:
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    return mend


OWN_FILES = ("attempt.json", "result.json", "metrics.jsonl", "config.toml", "delivery.json")


@pytest.mark.slow
def test_a_cut_file_of_the_store_is_named_or_does_no_harm(store: Store) -> None:
    generator = random.Random(1)
    opened = make_optuna_study(store)
    for number in range(1, 6):
        add_trial(opened, TrialState.COMPLETE)
        attempt = make_folder(opened, number)
        attempt.config.write_text('seed = 0\n\n[model]\nkind = "svm"\nfeatures = [\n  "hog",\n]\n')
        attempt.record(1, {"epoch/val/loss": 1.0})
        end(attempt, metrics={METRIC: 0.5})
        Deliverer(store).deliver(attempt)
    assert not examine(store, fix=False).findings
    done = 0
    while done < rounds(20, 120):
        cuts = {}
        for number, name in zip(range(1, 6), generator.sample(OWN_FILES, 5), strict=True):
            path = opened.attempt(number).folder / name
            whole = path.read_bytes()
            cuts[path] = (cut(path, generator), whole)
        told = [finding.problem.where for finding in examine(store, fix=False).findings]
        for path, (_, whole) in cuts.items():
            named = any(where in (str(path), str(path.parent)) for where in told)
            assert named or _harmless(path, whole), f"{path.name} after {path.read_bytes()!r}: {told}"
        for mend, _ in cuts.values():
            mend()
        done += len(cuts)
    assert not examine(store, fix=False).findings


def _harmless(path: Path, whole: bytes) -> bool:
    """Whether nothing that is needed was cut off."""
    left = path.read_bytes()
    # Lines that MLflow has already, and what it has of them: either is made good from the other.
    return left == whole.rstrip() or path.name in ("metrics.jsonl", "delivery.json")


@pytest.mark.slow
def test_a_run_whose_delivery_was_cut_is_not_doubled(store: Store) -> None:
    generator = random.Random(2)
    opened = make_optuna_study(store)
    attempt = opened.attempt(0)
    for name in ("delivery.json", "metrics.jsonl") * rounds(1, 3):
        mend = cut(attempt.folder / name, generator)
        examine(store, fix=True)
        Deliverer(store).deliver(attempt)
        if name == "metrics.jsonl":
            mend()
            Deliverer(store).deliver(attempt)
    client = Deliverer(store).client
    runs = client.search_runs(["1"], f"tags.`{ATTEMPT_TAG}` = '{opened.attempt_id(0)}'", ViewType.ALL)
    assert len(runs) == 1
    history = client.get_metric_history(runs[0].info.run_id, METRIC)
    assert [(point.value, point.timestamp > ENDED) for point in history] == [(0.5, True)]
    assert not examine(store, fix=False).findings


@pytest.mark.parametrize("kind", ["clips", "activations", "features"])
@pytest.mark.slow
def test_a_cut_cache_entry_is_made_anew(
    kind: str, squares: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = random.Random(3)
    clips = ClipSet.of_split(squares, "val", ClipStore(8, 32))
    kept = ActivationCache((), None, room=0)  # type: ignore[arg-type]
    place = cache.folder() / "activations" / "ab" / "abc.npy"

    def read() -> Any:
        if kind == "clips":
            return np.asarray(clips.grid(0))
        if kind == "features":
            monkeypatch.setattr(feature_store, "_MEMO", {})
            return feature_matrix(clips, ["difference"], Framing(4, 32, 32))
        (values,) = kept.read([place])
        if values is None:
            kept.keep([place], torch.arange(500, dtype=torch.float16)[None])()
            (values,) = kept.read([place])
            assert values is not None
        return values.numpy()

    whole = read().copy()
    for _ in range(40):
        entry = generator.choice(sorted((cache.folder() / kind).rglob("*.npy")))
        cut(entry, generator)
        assert [finding.what for finding in examine_caches()] == ["cut-cache-entry"]
        np.testing.assert_array_equal(read(), whole)
        for other in sorted((cache.folder() / kind).rglob("*.npy")):
            np.load(other, mmap_mode="r")
            assert cache.load(other) is not None


def examine_caches() -> list[Any]:
    return examine(Store(cache.folder() / "no store"), fix=False).findings


def test_a_missing_entry_and_a_cut_one_are_both_absent() -> None:
    entry = cache.folder() / "clips" / "a.npy"
    assert cache.load(entry) is None
    entry.parent.mkdir(parents=True)
    for size in (0, 5, 50, 127, 128, 300):
        np.save(entry, np.arange(100))
        entry.write_bytes(entry.read_bytes()[:size])
        cache._room.cache_clear()
        held = cache._room(cache.folder()).used
        assert held == size
        assert cache.load(entry, "r") is None
        assert not entry.exists()
        assert cache._room(cache.folder()).used == 0
    np.save(entry, np.arange(100))
    found = cache.load(entry, "r")
    assert found is not None
    np.testing.assert_array_equal(found, np.arange(100))
