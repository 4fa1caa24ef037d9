"""timm's backbones as networks of single frames, cut into stages as timm groups their parameters.

A name is ``timm:NAME`` with NAME as timm writes it, also with the tag of its weights, and ``@224`` behind it
makes a network of fixed size one for so many pixels.
"""

import functools
import importlib.metadata
import inspect
import itertools
import operator
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from vidclf.config import did_you_mean
from vidclf.exceptions import InputError
from vidclf.models.networks import NetworkSpec, Preprocessing

try:
    import timm
    from timm.data import resolve_model_data_config
    from timm.layers import get_notrace_functions
    from timm.models import group_parameters

    from vidclf.models import hub
except ModuleNotFoundError as missing:
    raise InputError(f"networks timm:NAME need {missing.name}: pip install 'vidclf[timm]'") from None

_NAME = re.compile(r"timm:(?P<name>[^@]*)(@(?P<size>\d{1,4}))?")
_SHORT = re.compile(r"^(?:[a-z_]+\d+|\w+(?:\.\d+)?)")
"""As much of a stage's common prefix as names it: ``layers.0`` of ``layers.0.blocks``."""


@functools.cache
def spec(network: str) -> NetworkSpec:
    """See `vidclf.models.providers.Provider`."""
    with torch.device("meta"):
        backbone = _create(network)
    config = resolve_model_data_config(backbone)
    given = _parsed(network)[1]
    size = given or config["input_size"][-1]
    edge = int(size / config["crop_pct"])
    published = backbone.pretrained_cfg
    classifier = published.get("classifier") or ()
    outcome = _tried(network, size)
    if isinstance(outcome, str):
        raise InputError(f"network = {network!r}: timm does not make it for {size} pixels ({outcome})")
    source = published.get("hf_hub_id") or published.get("url") or published.get("file")
    return NetworkSpec(
        dims=2,
        weights=str(source) if source else None,
        preprocessing=Preprocessing(
            size=size,
            resize=(edge, edge) if config["crop_mode"] == "squash" else edge,
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            interpolation=config["interpolation"],
        ),
        stages={name: (name,) for name in stages(backbone)},
        head=(classifier,) if isinstance(classifier, str) else tuple(classifier),
        width=outcome,
        min_frames=1,
        min_size=1,
        licence=published.get("license") or None,
    )


def build(network: str) -> nn.Module:
    """See `vidclf.models.providers.Provider`."""
    backbone: nn.Module = _create(network)
    return backbone


def _parsed(network: str) -> tuple[str, int | None]:
    found = _NAME.fullmatch(network)
    if found is None:
        raise InputError(f"network = {network!r}: expected timm:NAME, or timm:NAME@224 for 224 pixels")
    return found["name"], int(found["size"]) if found["size"] else None


def _create(network: str, *, pretrained: bool = False) -> Any:
    name, size = _parsed(network)
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise InputError(
            f"network = {network!r}: timm has none of this name{_meant(name, timm.list_models())}"
        )
    tags = [full for full in timm.list_pretrained(f"{architecture}.*") if full.startswith(f"{architecture}.")]
    if tag and name not in tags:
        raise InputError(
            f"network = {network!r}: timm has no such weights; there are {', '.join(tags) or 'none'}"
        )
    options = {} if size is None else {"img_size": size}
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except TypeError as error:
        if size is None:
            raise
        raise InputError(f"network = {network!r}: it takes any size, set data.size ({error})") from None


def _meant(name: str, known: list[str]) -> str:
    said = did_you_mean(name, known)
    return said.replace("mean ", "mean timm:") if said else "; timm.list_models() gives all"


def published(network: str) -> Mapping[str, Tensor]:
    """See `vidclf.models.providers.Provider`."""
    source = str(spec(network).weights)
    file = source if "://" in source else f"https://huggingface.co/{source}/resolve/main/model.safetensors"
    cure = f'download {file} elsewhere and set model.weights to that file, or to "none"'
    with hub.downloads(f"the pretrained weights of {network}", cure):
        state: Mapping[str, Tensor] = _create(network, pretrained=True).state_dict()
    return state


