"""`vidclf shrink`: a network in fewer bits is a run beside its parent, compared, promoted and served."""

import json
import urllib.parse
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.clips import write_experiment
from tests.command import run
from tests.comparison.fabricated import add_study
from tests.saved_models import save_model, save_parent
from vidclf import config
from vidclf.comparison.parents import beside_parent
from vidclf.data.manifest import Manifest, Split, write_manifest
from vidclf.evaluation.predictions import write_predictions
from vidclf.exceptions import InputError
from vidclf.registry import shrink as work
from vidclf.runs.experiment import load_experiment
from vidclf.runs.folder import Attempt, Identity, Outcome
from vidclf.runs.store import Store
from vidclf.search.record.study import find_study
from vidclf.tracking.deliverer import Deliverer
from vidclf.tracking.model_package import deliver_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_a_network_is_shrunk_compared_promoted_and_served(
    tmp_path: Path, squares: Manifest, store: Store
) -> None:
    pytest.importorskip("onnxruntime")
    parent = save_parent(tmp_path, squares, "volume3d")
    answer = json.loads(run("shrink", parent, "--precision", "int8", "--json").stdout)
    assert answer["parent"] == str(parent)
    (made,) = answer["models"]
    figures = made["metrics"]
    assert (made["precision"], made["clips"]) == ("int8", 4)
    assert figures["size/file_mb"] < 0.5 * figures["parent/size/file_mb"]
    assert figures["latency/p50_ms"] > 0
    assert figures["parent/latency/p50_ms"] > 0
    assert 0 <= figures["parent/val/macro_f1"] <= 1

    again = json.loads(run("shrink", parent, "--precision", "int8", "--json").stdout)
    assert [each["run_id"] for each in again["models"]] == [made["run_id"]]

    compared = json.loads(run("compare", "--json").stdout)
    (row,) = [row for row in compared["rows"] if row["run_id"] == made["run_id"]]
    assert (row["model"], row["network"], row["params"]["model.precision"]) == ("onnx", "tiny3d", "int8")
    (note,) = [note for note in compared["notes"] if "beside its parent" in note]
    assert f"{made['alike']} of 4 clips labelled alike" in note
    assert str(parent) in note
    compared = json.loads(run("compare", made["run_id"], "--json").stdout)
    assert [row["run_id"] for row in compared["rows"] if row["origin"] == "run"] == [made["run_id"]]

    run("promote", made["run_id"], "--as", "squares", "--accept", "untested", "--json")
    clip = squares.entries[0].clip_path
    (said,) = json.loads(run("predict", "squares@champion", clip, "--json").stdout)
    (own,) = json.loads(run("predict", made["model_dir"], clip, "--json").stdout)
    assert said["probabilities"] == own["probabilities"]
    deliverer, attempt = Deliverer(store), Attempt(Path(made["model_dir"]).parent)
    logged = deliverer.client.get_logged_model(deliver_model(deliverer, attempt))
    folder = Path(urllib.parse.unquote(logged.artifact_location.removeprefix("file://")))
    assert "onnxruntime==" in (folder / "requirements.txt").read_text()


def test_what_cannot_be_shrunk_is_answered(tmp_path: Path, squares: Manifest, store: Store) -> None:
    pytest.importorskip("onnxruntime")
    assert "no study or run" in run("shrink", "nothing", expect=2).stderr
    save_model(tmp_path / "majority")
    shrunk = run("shrink", tmp_path / "majority", expect=2)
    assert "of the kind 'majority', which has no network" in shrunk.stderr
    parent = save_parent(tmp_path, squares)
    manifest = tmp_path / "manifest.csv"
    card = json.loads((parent / "vidclf.json").read_text())
    card["experiment"]["data"]["manifest"] = str(manifest)
    (parent / "vidclf.json").write_text(json.dumps(card))
    assert "no such manifest" in run("shrink", parent, expect=2).stderr.replace("\n", " ")
    turned: dict[Split, Split] = {"train": "val", "val": "train", "test": "test"}
    write_manifest([replace(entry, split=turned[entry.split]) for entry in squares.entries], manifest)
    refused = run("shrink", parent, expect=2).stderr.replace("\n", " ")
    assert "6 of the 6 clips that it has learned from are not in train here" in refused
    write_manifest([replace(entry, label=f"{entry.label} 2") for entry in squares.entries], manifest)
    refused = run("shrink", parent, expect=2).stderr.replace("\n", " ")
    assert "has other classes than" in refused


def table(guesses: str) -> pd.DataFrame:
    """Two clips of ten groups, one of each class, and what is said of them."""
    labels = "ab" * 10
    return pd.DataFrame(
        {
            "clip_path": [f"{place}.avi" for place in range(20)],
            "group": [f"g{place // 2}" for place in range(20)],
            "label": list(labels),
            "predicted": list(guesses),
            "correct": [guess == label for guess, label in zip(guesses, labels, strict=True)],
            "confidence": 0.9,
        }
    )


