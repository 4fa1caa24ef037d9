"""Networks that torchvision lacks, or has in another form."""

from collections import OrderedDict
from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torchvision import ops
from torchvision.models import get_model, video

from vidclf.models.networks import provider


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


def swin3d_t() -> nn.Module:
    """torchvision's network, and what keeps the channels of the maps between its stages in second place."""
    network: nn.Module = video.swin3d_t()
    network.channels_last = ops.Permute([0, 2, 3, 4, 1])
    network.channels_first = ops.Permute([0, 4, 1, 2, 3])
    return network


_OWN: Mapping[str, Callable[[], nn.Module]] = {"tiny2d": tiny2d, "tiny3d": tiny3d, "swin3d_t": swin3d_t}


def build_network(network: str) -> nn.Module:
    """A network with random weights: ours, another library's by its prefix, else torchvision's."""
    if known := provider(network):
        return known.build(network)
    if network in _OWN:
        return _OWN[network]()
    built: nn.Module = get_model(network)
    return built
