"""Encoders of the Hugging Face hub: every family in tiny, its preprocessing, and what is said of others."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from tests.models import hf_models
from tests.neural_models import split
from tests.rounds import rounds
from vidclf import config
from vidclf.data.augmentation import eval_view
from vidclf.data.manifest import Manifest
from vidclf.exceptions import InputError
from vidclf.models import MODELS, hf_networks, networks
from vidclf.models.base import Classifier
from vidclf.models.networks import spec_of
from vidclf.models.video_network import VideoNetwork
from vidclf.models.weights import load_backbone
from vidclf.runs.experiment import load_experiment, parse_experiment

pytestmark = pytest.mark.usefixtures("one_thread")
FAMILIES = list(hf_models.FAMILIES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """Model and folder by family."""
    places = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    return {family: (hf_models.save(family, place), place) for family, place in places.items()}


def experiment(network: str, **values: Any) -> Any:
    tree = {
        "data": {"manifest": "/m.csv", "frames": 4, "grid": 8},
        "model": {"kind": "frames2d", "network": network},
        "train": {"epochs": 2, "batch_size": 4, "precision": "fp32", "views": 1},
    }
    return parse_experiment(config.override(tree, values), "test")


def kind(family: str) -> str:
    return "volume3d" if family in hf_models.VIDEO else "frames2d"


def features(family: str, model: Any, clips: Tensor) -> Tensor:
    """What the model itself gives of (N, T, 3, S, S), as its own classifiers pool it."""
    if family not in hf_models.VIDEO:
        return model(clips.flatten(0, 1)).pooler_output.unflatten(0, clips.shape[:2]).mean(1)  # type: ignore[no-any-return]
    tokens: Tensor = model(clips).last_hidden_state
    if family == "videomae":  # whose classifier's norm has learned nothing here
        return (
            nn.functional.layer_norm(tokens.mean(1) if model.layernorm else tokens, (16,))
            .reshape(2, -1, 16)
            .mean(1)
        )
    return tokens.mean(1) if family == "vjepa2" else tokens[:, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_the_models_own_wherever_the_frozen_part_ends(
    family: str, folders: dict[str, tuple[Any, Path]]
) -> None:
    model, folder = folders[family]
    network = f"hf:{folder}"
    spec = spec_of(network)
    assert (list(spec.stages), spec.width) == (["stem", "block1", "block2"], 16)
    clips = torch.randn(2, 4, 3, 32, 32)
    for depth in (0, 2, 3):
        options: dict[str, Any] = {"weights": "pretrained", "classes": 3, "dropout": 0.0}
        built = VideoNetwork(network, frozen_stages=depth, **options).eval()
        with torch.no_grad():
            given = built.features(built.prefix(clips).clone())
            assert torch.allclose(given, features(family, model, clips), atol=1e-5)
    assert all(not one.requires_grad for one in built.stages.parameters())
    staged = [id(one) for one in built.stages.parameters()]
    assert len(staged) == len(set(staged)) > 20


@pytest.mark.parametrize("family", FAMILIES)
def test_preprocessing_is_what_the_processor_does(family: str, folders: dict[str, tuple[Any, Path]]) -> None:
    own = networks.preprocessing(f"hf:{folders[family][1]}", "pretrained")
    reader = hf.AutoVideoProcessor if family == "vjepa2" else hf.AutoImageProcessor
    processor = reader.from_pretrained(folders[family][1])
    coarse = np.random.default_rng(0).integers(0, 255, (1, 9, 12, 3), dtype=np.uint8)
    picture = coarse.repeat(20, 1).repeat(20, 2)
    video = family in hf_models.VIDEO
    given: Any = processor(list(picture) if family != "vjepa2" else [picture], return_tensors="pt")
    wanted = next(iter(given.values())).flatten(0, -4)[0]
    assert video == (spec_of(f"hf:{folders[family][1]}").dims == 3)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (own.mean, own.std))
    seen = (
        eval_view(picture, 1, own.size, own.resize, interpolation=own.interpolation)[0] / 255 - mean
    ) / std
    assert seen.shape == wanted.shape
    assert float((seen - wanted).abs().mean()) < 0.05


def fitted(squares: Manifest, described: Any) -> Classifier:
    classifier: Classifier = MODELS[described.kind].build(described, squares.classes)
    classifier.fit(split(squares, "train"), split(squares, "val"), lambda *_: None)
    return classifier


@pytest.mark.parametrize(
    ("family", "depth"), [("videomae", 2), pytest.param("siglip_vision_model", 3, marks=pytest.mark.slow)]
)
def test_a_saved_model_needs_neither_hub_nor_folder(
    family: str, depth: int, squares: Manifest, tmp_path: Path
) -> None:
    hf_models.save(family, tmp_path / "encoder")
    network = f"hf:{tmp_path / 'encoder'}"
    described = experiment(network, **{"model.kind": kind(family), "model.frozen_stages": depth})
    deep = {"kind": "svm", "features": "deep", "network": network}
    data = config.dump(described.data)
    both = [described, parse_experiment({"data": data, "model": deep}, "test")]
    val = split(squares, "val")
    for given in both:
        given.check_weights()
        classifier = fitted(squares, given)
        (tmp_path / given.kind).mkdir()
        classifier.save(tmp_path / given.kind)
        expected = classifier.predict_proba(val)
        (tmp_path / "encoder").rename(tmp_path / "away")
        hf_networks._described.cache_clear()
        loaded = MODELS[given.kind].load(tmp_path / given.kind)
        np.testing.assert_array_equal(loaded.predict_proba(val), expected)
        assert loaded.describe() == classifier.describe()
        (tmp_path / "away").rename(tmp_path / "encoder")


@pytest.mark.parametrize("whole", ["CLIP", "Siglip"])
def test_of_a_model_of_pictures_and_texts_the_pictures_encoder_is_taken(whole: str, tmp_path: Path) -> None:
    family = f"{whole.lower()}_vision_model"
    vision = hf_models.FAMILIES[family][0](**hf_models.TINY, projection_dim=8).to_dict()
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    described = getattr(hf, f"{whole}Config")(vision_config=vision, text_config={**text, "vocab_size": 50})
    model = getattr(hf, f"{whole}Model")(described).eval()
    model.save_pretrained(tmp_path)
    hf_models.FAMILIES[family][2](**hf_models.FAMILIES[family][3]).save_pretrained(tmp_path)
    loaded = load_backbone(f"hf:{tmp_path}", "pretrained").state_dict()
    theirs = model.vision_model.state_dict()
    assert len(loaded) > 20
    assert all(torch.equal(values, theirs[name]) for name, values in loaded.items())


def test_of_a_classifier_the_backbone_is_taken_and_a_file_of_it_fits(tmp_path: Path) -> None:
    model = hf.VideoMAEForVideoClassification(hf_models.configuration("videomae"))
    model.save_pretrained(tmp_path)
    hf.VideoMAEImageProcessor(**hf_models.CROP).save_pretrained(tmp_path)
    for weights in ("pretrained", str(tmp_path / "model.safetensors")):
        loaded = load_backbone(f"hf:{tmp_path}", weights).state_dict()
        assert all(torch.equal(values, model.videomae.state_dict()[name]) for name, values in loaded.items())


def test_a_folder_is_named_from_where_the_experiment_lies(tmp_path: Path) -> None:
    hf_models.save("dinov2", tmp_path / "encoders" / "own")
    text = '[data]\nmanifest = "m.csv"\n[model]\nkind = "frames2d"\nnetwork = "hf:../encoders/own"\n'
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "one.toml").write_text(text)
    model: Any = load_experiment(tmp_path / "experiments" / "one.toml").model
    assert model.network == f"hf:{tmp_path}/encoders/own"


def test_licence_of_the_card_is_noted(tmp_path: Path) -> None:
    hf_models.save("dinov2", tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Own\n")
    noted = experiment(f"hf:{tmp_path}").notes(3, 1)
    assert noted == [f"hf:{tmp_path}: weights {tmp_path}, licence: cc-by-nc-4.0"]


@pytest.mark.parametrize(
    ("family", "values", "said"),
    [
        ("vivit", {"data.frames": 8}, r"data\.frames = 8: hf:.* takes 4 only"),
        ("videomae", {"data.size": 64}, r"data\.size = 64: hf:.* takes 32 pixels only"),
        ("vjepa2", {"data.size": 7 * 16, "data.frames": 1}, r"data\.frames = 1: hf:.* takes no fewer than 2"),
        ("clip_vision_model", {"data.size": 48}, r"takes 32 pixels only"),
        ("dinov2", {"model.kind": "volume3d"}, r'is one of model\.kind = "frames2d"'),
        ("vivit", {"model.kind": "frames2d"}, r'is one of model\.kind = "volume3d"'),
        ("dinov2", {"model.frozen_stages": 4}, "has 3 stages: stem, block1, block2"),
    ],
)  # fmt: skip
def test_what_a_network_cannot_take_is_said_before_the_first_trial(
    family: str, values: dict[str, Any], said: str, folders: dict[str, tuple[Any, Path]]
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        experiment(f"hf:{folders[family][1]}", **{"model.kind": kind(family), **values})
    assert len(caught.value.problems) == 1


def test_a_study_offers_the_frames_that_a_network_takes(folders: dict[str, tuple[Any, Path]]) -> None:
    described = experiment(f"hf:{folders['vivit'][1]}", **{"model.kind": "volume3d"})
    assert described.own_range("data.frames") == config.Choice(choices=(4,))
    assert described.own_range("model.frozen_stages") == config.Range(low=0, high=3)


def test_folders_that_are_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json could not .*a folder that save_pretrained wrote"):
        experiment(f"hf:{tmp_path}/gone")
    hf_models.save("dinov2", tmp_path / "own")
    (tmp_path / "own" / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"preprocessor_config\.json could not be downloaded or read"):
        experiment(f"hf:{tmp_path}/own")
    hf.BertConfig().save_pretrained(tmp_path / "text")
    with pytest.raises(InputError, match="is of type bert; known are videomae, vivit, "):
        experiment(f"hf:{tmp_path}/text")
    remote = json.loads((tmp_path / "own" / "config.json").read_text())
    remote |= {"model_type": "own", "auto_map": {"AutoConfig": "harm.Config", "AutoModel": "harm.Model"}}
    (tmp_path / "own" / "config.json").write_text(json.dumps(remote))
    (tmp_path / "own" / "harm.py").write_text("import pathlib; pathlib.Path('harm').touch()")
    with pytest.raises(InputError, match="could not be downloaded or read"):
        experiment(f"hf:{tmp_path}/own")
    assert not Path("harm").exists()


def test_without_transformers_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vidclf.models.hf_networks", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"networks hf:NAME need transformers: pip install 'vidclf\[hf\]'"):
        experiment("hf:facebook/dinov2-small")


@pytest.fixture
def gate() -> Iterator[str]:
    """A hub that has one gated repository, and no other."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            gated = "gated" in self.path
            self.send_response(403 if gated else 404)
            self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
            self.end_headers()

        do_GET = do_HEAD  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


REFUSALS = {
    "org/gated-encoder": [
        "gated",
        "accept its terms at ",
        "/org/gated-encoder and log in with `hf auth login`",
    ],
    "org/missing": ["is not a local folder and is not a valid model identifier", "else check the name"],
    "offline": ["does not answer, and it is not in ", "hf download org/offline --local-dir FOLDER"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("repository", "said"),
    rounds(list(REFUSALS.items())[:1], list(REFUSALS.items())),
)
def test_what_the_hub_refuses_is_said_with_what_to_do(
    repository: str, said: list[str], gate: str, tmp_path: Path
) -> None:
    endpoint = "http://127.0.0.1:9" if repository == "offline" else gate
    name = "org/offline" if repository == "offline" else repository
    text = f'[data]\nmanifest = "m.csv"\n[model]\nkind = "frames2d"\nnetwork = "hf:{name}"\n'
    (tmp_path / "one.toml").write_text(text)
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "vidclf", "train", tmp_path / "one.toml"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    message = " ".join(ran.stderr.split())
    assert (ran.returncode, ran.stdout) == (2, "")
    assert all(part in message for part in said), message
    assert "Traceback" not in message
