"""A store with two studies and a run to compare."""

from pathlib import Path

import pytest

from tests.attempts import fresh_store
from tests.clips import write_experiment
from tests.comparison.fabricated import add_study, identity, write_predictions
from vidclf import config
from vidclf.data.manifest import Manifest
from vidclf.evaluation.ranking import LATENCY, SIZE
from vidclf.runs.experiment import load_experiment
from vidclf.runs.folder import Outcome
from vidclf.runs.store import TRAIN, Store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, squares: Manifest) -> tuple[Store, Path]:
    """Two studies of different clips, a single run on those of the first, and a folder of experiments."""
    folder = tmp_path_factory.mktemp("made")
    store = fresh_store(folder, tmp_path_factory)
    experiments = folder / "experiments"
    (experiments / "squares").mkdir(parents=True)
    published = '[published]\nsource = "A script"\n[published.metrics]\n"test/accuracy" = 0.99\n'
    path = write_experiment(experiments / "squares" / "known.toml", "volume3d", squares.path)
    path.write_text(path.read_text() + published)
    (experiments / "other.toml").write_text(
        f'[data]\nmanifest = "elsewhere/manifest.csv"\n[model]\nkind = "svm"\n{published}'
    )
    trees = {}
    for stem, kind in (("svm", "svm"), ("tiny", "frames2d")):
        path = write_experiment(folder / f"{stem}.toml", kind, squares.path)
        trees[stem] = config.dump(load_experiment(path))
    here, there = squares.digest(), "f" * 64
    add_study(store, "s", trees, here)
    add_study(store, "foreign", trees, there, [("svm", 0.99, 1.0, 0.1)])
    run = store.attempt(TRAIN, "svm-1")
    run.create(identity("svm", here))
    config.write_toml(trees["svm"], run.config)
    scores = {"val/macro_f1": 0.7, "val/accuracy": 0.7, SIZE: 2.0, LATENCY: 20.0}
    run.finish(Outcome("complete", "", scores, 2))
    write_predictions(store.attempt("s-s-012345", "00000"), squares, [0.9, 0.2, 0.9, 0.9])
    write_predictions(store.attempt("s-s-012345", "00002"), squares, [0.6, 0.1, 0.4, 0.9])
    return store, experiments


@pytest.fixture
def beside(made: tuple[Store, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder has ``experiments``."""
    monkeypatch.chdir(made[1].parent)