def timed(median: float, load: float = 0.0) -> dict[str, float]:
    return {
        "latency/p50_ms": median,
        "latency/p50_low_ms": 0.95 * median,
        "latency/p50_high_ms": 1.05 * median,
        "latency/file_p50_ms": median + 5,
        "latency/other_load": load,
    }


RIGHT, HALF = "ab" * 10, "a" * 20


@pytest.mark.parametrize(
    ("said", "ms", "load", "words", "pays"),
    [
        (RIGHT, 5.0, 0.0, ": no difference can be told; 2.0 times faster, 4.0 times smaller.", True),
        (RIGHT, 20.0, 0.0, ": no difference can be told; 2.0 times slower, 4.0 times smaller.", False),
        (HALF, 5.0, 0.0, "at 95 %: it is worse; 2.0 times faster", False),
        (RIGHT[:-1] + "a", 5.0, 0.0, "at 95 %: no difference can be told; 2.0 times faster", True),
        (RIGHT, 5.0, 0.5, "not told faster nor slower, as other programs used 50 %", True),
        (RIGHT, 30.0, 0.5, "not told faster nor slower, as other programs used 50 %", None),
    ],
)
def test_beside_its_parent_a_model_pays_or_not(  # noqa: PLR0917
    said: str, ms: float, load: float, words: str, pays: bool | None, tmp_path: Path
) -> None:
    attempt = Attempt(tmp_path)
    attempt.create(Identity("id", "experiment", "run", None, 0))
    write_predictions(table(said), attempt.artifacts / "val")
    write_predictions(table(RIGHT), attempt.artifacts / "parent")
    parents = {f"parent/{name}": value for name, value in {**timed(10, load), "size/file_mb": 4.0}.items()}
    scores = {"val/macro_f1": 0.9, "parent/val/macro_f1": 1.0}
    attempt.finish(Outcome("complete", "", {**timed(ms, load), "size/file_mb": 1.0, **scores, **parents}, 0))
    found = beside_parent(attempt, "macro_f1")
    assert found is not None
    assert words in found.words("it", "its parent")
    assert found.pays is pays


def test_of_a_study_the_best_network_is_taken(tmp_path: Path, squares: Manifest, store: Store) -> None:
    bases = {
        stem: config.dump(load_experiment(write_experiment(tmp_path / f"{stem}.toml", kind, squares.path)))
        for stem, kind in (("svm", "svm"), ("tiny", "frames2d"))
    }
    add_study(store, "s", bases, squares.digest())
    with pytest.raises(InputError, match="trial 2 of s, its best network: the model is not kept"):
        work.find_parent("s", store)
    find_study("s", store).attempt(2).model.mkdir()
    assert work.find_parent("s", store).label == "trial 2 of s"
    add_study(store, "classical", {"svm": bases["svm"]}, squares.digest(), [("svm", 0.9, 20.0, 2.0)])
    with pytest.raises(InputError, match="classical: none of its trials is of a network"):
        work.find_parent("classical", store)


def test_a_run_of_no_parent_is_beside_none(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path)
    attempt.create(Identity("id", "experiment", "run", None, 0))
    write_predictions(table(RIGHT), attempt.artifacts / "val")
    assert beside_parent(attempt, "macro_f1") is None


def test_what_was_made_of_a_run_is_compared_with_it(store: Store) -> None:
    attempts = {name: store.attempt("train", name) for name in ("network", "graph", "another")}
    for name, attempt in attempts.items():
        attempt.create(Identity(name, "experiment", name, None, 0, tags={"vidclf.data_digest": "same"}))
        model = (
            f'kind = "onnx"\nparent = "{attempts["network"].model}"' if name == "graph" else 'kind = "svm"'
        )
        attempt.config.write_text(f'[data]\nmanifest = "/none/manifest.csv"\n[model]\n{model}\n')
        write_predictions(table(RIGHT), attempt.artifacts / "val")
        attempt.finish(Outcome("complete", "", {"val/macro_f1": 1.0, "parent/val/macro_f1": 1.0}, 0))
    write_predictions(table(RIGHT[:-1] + "a"), attempts["graph"].artifacts / "parent")
    compared = json.loads(run("compare", "network", "--json").stdout)
    assert {row["name"] for row in compared["rows"]} == {"run network", "run graph"}
    (note,) = [note for note in compared["notes"] if "beside its parent" in note]
    assert note.startswith("run graph beside its parent, network: macro F1 1.000 and 1.000 on val, 19 of 20")
