"""Pretrained weights: those published for a network, or from a file."""

import contextlib
import pickle
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from vidclf.data import remote
from vidclf.data.remote import named
from vidclf.exceptions import InputError
from vidclf.models.networks import published_weights, spec_of
from vidclf.models.own_networks import build_network
from vidclf.models.providers import provider
from vidclf.models.saved import check_archive

_NESTED = ("state_dict", "model_state_dict", "model", "network", "module", "checkpoint")
"""Where training scripts put a state dict in what they save."""


def load_backbone(network: str, weights: str) -> nn.Module:
    """The network with all weights but its head's taken from ``weights``.

    Raises:
        InputError: The weights cannot be had, don't fit, or are not numbers.
    """
    backbone = build_network(network)
    if weights == "none":
        return backbone
    known, said = provider(network), f"model.weights = {weights!r}"
    if weights != "pretrained":
        given = _unprefixed(_read_weights(remote.local_file(weights)), backbone)
        given = known.fitted(backbone, given) if known else given
    else:
        given = known.published(network) if known else _downloaded_weights(network)
    heads = spec_of(network).head
    heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    given = {name: values for name, values in given.items() if not name.startswith(heads)}
    wanted = {name: values for name, values in backbone.state_dict().items() if not name.startswith(heads)}
    # Files older than torch 0.4.1 don't count batches; torch fills the counters in.
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in wanted]
    misshapen = [name for name in wanted if name in given and wanted[name].shape != given[name].shape]
    if missing or unexpected or misshapen:
        groups = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
        details = "; ".join(f"{word}: {_some(names)}" for word, names in groups.items() if names)
        raise InputError(f"{said} does not fit model.network = {network!r}: {details}")
    if broken := [name for name, values in given.items() if not values.isfinite().all()]:
        raise InputError(f"{said} holds values that are NaN or infinite: {_some(broken)}")
    backbone.load_state_dict(given, strict=False)
    return backbone


def _unprefixed(given: Mapping[str, Tensor], backbone: nn.Module) -> Mapping[str, Tensor]:
    """The weights of the backbone by its own names, where all have a prefix more, as ``module.``.

    It is what wrappers put before each name (``module.``, ``_orig_mod.``), or the name of the backbone
    in a larger network, whose other weights are left out.
    """
    wanted = list(backbone.state_dict())
    if not wanted or any(name in given for name in wanted):
        return given
    prefixes = {name.removesuffix(wanted[0]) for name in given if name.endswith(f".{wanted[0]}")}
    for prefix in sorted(prefixes, key=len):
        if all(prefix + name in given for name in wanted if not name.endswith("num_batches_tracked")):
            return {name.removeprefix(prefix): given[name] for name in given if name.startswith(prefix)}
    return given


def _some(names: list[str]) -> str:
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")


def downloaded_file(network: str) -> Path:
    """Where torch.hub keeps a network's published weights, whether they are there or not."""
    name = str(published_weights(network).url).rpartition("/")[2]
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def _downloaded_weights(network: str) -> Mapping[str, Tensor]:
    weights, file = published_weights(network), downloaded_file(network)
    try:
        # torch.hub prints to stdout, which belongs to the command's result.
        with contextlib.redirect_stdout(sys.stderr):
            state: Mapping[str, Tensor] = weights.get_state_dict(
                progress=sys.stderr.isatty(), check_hash=True
            )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"the pretrained weights {weights} of {network} could not be downloaded or read ({error}); "
            f"download {file.name} elsewhere and put it into {file.parent}, or set model.weights to a local "
            'file of them, or to "none"'
        ) from None
    return state


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise InputError(f'model.weights: {named(path)}: no such file (nor is it "pretrained" or "none")')
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if zipfile.is_zipfile(path):
            check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception:  # a foreign file makes its readers raise anything; torch's words advise unpickling it
        raise InputError(
            f"model.weights: {named(path)}: not a file of weights, or one that was cut; expected what "
            "torch.save or safetensors writes of a state dict"
        ) from None
    while isinstance(state, Mapping) and (inner := next((key for key in _NESTED if key in state), None)):
        state = state[inner]
    if not (isinstance(state, Mapping) and state and all(isinstance(one, Tensor) for one in state.values())):
        keys = f" (it holds {_some([str(key) for key in state])})" if isinstance(state, Mapping) else ""
        raise InputError(
            f"model.weights: {named(path)}: not a state dict{keys}: expected what "
            "torch.save(network.state_dict()) writes"
        )
    return state
