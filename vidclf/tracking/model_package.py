"""A kept model as an MLflow logged model: plain files and the code that loads them, no pickle."""

import base64
import json
import re
import tempfile
import warnings
from importlib import metadata
from pathlib import Path

import mlflow.pyfunc
import numpy as np
from mlflow.entities import LifecycleStage, LoggedModel, LoggedModelOutput, LoggedModelStatus, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from vidclf.data.video import write_video
from vidclf.exceptions import InputError
from vidclf.models import MODELS, pose
from vidclf.models.providers import packages
from vidclf.models.saved import ModelMetadata, check_folder, read_card
from vidclf.runs.folder import Attempt
from vidclf.runs.store import locked
from vidclf.tracking.deliverer import Deliverer

_PACKAGE = Path(__file__).parents[1]
REQUIREMENTS = (
    "av",
    "filelock",
    "fsspec",
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "pandas",
    "platformdirs",
    "pydantic",
    "safetensors",
    "scikit-image",
    "scikit-learn",
    "scipy",
    "skops",
    "tomli-w",
    "torch",
    "torchvision",
)
"""What every served model imports; pinned to what is installed, as guessing them costs MLflow seconds."""
_EXAMPLE, _SERVING_EXAMPLE = "input_example.json", "serving_input_example.json"
"""MLflow's names of the example that it shows, and of the request with it that it sends."""


def deliver_model(deliverer: Deliverer, attempt: Attempt) -> str:
    """Makes the attempt's model known to MLflow; costs a copy of its files the first time.

    Returns:
        The logged model's id.

    Raises:
        InputError: The attempt kept no model, its run or model was deleted in MLflow, or MLflow is away.
    """
    try:
        return _deliver_model(deliverer, attempt)
    except MlflowException as error:
        name = attempt.identity().run_name
        raise InputError(f"{name}: MLflow did not take its model: {error.message}") from None


def _deliver_model(deliverer: Deliverer, attempt: Attempt) -> str:
    if not attempt.model.is_dir():
        raise InputError(f"{attempt.folder}: this run kept no model")
    check_folder(attempt.model)
    run_id = deliverer.deliver(attempt)
    run = deliverer.client.get_run(run_id) if run_id else None
    if run is None or run.info.lifecycle_stage != LifecycleStage.ACTIVE:
        raise InputError(
            f"{attempt.identity().run_name}: its run was deleted in MLflow; restore it there first"
        )
    model = _existing(deliverer, run)
    if model is None and deliverer.receipt(attempt).model_id is not None:
        raise InputError(f"{run.info.run_name}: its model was deleted in MLflow")
    model = model or _create(deliverer, run)
    _remember(deliverer, attempt, model)
    if model.status != LoggedModelStatus.READY:
        with tempfile.TemporaryDirectory(prefix="vidclf-") as scratch:
            package = Path(scratch, "model")
            _write_package(attempt, package, model)
            deliverer.client.log_model_artifacts(model.model_id, str(package))
        deliverer.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    outputs = run.outputs.model_outputs if run.outputs else []
    if model.model_id not in {output.model_id for output in outputs}:
        deliverer.client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id)


def _existing(deliverer: Deliverer, run: Run) -> LoggedModel | None:
    """The run's logged model, also one whose upload was cut short."""
    found = deliverer.client.search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{run.info.run_id}'"
    )
    return found[0] if found else None


def _create(deliverer: Deliverer, run: Run) -> LoggedModel:
    name = re.sub(r"[/:.%\"']+", "-", run.info.run_name) or "model"
    return deliverer.client.create_logged_model(
        run.info.experiment_id, name, run.info.run_id, params=run.data.params, model_type="video classifier"
    )


def _remember(deliverer: Deliverer, attempt: Attempt, model: LoggedModel) -> None:
    with locked(attempt.folder):
        receipt = deliverer.receipt(attempt)
        receipt.model_id = model.model_id
        receipt.save(attempt)


def example_input() -> list[str]:
    """What a served model takes: a list of one clip, a square that moves right, as a ``data:`` URL."""
    frames = np.zeros((8, 64, 64, 3), dtype=np.uint8)
    for time, frame in enumerate(frames):
        frame[24:40, 6 * time : 6 * time + 16] = 220
    with tempfile.TemporaryDirectory(prefix="vidclf-") as folder:
        clip = Path(folder, "clip.mp4")
        write_video(clip, frames)
        return [f"data:video/mp4;base64,{base64.b64encode(clip.read_bytes()).decode()}"]


def imported_by(card: ModelMetadata) -> list[str]:
    """What a saved model imports, as pip names it."""
    own = MODELS[card.kind].packages
    if own is None:
        described = card.experiment.get("model", {})
        own = packages(described.get("network"))
        own += pose.PACKAGES if described.get("pose_model") else ()
    return [*REQUIREMENTS, *own]


def _write_package(attempt: Attempt, package: Path, model: LoggedModel) -> None:
    card = read_card(attempt.model)
    imported = imported_by(card)
    with warnings.catch_warnings(record=True):  # mlflow remarks that an answer's values differ in type
        mlflow.pyfunc.save_model(
            package,
            python_model=str(_PACKAGE / "registry" / "serving.py"),
            artifacts={"model": str(attempt.model)},
            code_paths=[str(_PACKAGE)],
            # Without what names a build, as +cu132: another machine wants its own.
            pip_requirements=[f"{name}=={metadata.version(name).partition('+')[0]}" for name in imported],
            mlflow_model=Model(
                artifact_path=model.artifact_location,
                run_id=model.source_run_id,
                model_uuid=model.model_id,
                model_id=model.model_id,
                saved_input_example_info={
                    "artifact_path": _EXAMPLE,
                    "serving_input_path": _SERVING_EXAMPLE,
                    "type": "json_object",
                },
            ),
        )
    # Given to mlflow the example would have it load the model here, and leave it loaded.
    example = example_input()
    (package / _EXAMPLE).write_text(json.dumps(example), encoding="utf-8")
    (package / _SERVING_EXAMPLE).write_text(json.dumps({"inputs": example}), encoding="utf-8")
