"""A run as a folder: the same for every kind of model."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.clips import write_experiment, write_squares
from tests.saved_models import save_parent
from vidclf.data import cache
from vidclf.data.guarded import GuardedDecoder, Limits
from vidclf.data.manifest import content_digest, read_manifest
from vidclf.evaluation.calibration import apply_temperature
from vidclf.exceptions import InputError, TrialPruned
from vidclf.inference.predict import predict_files
from vidclf.models import MODELS, feature_store, load_model
from vidclf.runs.experiment import load_experiment, prepare, provenance, run_experiment
from vidclf.runs.folder import Attempt, Identity, Outcome

KINDS = sorted(MODELS)
ROOT = Path(__file__).parents[2]


def attempt(folder: Path) -> Attempt:
    made = Attempt(folder / "attempt")
    made.create(Identity("id", "experiment", "run", None, 0))
    return made


def quiet(step: int, metrics: Mapping[str, float]) -> None:
    """A report that lets everything pass."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"), groups=6)


def test_there_are_kinds_to_test() -> None:
    assert KINDS == [
        "boosting",
        "forest",
        "frames2d",
        "knn",
        "logistic",
        "majority",
        "onnx",
        "svm",
        "volume3d",
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_every_kind_leaves_the_same_folder(kind: str, manifest: Path, tmp_path: Path) -> None:
    if kind == "onnx":
        save_parent(tmp_path, read_manifest(manifest))
    train = {"train": "epochs = 2\nbatch_size = 4"} if kind in ("frames2d", "volume3d") else {}
    experiment = load_experiment(write_experiment(tmp_path / "x.toml", kind, manifest, **train))
    made = attempt(tmp_path)
    outcome = run_experiment(experiment, made, quiet)

    assert (outcome.status, outcome.reason) == ("complete", "")
    assert made.outcome() == outcome
    for key in ("val/accuracy", "val/macro_f1", "val/loss", "size/file_mb", "size/parameters"):
        assert np.isfinite(outcome.metrics[key])
    assert outcome.metrics["cost/fit_seconds"] > 0
    assert not any(key.startswith("test/") for key in outcome.metrics)

    table = pd.read_csv(made.artifacts / "val/predictions.csv")
    val = read_manifest(manifest).split("val")
    assert set(table["clip_path"]) == {str(entry.clip_path) for entry in val}
    assert table["correct"].mean() == pytest.approx(outcome.metrics["val/accuracy"])
    wrong = pd.read_csv(made.artifacts / "val/wrong_clips.csv")
    assert len(wrong) == (~table["correct"]).sum()
    assert (made.artifacts / "val/confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    assert "macro avg" in (made.artifacts / "val/classification_report.txt").read_text()
    assert "torch" in json.loads((made.artifacts / "environment.json").read_text())
    assert (made.artifacts / "learning_curves.png").exists() == (kind in ("frames2d", "volume3d"))

    again = load_experiment(made.config)
    assert again == experiment.resolved()

    saved = load_model(made.model)
    assert saved.card.classes == ("down", "right")
    assert {clip for clip, _ in saved.card.trained_on} == {clip for clip, *_ in _contents(manifest, "train")}
    paths = [Path(path) for path in table["clip_path"]]
    unscaled = table[["probability/down", "probability/right"]].to_numpy()
    np.testing.assert_allclose(
        saved.predict(paths), apply_temperature(unscaled, saved.card.temperature), atol=1e-5
    )
    assert set(table["group"]) == {entry.group for entry in val}
    neural = kind in ("frames2d", "volume3d", "onnx")
    assert outcome.metrics.get("calibration/temperature", 1.0) == saved.card.temperature
    assert ("calibration/loss_after" in outcome.metrics) == neural
    assert (made.artifacts / "val/reliability.png").read_bytes().startswith(b"\x89PNG")


def _contents(manifest: Path, split: str) -> list[tuple[str, str]]:
    return [
        (content_digest(entry.clip_path), entry.group)
        for entry in read_manifest(manifest).entries
        if entry.split == split
    ]


@pytest.mark.slow
def test_epochs_are_journalled_as_they_happen(manifest: Path, tmp_path: Path) -> None:
    path = write_experiment(tmp_path / "x.toml", "frames2d", manifest, train="epochs = 2\npatience = 5")
    made = attempt(tmp_path)
    seen: list[int] = []

    def report(step: int, metrics: Mapping[str, float]) -> None:
        seen.append(step)
        assert [line for line, _ in made.records()][-1] == step

    run_experiment(load_experiment(path), made, report)
    assert seen == [0, 1, 2]
    records = list(made.records())
    assert records[0][1]["size/file_mb"] > 0
    assert {"epoch/train/loss", "epoch/val/loss", "epoch/val/macro_f1"} <= records[1][1].keys()
    assert records[-1][0] == 2
    assert "val/macro_f1" in records[-1][1]


def test_a_pruned_run_says_why_and_saves_no_model(manifest: Path, tmp_path: Path) -> None:
    def report(step: int, metrics: Mapping[str, float]) -> None:
        if step == 1:
            raise TrialPruned("hopeless")

    made = attempt(tmp_path)
    path = write_experiment(tmp_path / "x.toml", "frames2d", manifest, train="epochs = 3")
    outcome = run_experiment(load_experiment(path), made, report)
    assert (outcome.status, outcome.reason, outcome.metrics) == ("pruned", "hopeless", {})
    assert not made.model.exists()


def test_a_crash_is_a_failure_with_its_traceback(manifest: Path, tmp_path: Path) -> None:
    def report(step: int, metrics: Mapping[str, float]) -> None:
        raise ValueError("no such luck")

    made = attempt(tmp_path)
    path = write_experiment(tmp_path / "x.toml", "frames2d", manifest)
    outcome = run_experiment(load_experiment(path), made, report)
    assert (outcome.status, outcome.reason) == ("failed", "ValueError: no such luck")
    assert re.fullmatch(r"ValueError at test_experiment\.py:\d+", outcome.fingerprint)
    assert "no such luck" in (made.artifacts / "traceback.txt").read_text()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(manifest: Path, tmp_path: Path) -> None:
    path = write_experiment(tmp_path / "x.toml", "volume3d", manifest, train='epochs = 2\nprecision = "fp32"')
    outcomes: list[Outcome] = []
    for name in ("first", "second"):
        outcomes.append(run_experiment(load_experiment(path), attempt(tmp_path / name), quiet))
    values = [{k: v for k, v in outcome.metrics.items() if k.startswith("val/")} for outcome in outcomes]
    assert values[0] == values[1]


def test_preparing_names_every_bad_clip(tmp_path: Path) -> None:
    manifest = write_squares(tmp_path / "squares", groups=4)
    entries = read_manifest(manifest).entries
    entries[0].clip_path.write_bytes(b"")
    entries[1].clip_path.write_text("not a video")
    experiment = load_experiment(write_experiment(tmp_path / "x.toml", "majority", manifest))
    with pytest.raises(InputError) as caught:
        prepare(experiment)
    text = str(caught.value)
    assert f"{entries[0].clip_path}: unreadable" in text
    assert f"{entries[1].clip_path}: unreadable" in text


@pytest.mark.slow
def test_preparing_computes_features_once(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "_MEMO", {})
    experiments = {
        kind: load_experiment(write_experiment(tmp_path / f"{kind}.toml", kind, manifest))
        for kind in ("svm", "frames2d", "majority")
    }
    clips = len(read_manifest(manifest).split("train")) + len(read_manifest(manifest).split("val"))
    once = [(done, clips) for done in range(1, clips + 1)]
    for kind, phases in (("majority", 1), ("frames2d", 1), ("svm", 2)):
        told: list[tuple[int, int]] = []
        prepare(experiments[kind], lambda done, total, told=told: told.append((done, total)))
        assert sorted(told) == sorted(once * phases)
        assert cache.usage().entries.get("features", 0) == (clips if phases == 2 else 0)
    monkeypatch.setattr(feature_store, "compute_features", None)
    prepare(experiments["svm"])
    outcome = run_experiment(experiments["svm"], attempt(tmp_path), quiet)
    assert outcome.status == "complete", outcome.reason


def test_an_empty_val_split_is_refused(tmp_path: Path) -> None:
    manifest = write_squares(tmp_path / "squares", groups=1)
    experiment = load_experiment(write_experiment(tmp_path / "x.toml", "majority", manifest))
    with pytest.raises(InputError, match="split val is empty"):
        prepare(experiment)


@pytest.mark.slow
def test_folds_take_turns_as_val_even_where_the_manifest_has_none(tmp_path: Path) -> None:
    manifest = write_squares(tmp_path / "squares", groups=6)
    manifest.write_text(manifest.read_text().replace(",val", ",train"))
    text = "folds = 2\nfold = {}"
    held_out = []
    for fold in range(2):
        path = write_experiment(tmp_path / f"{fold}.toml", "majority", manifest, data=text.format(fold))
        made = attempt(tmp_path / str(fold))
        assert run_experiment(load_experiment(path), made, quiet).status == "complete"
        held_out.append(set(pd.read_csv(made.artifacts / "val/predictions.csv")["clip_path"]))
    tested = {str(entry.clip_path) for entry in read_manifest(manifest).split("test")}
    assert not held_out[0] & held_out[1]
    assert len(held_out[0] | held_out[1]) == 10
    assert not (held_out[0] | held_out[1]) & tested


@pytest.mark.parametrize(("folds", "fold"), [(1, 0), (3, 3), (0, 1)])
def test_impossible_folds_are_refused(tmp_path: Path, folds: int, fold: int) -> None:
    path = write_experiment(
        tmp_path / "x.toml", "majority", tmp_path / "m.csv", data=f"folds = {folds}\nfold = {fold}"
    )
    with pytest.raises(InputError, match=r"data\.fold"):
        load_experiment(path)


def test_provenance_names_data_and_splits(manifest: Path, tmp_path: Path) -> None:
    experiment = load_experiment(write_experiment(tmp_path / "x.toml", "majority", manifest))
    read = read_manifest(manifest)
    tags = provenance(experiment, read)
    assert tags["split/grouped"] == "true"
    assert tags["vidclf.data_digest"] == read.digest()
    assert len({tags[f"vidclf.{split}_digest"] for split in ("train", "val", "test")}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[data]\nmanifest = 'm.csv'", "model.kind is required: one of frames2d"),
        (
            "[model]\nkind = 'smv'",
            "'smv' is none of frames2d, volume3d, svm, logistic, forest, boosting, knn, majority, onnx, "
            "did you mean svm?",
        ),
        ("[model]\nkind = 'svm'", "data is required"),
        ("[model]\nkind = 'svm'\n[data]\nmanifest = 'm'\nfrmaes = 3", "did you mean data.frames?"),
        ("[model]\nkind = 'svm'\n[data]\nmanifest = 'm'\n[train]\nlr = 1.0", "unknown key train"),
        (
            "[model]\nkind = 'svm'\n[data]\nmanifest = 'm'\nframes = 65",
            "data.frames = 65 is larger than data.grid = 64",
        ),
    ],
)
def test_a_bad_experiment_is_one_clear_message(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_experiment(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_published_figure_is_part_of_the_file_not_of_the_question(manifest: Path, tmp_path: Path) -> None:
    path = write_experiment(tmp_path / "x.toml", "majority", manifest, published='source = "a paper"')
    published = load_experiment(path).published
    assert published is not None
    assert published.source == "a paper"


EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.toml"))


def test_there_are_experiment_files() -> None:
    names = {path.relative_to(ROOT / "experiments").as_posix() for path in EXPERIMENTS}
    assert {"gestures3/svm.toml", "gestures3/squeezenet.toml", "gestures3/r3d18-head.toml"} <= names


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_experiment_file_loads_and_resolves(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDCLF_DATA", "/clips")
    experiment = load_experiment(path)
    assert experiment.data.manifest == f"/clips/{path.parent.name}/manifest.csv"
    assert experiment.kind == "majority" or experiment.resolved().data.size is not None


@pytest.mark.slow
def test_a_model_that_sees_later_pictures_is_served_as_it_was_judged(manifest: Path, tmp_path: Path) -> None:
    model = 'flow_seconds = 0.08\npyramid = true\nfollow = true\nmirror = true\nscale = "block"'
    file = write_experiment(tmp_path / "x.toml", "svm", manifest, model=model)
    experiment = load_experiment(file, {"model.features": ["hof", "difference"]})
    made = attempt(tmp_path)
    run_experiment(experiment, made, quiet)
    judged = pd.read_csv(made.artifacts / "val/predictions.csv")
    videos = [Path(name) for name in judged["clip_path"]]
    saved = load_model(made.model)
    assert saved.card.apart == 0.08
    columns = [f"probability/{name}" for name in saved.card.classes]
    wanted = judged[columns].to_numpy()
    np.testing.assert_allclose(saved.predict(videos), wanted, atol=1e-6)
    by_window = predict_files(saved, videos, window=1000)
    found = [[item.probabilities[name] for name in saved.card.classes] for item in by_window]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    decoder = GuardedDecoder(saved.card.grid, saved.card.store_side, Limits(), saved.card.apart)
    frames = decoder.decode(videos[0])
    decoder.close()
    np.testing.assert_allclose(saved.predict_frames(videos[0], frames)[0], wanted[0], atol=1e-6)
