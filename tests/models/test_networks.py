from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.rounds import LONG, rounds
from vidclf.exceptions import InputError
from vidclf.models.networks import NETWORKS, Pooling, Preprocessing, preprocessing, published_weights
from vidclf.models.own_networks import build_network
from vidclf.models.pooling import pooling_steps
from vidclf.models.video_network import VideoNetwork
from vidclf.models.weights import load_backbone

TINY = ["tiny2d", "tiny3d"]
LARGE = {"swin3d_s", "swin3d_b", "mvit_v1_b"}
"""Built as others are, of more and wider blocks."""
TRIED = rounds([network for network in NETWORKS if network not in LARGE], list(NETWORKS))
PUBLISHED = [network for network in TRIED if NETWORKS[network].weights is not None]
SLOW_PUBLISHED = [
    pytest.param(network, marks=pytest.mark.slow if network in PUBLISHED else ()) for network in TRIED
]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
ORDERED: list[Pooling] = ["gru", "conv", "transformer"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and threads of several test processes wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(network: str, frozen_stages: int = 0, **options: Any) -> VideoNetwork:
    torch.manual_seed(0)
    options = {"weights": "none", "classes": 3, "dropout": 0.5} | options
    return VideoNetwork(network, frozen_stages=frozen_stages, **options)


def clips(network: str, batch: int = 2, frames: int | None = None, size: int | None = None) -> Tensor:
    spec = NETWORKS[network]
    size, frames = size or spec.min_size, frames or max(4, spec.min_frames)
    return torch.randn(batch, frames, 3, size, size, generator=torch.Generator().manual_seed(1))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: values.clone() for name, values in module.state_dict().items()}


def step(network: VideoNetwork, inputs: Tensor) -> None:
    optimizer = torch.optim.SGD(
        [p for p in network.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1
    )
    network.train()
    network(inputs).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("network", SLOW_PUBLISHED)
def test_a_network_trains_on_the_smallest_input_that_the_table_names(network: str) -> None:
    spec = NETWORKS[network]
    # Of full clips alone the shapes, but in the long run: seconds are spent on values that nothing reads.
    device = torch.device("meta" if spec.max_size and not LONG else "cpu")
    with device:
        built = make(network)
    assert list(dict(built.stages.named_children())) == list(spec.stages)
    inputs = clips(network, batch=1, frames=spec.min_frames).to(device)
    logits = built.train()(inputs)
    assert logits.shape == (1, 3)
    assert built.features(built.prefix(inputs)).shape == (1, spec.width)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in built.parameters())


