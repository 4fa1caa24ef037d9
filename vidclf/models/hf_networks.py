"""Encoders of the Hugging Face hub as networks: video transformers, and image encoders over single frames.

A name is ``hf:ORG/NAME``, or ``hf:FOLDER`` for a folder that ``save_pretrained`` wrote. Of the repository
only the configuration, the weights and the processor's figures are used; none of its code is run.
"""

import functools
import importlib.metadata
import inspect
import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidclf.config import digest
from vidclf.exceptions import InputError
from vidclf.models.networks import NetworkSpec, Preprocessing

try:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoVideoProcessor
    from transformers.utils.logging import disable_progress_bar

    from vidclf.models import hub
except ModuleNotFoundError as missing:
    raise InputError(f"networks hf:NAME need {missing.name}: pip install 'vidclf[hf]'") from None

disable_progress_bar()  # of reading files; those of downloads stay

_SAVED = "hf_network.json"
"""In a saved model's folder: what its network is built from."""
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}
"""By Pillow's numbers; others are taken for the first."""


@dataclass(frozen=True)
class _Family:
    """Where an architecture's parts are.

    Attributes:
        dims: 2 where it takes single frames, 3 where clips.
        layers: The list of its blocks.
        before: What comes before them, in order.
        norm: What comes behind them; a layer norm without parameters where the model has none.
        pool: Which token is the feature, or the module that pools tokens.
        unused: What it has beside.
    """

    dims: Literal[2, 3]
    layers: str
    before: tuple[str, ...]
    norm: str
    pool: str
    unused: tuple[str, ...] = ()


_FAMILIES = {
    "videomae": _Family(3, "encoder.layer", ("embeddings",), "layernorm", "mean"),
    "vivit": _Family(3, "layers", ("embeddings",), "layernorm", "first", ("pooler",)),
    "timesformer": _Family(3, "encoder.layer", ("embeddings",), "layernorm", "first"),
    "vjepa2": _Family(
        3, "encoder.layer", ("encoder.embeddings",), "encoder.layernorm", "mean", ("predictor",)
    ),
    "dinov2": _Family(2, "encoder.layer", ("embeddings",), "layernorm", "first"),
    "dinov2_with_registers": _Family(2, "encoder.layer", ("embeddings",), "layernorm", "first"),
    "siglip_vision_model": _Family(2, "encoder.layers", ("embeddings",), "post_layernorm", "head"),
    "clip_vision_model": _Family(
        2, "encoder.layers", ("embeddings", "pre_layrnorm"), "post_layernorm", "first"
    ),
}
"""By ``model_type`` of the configuration."""


@dataclass(frozen=True)
class _Description:
    """What a network is built from, and what its weights want."""

    config: Any
    preprocessing: Preprocessing
    licence: str | None

    @property
    def family(self) -> _Family:
        return _FAMILIES[self.config.model_type]

    @property
    def frames(self) -> int:
        if self.family.dims == 2:
            return 1
        return int(getattr(self.config, "num_frames", None) or self.config.frames_per_clip)


@functools.cache
def spec(network: str) -> NetworkSpec:
    """See `vidclf.models.providers.Provider`."""
    known = _described(network)
    size, frames = known.preprocessing.size, known.frames
    outcome = _tried(network, frames, size)
    if isinstance(outcome, str):
        raise InputError(f"network = {network!r}: takes none of {frames} frames of {size} pixels ({outcome})")
    names = ["stem", *(f"block{number}" for number in range(1, known.config.num_hidden_layers + 1))]
    one_length = known.family.dims == 3 and isinstance(_tried(network, 2 * frames, size), str)
    one_size = isinstance(_tried(network, frames, 2 * size), str)
    return NetworkSpec(
        dims=known.family.dims,
        weights=network.removeprefix("hf:"),
        preprocessing=known.preprocessing,
        stages={name: (name,) for name in names},
        head=known.family.unused,
        width=outcome,
        min_frames=frames if one_length else 1 if known.family.dims == 2 else 2,
        max_frames=frames if one_length else None,
        min_size=size if one_size else 1,
        max_size=size if one_size else None,
        licence=known.licence,
    )


