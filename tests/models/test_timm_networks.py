"""timm's backbones by name: stages, preprocessing, weights, and what is said of those that cannot be had."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from torch import Tensor, nn

from tests.neural_models import VAL, split
from tests.saved_models import save_untrained
from vidclf import config
from vidclf.data.augmentation import eval_view
from vidclf.data.manifest import Manifest
from vidclf.exceptions import InputError
from vidclf.inference import export
from vidclf.models import MODELS, networks
from vidclf.models.networks import spec_of
from vidclf.models.own_networks import build_network
from vidclf.models.providers import packages, provider
from vidclf.models.video_network import VideoNetwork
from vidclf.models.weights import load_backbone
from vidclf.runs.experiment import parse_experiment

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = "timm:test_resnet"
TOKENS = "timm:test_vit@48"
STAGES = {
    TINY: ["stem", "layer1", "layer2", "layer3", "layer4"],
    TOKENS: ["stem", *(f"blocks{number}" for number in range(5)), "last"],
    "timm:test_efficientnet": ["stem", *(f"blocks{number}" for number in range(4)), "last"],
    "timm:test_convnext": ["stem", *(f"stages{number}" for number in range(4)), "head"],
    "timm:test_vit_relpos@48": ["stem", *(f"blocks{number}" for number in range(9)), "fc_norm"],
    "timm:test_coatnet@64": ["stem", *(f"stages{number}" for number in range(3)), "last"],
}
"""Of networks that timm has for tests."""


def experiment(network: str, **values: Any) -> Any:
    tree = {
        "data": {"manifest": "/m.csv", "frames": 4, "grid": 8},
        "model": {"kind": "frames2d", "network": network, "weights": "none"},
        "train": {"epochs": 2, "batch_size": 4, "precision": "fp32", "views": 1},
    }
    return parse_experiment(config.override(tree, values), "test")


@pytest.mark.parametrize(
    "network",
    [pytest.param(name, marks=pytest.mark.slow if name not in {TINY, TOKENS} else ()) for name in STAGES],
)
def test_stages_one_after_another_are_timms_network(network: str) -> None:
    torch.manual_seed(0)
    whole = build_network(network).eval()
    stages = provider(network).stages(whole)  # type: ignore[union-attr]
    spec = spec_of(network)
    assert list(stages) == list(spec.stages) == STAGES[network]
    frames = torch.randn(2, 3, spec.preprocessing.size, spec.preprocessing.size)
    with torch.no_grad():
        assert torch.equal(nn.Sequential(*stages.values())(frames).flatten(1), whole(frames))
    staged = [id(one) for stage in stages.values() for one in stage.parameters()]
    assert len(staged) == len(set(staged)) > 0
    assert sorted(staged) == sorted(id(one) for one in whole.parameters())


@pytest.mark.parametrize("network", [TINY, TOKENS])
@pytest.mark.parametrize("depth", [1, 3])
def test_frozen_stages_stay_and_what_they_give_is_all_that_the_others_need(network: str, depth: int) -> None:
    built = VideoNetwork(network, weights="none", classes=3, dropout=0.0, frozen_stages=depth)
    before = {name: values.clone() for name, values in built.state_dict().items()}
    inputs = torch.randn(2, 3, 3, 48, 48)
    built(inputs).square().sum().backward()
    torch.optim.SGD([one for one in built.parameters() if one.requires_grad], lr=0.1).step()
    changed = {
        name.split(".")[1] for name, values in built.state_dict().items() if (values != before[name]).any()
    }
    assert changed == {*STAGES[network][depth:], "1"}
    built.eval()
    with torch.no_grad():
        assert torch.equal(built.head(built.features(built.prefix(inputs).clone())), built(inputs))


class Branches(nn.Module):
    """Two groups between which two tensors go on, and a third one."""

    def __init__(self, sees_values: bool) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.sees_values = sees_values

    def group_matcher(self, coarse: bool) -> dict[str, Any]:
        return {"stem": "^first", "blocks": [("^second", None), ("^third", (99999,))]}

    def forward(self, frames: Tensor) -> Tensor:
        one = self.first(frames)
        if self.sees_values and one.sum() > 0:
            one = -one
        return self.third(self.second(one) + one * 2).mean((2, 3)) + frames.mean()


@pytest.mark.parametrize("sees_values", [False, True])
def test_what_cannot_be_cut_is_one_stage(sees_values: bool) -> None:
    from vidclf.models import timm_networks

    network = Branches(sees_values)
    stages = timm_networks.stages(network)
    assert list(stages) == (["all"] if sees_values else ["stem"])
    frames = torch.randn(2, 3, 4, 4)
    assert torch.equal(nn.Sequential(*stages.values())(frames).flatten(1), network(frames))


@pytest.mark.parametrize(
    "network",
    [
        "timm:test_vit",
        pytest.param("timm:tf_efficientnet_lite0", marks=pytest.mark.slow),
        pytest.param("timm:vit_base_patch16_siglip_224@32", marks=pytest.mark.slow),
    ],
)
def test_preprocessing_is_what_timm_does_to_pictures(network: str) -> None:
    from PIL import Image
    from timm.data import create_transform, resolve_model_data_config

    own = networks.preprocessing(network, "none")
    with torch.device("meta"):
        theirs: Any = resolve_model_data_config(build_network(network))
    theirs["input_size"] = (3, own.size, own.size)
    picture = (
        np.random.default_rng(0).integers(0, 255, (1, 12, 12, 3), dtype=np.uint8).repeat(20, 1).repeat(20, 2)
    )
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (own.mean, own.std))
    seen = eval_view(picture, 1, own.size, own.resize, interpolation=own.interpolation)[0]
    wanted: Any = create_transform(**theirs, is_training=False)(Image.fromarray(picture[0]))
    assert (own.mean, own.std) == (tuple(theirs["mean"]), tuple(theirs["std"]))
    assert float(((seen / 255 - mean) / std - wanted).abs().max()) < 0.05


def test_a_file_of_timms_weights_is_trained_on_and_loads_without_it(
    squares: Manifest, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    original = timm.create_model("test_resnet", num_classes=7).eval()
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": one for name, one in original.state_dict().items()}}, tmp_path / "own.pth")  # fmt: skip  # noqa: E501
    keys = {"model.weights": str(tmp_path / "own.pth"), "model.frozen_stages": 5, "data.size": 32}
    described = experiment(TINY, **keys)
    described.check_weights()
    classifier = MODELS["frames2d"].build(described, squares.classes)
    train, val = split(squares, "train"), split(squares, "val")
    classifier.fit(train, val, lambda *_: None)
    with torch.no_grad():
        own = spec_of(TINY).preprocessing
        resize = own.edges(32, None)[1]
        grids = [val.grid(index) for index in range(VAL)]
        views = torch.stack(
            [eval_view(grid, 4, 32, resize, interpolation=own.interpolation) for grid in grids]
        )
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (own.mean, own.std))
        maps = original.forward_features(((views / 255 - mean) / std).flatten(0, 1))
        given = original.forward_head(maps, pre_logits=True)
    np.testing.assert_allclose(
        classifier.embed(val), given.unflatten(0, (VAL, 4)).mean(1), rtol=2e-3, atol=2e-3
    )

    deep = config.override(config.dump(described.data), {})
    tree = {"data": deep, "model": {"kind": "svm", "features": "deep", "network": TINY, "weights": keys["model.weights"]}}  # fmt: skip  # noqa: E501
    svm: Any = MODELS["svm"].build(parse_experiment(tree, "test"), squares.classes)
    svm.fit(train, val, lambda *_: None)
    np.testing.assert_allclose(svm.deep.matrix(val), classifier.embed(val), rtol=2e-3, atol=2e-3)

    (tmp_path / "own.pth").unlink()
    for kind, model in (("frames2d", classifier), ("svm", svm)):
        (tmp_path / kind).mkdir()
        model.save(tmp_path / kind)
        loaded = MODELS[kind].load(tmp_path / kind)
        np.testing.assert_array_equal(loaded.predict_proba(val), model.predict_proba(val))


@pytest.mark.slow
@pytest.mark.parametrize("network", [TINY, TOKENS])
def test_graphs_give_what_the_model_gives(network: str, squares: Manifest, tmp_path: Path) -> None:
    values = {"data.manifest": str(squares.path), "data.size": 48, "model.frozen_stages": 2}
    folder = save_untrained(tmp_path, experiment(network, **values))
    exported = export.export(folder, "pt2", tmp_path / "graph.pt2", squares.entries[0].clip_path)
    assert exported.difference <= 1e-5


def test_positions_of_a_file_are_resized_to_the_networks_own(tmp_path: Path) -> None:
    original = timm.create_model("test_vit", img_size=96)
    torch.save(original.state_dict(), tmp_path / "large.pth")
    loaded = load_backbone(TOKENS, str(tmp_path / "large.pth")).state_dict()
    assert loaded["pos_embed"].shape == (1, 10, 64)
    assert torch.equal(loaded["blocks.0.attn.qkv.weight"], original.state_dict()["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model.network": "timm:resnet81"}, r"timm has none of this name, did you mean timm:resnet18\?"),
        ({"model.network": "timm:test_vit.in99k"}, r"no such weights; there are test_vit\.r160_in1k"),
        ({"model.network": "timm:test_vit@50"}, r"timm:test_vit@50.*timm does not make it for 50 pixels"),
        ({"model.network": "timm:a@b"}, "expected timm:NAME, or timm:NAME@224 for 224 pixels"),
        ({"model.network": "tim:resnet18"}, "is none of frames2d's: resnet18, .* nor timm:NAME"),
        ({"model.network": "timm:test_vit4", "model.weights": "pretrained"}, "has no pretrained weights"),
        ({"model.frozen_stages": 9}, "test_vit@48 has 7 stages: stem, blocks0"),
        ({"model.network": "timm:test_resnet@50"}, r"timm:test_resnet@50.*it takes any size, set data\.size"),
        ({"model.network": "timm:vit_tiny_patch16_224", "data.size": 64},
         r"data\.size = 64: timm:vit_tiny_patch16_224 takes 224 pixels, .*timm:vit_tiny_patch16_224@64 may"),
        ({"model.kind": "volume3d"}, r"one of model\.kind = \"frames2d\""),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_the_first_trial(values: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        experiment(TOKENS, **values)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("kind", [{"kind": "frames2d"}, {"kind": "svm", "features": "deep"}])
def test_licence_and_packages_are_named(kind: dict[str, str]) -> None:
    tree = {"data": {"manifest": "/m.csv"}, "model": {**kind, "network": "timm:test_convnext"}}
    noted = parse_experiment(tree, "test").notes(3, 1)
    assert noted == ["timm:test_convnext: weights timm/test_convnext.r160_in1k, licence: apache-2.0"]
    assert packages("timm:test_convnext") == ("timm", "huggingface-hub")
    assert packages("resnet18") == packages(None) == ()


def test_without_timm_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vidclf.models.timm_networks", raising=False)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"networks timm:NAME need timm: pip install 'vidclf\[timm\]'"):
        experiment(TINY)


def test_without_internet_the_message_names_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError) as caught:
        load_backbone(TINY, "pretrained")
    message = str(caught.value)
    assert (
        f"could not be downloaded or read (http://127.0.0.1:9 does not answer, and it is not in {tmp_path})"
        in message
    )
    assert (
        "download https://huggingface.co/timm/test_resnet.r160_in1k/resolve/main/model.safetensors" in message
    )
