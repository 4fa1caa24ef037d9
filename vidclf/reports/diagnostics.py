"""What a run writes of its model: scores, figures and tables, and pictures of what it sees and rests on."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from vidclf.data import remote, sampling
from vidclf.data.clips import ClipSet
from vidclf.data.pictures import Frames, Grid
from vidclf.data.remote import named
from vidclf.evaluation import metrics
from vidclf.evaluation.calibration import Calibration
from vidclf.evaluation.predictions import predictions_table, read_predictions, write_predictions
from vidclf.inference import profiling
from vidclf.models import Classifier
from vidclf.models.base import FeatureClassifier, Probabilities
from vidclf.models.features import gradient_drawing
from vidclf.models.pixels import STILL
from vidclf.reports import plots

_MOST_POINTS = 500
"""Clips of a split that are drawn: more only hide each other."""
_MOST_JUDGED = 100
"""Clips that importance is judged on."""
_DRAWS = 20
"""Times that each block is exchanged."""
_INSTANTS = 3
"""Instants at which a clip is shown."""
_MOTION = {"flow", "hof", "mbh"}
"""Features that are made from the optical flow."""
_COLOURS = 256
_MOST_WRONG = 24
"""Wrong clips on a contact sheet."""


def write_scores(
    probabilities: Probabilities, clips: ClipSet, split: str, artifacts: Path
) -> dict[str, float]:
    """Metrics of one split, with its confusion, report and per-clip predictions as artifacts."""
    folder = artifacts / split
    table = predictions_table(clips.paths, clips.labels, probabilities, clips.classes, clips.groups)
    write_predictions(table, folder)
    figure = plots.confusion_matrix(
        metrics.confusion(clips.labels, probabilities), clips.classes, f"{split}, {len(clips)} clips"
    )
    _write(figure, artifacts, f"{split}/confusion_matrix")
    report = metrics.report_text(clips.labels, probabilities, clips.classes)
    (folder / "classification_report.txt").write_text(report, encoding="utf-8")
    scores = metrics.evaluate(clips.labels, probabilities, clips.classes, clips.groups)
    return {f"{split}/{name}": value for name, value in scores.items()}


def draw_reliability(
    probabilities: Probabilities, scaled: Calibration | None, clips: ClipSet, split: str, artifacts: Path
) -> None:
    """How far the probabilities can be taken at their word, as they are and, for a network, scaled."""
    drawn = {"as the model gives them": probabilities}
    if scaled is not None and scaled.crossed is not None:
        kept = f"T = {scaled.temperature:.2f} is kept" if scaled.temperature != 1.0 else "not kept: no better"
        drawn[f"scaled as clips of other groups ask for ({kept})"] = scaled.crossed
    panels = {}
    for name, each in drawn.items():
        error = metrics.expected_calibration_error(clips.labels, each)
        panels[f"{name}\nexpected calibration error {error:.3f}"] = metrics.reliability(clips.labels, each)
    figure = plots.reliability(panels, f"{split}, {len(clips)} clips")
    plots.write_png(figure, artifacts / split / "reliability.png")


def write_environment_and_curves(
    records: Iterable[tuple[int, Mapping[str, float]]], monitor: str, artifacts: Path
) -> None:
    """The machine and its libraries, and a picture of what each epoch reported: (step, metrics)."""
    environment = json.dumps(profiling.environment(), indent=1)
    (artifacts / "environment.json").write_text(environment + "\n", encoding="utf-8")
    if curves := [(step, values) for step, values in records if step > 0]:
        plots.write_png(plots.learning_curves(curves, monitor), artifacts / "learning_curves.png")


def write_pictures(
    classifier: Classifier, train: ClipSet, val: ClipSet, artifacts: Path, *, seed: int
) -> None:
    """Writes what there is to show of a model into ``artifacts``, pictures also for MLflow's grid.

    ``seed`` is that of the draws of the importance.
    """
    _write_projection(classifier, {"train": train, "val": val}, artifacts)
    if (by_features := classifier.by_features) is not None:
        drops = block_importance(by_features, val, seed)
        if drops:
            _write_importance(drops, val, artifacts)
        _write_descriptor(by_features, val, artifacts)


def write_wrong_clips(artifacts: Path, read: Callable[[Path], Grid]) -> None:
    """Draws a frame of each clip of val that was mistaken, the most confident mistakes first.

    What ``val/wrong_clips.csv`` names is drawn, once: at most 24, and no picture where there is none.
    ``read`` gives the frames of the clip at a path.
    """
    table = read_predictions(artifacts / "val" / "wrong_clips.csv")
    name = "val/wrong_clips"
    if table.empty or (artifacts / f"{name}.png").exists():
        return
    shown = table.head(_MOST_WRONG)
    frames: list[Frames] = []
    for path in remote.local_files(list(shown["clip_path"])):
        clip = read(path)
        middle = len(clip) // 2
        frames.extend(clip[middle : middle + 1])
    columns = zip(shown["label"], shown["predicted"], shown["confidence"], strict=True)
    captions = [
        f"{plots.shortened(label)}\ntaken for {plots.shortened(said)} ({confidence:.0%})"
        for label, said, confidence in columns
    ]
    some = f", the {_MOST_WRONG} most confident" if len(table) > _MOST_WRONG else ""
    title = f"Wrong clips of val: {len(table)}{some}"
    _write(plots.contact_sheet(frames, captions, title), artifacts, name, _COLOURS)


def _write(figure: Figure, artifacts: Path, name: str, colours: int = 64) -> None:
    path = artifacts / f"{name}.png"
    plots.write_png(figure, path, colours)
    plots.write_grid_image(path, artifacts / "images", name)


def _write_projection(classifier: Classifier, splits: Mapping[str, ClipSet], artifacts: Path) -> None:
    shown = {name: _some(clips, _MOST_POINTS) for name, clips in splits.items()}
    found = project({name: classifier.embed(clips) for name, clips in shown.items()})
    if found is None:
        return
    points, shares = found
    classes = splits["train"].classes
    title = f"What the decision sees, on two axes that keep {sum(shares):.0%} of train's variance"
    labels = {name: clips.labels for name, clips in shown.items()}
    _write(plots.projection(points, labels, classes, shares, title), artifacts, "projection", _COLOURS)
    tables = [
        pd.DataFrame(
            {
                "clip_path": [named(path) for path in clips.paths],
                "split": name,
                "label": np.array(classes)[clips.labels],
                "x": points[name][:, 0],
                "y": points[name][:, 1],
            }
        )
        for name, clips in shown.items()
    ]
    pd.concat(tables).to_csv(artifacts / "projection.csv", index=False)


def _some(clips: ClipSet, most: int) -> ClipSet:
    """At most so many of the clips, evenly from their order."""
    if len(clips) <= most:
        return clips
    chosen = sampling.sample_indices(len(clips), most)
    return replace(
        clips,
        paths=tuple(clips.paths[index] for index in chosen),
        labels=clips.labels[chosen],
        groups=tuple(clips.groups[index] for index in chosen),
    )


def project(
    embeddings: Mapping[str, NDArray[np.float64]],
) -> tuple[dict[str, NDArray[np.float64]], tuple[float, float]] | None:
    """Two principal components of the training clips.

    Args:
        embeddings: Of each split, ``train`` among them, shape (clips, width).

    Returns:
        Of each split the clips' places, shape (clips, 2), and the share of train's variance that each axis
        keeps; ``None`` where there are fewer than two values or three training clips, or nothing varies.
    """
    train = embeddings["train"]
    if train.shape[1] < 2 or len(train) < 3 or not train.var(axis=0).any():
        return None
    components = PCA(2, svd_solver="full").fit(train)
    first, second = components.explained_variance_ratio_
    return {name: components.transform(values) for name, values in embeddings.items()}, (first, second)


def block_importance(classifier: FeatureClassifier, clips: ClipSet, seed: int) -> dict[str, list[float]]:
    """How much macro F1 is lost where a feature of every clip is that of another clip.

    The other clip is a random one of another group, or any where there is one group only: the clips of a
    group resemble each other. The model is not fitted anew, so of two features that tell the same neither
    may seem important.

    Returns:
        The drop of every draw by feature; empty where there are fewer than two features or clips.
    """
    clips = _some(clips, _MOST_JUDGED)
    blocks = classifier.blocks(clips)
    if len(blocks) < 2 or len(clips) < 2:
        return {}
    generator = np.random.default_rng(seed)
    others = _others(clips.groups)
    values = np.concatenate(list(blocks.values()), axis=1)
    whole = metrics.macro_f1(clips.labels, metrics.predicted(classifier.probabilities(values)))
    drops: dict[str, list[float]] = {}
    start = 0
    for name, block in blocks.items():
        # All draws as one matrix: a forest takes as long for a clip as for hundreds.
        exchanged = np.tile(values, (_DRAWS, 1))
        givers = np.concatenate([generator.choice(candidates, _DRAWS) for candidates in others])
        places = givers.reshape(len(clips), _DRAWS).T.ravel()
        exchanged[:, start : start + block.shape[1]] = block[places]
        start += block.shape[1]
        guesses = metrics.predicted(classifier.probabilities(exchanged)).reshape(_DRAWS, len(clips))
        drops[name] = [whole - metrics.macro_f1(clips.labels, guessed) for guessed in guesses]
    return drops


def _others(groups: tuple[str, ...]) -> list[NDArray[np.int64]]:
    """For each clip the clips of other groups, or, where there are none, all others."""
    names = np.array(groups)
    if (names == names[0]).all():
        names = np.arange(len(groups))
    return [np.flatnonzero(names != name) for name in names]


def _write_importance(drops: Mapping[str, list[float]], clips: ClipSet, artifacts: Path) -> None:
    number = min(len(clips), _MOST_JUDGED)
    caption = f"{number} clips of val, the split models are selected by; mean ± deviation of {_DRAWS} draws"
    title = "What is lost where a feature is that of another clip"
    _write(plots.block_importance(drops, title, caption), artifacts, "block_importance")
    table = {
        "feature": list(drops),
        "split": "val",
        "clips": number,
        "draws": _DRAWS,
        "macro_f1_drop": [np.mean(values) for values in drops.values()],
        "macro_f1_drop_std": [np.std(values) for values in drops.values()],
    }
    pd.DataFrame(table).to_csv(artifacts / "block_importance.csv", index=False)


def _write_descriptor(classifier: FeatureClassifier, clips: ClipSet, artifacts: Path) -> None:
    """What the features that can be drawn see of the first clip."""
    if not {"hog", *_MOTION} & set(classifier.features):
        return
    pixels = classifier.pixels(clips, 0)
    # Of the last frame there is no motion to the next.
    instants = np.unique(sampling.sample_indices(max(len(pixels.frames) - 1, 1), _INSTANTS))
    edges = [gradient_drawing(pixels.grey[instant]) for instant in instants if "hog" in classifier.features]
    figure = plots.descriptor(
        pixels.frames[instants],
        [f"frame {instant + 1} of {len(pixels.frames)}" for instant in instants],
        f"{clips.paths[0].name}: {clips.classes[clips.labels[0]]}",
        edges=np.stack(edges) if edges else None,
        flow=pixels.flow[np.minimum(instants, len(pixels.flow) - 1)]
        if _MOTION & set(classifier.features)
        else None,
        still=STILL * pixels.sensitivity * pixels.frames.shape[1],
    )
    _write(figure, artifacts, "descriptor", _COLOURS)
