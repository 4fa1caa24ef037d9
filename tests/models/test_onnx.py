"""Networks as ONNX graphs: what they predict, what is refused, and what their files may hold."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.clips import write_experiment
from tests.saved_models import save_model, save_parent
from vidclf.data.clips import ClipSet
from vidclf.data.manifest import Manifest
from vidclf.exceptions import InputError
from vidclf.models import MODELS, graphs, load_model
from vidclf.models.onnx_classifier import GRAPH, OnnxClassifier
from vidclf.models.saved import read_card, write_card
from vidclf.models.video_network import ProbabilityGraph, VideoNetwork
from vidclf.runs.experiment import clip_sets, load_experiment, portable

pytestmark = pytest.mark.usefixtures("one_thread")


def quiet(*_: object) -> None:
    """A report that lets everything pass."""


def clips_of(squares: Manifest, folder: Path) -> tuple[ClipSet, ClipSet]:
    return clip_sets(load_experiment(folder / "parent" / "frames2d.toml"), squares)


@pytest.fixture(scope="module", params=["fp32", "int8"])
def made(
    request: pytest.FixtureRequest, squares: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[OnnxClassifier, Path]:
    """A graph of a network that averages three views, and the folder that both are saved below."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp(request.param)
    parent = save_parent(folder, squares, eval_views=3, pooling='"attention"')
    experiment = load_experiment(
        write_experiment(folder / "x.toml", "onnx", squares.path, model=f'precision = "{request.param}"')
    ).resolved()
    classifier: OnnxClassifier = MODELS["onnx"].build(experiment, squares.classes)
    train, val = clips_of(squares, folder)
    classifier.fit(train, val, quiet)
    (folder / "model").mkdir()
    classifier.save(folder / "model")
    card = dataclasses.replace(read_card(parent), kind="onnx", temperature=1.0)
    write_card(card, folder / "model")
    return classifier, folder


