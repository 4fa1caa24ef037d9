"""Who owns a study's running trials, and what becomes of those that nobody runs any more."""

import json
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState, create_trial

from vidclf import config
from vidclf.config import InputError
from vidclf.search.record import AHEAD, DIED, INTERRUPTED, RUN_AGAIN, OpenStudy
from vidclf.store import Outcome, now_ms

_PREFIX = "owner/"
STANDSTILL_SECONDS = 60.0
"""An owner on another host whose counter stands still for so long is dead."""


@dataclass(frozen=True)
class Owner:
    """A supervisor, as it registers with a study.

    Attributes:
        host: Its host name.
        boot: Identifies the host's boot.
        pid: Its process id there.
        started: When that process started, seconds since the epoch; tells it from a later one with its pid.
        counter: Grows as long as it lives.
    """

    host: str
    boot: str
    pid: int
    started: float
    counter: int = 0

    @property
    def here(self) -> bool:
        """Whether it is of this host."""
        return self.host == socket.gethostname()

    def lives(self) -> bool:
        """Whether it is a live process of this host; one of another host counts as live."""
        if not self.here:
            return True
        if self.boot != _boot():
            return False
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1.0
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    # Elsewhere only the time of the boot is known, and it drifts by seconds.
    return path.read_text().strip() if path.exists() else str(round(psutil.boot_time() / 60))


class Ownership:
    """This process's hold on a study: taken at the start, renewed while it runs, given back at the end."""

    def __init__(self, opened: OpenStudy, say: Callable[[str], None] = lambda _: None) -> None:
        """Registers with the study; waits out owners on other hosts that seem dead.

        Args:
            opened: The study.
            say: Told of a wait.

        Raises:
            InputError: Another live supervisor holds it; names its host and process.
        """
        self.uuid = uuid.uuid4().hex
        self._opened = opened
        self._study = opened.study
        for key, other in _owners(self._study.user_attrs):
            if other.lives() and (other.here or self._counts(key, other, say)):
                raise self._refusal(other)
            self._study.set_user_attr(key, None)
        process = psutil.Process()
        self._owner = Owner(socket.gethostname(), _boot(), process.pid, process.create_time())
        self._write(self._owner)
        for key, other in _owners(self._study.user_attrs):
            # Of two that registered at once the one with the smaller name stays.
            if key < f"{_PREFIX}{self.uuid}" and other.lives():
                self.release()
                raise self._refusal(other)

    def _counts(self, key: str, other: Owner, say: Callable[[str], None]) -> bool:
        """Whether an owner on another host goes on counting within a minute of this host's clock."""
        say(f"waiting up to {STANDSTILL_SECONDS:.0f} s for a sign of process {other.pid} on {other.host} …")
        end = time.monotonic() + STANDSTILL_SECONDS
        while time.monotonic() < end:
            time.sleep(min(2.0, STANDSTILL_SECONDS))
            if dict(_owners(self._study.user_attrs)).get(key) != other:
                return True
        return False

    def _refusal(self, other: Owner) -> InputError:
        return InputError(
            f"the study {self._opened.name} is being run by process {other.pid} on {other.host}; "
            "wait for it, or stop it with Ctrl-C there"
        )

    def renew(self) -> None:
        """Shows other hosts that this supervisor lives; due every 15 s."""
        self._owner = Owner(**{**asdict(self._owner), "counter": self._owner.counter + 1})
        self._write(self._owner)

    def release(self) -> None:
        self._write(None)

    def _write(self, owner: Owner | None) -> None:
        self._study.set_user_attr(f"{_PREFIX}{self.uuid}", json.dumps(asdict(owner)) if owner else None)


def _owners(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Owner]]:
    for key, value in attributes.items():
        if key.startswith(_PREFIX) and value is not None:
            yield key, Owner(**json.loads(value))


def live_owner(opened: OpenStudy) -> Owner | None:
    """The supervisor that runs the study now."""
    return next((owner for _, owner in _owners(opened.study.user_attrs) if owner.lives()), None)


