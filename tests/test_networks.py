import os
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from vidclf.config import InputError
from vidclf.models import networks
from vidclf.models.networks import NETWORKS, build_network, load_backbone, preprocessing

TINY = ["tiny2d", "tiny3d"]
PUBLISHED = ["resnet18", "squeezenet1_1", "r3d_18"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and threads of several test processes wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(network: str, frozen_stages: int = 0, **options: Any) -> networks.VideoNetwork:
    torch.manual_seed(0)
    options = {"weights": "none", "classes": 3, "dropout": 0.5} | options
    return build_network(network, frozen_stages=frozen_stages, **options)


def clips(network: str, batch: int = 2, frames: int = 4, size: int | None = None) -> Tensor:
    size = size or NETWORKS[network].min_size
    return torch.randn(batch, frames, 3, size, size, generator=torch.Generator().manual_seed(1))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: values.clone() for name, values in module.state_dict().items()}


def step(network: networks.VideoNetwork, inputs: Tensor) -> None:
    optimizer = torch.optim.SGD(
        [p for p in network.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1
    )
    network.train()
    network(inputs).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_trains_on_the_smallest_input_that_the_table_names(network: str) -> None:
    spec = NETWORKS[network]
    built = make(network)
    assert list(dict(built.stages.named_children())) == list(spec.stages)
    inputs = clips(network, batch=1, frames=spec.min_frames)
    logits = built.train()(inputs)
    assert logits.shape == (1, 3)
    assert built.pooled(built.prefix(inputs)).shape == (1, spec.width)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in built.parameters())


@pytest.mark.parametrize(
    ("network", "depth"),
    [(network, depth) for network in TINY for depth in range(4)] + [(network, 2) for network in PUBLISHED],
)
def test_frozen_stages_do_not_change_by_a_bit_and_the_others_do(network: str, depth: int) -> None:
    built = make(network, frozen_stages=depth)
    before = state(built)
    built.eval()
    step(built, clips(network))
    after = built.state_dict()
    frozen = tuple(f"stages.{name}." for name in list(NETWORKS[network].stages)[:depth])
    for name, values in before.items():
        if name.startswith(frozen):
            assert torch.equal(values, after[name]), name
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {*list(NETWORKS[network].stages)[depth:], "1"}
    assert all(
        parameter.requires_grad != name.startswith(frozen or "none")
        for name, parameter in built.named_parameters()
    )


@pytest.mark.parametrize("network", TINY)
def test_frozen_norm_train_lets_statistics_drift_but_not_parameters(network: str) -> None:
    built = make(network, frozen_stages=2, frozen_norm="train")
    before = state(built)
    step(built, clips(network))
    after = built.state_dict()
    frozen = [name for name in before if name.startswith(("stages.stage1.", "stages.stage2."))]
    changed = {name.rpartition(".")[2] for name in frozen if not torch.equal(before[name], after[name])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize("network", [*TINY, "squeezenet1_1"])
def test_where_the_frozen_part_ends_does_not_change_the_output(network: str) -> None:
    inputs = clips(network)
    outputs = [make(network, depth).eval()(inputs) for depth in (0, 1, len(NETWORKS[network].stages))]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("network", ["resnet18", "r3d_18"])
def test_pooled_features_are_torchvisions_penultimate_ones(network: str, tmp_path: Path) -> None:
    torch.manual_seed(7)
    builder = torchvision.models.resnet18 if network == "resnet18" else torchvision.models.video.r3d_18
    original = builder(num_classes=5).eval()
    torch.save(original.state_dict(), tmp_path / "own.pth")
    ours = make(network, weights=str(tmp_path / "own.pth")).eval()
    original.fc = nn.Identity()
    inputs = clips(network, frames=1 if network == "resnet18" else 4, size=40)
    with torch.no_grad():
        expected = original(inputs[:, 0] if network == "resnet18" else inputs.transpose(1, 2))
        assert torch.allclose(ours.pooled(ours.prefix(inputs)), expected, atol=1e-5)


def test_pooled_features_of_squeezenet_are_torchvisions(tmp_path: Path) -> None:
    torch.manual_seed(7)
    original = torchvision.models.squeezenet1_1(num_classes=5).eval()
    safetensors.torch.save_file(original.state_dict(), tmp_path / "own.safetensors")
    ours = make("squeezenet1_1", weights=str(tmp_path / "own.safetensors")).eval()
    inputs = clips("squeezenet1_1", frames=3, size=40)
    with torch.no_grad():
        expected = torch.stack([original.features(inputs[:, t]).mean(dim=(2, 3)) for t in range(3)]).mean(0)
        assert torch.allclose(ours.pooled(ours.prefix(inputs)), expected, atol=1e-5)


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


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


def test_files_that_are_no_state_dict_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"gone\.pth: no such file"):
        load_backbone("resnet18", str(tmp_path / "gone.pth"))
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("not weights")
        with pytest.raises(InputError, match=rf"{name}: not a file of weights"):
            load_backbone("resnet18", str(tmp_path / name))
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "checkpoint.pth")
    with pytest.raises(InputError, match="not a state dict"):
        load_backbone("resnet18", str(tmp_path / "checkpoint.pth"))
    torch.save(Harmful(), tmp_path / "harmful.pth")
    with pytest.raises(InputError, match="not a file of weights"):
        load_backbone("resnet18", str(tmp_path / "harmful.pth"))
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


@pytest.mark.parametrize("network", TINY)
def test_tiny_networks_have_no_pretrained_weights(network: str) -> None:
    assert 20_000 < sum(parameter.numel() for parameter in make(network).parameters()) < 100_000
    for use in (preprocessing, load_backbone):
        with pytest.raises(
            InputError, match=rf'{network} has no pretrained weights: set model.weights = "none"'
        ):
            use(network, "pretrained")


def test_preprocessing_is_the_weights_own() -> None:
    kinetics = preprocessing("r3d_18", "pretrained")
    assert (kinetics.size, kinetics.resize) == (112, (128, 171))
    assert kinetics.mean == (0.43216, 0.394666, 0.37645)
    assert kinetics.std == (0.22803, 0.22145, 0.216989)
    assert preprocessing("r3d_18", "/some/file.pth") == kinetics
    imagenet = preprocessing("squeezenet1_1", "pretrained")
    assert (imagenet.size, imagenet.resize, imagenet.mean) == (224, 256, (0.485, 0.456, 0.406))
    for network, weights in (("r3d_18", "none"), ("tiny2d", "/some/file.pth")):
        untrained = preprocessing(network, weights)
        assert (untrained.size, untrained.resize, untrained.mean) == (112, 112, imagenet.mean)


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
