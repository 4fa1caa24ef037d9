"""Registering, finding and serving models, with pickle switched off."""

import contextlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

import mlflow.artifacts
import mlflow.pyfunc
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus

from tests.attempts import make_study, make_trial, shipped
from tests.saved_models import CLASSES, data_url, make_kept
from vidclf import models
from vidclf.data.video import write_video
from vidclf.exceptions import InputError
from vidclf.registry import resolve
from vidclf.registry.aliases import history
from vidclf.registry.download import fetch_run
from vidclf.registry.resolve import resolve_model
from vidclf.runs.folder import Attempt
from vidclf.runs.store import Store, find_store
from vidclf.tracking import model_package
from vidclf.tracking.deliverer import Deliverer
from vidclf.tracking.model_package import deliver_model


@pytest.fixture(autouse=True)
def _no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")


@pytest.fixture
def trial(store: Store) -> Attempt:
    make_study(store)
    return make_kept(store)


@pytest.mark.slow
def test_a_kept_model_is_logged_once(store: Store, client: MlflowClient, trial: Attempt) -> None:
    model_id = deliver_model(Deliverer(store), trial)
    assert deliver_model(Deliverer(store), trial) == model_id
    (trial.folder / "delivery.json").unlink()
    assert deliver_model(Deliverer(store), trial) == model_id
    run_id = Deliverer(store).receipt(trial).run_id
    assert run_id
    run = client.get_run(run_id)
    assert [output.model_id for output in run.outputs.model_outputs] == [model_id]
    (found,) = client.search_logged_models([run.info.experiment_id])
    assert (found.model_id, found.source_run_id, found.name) == (model_id, run_id, "trial 0")
    assert found.status == LoggedModelStatus.READY
    assert found.params["train.lr"] == "0.0003"


