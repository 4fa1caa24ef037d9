"""Where weights come from, and what is said of those that don't fit."""

import os
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision

from tests.rounds import rounds
from vidclf.exceptions import InputError
from vidclf.models.networks import NETWORKS
from vidclf.models.weights import load_backbone

EVERY = [network for network, spec in NETWORKS.items() if spec.weights is not None]
LARGE = {"swin3d_s", "swin3d_b", "mvit_v1_b"}
"""Built as others are, of more and wider blocks."""
PUBLISHED = rounds([network for network in EVERY if network not in LARGE], EVERY)


@pytest.mark.slow
@pytest.mark.parametrize("network", PUBLISHED)
def test_a_file_of_torchvisions_weights_fills_everything_but_the_head(network: str, tmp_path: Path) -> None:
    torch.manual_seed(7)
    spec = NETWORKS[network]
    original = getattr(torchvision.models if spec.dims == 2 else torchvision.models.video, network)()
    safetensors.torch.save_file(original.state_dict(), tmp_path / "own.safetensors")
    loaded = load_backbone(network, str(tmp_path / "own.safetensors")).state_dict()
    assert loaded.keys() == original.state_dict().keys()
    for name, values in original.state_dict().items():
        assert name.startswith(f"{spec.head}.") or torch.equal(loaded[name], values), name


def test_weights_of_another_network_name_it_and_some_keys(tmp_path: Path) -> None:
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "squeeze.pth")
    with pytest.raises(InputError, match=r"squeeze\.pth' does not fit model\.network = 'resnet18': missing: conv1\.weight, .* more; unexpected: features\.0\.weight"):  # fmt: skip  # noqa: E501
        load_backbone("resnet18", str(tmp_path / "squeeze.pth"))
    wide = torchvision.models.resnet18().state_dict() | {"conv1.weight": torch.zeros(64, 4, 7, 7)}
    torch.save(wide, tmp_path / "wide.pth")
    with pytest.raises(InputError, match=r"of another shape: conv1\.weight$"):
        load_backbone("resnet18", str(tmp_path / "wide.pth"))


def test_files_without_batch_counters_load(tmp_path: Path) -> None:
    old = {
        name: values for name, values in load_backbone("tiny2d", "none").state_dict().items()
        if not name.endswith("num_batches_tracked")
    }  # fmt: skip
    torch.save(old, tmp_path / "old.pth")
    loaded = load_backbone("tiny2d", str(tmp_path / "old.pth")).state_dict()
    assert len(loaded) > len(old) > 0
    assert all(torch.equal(loaded[name], values) for name, values in old.items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "encoder.body."])
@pytest.mark.parametrize("nested", [(), ("state_dict",), ("checkpoint", "model")])
def test_what_training_scripts_put_around_weights_is_taken_off(
    prefix: str, nested: tuple[str, ...], tmp_path: Path
) -> None:
    own = load_backbone("tiny2d", "none").state_dict()
    saved: dict[str, Any] = {f"{prefix}{name}": values for name, values in own.items()}
    saved |= {"projection.weight": torch.zeros(2)} if prefix == "encoder.body." else {}
    for key in nested:
        saved = {key: saved, "epoch": 3}
    torch.save(saved, tmp_path / "saved.pth")
    loaded = load_backbone("tiny2d", str(tmp_path / "saved.pth")).state_dict()
    assert all(torch.equal(loaded[name], values) for name, values in own.items())


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    own = load_backbone("tiny2d", "none").state_dict()
    own["stage2.0.weight"][3, 1] = torch.nan
    own["stage3.1.running_var"][2] = torch.inf
    torch.save(own, tmp_path / "broken.pth")
    said = r"broken\.pth' holds values that are NaN or infinite: stage2\.0\.weight, stage3\.1\.running_var$"
    with pytest.raises(InputError, match=said):
        load_backbone("tiny2d", str(tmp_path / "broken.pth"))


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


@pytest.mark.slow
def test_files_that_are_no_state_dict_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"gone\.pth: no such file"):
        load_backbone("resnet18", str(tmp_path / "gone.pth"))
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("not weights")
        with pytest.raises(InputError, match=rf"{name}: not a file of weights") as caught:
            load_backbone("resnet18", str(tmp_path / name))
        assert "weights_only" not in str(caught.value)  # how torch would have the file unpickled
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "checkpoint.pth")
    with pytest.raises(InputError, match="not a state dict"):
        load_backbone("resnet18", str(tmp_path / "checkpoint.pth"))
    torch.save({"epoch": 3, "weights": {}}, tmp_path / "checkpoint.pth")
    with pytest.raises(InputError, match=r"not a state dict \(it holds epoch, weights\)"):
        load_backbone("resnet18", str(tmp_path / "checkpoint.pth"))
    torch.save(Harmful(), tmp_path / "harmful.pth")
    with pytest.raises(InputError, match="not a file of weights") as caught:
        load_backbone("resnet18", str(tmp_path / "harmful.pth"))
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "harm").exists()


def test_without_internet_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    with pytest.raises(InputError) as caught:
        load_backbone("r3d_18", "pretrained")
    message = str(caught.value)
    assert "R3D_18_Weights.KINETICS400_V1 of r3d_18 could not be downloaded" in message
    assert f"download r3d_18-b3b3357e.pth elsewhere and put it into {tmp_path}/hub/checkpoints" in message
    assert "set model.weights to a local file" in message


def test_pretrained_weights_come_from_torch_home_and_stdout_stays_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(3)
    original = torchvision.models.squeezenet1_1().state_dict()

    def download(_url: str, file: str, *_: object, **__: object) -> None:
        torch.save(original, file)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    loaded = load_backbone("squeezenet1_1", "pretrained").state_dict()
    assert torch.equal(loaded["features.12.expand3x3.weight"], original["features.12.expand3x3.weight"])
    assert capsys.readouterr().out == ""
    (tmp_path / "hub/checkpoints/squeezenet1_1-b8a52dc0.pth").write_bytes(b"cut off")
    with pytest.raises(InputError, match="could not be downloaded or read"):
        load_backbone("squeezenet1_1", "pretrained")


@pytest.mark.real
def test_real_squeezenet_weights_load_strictly() -> None:
    folder = os.environ.get("VIDCLF_REAL_DATA")
    if not folder:
        pytest.skip("VIDCLF_REAL_DATA is not set")
    path = Path(folder) / "weights" / "squeezenet1_1-imagenet.pth"
    loaded = load_backbone("squeezenet1_1", str(path)).state_dict()
    given = torch.load(path, weights_only=True)
    kept = [name for name in given if not name.startswith("classifier.")]
    assert len(kept) == 50
    assert all(torch.equal(loaded[name], given[name]) for name in kept)
