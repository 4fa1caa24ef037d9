"""Networks that torchvision lacks, or has in another form."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision import ops
from torchvision.models import get_model, video

from vidclf.models.providers import provider


def tiny2d() -> nn.Module:
    """Three strided convolutions over single frames."""

    def stage(inputs: int, outputs: int) -> nn.Module:
        convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    return nn.Sequential(OrderedDict(stage1=stage(3, 16), stage2=stage(16, 32), stage3=stage(32, 64)))


class _Motion(nn.Module):
    """Takes the mean frame away: what stands still disappears. Shape (clips, channels, T, H, W)."""

    def forward(self, volumes: Tensor) -> Tensor:
        return volumes - volumes.mean(dim=2, keepdim=True)


def tiny3d() -> nn.Module:
    """Three strided convolutions over volumes from which what stands still was taken away."""

    def stage(inputs: int, outputs: int, stride: tuple[int, int, int]) -> nn.Module:
        convolution = nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm3d(outputs), nn.ReLU(inplace=True))

    return nn.Sequential(
        OrderedDict(
            stage1=nn.Sequential(_Motion(), stage(3, 16, (1, 2, 2))),
            stage2=stage(16, 32, (2, 2, 2)),
            stage3=stage(32, 64, (2, 2, 2)),
        )
    )


def swin3d(name: str) -> nn.Module:
    """torchvision's network, and what keeps the channels of the maps between its stages in second place."""
    network: nn.Module = get_model(name)
    network.channels_last = ops.Permute([0, 2, 3, 4, 1])
    network.channels_first = ops.Permute([0, 4, 1, 2, 3])
    return network


class _Tokens(nn.Module):
    """Positions as tokens: (clips, positions, channels) of (clips, channels, T, H, W)."""

    def forward(self, volumes: Tensor) -> Tensor:
        return volumes.flatten(2).transpose(1, 2)


class _ClassToken(nn.Module):
    """The first token as a map of one position."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0, :, None, None, None]


class _Block(video.mvit.MultiscaleBlock):  # type: ignore[misc]
    """One that knows the positions of its input, and so may take and give tokens alone."""

    thw: tuple[int, int, int]

    def forward(self, tokens: Tensor, thw: tuple[int, int, int] | None = None) -> Any:
        outcome = super().forward(tokens, thw or self.thw)
        return outcome if thw else outcome[0]


def mvit(name: str) -> nn.Module:
    """torchvision's network, whose blocks take tokens alone, as clips have one size."""
    network: Any = get_model(name)
    network.tokens, network.class_token = _Tokens(), _ClassToken()
    thw = (network.pos_encoding.temporal_size, *network.pos_encoding.spatial_size)
    for block in network.blocks:
        block.__class__, block.thw = _Block, thw
        if block.attn.pool_q is not None:
            strides = block.attn.pool_q.pool.stride
            thw = tuple(-(-edge // stride) for edge, stride in zip(thw, strides, strict=True))
    built: nn.Module = network
    return built


_OWN: Mapping[str, Callable[[], nn.Module]] = {
    "tiny2d": tiny2d,
    "tiny3d": tiny3d,
    **{name: partial(swin3d, name) for name in ("swin3d_t", "swin3d_s", "swin3d_b")},
    **{name: partial(mvit, name) for name in ("mvit_v1_b", "mvit_v2_s")},
}


def build_network(network: str) -> nn.Module:
    """A network with random weights: ours, another library's by its prefix, else torchvision's."""
    if known := provider(network):
        return known.build(network)
    if network in _OWN:
        return _OWN[network]()
    built: nn.Module = get_model(network)
    return built