@pytest.mark.parametrize(
    ("network", "depth"),
    [(network, depth) for network in TINY for depth in range(4)]
    + [pytest.param(network, 2, marks=pytest.mark.slow) for network in PUBLISHED if network[:4] != "mvit"],
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


@pytest.mark.parametrize("network", NETWORKS)
def test_stages_hold_all_of_the_network_but_its_head(network: str) -> None:
    spec = NETWORKS[network]
    with torch.device("meta"):
        backbone = build_network(network)
    named = dict(backbone.named_modules())
    staged = [
        id(parameter)
        for paths in spec.stages.values()
        for path in paths
        for parameter in named[path].parameters()
    ]
    wanted = [
        id(parameter)
        for name, parameter in backbone.named_parameters()
        if not name.startswith(f"{spec.head}.")
    ]
    assert len(wanted) == len(set(wanted)) > 0
    assert sorted(staged) == sorted(wanted)


def headless(network: str) -> tuple[nn.Module, VideoNetwork]:
    """torchvision's network in evaluation mode, and ours of the same weights."""
    spec = NETWORKS[network]
    torch.manual_seed(7)
    original = build_network(network).eval()
    torch.manual_seed(7)
    options = {"weights": "none", "classes": 3, "dropout": 0.0}
    return original, VideoNetwork(network, frozen_stages=len(spec.stages), **options).eval()


# s3d's own pooling is the mean at 16 frames of 224 pixels only.
@pytest.mark.slow
@pytest.mark.parametrize("network", PUBLISHED)
def test_stages_pooling_and_torchvisions_head_are_torchvisions_network(network: str) -> None:
    original, ours = headless(network)
    spec = NETWORKS[network]
    frames = 1 if spec.dims == 2 else 16 if network == "s3d" else spec.min_frames
    inputs = clips(network, batch=1, frames=frames, size=preprocessing(network, "pretrained").size)
    head = original.get_submodule(spec.head)
    with torch.no_grad():
        expected = original(inputs[:, 0] if spec.dims == 2 else inputs.transpose(1, 2))
        if network == "squeezenet1_1":
            # Its head convolves before it pools, so it takes the maps.
            given = head(ours.stages(inputs[:, 0])).flatten(1)
        else:
            features = ours.features(ours.prefix(inputs))
            given = head(features[..., None, None, None] if network == "s3d" else features).flatten(1)
    assert expected.std() > 0
    assert torch.allclose(given, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_pooled_features_are_the_mean_over_frames_of_torchvisions_maps() -> None:
    original, ours = headless("squeezenet1_1")
    inputs = clips("squeezenet1_1", frames=3, size=40)
    with torch.no_grad():
        maps = torch.stack([original.get_submodule("features")(inputs[:, t]) for t in range(3)])
        assert torch.allclose(ours.features(ours.prefix(inputs)), maps.mean(dim=(0, 3, 4)), atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_on_a_smaller_edge_a_network_fails_or_sees_one_position(network: str) -> None:
    spec = NETWORKS[network]
    with torch.device("meta"):
        built = make(network)
    less = 4 if spec.max_size else 1  # its patches are strides of four pixels
    inputs = clips(network, batch=1, frames=spec.min_frames, size=spec.min_size - less).to("meta")
    if network == "mc3_18" or network.startswith("swin3d"):
        assert built.stages(inputs.transpose(1, 2)).shape[-2:] == (1, 1)
    else:
        with pytest.raises((RuntimeError, ValueError)):
            built(inputs)


@pytest.mark.parametrize("network", [network for network, spec in NETWORKS.items() if spec.dims == 3])
def test_in_fewer_frames_a_network_fails_or_there_is_no_motion(network: str) -> None:
    spec = NETWORKS[network]
    if network != "s3d" and spec.max_frames is None:
        assert spec.min_frames == 2
        return
    with torch.device("meta"):
        built = make(network)
    for frames in (14, 18) if spec.max_frames else (spec.min_frames - 1,):
        with pytest.raises(RuntimeError):
            built.eval()(clips(network, frames=frames).to("meta"))


CUTS = [
    pytest.param(network, pooling, depth, marks=pytest.mark.slow if network == "swin3d_t" else ())
    for network in ("tiny2d", "tiny3d", "mobilenet_v3_small", "swin3d_t")
    for pooling in (POOLINGS if NETWORKS[network].dims == 2 else POOLINGS[:1])
    for depth in (0, 1, len(NETWORKS[network].stages))
]


@pytest.mark.parametrize(("network", "pooling", "depth"), CUTS)
def test_prefix_gives_all_that_training_leaves_as_it_is(network: str, pooling: Pooling, depth: int) -> None:
    spec = NETWORKS[network]
    built = make(network, depth, pooling=pooling)
    inputs = clips(network)
    activations = built.prefix(inputs)
    assert not activations.requires_grad
    if depth < len(spec.stages):
        assert activations.dim() == 5
    else:
        fixed = pooling in ("avg", "max")
        assert activations.shape == ((2, spec.width) if fixed else (2, 4, spec.width))
    before = activations.clone()
    step(built, inputs)
    assert torch.equal(built.prefix(inputs), before)
    built.eval()
    with torch.no_grad():
        features = built.features(activations)
        assert features.shape == (2, spec.width)
        assert torch.equal(built.head(features), built(inputs))
        # As from a cache, which keeps values but not the layout.
        assert torch.equal(built.features(activations.contiguous()), features)
    assert torch.equal(activations, before)


@pytest.mark.parametrize("network", [*TINY, "mobilenet_v3_small", "swin3d_t"])
def test_stages_compute_in_the_layout_of_the_network(network: str) -> None:
    built = make(network, 1)
    seen: list[bool] = []
    for stage in built.stages:
        stage.register_forward_hook(
            lambda _module, inputs, output: seen.extend(
                values.is_contiguous(memory_format=built.memory_format) for values in (*inputs, output)
            )
        )
    built(clips(network, size=64))
    assert seen == 2 * len(NETWORKS[network].stages) * [True]


def test_poolings_are_over_time_of_each_frames_mean() -> None:
    inputs = clips("tiny2d", frames=5, size=32)
    networks = {pooling: make("tiny2d", 3, pooling=pooling).eval() for pooling in POOLINGS}
    with torch.no_grad():
        frames = networks["attention"].prefix(inputs)
        features = {pooling: built.features(built.prefix(inputs)) for pooling, built in networks.items()}
        assert torch.allclose(features["avg"], frames.mean(dim=1), atol=1e-6)
        assert torch.equal(features["max"], frames.amax(dim=1))
        for learned in ("attention", *ORDERED):
            assert torch.allclose(features[learned], features["avg"], atol=1e-6), "it starts as the mean"
    assert not torch.allclose(features["max"], features["avg"])
    with pytest.raises(ValueError, match="volumes are pooled by avg, not max"):
        make("tiny3d", pooling="max")


def test_attention_learns_to_look_at_the_frame_that_matters() -> None:
    torch.manual_seed(0)
    built = make("tiny2d", 3, pooling="attention", dropout=0.0)
    optimizer = torch.optim.Adam(built.fresh_parameters(), lr=0.05)
    frames = 0.1 * torch.randn(16, 6, 64)
    labels = torch.arange(16) % 3
    frames[range(16), 2, 8 * labels] += 3.0
    frames[:, 2, 50] += 3.0
    for _ in range(40):
        optimizer.zero_grad()
        functional.cross_entropy(built.head(built.features(frames)), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    weights = built.pooling[-1].score(frames).softmax(dim=1)
    assert (weights[:, 2] > 0.5).all()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_only_poolings_that_know_order_tell_a_clip_from_the_same_backwards(pooling: Pooling) -> None:
    built = make("tiny2d", 3, pooling=pooling, dropout=0.0).eval()
    optimizer = torch.optim.Adam(built.fresh_parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    direction = torch.linspace(-1, 1, 8)[:, None] * torch.randn(64, generator=generator)
    forward = direction + torch.randn(2, 24, 8, 64, generator=generator)
    train, held_out = torch.cat([forward, forward.flip(2)], dim=1)[..., None, None]
    labels = torch.arange(48) // 24
    for _ in range(30):
        optimizer.zero_grad()
        functional.cross_entropy(built.head(built.pooling(train)), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        logits = built.head(built.pooling(held_out))
    if pooling in ORDERED:
        assert (logits.argmax(dim=1) == labels).float().mean() > 0.9
    else:
        assert torch.allclose(logits[:24], logits[24:], atol=1e-5), "the same whichever way it is played"


def test_the_gated_recurrent_unit_is_torchs() -> None:
    ours, theirs = pooling_steps(2, "gru", 64)[-1].steps, nn.GRU(64, 64, batch_first=True)
    state = theirs.state_dict()
    for module, name in ((ours.of_frames, "ih"), (ours.of_state, "hh")):
        module.load_state_dict({part: state[f"{part}_{name}_l0"] for part in ("weight", "bias")})
    frames = torch.randn(3, 7, 64)
    assert torch.allclose(ours(frames), theirs(frames)[0], atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_is_not_in_the_stages_is_fresh(pooling: Pooling) -> None:
    built = make("tiny2d", 1, pooling=pooling)
    fresh = {id(parameter) for parameter in built.fresh_parameters()}
    assert len(fresh) > 2 if pooling in ("attention", *ORDERED) else len(fresh) == 2
    assert sum(parameter.numel() for parameter in built.pooling.parameters()) < 50_000
    staged = {id(parameter) for parameter in built.stages.parameters()}
    assert staged.isdisjoint(fresh)
    assert staged | fresh == {id(parameter) for parameter in built.parameters()}


@pytest.mark.parametrize("network", TINY)
def test_tiny_networks_have_no_pretrained_weights(network: str) -> None:
    assert 20_000 < sum(parameter.numel() for parameter in make(network).parameters()) < 100_000
    for use in (preprocessing, load_backbone):
        with pytest.raises(
            InputError, match=rf'{network} has no pretrained weights: set model.weights = "none"'
        ):
            use(network, "pretrained")


@pytest.mark.parametrize("network", PUBLISHED)
def test_preprocessing_is_that_of_torchvisions_weights(network: str) -> None:
    theirs = published_weights(network).transforms()
    edges = tuple(theirs.resize_size)
    assert preprocessing(network, "pretrained") == Preprocessing(
        size=theirs.crop_size[0],
        resize=edges[0] if len(edges) == 1 else edges,
        mean=tuple(theirs.mean),
        std=tuple(theirs.std),
        interpolation=theirs.interpolation.value,
    )


def test_preprocessing_is_the_weights_own() -> None:
    kinetics, imagenet = (preprocessing(network, "pretrained") for network in ("r3d_18", "squeezenet1_1"))
    assert preprocessing("r3d_18", "/some/file.pth") == kinetics
    for network, weights in (("r3d_18", "none"), ("tiny2d", "/some/file.pth")):
        untrained = preprocessing(network, weights)
        assert (untrained.size, untrained.resize, untrained.mean) == (112, 112, imagenet.mean)
