"""What a run writes beside its model: figures, tables and the environment."""

import json

from vidclf import config
from vidclf.data.clips import ClipSet
from vidclf.evaluation import metrics
from vidclf.evaluation.calibration import Calibration
from vidclf.evaluation.predictions import predictions_table, wrong_clips
from vidclf.inference import profiling
from vidclf.models.base import ExperimentConfig, Probabilities
from vidclf.reports import plots
from vidclf.runs.folder import Attempt


def write_scores(
    probabilities: Probabilities, clips: ClipSet, split: str, attempt: Attempt
) -> dict[str, float]:
    """Metrics of one split, with its confusion, report and per-clip predictions as artifacts."""
    folder = attempt.artifacts / split
    folder.mkdir(exist_ok=True)
    figure = plots.confusion_matrix(
        metrics.confusion(clips.labels, probabilities), clips.classes, f"{split}, {len(clips)} clips"
    )
    plots.write_png(figure, folder / "confusion_matrix.png")
    plots.write_grid_image(
        folder / "confusion_matrix.png", attempt.artifacts / "images", f"{split}/confusion_matrix"
    )
    report = metrics.report_text(clips.labels, probabilities, clips.classes)
    (folder / "classification_report.txt").write_text(report, encoding="utf-8")
    table = predictions_table(clips.paths, clips.labels, probabilities, clips.classes, clips.groups)
    table.to_csv(folder / "predictions.csv", index=False)
    wrong_clips(table).to_csv(folder / "wrong_clips.csv", index=False)
    scores = metrics.evaluate(clips.labels, probabilities, clips.classes)
    return {f"{split}/{name}": value for name, value in scores.items()}


def draw_reliability(
    probabilities: Probabilities, scaled: Calibration | None, clips: ClipSet, split: str, attempt: Attempt
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
    plots.write_png(figure, attempt.artifacts / split / "reliability.png")


def write_environment_and_curves(experiment: ExperimentConfig, attempt: Attempt) -> None:
    """The machine and its libraries, and a picture of what each epoch reported."""
    environment = json.dumps(profiling.environment(), indent=1)
    (attempt.artifacts / "environment.json").write_text(environment + "\n", encoding="utf-8")
    curves = [(step, values) for step, values in attempt.records() if step > 0]
    if curves:
        monitor = config.lookup(config.dump(experiment), "train.monitor") or "val/macro_f1"
        plots.write_png(plots.learning_curves(curves, monitor), attempt.artifacts / "learning_curves.png")
