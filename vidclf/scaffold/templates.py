"""The files of a first study, with the reason of each value as a comment."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from vidclf.scaffold.defaults import DefaultValue, FolderSummary

Values = Mapping[str, DefaultValue]

_KINDS = {
    "svm": (
        "svm",
        "Hand-made features and an SVM: the baseline that a network must beat. Small, fast, no weights.",
    ),
    "mix": (
        "svm",
        "What a frozen network sees in the frames, beside histograms of motion, and one linear SVM.",
    ),
    "2d": ("frames2d", "A 2D network on single frames, averaged over time: what a frame shows."),
    "encoder": ("frames2d", "A light head on a large encoder that stays as it is: what a frame shows."),
    "3d": ("volume3d", "A 3D network on whole clips: how things move."),
}
"""Kind of model of each experiment, by its stem, and what it is for; the quick ones first."""
STEMS = tuple(_KINDS)
"""Of the experiments, in the order in which a study tries them."""


def _said(assignment: str, reason: str) -> str:
    return f"{assignment:<28} # {reason}\n"


def _line(values: Values, key: str) -> str:
    """One assignment with its reason; empty where nothing was chosen."""
    if key not in values:
        return ""
    name = key.rpartition(".")[2]
    return _said(f"{name} = {json.dumps(values[key].value)}", values[key].reason)


def _data(name: str, look: FolderSummary, values: Values) -> str:
    classes = ", ".join(f"{label} {count}" for label, count in look.classes.items())
    width, height = look.size
    return (
        f"# {sum(look.classes.values())} clips, mostly {width}x{height}: {classes}.\n"
        f'[data]\nmanifest = "../../data/{name}/manifest.csv"\n'
        + _line(values, "data.frames")
        + _line(values, "data.size")
    )


def experiment_text(
    stem: str, name: str, look: FolderSummary, values: Values, weights_file: Path | None
) -> str:
    """The experiment ``svm``, ``2d`` or another of `STEMS`, on the manifest of ``name``.

    Args:
        stem: Which.
        name: Of the data set.
        look: The clips.
        values: What is set.
        weights_file: Of its network; ``None``: the published ones.
    """
    kind, purpose = _KINDS[stem]
    head = f"# {purpose}\n" + _data(name, look, values) + f'\n[model]\nkind = "{kind}"\n'
    weights = _said(
        f"weights = {json.dumps(str(weights_file or 'pretrained'))}",
        '"pretrained", a local file, or "none" to train from scratch',
    )
    if stem == "svm":
        return (
            head
            + _said('features = ["hof", "mbh"]', "how things move; colour tells rooms apart, not actions")
            + _FOLLOW
            + _line(values, "model.class_weight")
        )
    if stem == "mix":
        return (
            head
            + _said('features = ["deep", "hof", "mbh"]', "what is there, and how it moves")
            + _line(values, "model.network")
            + weights
            + _said('scale = "block"', "appearance and motion weigh alike")
            + _said('kernel = "linear"', "many values and few clips")
            + "C = 1.0\n"
            + _FOLLOW
            + _said("mirror = true", "left and right count alike")
            + _line(values, "model.class_weight")
        )
    return (
        head
        + _line(values, "model.network")
        + weights
        + _line(values, "model.frozen_stages")
        + "\n[train]\n"
        + _line(values, "train.epochs")
        + _line(values, "train.batch_size")
        + _said("lr = 1e-3", "the study tries others")
        + _line(values, "train.views")
        + _line(values, "train.balance")
    )


def study_text(name: str, values: Values, stems: Sequence[str], waiting: Mapping[str, str]) -> str:
    bases = ", ".join(f'"../experiments/{name}/{stem}.toml"' for stem in stems)
    later = "".join(
        f'# "../experiments/{name}/{stem}.toml" is left out: {why}\n' for stem, why in waiting.items()
    )
    folds, neural = "objective.repeats" in values, len(stems) > 1
    frames = values["data.frames"].value
    stages = values.get("model.frozen_stages")
    return (
        f"# Clips in train, val and test: {_division(values)}.\n"
        f'question = "{name}: which classifier is worth shipping?"\n'
        f"base     = [{bases}]\n{later}"
        + _line(values, "workers")
        + "\n[objective]\n"
        + _said('metric = "val/macro_f1"', "every class counts the same, however few clips it has")
        + 'direction = "maximize"\n'
        + _line(values, "objective.repeats")
        + (_said('repeat_by = "fold"', "each time other groups are judged") if folds else "")
        + "\n# [[constraint]]            # what a model must keep to be shipped\n"
        + '# metric = "latency/p50_ms"\n# max = 50\n'
        + "\n[budget]\n"
        + _line(values, "budget.trials")
        + _line(values, "budget.seconds")
        + '\n[sampler]\nname = "tpe"\nseed = 0\n\n[pruner]\n'
        + (
            _said('name = "median"', "stops trials that fall behind the others")
            + _said("warmup_epochs = 3", "but none in its first epochs")
            if neural and not folds
            else _said('name = "none"', "nothing to compare by while a trial runs")
        )
        + "\n[space]                      # a key applies to each base that has it\n"
        + f'"data.frames" = {{ choices = [{frames // 2}, {frames}] }}\n'
        + _said(
            f'"model.features" = {{ choices = {json.dumps(_FEATURES)}, when = {{ base = "svm" }} }}',
            "motion, shape",
        )
        + _said('"model.flow_seconds" = { choices = [0.0, 0.08] }', "0: from frame to frame")
        + '"model.C" = { low = 1e-3, high = 1e2, log = true }\n'
        + '"model.kernel" = { choices = ["linear", "rbf"], when = { base = "svm" } }\n'
        + '"model.gamma" = { low = 1e-6, high = 1e-2, log = true, when = { "model.kernel" = "rbf" } }\n'
        + ("" if neural else "# with a network in base, these too:\n")
        + "".join(f"{'' if neural else '# '}{line}\n" for line in _NEURAL_SPACE)
        + (_said(f'"{stages.key}" = {json.dumps(stages.value)}', stages.reason) if stages and neural else "")
    )


def _division(values: Values) -> str:
    if "shares" not in values:
        return f"as their folders say ({values['split'].reason})"
    return f"{values['shares'].value} percent ({values['shares'].reason})"


_FOLLOW = _said("follow = true", "what moves, wherever it is and however the camera moves")
_FEATURES = ("hof+mbh", "hog+hof+mbh", "hog+flow")
_NEURAL_SPACE = (
    '"train.lr" = { low = 1e-4, high = 1e-2, log = true }',
    '"train.label_smoothing" = { low = 0.0, high = 0.2 }',
)
