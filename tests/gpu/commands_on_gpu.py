"""What commands do with GPUs, on the stand-in; run by `test_on_standin`."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from tests.attempts import fresh_store
from tests.clips import write_experiment, write_squares, write_study
from tests.command import run
from tests.gpu.standin import gpu, log
from tests.saved_models import data_url
from vidclf.data.manifest import Manifest, read_manifest
from vidclf.inference.benchmark import bench
from vidclf.inference.predict import predict_files
from vidclf.models import load_model
from vidclf.registry.serving import VideoClassifier
from vidclf.runs.experiment import load_experiment, run_experiment
from vidclf.runs.folder import Attempt, Identity, now_ms

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


@pytest.fixture(autouse=True)
def unused() -> None:
    log.reset()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return read_manifest(write_squares(tmp_path_factory.mktemp("squares"), groups=6))


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Nothing may touch a GPU that is there."""

    def touched(*_: object, **__: object) -> None:
        raise AssertionError("the GPU is touched")

    names = ("_lazy_init", "current_device", "get_device_name", "get_device_properties", "mem_get_info")
    with gpu(), contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(patch.object(torch.cuda, name, touched))
        yield


def trained(folder: Path, kind: str, manifest: Manifest, **values: Any) -> Attempt:
    """A trial of an experiment, run in this process."""
    file = write_experiment(folder / f"{kind}.toml", kind, manifest.path, **values)
    attempt = Attempt(folder / kind)
    attempt.create(Identity("id", "e", "name", "parent", now_ms()))
    outcome = run_experiment(load_experiment(file), attempt, lambda *_: None)
    assert outcome.status == "complete", outcome.reason
    return attempt


@pytest.fixture(scope="module")
def network(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Attempt:
    folder = tmp_path_factory.mktemp("trained")
    with gpu(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDCLF_CACHE", str(folder / "cache"))
        return trained(folder, "volume3d", manifest, train="epochs = 1\nprecision = 'fp32'")


def videos(manifest: Manifest) -> list[str | Path]:
    return [entry.clip_path for entry in manifest.entries]


def test_a_run_measures_the_gpu_that_it_used(network: Attempt) -> None:
    outcome = network.outcome()
    assert outcome is not None
    assert 0 < outcome.metrics["cost/cuda_allocated_mb"] < outcome.metrics["cost/peak_memory_mb"]
    assert load_model(network.model).card.versions["device"] == "stand-in"


def test_what_was_trained_on_a_gpu_predicts_the_same_anywhere(network: Attempt, manifest: Manifest) -> None:
    with gpu():
        ours = predict_files(load_model(network.model), videos(manifest))
        assert log.count("kernel") > 0
    theirs = predict_files(load_model(network.model), videos(manifest))
    for one, other in zip(ours, theirs, strict=True):
        assert one.error is None
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-3)


def test_bench_names_the_gpu_and_its_memory(network: Attempt, manifest: Manifest) -> None:
    with gpu():
        measured = bench(network.model, videos(manifest)[0], batch=2)
    assert measured.conditions["device"] == "stand-in"
    assert measured.metrics["cost/cuda_allocated_mb"] > 0
    assert measured.metrics["throughput/clips_per_s"] > 0


def test_a_served_model_answers_from_the_gpu(network: Attempt, manifest: Manifest) -> None:
    served, clip = VideoClassifier(), Path(videos(manifest)[0])
    with gpu():
        served.load_context(SimpleNamespace(artifacts={"model": str(network.model)}))
        try:
            (answer,) = served.predict([data_url(clip.read_bytes())])
        finally:
            served._decoder.close()
        assert log.count("kernel") > 0
    (expected,) = predict_files(load_model(network.model), [clip])
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-3)


def test_deep_features_come_from_the_gpu(tmp_path: Path) -> None:
    manifest = read_manifest(write_squares(tmp_path / "squares", groups=12))
    model = {"model": 'network = "tiny3d"\nweights = "none"'}
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()

    def probabilities(folder: str) -> Any:
        text = write_experiment(tmp_path / folder / "svm.toml", "svm", manifest.path, **model).read_text()
        file = tmp_path / folder / "deep.toml"
        file.write_text(text.replace('["difference"]', '["deep"]'))
        attempt = Attempt(tmp_path / folder / "svm")
        attempt.create(Identity("id", "e", "name", "parent", now_ms()))
        outcome = run_experiment(load_experiment(file), attempt, lambda *_: None)
        assert outcome.status == "complete", outcome.reason
        found = predict_files(load_model(attempt.model), videos(manifest))
        return np.array([list(each.probabilities.values()) for each in found if each.probabilities])

    with gpu():
        ours = probabilities("there")
        assert log.count("kernel") > 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDCLF_CACHE", str(tmp_path / "of the CPU"))
        np.testing.assert_allclose(ours, probabilities("here"), atol=2e-2)


def test_a_classical_trial_touches_no_gpu(manifest: Manifest, tmp_path: Path) -> None:
    with untouched():
        attempt = trained(tmp_path, "svm", manifest)
        predict_files(load_model(attempt.model), videos(manifest))
        measured = bench(attempt.model, videos(manifest)[0], batch=2)
    assert measured.conditions["device"] == "cpu"
    assert not any(name.startswith("cost/cuda") for name in measured.metrics)


def test_a_studys_supervisor_touches_no_gpu_and_its_finalists_are_confirmed_on_it(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDCLF_STORE", str(fresh_store(tmp_path, tmp_path_factory).folder))
    manifest = write_squares(tmp_path / "squares", groups=12)
    write_experiment(tmp_path / "volume3d.toml", "volume3d", manifest, train="epochs = 1")
    study = write_study(
        tmp_path / "study.toml",
        "volume3d.toml",
        trials=2,
        top="workers = 2",
        space='"train.lr" = { low = 1e-3, high = 1e-2, log = true }',
        gates='max = { "latency/p50_ms" = 1000000 }',
    )
    with untouched():
        run("tune", study, "--dry-run")
        answer = json.loads(run("tune", study, "--per-gpu", "1", "--json").stdout)
    assert answer["trials"]["complete"] == 2
    with gpu():
        confirmed = json.loads(run("confirm", "study", "--top", "1", "--seeds", "1", "--json").stdout)
        assert log.count("kernel", "backward") > 0
    assert confirmed["finalists"][0]["scores"]