def fitted(backbone: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """See `vidclf.models.providers.Provider`: timm renames its sources' weights, and resizes positions."""
    rename = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if rename is None:
        return state
    try:
        renamed: Mapping[str, Tensor] = rename(dict(state), backbone)
    except Exception:  # it expects weights of this architecture
        return state
    return renamed


def check_input(network: str, frames: int, size: int) -> None:
    """See `vidclf.models.providers.Provider`."""
    reason = _tried(network, size)
    if reason not in {spec(network).width}:
        own, name = spec(network).preprocessing.size, _parsed(network)[0]
        raise ValueError(
            f"data.size = {size}: {network} takes {own} pixels, not so many ({reason}); "
            f"timm:{name}@{size} may take them"
        )


@functools.cache
def _tried(network: str, size: int) -> int | str:
    """Features of frames of that edge, or what the network says against them; found from shapes alone."""
    with torch.device("meta"), torch.inference_mode():
        try:
            whole = nn.Sequential(*stages(_create(network)).values())
            return int(whole(torch.empty(1, 3, size, size)).shape[1])
        except InputError:
            raise
        except Exception as error:  # each architecture has its own way to refuse
            return str(error).strip().split("\n")[0].removesuffix(".") or type(error).__name__


def identity(network: str) -> str:
    """See `vidclf.models.providers.Provider`."""
    return f"{network} of timm {importlib.metadata.version('timm')}"


def save(network: str, directory: Path) -> None:
    """See `vidclf.models.providers.Provider`: timm knows it by its name."""


def saved(network: str, directory: Path) -> str:
    """See `vidclf.models.providers.Provider`."""
    return network


def stages(backbone: Any) -> Mapping[str, nn.Module]:
    """See `vidclf.models.providers.Provider`.

    The network is traced, its modules as they are where their parameters belong to one of timm's groups. A
    stage ends where a single tensor goes on: groups between which several do, as branches of several sizes,
    are one stage, and so is a network that can't be traced.
    """
    backbone.eval()  # for what is traced of a dropout outside of modules
    try:
        groups = group_parameters(backbone, backbone.group_matcher(coarse=True), reverse=True)
        cuts = _Cuts(_Tracer(groups).trace(backbone, _defaults(backbone)), groups)
    except Exception:  # it has no groups, or its forward asks for values
        return {"all": _Whole(backbone)}
    parts: dict[str, nn.Module] = {}
    for first, last in itertools.pairwise([-1, *cuts.ends]):
        inside = [name for name, group in groups.items() if first < group <= last]
        common = os.path.commonpath([name.replace(".", "/") for name in inside]) if first >= 0 else "stem"
        common = common.replace("/", ".")
        short = "".join(_SHORT.findall(common))
        end = "last" if last == cuts.ends[-1] else f"stage{len(parts)}"
        names = [short.replace(".", ""), common.replace(".", "-"), end]
        free = next(name for name in names if name and name not in parts)
        parts[free] = fx.GraphModule(backbone, cuts.part(first, last))
    return parts


class _Whole(nn.Module):
    """A network whose features get the shape of maps of one position."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        """(N, width, 1, 1) of (N, 3, size, size)."""
        features: Tensor = self.network(frames)
        return features[..., None, None]


class _Tracer(fx.Tracer):
    """Goes into those modules only whose parameters belong to several groups."""

    def __init__(self, groups: Mapping[str, int]) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self._groups = groups

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return len(_groups_in(module_qualified_name, self._groups)) < 2


def _groups_in(module: str, groups: Mapping[str, int]) -> set[int]:
    return {group for name, group in groups.items() if name.startswith(f"{module}.")}


def _defaults(backbone: nn.Module) -> dict[str, Any]:
    """The forward's arguments beside the frames."""
    _, *others = inspect.signature(backbone.forward).parameters.values()
    return {other.name: other.default for other in others if other.default is not other.empty}


class _Cuts:
    """The graph of a network, and where it can be cut.

    Attributes:
        ends: The last group of each stage.
    """

    def __init__(self, graph: fx.Graph, groups: Mapping[str, int]) -> None:
        self._frames = next(node for node in graph.nodes if node.op == "placeholder")
        (self._result,) = graph.output_node().all_input_nodes
        self._needed = [node for node in graph.nodes if node in _behind(self._result)]
        self._group = {self._frames: -1}
        """Of what depends on the frames: the rest is computed in each stage that it is needed in."""
        self._learned = {node for node in self._needed if node.op == "get_attr" and node.target in groups}
        for node in self._needed:
            given = [self._group[one] for one in node.all_input_nodes if one in self._group]
            if given:
                own = _groups_in(str(node.target), groups) if node.op == "call_module" else ()
                self._group[node] = max([0, *given, *own])
            elif node.op != "placeholder" and self._learned.intersection(node.all_input_nodes):
                self._learned.add(node)
        last = self._group[self._result]
        self.ends = [group for group in range(last) if self._between(group) is not None] + [last]

    def _between(self, group: int) -> fx.Node | None:
        """The one thing that goes on behind a group; ``None`` where several do."""
        used = {
            node: [self._group[user] for user in node.users if user in self._group] for node in self._needed
        }
        over = [
            node
            for node, users in used.items()
            if any(user > group for user in users)
            and (self._group[node] <= group if node in self._group else any(user <= group for user in users))
            and (node in self._group or node in self._learned)
        ]
        return over[0] if len(over) == 1 and over[0] in self._group else None

    def part(self, first: int, last: int) -> fx.Graph:
        """What comes behind group ``first``, up to ``last``."""
        given = self._frames if first < 0 else self._between(first)
        result = self._result if last == self.ends[-1] else self._between(last)
        assert given is not None and result is not None
        graph = fx.Graph()
        copied = {given: graph.placeholder("inputs")}
        wanted = _behind(result, given)
        for node in self._needed:
            if node in wanted:
                copied[node] = graph.node_copy(node, copied.__getitem__)
        output = copied[result]
        if result is self._result:
            maps: Any = (output, (..., None, None))
            output = graph.call_function(operator.getitem, maps)
        graph.output(output)
        return graph


def _behind(result: fx.Node, given: fx.Node | None = None) -> set[fx.Node]:
    """The result and all that it is computed from, without what only leads to ``given``."""
    found: set[fx.Node] = set()
    ahead = [result]
    while ahead:
        node = ahead.pop()
        if node is not given and node not in found:
            found.add(node)
            ahead += node.all_input_nodes
    return found