@functools.cache
def _described(network: str) -> _Description:
    source = network.removeprefix("hf:")
    saved = Path(source, _SAVED)
    if saved.is_file():
        given = json.loads(saved.read_text(encoding="utf-8"))
        config = AutoConfig.for_model(given["config"].pop("model_type"), **given["config"])
        own: Any = {
            key: tuple(one) if isinstance(one, list) else one for key, one in given["preprocessing"].items()
        }
        return _Description(config, Preprocessing(**own), given["licence"])
    with hub.downloads(f"{network}: its config.json", _cure(source), source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    config = getattr(config, "vision_config", config)  # of a model of pictures and texts
    if config.model_type not in _FAMILIES:
        families = ", ".join(_FAMILIES)
        raise InputError(f"network = {network!r} is of type {config.model_type}; known are {families}")
    with hub.downloads(f"{network}: its preprocessor_config.json", _cure(source), source):
        processor = _processor(source, _FAMILIES[config.model_type].dims)
    return _Description(config, _figures(processor), _licence(source))


def _cure(source: str) -> str:
    if Path(source).is_absolute() or source.startswith("."):
        return f"{source} should be a folder that save_pretrained wrote, of model and processor"
    return (
        f"where the repository is gated, accept its terms at {hub.endpoint()}/{source} and log in "
        f"with `hf auth login`; without internet, run `hf download {source} --local-dir FOLDER` elsewhere, "
        f'bring the folder here, and set model.network = "hf:FOLDER"; else check the name'
    )


def _processor(source: str, dims: int) -> Any:
    """Whichever the repository has, for videos first where the network takes clips."""
    kinds = [AutoVideoProcessor, AutoImageProcessor] if dims == 3 else [AutoImageProcessor]
    for kind in kinds[:-1]:
        try:
            return kind.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError, TypeError):  # it has none of this kind
            continue
    return kinds[-1].from_pretrained(source, trust_remote_code=False)


def _figures(processor: Any) -> Preprocessing:
    """What a processor does to pictures."""
    size, crop = dict(processor.size), dict(getattr(processor, "crop_size", None) or {})
    resize: Any = size.get("shortest_edge") or (size["height"], size["width"])
    cropped = getattr(processor, "do_center_crop", False) and crop
    edge = int(crop["height"] if cropped else resize if isinstance(resize, int) else resize[0])
    scale = 255 * (processor.rescale_factor if processor.do_rescale else 1)
    offset = 1.0 if getattr(processor, "offset", False) else 0.0
    mean, std = processor.image_mean, processor.image_std
    if not processor.do_normalize:
        mean, std = [0.0] * 3, [1.0] * 3
    return Preprocessing(
        size=edge,
        resize=resize,
        mean=tuple((offset + float(value)) / scale for value in mean),
        std=tuple(float(value) / scale for value in std),
        interpolation=_INTERPOLATIONS.get(int(processor.resample), "bilinear"),
    )


def _licence(source: str) -> str | None:
    """As the repository's card says; ``None`` where it says nothing."""
    from huggingface_hub import ModelCard

    card = Path(source, "README.md")
    try:
        with hub.downloads("the card", "", source):
            found = ModelCard.load(str(card) if card.is_file() else source).data.to_dict().get("license")
    except InputError:
        return None
    return str(found) if found else None


def build(network: str) -> nn.Module:
    """See `vidclf.models.providers.Provider`."""
    known = _described(network)
    backbone: nn.Module = AutoModel.from_config(known.config, dtype=torch.float32, trust_remote_code=False)
    for name in known.family.unused:
        if hasattr(backbone, name):
            delattr(backbone, name)
    return backbone


def published(network: str) -> Mapping[str, Tensor]:
    """See `vidclf.models.providers.Provider`."""
    source = network.removeprefix("hf:")
    with hub.downloads(f"the weights of {network}", _cure(source), source):
        return _loaded(AutoModel, source, config=_described(network).config, trust_remote_code=False)


