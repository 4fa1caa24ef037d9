"""Displays the progress of a study: a live panel on terminals."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vidclf.evaluation import ranking
from vidclf.search.execution.costs import BaseCost, forecast


@dataclass
class DisplayedTrial:
    """A running trial, as displayed.

    Attributes:
        base: Stem of its base experiment.
        started: When it began, on the monotonic clock.
        step: Epochs, or repeats, that it has finished.
        value: Its objective so far, as the pruner sees it.
    """

    base: str
    started: float = field(default_factory=time.monotonic)
    step: int = 0
    value: float | None = None


@dataclass
class StudyState:
    """A study's progress, as displayed.

    Attributes:
        name: The study.
        question: What it is to answer.
        metric: Its objective.
        total: Trials in all.
        workers: Worker processes.
        counts: Finished trials by state.
        running: Running trials by number.
        best: Best feasible value so far, with its trial's number and base.
        started: When this session began, on the monotonic clock.
        finished_here: Trials that ended in this session.
        used: Trials that count against the budget.
        since_best: How many of these ended after the best one.
        cache_lookups: How often this session's trials asked the caches.
        cache_hits: How often what they asked for was there.
        starting: Workers that are not ready yet.
        costs: What trials of each base cost.
        finishing: Seconds of what comes after the trials.
        time_left: Seconds that the budget has left; ``None`` where it has no bound.
    """

    name: str
    question: str
    metric: str
    total: int
    workers: int
    counts: dict[str, int] = field(default_factory=dict)
    running: dict[int, DisplayedTrial] = field(default_factory=dict)
    best: tuple[float, int, str] | None = None
    started: float = field(default_factory=time.monotonic)
    finished_here: int = 0
    used: int = 0
    since_best: int = 0
    cache_lookups: float = 0
    cache_hits: float = 0
    starting: int = 0
    costs: Mapping[str, BaseCost] = field(default_factory=dict)
    finishing: float = 0.0
    time_left: float | None = None

    def hourly(self) -> float:
        """Trials an hour in this session."""
        return self.finished_here / (time.monotonic() - self.started) * 3600

    def seconds_left(self) -> float | None:
        """Until all is done, running trials included; ``None`` before one has ended."""
        now = time.monotonic()
        rest = forecast(self.costs, max(0, self.total - self.used - len(self.running)), self.workers)
        if rest is None:
            return None
        means = [cost.seconds for cost in self.costs.values() if cost.seconds is not None]
        for trial in self.running.values():
            cost = self.costs.get(trial.base)
            expected = cost.seconds if cost and cost.seconds is not None else max(means)
            rest += max(0.0, expected - (now - trial.started)) / self.workers
        rest += self.finishing
        return rest if self.time_left is None else min(rest, max(0.0, self.time_left))


class Display:
    """Shows a study's progress on a terminal, in a panel that is redrawn in place; nothing elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        shown = console is not None and console.is_terminal
        self._live = Live(console=console, transient=True, refresh_per_second=4) if shown else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def refresh(self, state: StudyState) -> None:
        """The state has changed, or time has passed."""
        if self._live is not None:
            self._live.update(_panel(state))


def _panel(state: StudyState) -> Group:
    head = Text.assemble((state.name, "bold"), f"  {state.question}")
    bar = Table.grid(padding=(0, 1))
    left = state.seconds_left()
    bar.add_row(
        ProgressBar(total=state.total, completed=state.used, width=32),
        f"{state.used}/{state.total} trials",
        "  ".join(f"{count} {name}" for name, count in state.counts.items() if count),
        f"{state.hourly():.0f} trials/h  about {clock(left)} left" if left is not None else "",
    )
    running = Table(box=None, padding=(0, 2), show_header=True, header_style="dim")
    for heading in ("running", "base", "epoch", state.metric, "time"):
        running.add_column(heading, justify="left" if heading == "base" else "right")
    now = time.monotonic()
    for number, trial in sorted(state.running.items()):
        value = ranking.figure(trial.value, ".4f")
        running.add_row(str(number), trial.base, str(trial.step or "–"), value, clock(now - trial.started))
    best = "best so far: –"
    if state.best:
        best = f"best so far: {state.metric} {state.best[0]:.4f}, trial {state.best[1]} ({state.best[2]})"
    if state.cache_lookups:
        best += f"   caches: {state.cache_hits / state.cache_lookups:.0%} found"
    if taken := {stem: cost.seconds for stem, cost in state.costs.items() if cost.seconds is not None}:
        best += f"   a trial takes: {listed(taken)}"
    if state.starting:
        best += f"   {state.starting} of {state.workers} workers still to come"
    return Group(head, bar, running, Text(best))


def listed(seconds: Mapping[str, float]) -> str:
    """What a trial of each base takes, in words."""
    return ", ".join(f"{stem} {each:.3g} s" for stem, each in seconds.items())


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def finished_line(
    number: int,
    *,
    base: str,
    state: str,
    seconds: float,
    value: float | None,
    note: str,
    params: Mapping[str, object],
) -> str:
    """One finished trial in one line."""
    figure = ranking.figure(value, ".4f")
    values = " ".join(f"{key.rpartition('.')[2]}={ranking.short(item)}" for key, item in params.items())
    why = f"  ({note.splitlines()[0]})" if note and value is None else ""
    return f"trial {number:>3}  {state:<11} {figure:<6} {seconds:6.1f} s  {base}  {values}{why}"
