"""The table of networks, and how frames become their input."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from vidclf.exceptions import InputError

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum  # torchvision takes seconds

FrozenNorm = Literal["eval", "train"]
Pooling = Literal["avg", "max", "attention", "gru", "conv", "transformer"]
Stages = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Preprocessing:
    """How frames become a network's input.

    Attributes:
        size: Edge of the square crop in pixels.
        resize: Short side, or (height, width), before the crop.
        mean: Of each channel, for values 0 to 1.
        std: Standard deviation of each channel.
        interpolation: How frames are resized: ``bilinear``, ``bicubic`` or another of torchvision's.
    """

    size: int
    resize: int | tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str

    def edges(
        self, size: int | None, resize: int | tuple[int, int] | None
    ) -> tuple[int, int | tuple[int, int]]:
        """The edges of crop and resize in pixels: those given, else its own.

        Where another crop is given, its own resize is scaled in proportion.
        """
        size = size or self.size
        if resize is not None:
            return size, resize
        if isinstance(self.resize, int):
            return size, round(self.resize * size / self.size)
        height, width = (round(edge * size / self.size) for edge in self.resize)
        return size, (height, width)


IMAGENET = Preprocessing(
    size=224, resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), interpolation="bilinear"
)
KINETICS = Preprocessing(
    size=112,
    resize=(128, 171),
    mean=(0.43216, 0.394666, 0.37645),
    std=(0.22803, 0.22145, 0.216989),
    interpolation="bilinear",
)
UNTRAINED = replace(IMAGENET, size=112, resize=112)


@dataclass(frozen=True)
class NetworkSpec:
    """What must be known of a network to take it apart.

    Attributes:
        dims: 2 for a network of single frames, 3 for one of volumes.
        weights: The name of torchvision's weights for it, ``None`` where there are none.
        preprocessing: What these weights want.
        stages: Submodules of each stage, in order; between stages the channels come after the batch.
        head: Submodule that classifies; it is dropped.
        width: Pooled features.
        min_frames: Fewest frames of a clip that the network takes; a volume of one frame holds no motion.
        min_size: Smallest edge in pixels on which a batch of one such clip can be trained; where
            any edge can, the smallest whose last map has more than one position in space.
    """

    dims: Literal[2, 3]
    weights: str | None
    preprocessing: Preprocessing
    stages: Stages
    head: str
    width: int
    min_frames: int
    min_size: int


def _features(first: int, last: int) -> tuple[str, ...]:
    return tuple(f"features.{index}" for index in range(first, last + 1))


_TINY: Stages = {name: (name,) for name in ("stage1", "stage2", "stage3")}
_LAYERS: Stages = {name: (name,) for name in ("layer1", "layer2", "layer3", "layer4")}
_RESNET: Stages = {"stem": ("conv1", "bn1", "relu", "maxpool"), **_LAYERS}
_RESNET3D: Stages = {"stem": ("stem",), **_LAYERS}
_SQUEEZENET: Stages = {
    "stem": _features(0, 2),
    "fire2-3": _features(3, 5),
    "fire4-5": _features(6, 8),
    "fire6-9": _features(9, 12),
}
_EFFICIENTNET: Stages = {
    "stem": _features(0, 0),
    **{f"blocks{index}": _features(index, index) for index in range(1, 8)},
    "last": _features(8, 8),
}
_MOBILENET: Stages = {
    "stem": _features(0, 0),
    "block1": _features(1, 1),
    "blocks2-3": _features(2, 3),
    "blocks4-8": _features(4, 8),
    "blocks9-11": _features(9, 11),
    "last": _features(12, 12),
}
_S3D: Stages = {
    "stem": _features(0, 1),
    "conv2": _features(2, 4),
    "mixed3": _features(5, 7),
    "mixed4": _features(8, 13),
    "mixed5": _features(14, 15),
}
_SWIN3D: Stages = {
    "stem": ("patch_embed", "pos_drop", "channels_first"),
    "stage1": ("channels_last", *_features(0, 1), "channels_first"),
    "stage2": ("channels_last", *_features(2, 3), "channels_first"),
    "stage3": ("channels_last", *_features(4, 5), "channels_first"),
    "stage4": ("channels_last", *_features(6, 6), "norm", "channels_first"),
}

# Pooled over all positions and classified by torchvision's own head, the stages give what
# torchvision's network does, but for two networks. squeezenet1_1's head convolves before it pools.
# s3d's own pooling averages windows of 2 x 7 x 7 positions and then their results: the same for
# 16 frames of 224 pixels, which are one window; on more it weighs the middle, and on less it fails.
# mobilenet_v3_small's head has a hidden layer, which goes with it.
NETWORKS: dict[str, NetworkSpec] = {
    "resnet18": NetworkSpec(
        2, "IMAGENET1K_V1", IMAGENET, _RESNET,
        head="fc", width=512, min_frames=1, min_size=33,
    ),
    "resnet50": NetworkSpec(
        2, "IMAGENET1K_V2", replace(IMAGENET, resize=232), _RESNET,
        head="fc", width=2048, min_frames=1, min_size=33,
    ),
    "squeezenet1_1": NetworkSpec(
        2, "IMAGENET1K_V1", IMAGENET, _SQUEEZENET,
        head="classifier", width=512, min_frames=1, min_size=17,
    ),
    "efficientnet_b0": NetworkSpec(
        2, "IMAGENET1K_V1", replace(IMAGENET, interpolation="bicubic"), _EFFICIENTNET,
        head="classifier", width=1280, min_frames=1, min_size=33,
    ),
    "mobilenet_v3_small": NetworkSpec(
        2, "IMAGENET1K_V1", IMAGENET, _MOBILENET,
        head="classifier", width=576, min_frames=1, min_size=33,
    ),
    "tiny2d": NetworkSpec(
        2, None, UNTRAINED, _TINY,
        head="fc", width=64, min_frames=1, min_size=9,
    ),
    "r3d_18": NetworkSpec(
        3, "KINETICS400_V1", KINETICS, _RESNET3D,
        head="fc", width=512, min_frames=2, min_size=17,
    ),
    "mc3_18": NetworkSpec(
        3, "KINETICS400_V1", KINETICS, _RESNET3D,
        head="fc", width=512, min_frames=2, min_size=17,
    ),
    "r2plus1d_18": NetworkSpec(
        3, "KINETICS400_V1", KINETICS, _RESNET3D,
        head="fc", width=512, min_frames=2, min_size=17,
    ),
    "s3d": NetworkSpec(
        3, "KINETICS400_V1", replace(KINETICS, size=224, resize=(256, 256)), _S3D,
        head="classifier", width=1024, min_frames=5, min_size=49,
    ),
    "swin3d_t": NetworkSpec(
        3, "KINETICS400_V1", IMAGENET, _SWIN3D,
        head="head", width=768, min_frames=2, min_size=33,
    ),
    "tiny3d": NetworkSpec(
        3, None, UNTRAINED, _TINY,
        head="fc", width=64, min_frames=2, min_size=9,
    ),
}  # fmt: skip


def preprocessing(network: str, weights: str) -> Preprocessing:
    """What the weights of a network want; a local file wants what torchvision's own weights do.

    Raises:
        InputError: ``pretrained`` where torchvision has no weights.
    """
    if weights == "pretrained":
        _weights_name(network)
    return UNTRAINED if weights == "none" else NETWORKS[network].preprocessing


def statistics(normalize: str, own: Preprocessing) -> Preprocessing:
    """Whose channel mean and deviation ``data.normalize`` asks for."""
    return {"imagenet": IMAGENET, "kinetics": KINETICS, "weights": own}[normalize]


def check_crop(size: int, resize: int | tuple[int, int], store_side: int) -> None:
    """Raises `ValueError` where the crop is larger than the frames that it is taken from."""
    if size > store_side:
        raise ValueError(f"data.size = {size} is larger than data.store_side = {store_side}")
    if size > (resize if isinstance(resize, int) else min(resize)):
        raise ValueError(f"data.size = {size} is larger than data.resize = {resize}")


def check_input(network: str, frames: int, size: int) -> None:
    """Raises `ValueError` where clips are too short or too small for the network."""
    spec = NETWORKS[network]
    if frames < spec.min_frames:
        raise ValueError(f"data.frames = {frames}: {network} takes no fewer than {spec.min_frames}")
    if size < spec.min_size:
        raise ValueError(f"data.size = {size}: {network} takes no less than {spec.min_size} pixels")


def published_weights(network: str) -> "WeightsEnum":
    """torchvision's weights for a network, not yet downloaded.

    Raises:
        InputError: There are none.
    """
    name = _weights_name(network)
    from torchvision.models import get_model_weights

    weights: WeightsEnum = get_model_weights(network)[name]
    return weights


def _weights_name(network: str) -> str:
    name = NETWORKS[network].weights
    if name is None:
        raise InputError(f'{network} has no pretrained weights: set model.weights = "none"')
    return name