@pytest.mark.slow
def test_a_graph_predicts_what_its_parent_does(made: tuple[OnnxClassifier, Path], squares: Manifest) -> None:
    classifier, folder = made
    _, val = clips_of(squares, folder)
    parent = load_model(folder / "parent" / "model").classifier
    given, expected = classifier.predict_proba(val), parent.predict_proba(val)
    np.testing.assert_allclose(given, expected, atol=0.02 if classifier.precision == "fp32" else 0.1)
    np.testing.assert_allclose(given.sum(axis=1), 1)
    loaded = load_model(folder / "model").classifier
    np.testing.assert_array_equal(loaded.predict_proba(val), given)
    np.testing.assert_allclose(loaded.batched(3).predict_proba(val), given, atol=1e-5)
    assert classifier.describe() == {
        name: parent.describe()[name] for name in ("size/parameters", "cost/macs")
    }
    assert loaded.computation() == {
        "device": "cpu",
        "precision": classifier.precision,
        "layout": "contiguous",
    }
    np.testing.assert_allclose(np.exp(loaded.embed(val)), given, atol=1e-6)
    weights = (folder / "parent" / "model" / "weights.safetensors").stat().st_size
    share = (folder / "model" / GRAPH).stat().st_size / weights
    assert share < 0.6 if classifier.precision == "int8" else share < 1.3
    torch.set_num_threads(2)  # as a latency is measured; the fixture takes it back
    np.testing.assert_allclose(loaded.predict_proba(val), given, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("made", ["int8"], indirect=True)
def test_to_predict_takes_neither_the_network_nor_what_wrote_the_graph(
    made: tuple[OnnxClassifier, Path], squares: Manifest
) -> None:
    _, folder = made
    code = (
        "import sys; from pathlib import Path; from vidclf.models import load_model;"
        "load_model(Path(sys.argv[1])).predict([Path(sys.argv[2])]);"
        "print([name for name in ('onnx', 'onnxscript', 'vidclf.models.classifier') if name in sys.modules])"
    )
    clip = squares.entries[0].clip_path
    command = [sys.executable, "-c", code, str(folder / "model"), str(clip)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.slow
def test_what_is_no_graph_of_its_settings_is_refused(
    made: tuple[OnnxClassifier, Path], tmp_path: Path
) -> None:
    """Of its own file, of another shape, and one whose weights lie in some other file."""
    onnx = pytest.importorskip("onnx")
    classifier, folder = made
    (model := tmp_path / "model").mkdir()
    classifier.save(model)
    write_card(read_card(folder / "model"), model)
    settings = json.loads((model / "onnx.json").read_text())
    (model / "onnx.json").write_text(json.dumps({**settings, "classes": 3}))
    with pytest.raises(InputError, match=r"takes and gives .*, and not "):
        load_model(model)
    (model / "onnx.json").write_text(json.dumps(settings))
    stolen = onnx.load_model_from_string(classifier.graph_)
    held = max(stolen.graph.initializer, key=lambda each: len(each.raw_data))
    (tmp_path / "secret").write_bytes(held.raw_data)
    for place in ("../secret", str(tmp_path / "secret"), "secret"):
        held.ClearField("raw_data")
        held.ClearField("external_data")
        held.data_location = onnx.TensorProto.EXTERNAL
        entry = held.external_data.add()
        entry.key, entry.value = "location", place
        (model / GRAPH).write_bytes(stolen.SerializeToString())
        with pytest.raises(InputError, match="the saved model is damaged"):
            load_model(model)
    (model / GRAPH).write_bytes(classifier.graph_[: len(classifier.graph_) // 2])
    with pytest.raises(InputError, match="the saved model is damaged"):
        load_model(model)


def test_a_parent_that_will_not_do_says_why(squares: Manifest, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")

    def check(parent: str, **sections: str) -> None:
        file = write_experiment(tmp_path / "x.toml", "onnx", squares.path, **sections)
        file.write_text(file.read_text().replace("parent/model", parent))
        load_experiment(file).check_weights()

    with pytest.raises(InputError, match="absent: not a saved model"):
        check("absent")
    save_model(tmp_path / "majority")
    with pytest.raises(InputError, match="of the kind 'majority', which has no network"):
        check("majority")
    save_parent(tmp_path, squares)
    check("parent/model")
    with pytest.raises(InputError, match=r"data.store_side = 100, but of .*parent/model it is 256"):
        check("parent/model", data="store_side = 100")
    with pytest.raises(InputError, match=r"model.network = resnet18, but of .* it is tiny2d"):
        check("parent/model", model='network = "resnet18"')


def test_a_parent_that_may_have_seen_val_is_refused(squares: Manifest, tmp_path: Path) -> None:
    parent = save_parent(tmp_path, squares)
    experiment = load_experiment(write_experiment(tmp_path / "x.toml", "onnx", squares.path))
    train, val = clips_of(squares, tmp_path)
    with pytest.raises(InputError, match="6 of the 6 clips that it has learned from are not in train here"):
        MODELS["onnx"].build(experiment, squares.classes).fit(val, train, quiet)
    assert read_card(parent).trained_on


def test_a_parent_counts_by_its_content(squares: Manifest, tmp_path: Path) -> None:
    save_parent(tmp_path, squares)
    (tmp_path / "parent").rename(tmp_path / "elsewhere")
    file = write_experiment(tmp_path / "x.toml", "onnx", squares.path)
    file.write_text(file.read_text().replace("parent/model", "elsewhere/model"))
    first = portable(load_experiment(file))["model.parent"]
    (tmp_path / "elsewhere").rename(tmp_path / "parent")
    file = write_experiment(tmp_path / "x.toml", "onnx", squares.path)
    assert portable(load_experiment(file))["model.parent"] == first
    weights = tmp_path / "parent" / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert portable(load_experiment(file))["model.parent"] != first


@pytest.mark.parametrize("missing", ["TO_WRITE", "TO_RUN"])
def test_a_missing_extra_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, missing, ("onnx_that_nobody_has",))
    with pytest.raises(InputError, match=r"onnx_that_nobody_has: pip install 'vidclf\[onnx\]'"):
        graphs.check_onnx(to_run=missing == "TO_RUN")


class Undecided(nn.Module):
    """Does what depends on its values, which no graph can."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps if float(maps.sum()) > 0 else -maps


@pytest.mark.slow
def test_the_stage_that_is_in_the_way_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    network = VideoNetwork("tiny2d", weights="none", classes=2, dropout=0, frozen_stages=0)
    network.stages[1] = nn.Sequential(network.stages[1], Undecided())
    with pytest.raises(
        InputError, match="tiny2d cannot be written as ONNX, its stage stage2 is in the way: "
    ):
        graphs.write_onnx(ProbabilityGraph(network, 1.0), torch.rand(1, 4, 3, 16, 16), tmp_path / "x.onnx")


def test_what_cannot_be_quantised_says_so(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match="the graph cannot be quantised: "):
        graphs.write_int8(tmp_path / "x.onnx", tmp_path / "y.onnx", [])
