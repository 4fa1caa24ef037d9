"""What trials cost, base by base, what bases promise, and which is to have the next trial."""

import statistics
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from vidclf.evaluation.ranking import CONTENDED
from vidclf.search.record.settings import Direction
from vidclf.search.record.study import BASE, SECONDS, START, STOPPED, OpenStudy, counts

FINISHING: Mapping[str, float] = {"trained": 0.0, "timed": 10.0, "drawn": 6.0, "closed": 8.0}
"""Seconds that each step after the trials is expected to take, before the study has measured it."""
_FEW = 3
"""Trials with a value that a base has at least before it can promise less than others."""
_LEAST_SHARE = 0.1
"""Of the most promising base's time, which every other gets at least."""


@dataclass(frozen=True)
class BaseCost:
    """What the trials of one base took and brought.

    Attributes:
        seconds: Of a trial: the mean of those that ended, without the first where there are more, as that one
            fills the caches, too; ``None`` before one has ended.
        spent: Seconds of all that ended.
        sampled: Trials that ended and were not given beforehand.
        values: The objective of each that has one, the higher the better; of pruned ones the last known.
    """

    seconds: float | None
    spent: float
    sampled: int
    values: tuple[float, ...]

    def promise(self, best: float) -> float:
        """By how much the next trial may raise ``best``, weighed by how likely that is.

        Of n + 1 values that come in any order, the last is the best one in n + 1 times. It is then taken to
        exceed the base's own best by their standard deviation.
        """
        raised = max(self.values) + statistics.stdev(self.values) - best
        return max(0.0, raised) / (len(self.values) + 1)


def costs_of(
    trials: Sequence[FrozenTrial], stems: Sequence[str], direction: Direction | None
) -> dict[str, BaseCost]:
    """What is known of each base.

    Args:
        trials: All of the study.
        stems: Of its bases.
        direction: Of the objective; ``None`` where there are several, of which no values are taken.
    """
    ended = [(trial, seconds) for trial in trials if (seconds := _seconds(trial)) is not None]
    found = {}
    for stem in stems:
        own = [pair for pair in ended if pair[0].params.get(BASE, stem) == stem]
        taken = [seconds for _, seconds in own]
        found[stem] = BaseCost(
            statistics.mean(taken[1:] or taken) if taken else None,
            sum(taken),
            sum(START not in trial.user_attrs for trial, _ in own),
            tuple(value for trial, _ in own if direction for value in _values(trial, direction)),
        )
    return found


def _seconds(trial: FrozenTrial) -> float | None:
    """How long a worker had a trial; ``None`` where it has not ended, or was not run for this study."""
    if not trial.state.is_finished() or not (counts(trial) or trial.user_attrs.get("reason_kind") == STOPPED):
        return None
    seconds = trial.user_attrs.get(SECONDS)
    if seconds is None and trial.duration is not None:
        return trial.duration.total_seconds()
    return None if seconds is None else float(seconds)


def _values(trial: FrozenTrial, direction: Direction) -> list[float]:
    if any(violation > 0 for violation in trial.constraints.values()):
        return []
    values = list(trial.values or [])
    if trial.state == TrialState.PRUNED:
        values = [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)][-1:]
    return [value if direction == "maximize" else -value for value in values]


def next_base(
    costs: Mapping[str, BaseCost],
    running: Mapping[str, Sequence[float]],
    left: float,
    exhausted: Container[str] = (),
) -> str | None:
    """The base that is to have the next trial, of those whose trials are expected to end in time.

    Time is shared out in proportion to what bases promise: the one whose trials have taken the least for that
    comes next. Until it has three values a base promises as much as the best.

    Args:
        costs: Of each base.
        running: Seconds since the running trials of each base began.
        left: Seconds until the last trial has to end.
        exhausted: Bases of which nothing new is proposed; they come last.

    Returns:
        ``None`` where no trial would end in time.
    """
    able = [stem for stem, cost in costs.items() if (cost.seconds or 0.0) < left]
    able = [stem for stem in able if stem not in exhausted] or able
    shares = _shares(costs)

    def taken(stem: str) -> float:
        expected = costs[stem].seconds or 0.0
        busy = sum(max(expected, seconds) for seconds in running.get(stem, ()))
        return (costs[stem].spent + busy) / shares[stem]

    return min(able, key=taken) if able else None


def _shares(costs: Mapping[str, BaseCost]) -> dict[str, float]:
    """Of the time, in proportion: 1 for the base that promises most."""
    best = max((value for cost in costs.values() for value in cost.values), default=0.0)
    promises = {stem: cost.promise(best) for stem, cost in costs.items() if len(cost.values) >= _FEW}
    most = max(promises.values(), default=0.0)
    return {
        stem: max(_LEAST_SHARE, promises[stem] / most if most > 0 else 1.0) if stem in promises else 1.0
        for stem in costs
    }


def forecast(costs: Mapping[str, BaseCost], trials: int, workers: int) -> float | None:
    """Seconds that so many more trials take; ``None`` before one has ended.

    Bases are expected to be drawn as often as so far, as often as each other before there are trials enough.
    """
    known = {stem: cost for stem, cost in costs.items() if cost.seconds is not None}
    if not known:
        return None
    drawn = sum(cost.sampled for cost in known.values())
    weights = {stem: cost.sampled if drawn >= _FEW * len(costs) else 1 for stem, cost in known.items()}
    each = sum((cost.seconds or 0.0) * weights[stem] for stem, cost in known.items()) / sum(weights.values())
    return each * trials / workers


def finishing_seconds(
    opened: OpenStudy, trials: Sequence[FrozenTrial], keep: int, preparing: float = 0.0
) -> float:
    """What is left to do once the trials are done: shapes to be timed, kept models to be drawn, delivered.

    Args:
        opened: The study.
        trials: Those that have ended, others too.
        keep: Models that are kept.
        preparing: See `closing_seconds`.
    """
    times, known = {**FINISHING, **opened.finishing()}, opened.latencies()
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and counts(trial)]
    shapes = {trial.user_attrs.get("shape") for trial in complete}
    untimed = sum(CONTENDED in known.get(shape, (CONTENDED,)) for shape in shapes if shape)
    seconds = untimed * times["timed"] + min(keep, len(complete)) * times["drawn"]
    seconds += closing_seconds(opened, preparing)
    if opened.repeats is not None and opened.repeats.by == "fold":
        ended = [taken for trial in complete if (taken := _seconds(trial)) is not None]
        seconds += keep * statistics.mean(ended or [0.0]) / opened.repeats.count
    return seconds


def closing_seconds(opened: OpenStudy, preparing: float) -> float:
    """What comes last: the study's page, the delivery, and what the user is told.

    Args:
        opened: The study.
        preparing: Seconds that opening the databases and starting the workers took: about as many, on an idle
            machine as on a busy one.
    """
    return max(preparing, {**FINISHING, **opened.finishing()}["closed"])