def fitted(backbone: Any, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """See `vidclf.models.providers.Provider`: transformers renames what older versions of it wrote."""
    try:
        return _loaded(type(backbone), None, config=backbone.config, state_dict=dict(state))
    except (RuntimeError, ValueError):  # of weights of another shape
        return state


def _loaded(kind: Any, source: str | None, **options: Any) -> Mapping[str, Tensor]:
    """The weights of a model without those that were not there."""
    model, loaded = kind.from_pretrained(source, dtype=torch.float32, output_loading_info=True, **options)
    lacking = set(loaded["missing_keys"])
    return {name: values for name, values in model.state_dict().items() if name not in lacking}


def check_input(network: str, frames: int, size: int) -> None:
    """See `vidclf.models.providers.Provider`."""
    known = _described(network)
    reason = _tried(network, frames if known.family.dims == 3 else 1, size)
    if reason not in {spec(network).width}:
        own = f"{known.frames} of {known.preprocessing.size}"
        raise ValueError(
            f"data.frames = {frames}, data.size = {size}: {network} does not take so many frames or pixels "
            f"({reason}); its own are {own}"
        )


@functools.cache
def _tried(network: str, frames: int, size: int) -> int | str:
    """Features of such clips, or what the network says against them; found from shapes alone."""
    clips = (frames, 3, size, size) if _described(network).family.dims == 2 else (1, 3, frames, size, size)
    with torch.device("meta"), torch.inference_mode():
        try:
            whole = nn.Sequential(*stages(build(network)).values()).eval()
            return int(whole(torch.empty(clips)).shape[1])
        except Exception as error:  # each architecture has its own way to refuse
            return str(error).strip().split("\n")[0].removesuffix(".") or type(error).__name__


def identity(network: str) -> str:
    """See `vidclf.models.providers.Provider`."""
    config = digest(_described(network).config.to_dict())
    return f"{config} of transformers {importlib.metadata.version('transformers')}"


def save(network: str, directory: Path) -> None:
    """See `vidclf.models.providers.Provider`."""
    known = _described(network)
    described = {
        "config": {**known.config.to_diff_dict(), "model_type": known.config.model_type},
        "preprocessing": asdict(known.preprocessing),
        "licence": known.licence,
    }
    (directory / _SAVED).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def saved(network: str, directory: Path) -> str:
    """See `vidclf.models.providers.Provider`."""
    return f"hf:{directory.resolve()}"


def stages(backbone: Any) -> Mapping[str, nn.Module]:
    """See `vidclf.models.providers.Provider`: what makes tokens, then one stage a block."""
    family = _FAMILIES[backbone.config.model_type]
    layers = list(operator.attrgetter(family.layers)(backbone))
    before = [operator.attrgetter(name)(backbone) for name in family.before]
    parts: dict[str, nn.Module] = {"stem": _Stem(before, family.dims)}
    for number, layer in enumerate(layers, start=1):
        parts[f"block{number}"] = _Block(layer)
    norm = operator.attrgetter(family.norm)(backbone)
    pool = getattr(backbone, family.pool, None)
    parts[f"block{len(layers)}"] = _LastBlock(layers[-1], norm, pool or family.pool, family.dims)
    return parts


def _called(module: nn.Module, given: Tensor) -> Tensor:
    """What a module gives; what else it asks for, such as masks, is ``None``."""
    _, *others = inspect.signature(module.forward).parameters.values()
    lacking = [one for one in others if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    outcome: Any = module(given, *[None for _ in lacking])
    tokens: Tensor = outcome[0] if isinstance(outcome, tuple) else outcome
    return tokens


class _Stem(nn.Module):
    """Pixels to tokens."""

    def __init__(self, modules: Sequence[nn.Module], dims: int) -> None:
        super().__init__()
        self.steps, self.dims = nn.ModuleList(modules), dims

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, tokens, width) of (N, 3, S, S), or of (N, 3, T, S, S)."""
        given = pixels.transpose(1, 2) if self.dims == 3 else pixels
        for step in self.steps:
            given = _called(step, given)
        return given


class _Block(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, tokens, width) of the same."""
        return _called(self.layer, tokens)


class _LastBlock(_Block):
    """The last block, and what makes one feature of tokens: a map of one position."""

    def __init__(self, layer: nn.Module, norm: nn.Module | None, pool: nn.Module | str, dims: int) -> None:
        super().__init__(layer)
        self.norm, self.pool, self.dims = norm, pool, dims

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, width, 1, 1), or with one more 1 for clips, of (N, tokens, width)."""
        tokens = super().forward(tokens)
        tokens = functional.layer_norm(tokens, tokens.shape[-1:]) if self.norm is None else self.norm(tokens)
        if isinstance(self.pool, nn.Module):
            features: Tensor = self.pool(tokens)
        else:
            features = tokens[:, 0] if self.pool == "first" else tokens.mean(dim=1)
        return features[..., None, None, None] if self.dims == 3 else features[..., None, None]
