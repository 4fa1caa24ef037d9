"""Repeats of one configuration by seed or by fold, with the mean and deviation of their metrics."""

import shutil
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vidclf import config
from vidclf.runs.folder import Attempt, Outcome, now_ms

if TYPE_CHECKING:  # models take a second to import, and to look at a study is to be quick
    from vidclf.models.base import ExperimentConfig, Report

    FitAndScore = Callable[[ExperimentConfig, Attempt, Report], dict[str, float]]

RepeatBy = Literal["seed", "fold"]
_SUMMED = "cost/fit_seconds"


@dataclass(frozen=True)
class Repeats:
    """How often a configuration is run, and what differs between the runs.

    Attributes:
        count: Runs, 2 or more.
        by: ``seed``: run i has the base's seed + i. ``fold``: train and val are split anew into
            ``count`` folds of whole groups, and run i is judged on fold i.
    """

    count: int
    by: RepeatBy

    def __str__(self) -> str:
        return f"{self.count} by {self.by}"

    def variant(self, experiment: "ExperimentConfig", index: int) -> "ExperimentConfig":
        """The experiment of run ``index``."""
        if self.by == "seed":
            return experiment.model_copy(update={"seed": experiment.seed + index})
        data = experiment.data.model_copy(update={"folds": self.count, "fold": index})
        return experiment.model_copy(update={"data": data})


def run_repeats(
    experiment: "ExperimentConfig", attempt: Attempt, report: "Report", repeats: Repeats, run: "FitAndScore"
) -> dict[str, float]:
    """Runs the variants one after another; those that an earlier try finished are not run again.

    By seed a model that no seed changes is run once: its deviation is 0.

    The journal has the curves of run i as ``repeat/i/epoch/…``. After run i, ``report`` is
    called with step i + 1, ``repeat/val/…`` of the run and ``mean/val/…`` so far. By seed the
    model of run 0 is kept, by fold none.

    Args:
        experiment: Resolved.
        attempt: Its folder; each run has a folder of its own below ``checkpoint``.
        report: See above; step 0 is that of run 0.
        repeats: How many, and by what.
        run: Trains and scores one variant.

    Returns:
        ``val/…``: the mean over the runs that have it (a fold may lack a class), with ``val/…_std`` (of a
        sample) and ``repeat/i/val/…``; all else as run 0 had it, but for the time, which is that of all.
    """
    same = repeats.by == "seed" and not experiment.seeded
    count = 1 if same else repeats.count
    finals: list[Mapping[str, float]] = []
    for index in range(count):
        part = _part(attempt, index)
        done = part.outcome()
        if done is None:
            part.artifacts.mkdir(parents=True, exist_ok=True)
            variant = repeats.variant(experiment, index)
            config.write_toml(config.dump(variant), part.config)
            final = run(variant, part, _Curves(attempt, report, index))
            done = Outcome("complete", "", final, now_ms())
            part.finish(done)
        finals.append(done.metrics)
        scores = {name: value for name, value in done.metrics.items() if name.startswith("val/")}
        means = {
            f"mean/{name}": statistics.mean(each[name] for each in finals if name in each) for name in scores
        }
        report(index + 1, {**{f"repeat/{name}": value for name, value in scores.items()}, **means})
    for index in range(count):
        # Only now: until all are there, a later try must find each in its folder.
        _collect(_part(attempt, index), attempt, index, keep_model=repeats.by == "seed")
    summary = _summary(finals, same=same)
    attempt.record(count, summary)
    return summary


def _part(attempt: Attempt, index: int) -> Attempt:
    """The folder of a run while not all are done."""
    return Attempt(attempt.checkpoint / f"repeat-{index}")


class _Curves:
    """Writes a run's curves to the attempt's journal; only the sizes are news to the supervisor."""

    def __init__(self, attempt: Attempt, report: "Report", index: int) -> None:
        self._attempt, self._report, self._index = attempt, report, index

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        if step > 0:
            curves = {f"repeat/{self._index}/{name}": value for name, value in metrics.items()}
            self._attempt.record(step, curves)
        elif self._index == 0:
            self._report(0, metrics)


def _collect(part: Attempt, attempt: Attempt, index: int, *, keep_model: bool) -> None:
    """Copies what a run made to where the attempt's readers look for it; run 0's stand for all.

    Copies, as a process that dies before the attempt's result is written leaves all of it to the next try.
    """
    target = attempt.artifacts if index == 0 else attempt.artifacts / "repeats" / str(index)
    shutil.copytree(part.artifacts, target, dirs_exist_ok=True)
    if index == 0 and keep_model:
        shutil.copytree(part.model, attempt.model, dirs_exist_ok=True)


def _summary(finals: list[Mapping[str, float]], *, same: bool) -> dict[str, float]:
    summary = {name: value for name, value in finals[0].items() if not name.startswith("val/")}
    summary[_SUMMED] = sum(final[_SUMMED] for final in finals)
    for name in sorted({name for final in finals for name in final if name.startswith("val/")}):
        values = {index: final[name] for index, final in enumerate(finals) if name in final}
        summary[name] = statistics.mean(values.values())
        if same or len(values) > 1:
            summary[f"{name}_std"] = 0.0 if same else statistics.stdev(values.values())
        summary |= {f"repeat/{index}/{name}": value for index, value in values.items()}
    return summary