@pytest.mark.parametrize("step", ["create_logged_model", "log_model_artifacts", "finalize_logged_model"])
@pytest.mark.slow
def test_an_upload_that_was_cut_short_goes_on(
    store: Store, client: MlflowClient, trial: Attempt, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    real = getattr(MlflowClient, step)

    def interrupted(self: MlflowClient, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(MlflowClient, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        deliver_model(Deliverer(store), trial)
    monkeypatch.undo()
    model_id = deliver_model(Deliverer(store), trial)
    run = client.get_run(str(Deliverer(store).receipt(trial).run_id))
    (found,) = client.search_logged_models([run.info.experiment_id])
    assert (found.model_id, found.status) == (model_id, LoggedModelStatus.READY)


def test_a_run_without_a_model_cannot_be_promoted(store: Store) -> None:
    trial = make_trial(store)
    with pytest.raises(InputError, match="kept no model"):
        shipped(store, trial, "gestures")


def test_a_deleted_run_cannot_be_promoted(store: Store, client: MlflowClient, trial: Attempt) -> None:
    client.delete_run(str(Deliverer(store).deliver(trial)))
    with pytest.raises(InputError, match="deleted in MLflow"):
        shipped(store, trial, "gestures")


@pytest.mark.slow
def test_a_deleted_model_stays_deleted(store: Store, client: MlflowClient, trial: Attempt) -> None:
    client.delete_logged_model(deliver_model(Deliverer(store), trial))
    with pytest.raises(InputError, match="its model was deleted in MLflow"):
        shipped(store, trial, "gestures")


@pytest.mark.slow
def test_a_model_becomes_one_version_of_its_name(store: Store, client: MlflowClient, trial: Attempt) -> None:
    assert shipped(store, trial, "gestures") == 1
    run_id = Deliverer(store).receipt(trial).run_id
    version = client.get_model_version_by_alias("gestures", "champion")
    assert (version.version, version.run_id) in ((1, run_id), ("1", run_id))
    model = client.get_logged_model(deliver_model(Deliverer(store), trial))
    assert client.get_model_version_download_uri("gestures", "1") == model.artifact_location
    assert version.tags["vidclf.attempt"] == "trial-1-0"

    assert shipped(store, trial, "gestures", alias="candidate") == 1
    assert client.get_model_version_by_alias("gestures", "candidate").run_id == run_id
    assert len(client.search_model_versions("name = 'gestures'")) == 1
    assert shipped(store, make_kept(store, 1), "gestures") == 2


@pytest.mark.slow
def test_classes_that_were_edited_after_the_registration_are_noticed(store: Store, trial: Attempt) -> None:
    shipped(store, trial, "gestures")
    card = resolve_model(store, "gestures@champion") / "vidclf.json"
    content = card.read_text()
    fields = json.loads(content)
    card.write_text(json.dumps({**fields, "classes": fields["classes"][::-1]}))
    for reference in ("gestures@champion", "gestures/1"):
        with pytest.raises(InputError, match="was changed after it was registered as gestures version 1"):
            resolve_model(store, reference)
    card.write_text(content)
    assert resolve_model(store, "gestures/1") == card.parent


def test_a_name_that_mlflow_refuses_is_bad_input(store: Store, trial: Attempt) -> None:
    with pytest.raises(InputError, match="a/b"):
        shipped(store, trial, "a/b")


@pytest.mark.slow
def test_the_registered_model_predicts_through_mlflow(store: Store, trial: Attempt, tmp_path: Path) -> None:
    shipped(store, trial, "gestures")
    mlflow.set_tracking_uri(store.mlflow_uri)
    served = mlflow.pyfunc.load_model("models:/gestures@champion")
    clip = tmp_path / "clip.avi"
    write_video(clip, np.zeros((4, 32, 32, 3), dtype=np.uint8))
    good, bad = served.predict([data_url(clip.read_bytes()), str(clip)])
    assert good == {
        "label": "jump",
        "probabilities": {"climb": 0.0, "jump": 0.75, "run": 0.25},
        "error": None,
    }
    assert bad["label"] is None
    assert bad["error"]


@pytest.mark.slow
def test_models_are_found_by_every_reference(store: Store, trial: Attempt, client: MlflowClient) -> None:
    shipped(store, trial, "gestures")
    run_id = Deliverer(store).receipt(trial).run_id
    assert run_id is not None
    for reference in (
        "gestures@champion",
        "gestures/1",
        run_id,
        str(trial.folder),
        str(trial.model),
    ):
        card = models.load_model(resolve_model(store, reference)).card
        assert card.classes == CLASSES, reference
    registered = resolve_model(store, "gestures@champion")
    assert registered.is_relative_to(store.artifacts)
    assert resolve_model(store, run_id) == trial.model
    trial.model.rename(trial.folder / "gone")
    assert resolve_model(store, run_id) == registered


@pytest.mark.slow
def test_a_model_on_a_server_is_downloaded_once(
    store: Store, trial: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped(store, trial, "gestures")
    local = resolve_model(store, "gestures/1").parents[1]
    downloads = []

    def download_artifacts(artifact_uri: str, dst_path: str, tracking_uri: str) -> str:
        downloads.append((artifact_uri, tracking_uri))
        return str(shutil.copytree(local, Path(dst_path, "artifacts")))

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download_artifacts)
    monkeypatch.setattr(MlflowClient, "get_model_version_download_uri", lambda *_: "mlflow-artifacts:/1/m")
    for _ in range(2):
        found = resolve_model(store, "gestures@champion")
        assert not found.is_relative_to(store.folder)
        assert models.load_model(found).card.classes == CLASSES
    assert downloads == [("mlflow-artifacts:/1/m", store.mlflow_uri)]


@pytest.mark.slow
def test_a_run_is_fetched_into_a_store_that_is_not_there_yet(
    store: Store, trial: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the first command on a machine that only looks at models of a server, say `vidclf watch`."""
    version = shipped(store, trial, "gestures")
    run_id = str(Deliverer(store).client.get_model_version("gestures", str(version)).run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.mlflow_uri)
    fetched = fetch_run(Store(tmp_path / "elsewhere"), run_id)
    assert fetched is not None
    assert fetched.identity().id == trial.identity().id
    assert (fetched.model / "vidclf.json").read_text() == (trial.model / "vidclf.json").read_text()
    assert find_store(tmp_path / "elsewhere").format_file.exists()


@pytest.mark.slow
def test_who_asks_while_a_model_is_downloaded_waits_for_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, calls = Barrier(2), []

    def download(artifact_uri: str, dst_path: str, tracking_uri: str) -> str:
        calls.append(artifact_uri)
        (Path(dst_path) / "got" / "artifacts" / "model").mkdir(parents=True)
        with contextlib.suppress(BrokenBarrierError):
            began.wait(0.5)  # the other one too, if nothing holds it back
        return f"{dst_path}/got"

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
    with ThreadPoolExecutor() as pool:
        tasks = [pool.submit(resolve._download, Deliverer(store), "mlflow-artifacts:/1/m") for _ in range(2)]
        folders = {task.result() for task in tasks}
    assert len(calls) == len(folders) == 1
    assert folders.pop().is_dir()


@pytest.mark.slow
@pytest.mark.parametrize(
    "reference", ["gesture@champion", "gestures@champ", "gesture", "gestures/7", "0" * 32, "nowhere"]
)
def test_an_unknown_model_is_answered_with_what_there_is(
    store: Store, trial: Attempt, reference: str
) -> None:
    with pytest.raises(InputError, match="nothing is registered yet"):
        resolve_model(store, reference)
    shipped(store, trial, "gestures")
    with pytest.raises(InputError, match="registered: gestures@champion") as caught:
        resolve_model(store, reference)
    if "@" in reference:
        assert "did you mean gestures@champion?" in str(caught.value)
    assert ("did you mean gestures?" in str(caught.value)) == (reference == "gesture")
    if reference == "gesture":
        with pytest.raises(InputError) as caught:
            history(Deliverer(store).client, reference)
        assert str(caught.value) == (
            "gesture: no such registered model, did you mean gestures? (there are gestures)"
        )


@pytest.mark.slow
def test_the_package_pins_what_is_installed_and_holds_no_pickle(
    store: Store, trial: Attempt, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = model_package.metadata.version
    monkeypatch.setattr(model_package.metadata, "version", lambda name: f"{installed(name)}+cu132")
    shipped(store, trial, "gestures")
    monkeypatch.undo()
    folder = resolve_model(store, "gestures/1").parents[1]
    assert not list(folder.rglob("*.pkl"))
    pins = (folder / "requirements.txt").read_text().split()
    assert pins == [f"{name}=={installed(name)}" for name in sorted(model_package.REQUIREMENTS)]
    assert (folder / "code" / "vidclf" / "runs" / "store.py").is_file()
