"""Names of runs, models and trials as people read them."""

from collections.abc import Mapping, Sequence
from typing import Any

from vidclf import config
from vidclf.config import Tree

_WORDS = {
    "data.frames": "{}f",
    "data.size": "{} px",
    "model.frozen_stages": "frozen {}",
    "model.kernel": "{}",
    "model.pooling": "{} pooling",
    "train.label_smoothing": "smoothing {}",
    "train.optimizer": "{}",
}
"""How a value reads; of another key the last part stands before it, as ``lr 3e-4``."""
_IN_MODEL = ("base", "model.kind", "model.network", "model.weights", "model.features")
"""What the model's name says already, and a weights file, which is too long."""
_DISTINCTIVE = ("model.frozen_stages", "train.lr", "model.kernel", "model.C")
"""What tells fixed experiments apart, where they have it."""


def plural(count: int, noun: str) -> str:
    """As ``1 trial`` and ``2 trials``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def trial_name(number: int, base: Tree, params: Mapping[str, Any]) -> str:
    """As ``#012 r3d_18 · 16f · frozen 3 · lr 3e-4``: sorts by number; ``params`` are by dotted path."""
    return f"#{number:03d} {' · '.join(_parts({**config.flatten(base), **params}, list(params)))}"


def train_name(stem: str, experiment: Tree) -> str:
    """As ``r3d18-head · r3d_18 · 16f · frozen 5 · lr 1e-3``: the file's stem may say what no value does."""
    values = config.flatten(experiment)
    parts = _parts(values, [path for path in _DISTINCTIVE if path in values])
    return " · ".join(dict.fromkeys([stem, *parts]))


def _parts(values: Mapping[str, Any], paths: Sequence[str]) -> list[str]:
    shown = [path for path in ("data.frames", *paths) if path in values and path not in _IN_MODEL]
    return [_model(values), *(_worded(path, values[path]) for path in dict.fromkeys(shown))]


def _model(values: Mapping[str, Any]) -> str:
    """The network; of a classical model its kind and features."""
    features = values.get("model.features")
    network = values.get("model.network")
    if features is None:
        return str(network or values["model.kind"])
    names = features.split("+") if isinstance(features, str) else features
    seen = "+".join(str(network) if name == "deep" else name for name in names)
    return f"{values['model.kind']} {seen}".strip()


def _worded(path: str, value: Any) -> str:
    default = path.rpartition(".")[2].replace("_", " ") + " {}"
    return _WORDS.get(path, default).format(_short(value))


def _short(value: Any) -> str:
    """Two digits that count, and ``3e-4`` rather than ``0.0003``."""
    if isinstance(value, list | tuple):
        return "+".join(map(_short, value))
    if not isinstance(value, float):
        return str(value)
    if value == 0 or 1e-2 <= abs(value) < 1e4:
        return f"{value:.2g}" if abs(value) < 99.5 else f"{value:.0f}"  # from there on .2g writes 1e+02
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