def reconcile(opened: OpenStudy) -> int:
    """Settles trials that a dead supervisor left behind; the caller owns the study.

    A trial whose attempt finished before its supervisor died keeps its value;
    any other is failed as interrupted and queued to run again.

    Returns:
        How many trials were queued again.
    """
    for frozen in opened.trials([TrialState.RUNNING]):
        if frozen.user_attrs.get(AHEAD):
            put_back(opened, frozen.number)
        else:
            settle_or_interrupt(opened, opened.trial(frozen.number), "its supervisor died")
    retried = {trial.user_attrs.get("retry_of") for trial in opened.trials()}
    lost = [
        frozen
        for frozen in opened.trials([TrialState.FAIL])
        if frozen.user_attrs.get("reason_kind") in RUN_AGAIN and frozen.number not in retried
    ]
    for frozen in lost:
        queue_again(opened, frozen)
    return len(lost)


def put_back(opened: OpenStudy, number: int) -> None:
    """Has a trial that was asked for ahead, and not begun, asked for again before any new one."""
    opened.trial(number).set_user_attr(AHEAD, False)
    opened.storage.set_trial_state_values(opened.trial_id(number), TrialState.WAITING)


def settle(opened: OpenStudy, trial: optuna.Trial, outcome: Outcome, *, again: bool = False) -> None:
    """Tells Optuna how an attempt ended; a crash is FAIL, never PRUNED and never a bad value.

    Args:
        opened: The study.
        trial: The trial.
        outcome: How its attempt ended.
        again: Its worker died, and the same configuration is to run again.
    """
    trial.set_user_attr("metrics", dict(outcome.metrics))
    if outcome.status == "complete":
        bound_sizes(opened, trial, outcome.metrics)
        opened.study.tell(trial, [outcome.metrics[objective.metric] for objective in opened.objectives])
        return
    trial.set_user_attr("reason", outcome.reason)
    trial.set_user_attr("reason_kind", DIED if again else outcome.status)
    opened.study.tell(trial, state=TrialState.PRUNED if outcome.status == "pruned" else TrialState.FAIL)


def bound_sizes(opened: OpenStudy, trial: optuna.Trial, metrics: Mapping[str, float]) -> list[str]:
    """Records, once each, how far the known sizes are from their bounds.

    Returns:
        The bounds that are broken, in words.
    """
    known = opened.frozen(trial.number).constraints
    broken = []
    for constraint in opened.constraints:
        if constraint.metric not in metrics:
            continue
        violation = constraint.violation(metrics[constraint.metric])
        if constraint.metric not in known:
            trial.set_constraint(constraint.metric, violation)
        if violation > 0:
            bounds = config.dump(constraint)
            limits = ", ".join(f"{name} {bounds[name]:g}" for name in ("min", "max") if name in bounds)
            broken.append(f"{constraint.metric} = {metrics[constraint.metric]:g} ({limits})")
    return broken


def settle_or_interrupt(opened: OpenStudy, trial: optuna.Trial, why: str) -> None:
    """Settles a trial that nobody runs any more.

    One whose attempt had finished keeps its outcome; any other is failed as
    interrupted: it does not count, and `reconcile` queues it again.
    """
    attempt = opened.attempt(trial.number)
    outcome = attempt.outcome()
    wanted = {objective.metric for objective in opened.objectives}
    if outcome is None or (outcome.status == "complete" and not wanted <= outcome.metrics.keys()):
        outcome = Outcome("interrupted", f"{INTERRUPTED}: {why}", {}, now_ms())
        if (attempt.folder / "attempt.json").exists():
            attempt.finish(outcome)
    settle(opened, trial, outcome)


def queue_again(opened: OpenStudy, trial: FrozenTrial) -> None:
    """Adds the same configuration once more, to be asked for before any new one.

    It brings along what was reported of it, so that what was decided then is not decided anew.
    """
    opened.study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values=trial.intermediate_values,
            system_attrs=_rungs(trial),
            user_attrs={"retry_of": trial.number, "root": root_of(trial)},
        )
    )


def _rungs(trial: FrozenTrial) -> dict[str, Any]:
    """Where successive halving has compared the trial, as Optuna's pruner remembers it."""
    return {key: value for key, value in trial.system_attrs.items() if key.startswith("completed_rung_")}


def root_of(trial: FrozenTrial) -> int:
    """The first trial of a configuration that was run again; the trial itself where it was not."""
    return int(trial.user_attrs.get("root", trial.number))


def deaths(opened: OpenStudy, root: int) -> int:
    """How often a worker died over a configuration and it was run again."""
    return sum(
        trial.user_attrs.get("reason_kind") == DIED and root_of(trial) == root
        for trial in opened.trials([TrialState.FAIL])
    )
