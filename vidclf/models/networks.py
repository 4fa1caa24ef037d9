"""The table of networks, those of other libraries by name, and how frames become their input."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vidclf.config import did_you_mean
from vidclf.exceptions import InputError
from vidclf.models.providers import PROVIDERS, provider

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
        weights: The name of the published weights for it, ``None`` where there are none.
        preprocessing: What these weights want.
        stages: Submodules of each stage, in order; between stages the channels come after the batch.
            Of another library's network its `Provider` knows the submodules.
        head: Submodules that classify; they are dropped.
        width: Pooled features.
        min_frames: Fewest frames of a clip that the network takes; a volume of one frame holds no motion.
        min_size: Smallest edge in pixels on which a batch of one such clip can be trained; where
            any edge can, the smallest whose last map has more than one position in space.
        max_frames: Most frames, where there is a limit.
        max_size: Largest edge, where there is a limit.
        licence: Of the published weights, where it is known.
    """

    dims: Literal[2, 3]
    weights: str | None
    preprocessing: Preprocessing
    stages: Stages
    head: str | tuple[str, ...]
    width: int
    min_frames: int
    min_size: int
    max_frames: int | None = None
    max_size: int | None = None
    licence: str | None = None


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

_MVIT: Stages = {
    "stem": ("conv_proj", "tokens", "pos_encoding"),
    "block1": ("blocks.0",),
    "blocks2-3": ("blocks.1", "blocks.2"),
    "blocks4-14": tuple(f"blocks.{index}" for index in range(3, 14)),
    "blocks15-16": ("blocks.14", "blocks.15", "norm", "class_token"),
}
_CENTRED = replace(IMAGENET, mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))

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
    "swin3d_s": NetworkSpec(
        3, "KINETICS400_V1", IMAGENET, _SWIN3D,
        head="head", width=768, min_frames=2, min_size=33,
    ),
    "swin3d_b": NetworkSpec(
        3, "KINETICS400_IMAGENET22K_V1", IMAGENET, _SWIN3D,
        head="head", width=1024, min_frames=2, min_size=33,
    ),
    "mvit_v1_b": NetworkSpec(
        3, "KINETICS400_V1", _CENTRED, _MVIT,
        head="head", width=768, min_frames=16, max_frames=16, min_size=224, max_size=224,
    ),
    "mvit_v2_s": NetworkSpec(
        3, "KINETICS400_V1", _CENTRED, _MVIT,
        head="head", width=768, min_frames=16, max_frames=16, min_size=224, max_size=224,
    ),
    "tiny3d": NetworkSpec(
        3, None, UNTRAINED, _TINY,
        head="fc", width=64, min_frames=2, min_size=9,
    ),
}  # fmt: skip


def spec_of(network: str) -> NetworkSpec:
    """The row of a network, of `NETWORKS` or as its provider gives it.

    Raises:
        InputError: There is no such network, or its library is missing.
    """
    if known := provider(network):
        return known.spec(network)
    if network not in NETWORKS:
        others = " or ".join(f"{prefix}:NAME" for prefix in PROVIDERS)
        named = f"{', '.join(NETWORKS)}, nor {others}{did_you_mean(network, list(NETWORKS))}"
        raise InputError(f"network = {network!r} is none of {named}")
    return NETWORKS[network]


def save_network(network: str, directory: Path) -> None:
    """Writes beside a model's weights what its network is built from, where its name does not say it."""
    if known := provider(network):
        known.save(network, directory)


def saved_network(network: str, directory: Path) -> str:
    """The name by which the network of a saved model is built, without a look at where it came from.

    Raises:
        ValueError: vidclf has never written such a name.
    """
    if known := provider(network):
        return known.saved(network, directory)
    if network not in NETWORKS:
        raise ValueError(f"{network!r} is no network")
    return network


def licence_notes(network: str, weights: str) -> list[str]:
    """Under which licence the published weights of another library's network stand."""
    if weights != "pretrained" or provider(network) is None:
        return []
    spec = spec_of(network)
    return [
        f"{network}: weights {spec.weights}, licence: {spec.licence or 'unknown, see where they come from'}"
    ]


def identity(network: str) -> str:
    """What names a network's architecture among all."""
    known = provider(network)
    return known.identity(network) if known else network


_KINDS = {2: "frames2d", 3: "volume3d"}


def check_network(network: str, weights: str, dims: Literal[2, 3] | None = None) -> None:
    """Raises `ValueError` where there is no such network, of so many dimensions, or weights for it."""
    known = [name for name, spec in NETWORKS.items() if dims in {spec.dims, None}]
    try:
        if network not in known and provider(network) is None and dims is not None:
            others = {2: "timm:NAME or hf:NAME", 3: "hf:NAME"}[dims]
            named = f"{', '.join(known)}, nor {others}{did_you_mean(network, known)}"
            raise InputError(f"network = {network!r} is none of {_KINDS[dims]}'s: {named}")
        preprocessing(network, weights)
        spec = spec_of(network)
    except InputError as error:
        raise ValueError(str(error)) from None
    if dims not in {spec.dims, None}:
        raise ValueError(f'network = {network!r} is one of model.kind = "{_KINDS[spec.dims]}"')


def preprocessing(network: str, weights: str) -> Preprocessing:
    """What the weights of a network want; a local file wants what the published ones do.

    Without weights, another library's network and one of a single size keep their own.

    Raises:
        InputError: ``pretrained`` where there are no published weights, or there is no such network.
    """
    if weights == "pretrained":
        _weights_name(network)
    spec = spec_of(network)
    own = weights != "none" or provider(network) or spec.max_size
    return spec.preprocessing if own else UNTRAINED


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
    """Raises `ValueError` where the network does not take clips of so many frames and pixels."""
    spec = spec_of(network)
    for key, unit, fewer, given, least, most in (
        ("data.frames", "", "fewer", frames, spec.min_frames, spec.max_frames),
        ("data.size", " pixels", "less", size, spec.min_size, spec.max_size),
    ):
        if least == most and given != least:
            raise ValueError(f"{key} = {given}: {network} takes {least}{unit} only")
        if given < least:
            raise ValueError(f"{key} = {given}: {network} takes no {fewer} than {least}{unit}")
        if most is not None and given > most:
            raise ValueError(f"{key} = {given}: {network} takes no more than {most}{unit}")
    if known := provider(network):
        known.check_input(network, frames, size)


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
    name = spec_of(network).weights
    if name is None:
        raise InputError(f'{network} has no pretrained weights: set model.weights = "none"')
    return name
