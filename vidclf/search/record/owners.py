"""Registration of the supervisors that run a study: a lease, renewed every 15 s, and what ends it.

One rule for all commands: a supervisor holds a study while its process lives and has given a sign within the
last minute, by the watch of whoever asks. One whose lease has run out, as that of a closed laptop, loses the
study to the next that wants it, and is fenced: when it wakes, it finds that out before it writes anything.
"""

import contextlib
import json
import logging
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import psutil

from vidclf import system
from vidclf.exceptions import DatabaseUnavailableError, InputError
from vidclf.search.record.study import OpenStudy

logger = logging.getLogger(__name__)

_PREFIX, _FENCED = "owner/", "fenced/"
RENEWAL_SECONDS = 15.0
STANDSTILL_SECONDS = 60.0
"""The lease of an owner whose counter stands still for so long has run out."""
_SKEW_SECONDS = 240.0
"""By which clocks of two hosts may differ, where there is no time to watch the counter."""
SETTLING_SECONDS = 1.0
"""How long several that join at once wait to see each other; longer than a database takes."""


@dataclass(frozen=True)
class Owner:
    """A supervisor, as it registers with a study.

    Attributes:
        host: Its host name.
        boot: Identifies the host's boot.
        pid: Its process id there.
        started: When that process started, seconds since the epoch; tells it from a later one with its pid.
        counter: Grows as long as it lives.
        leads: Whether it keeps the study's own run and page; the others only run trials.
        renewed: When it last gave a sign, seconds since the epoch by its host's clock.
    """

    host: str
    boot: str
    pid: int
    started: float
    counter: int = 0
    leads: bool = True
    renewed: float = 0.0

    @property
    def here(self) -> bool:
        """Whether it is of this host."""
        return self.host == socket.gethostname()

    def lives(self) -> bool:
        """Whether it is a live process of this host; one of another host counts as live."""
        if not self.here:
            return True
        if self.boot != system.boot_id():
            return False
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1.0
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def holds(self) -> bool:
        """Whether it lives, and its lease runs as far as the clocks can tell."""
        limit = STANDSTILL_SECONDS + (0.0 if self.here else _SKEW_SECONDS)
        return self.lives() and abs(time.time() - self.renewed) < limit

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Ownership:
    """This process's registration with a study, from its start to its end; renewed in the background."""

    def __init__(self, opened: OpenStudy, *, join: bool = False) -> None:
        """Registers with the study; watches owners that give no sign, and takes it over from them.

        Args:
            opened: The study.
            join: Others may run the study too; without any, this one leads it.

        Raises:
            InputError: Another live supervisor holds it; names its host and process.
        """
        self.uuid = uuid.uuid4().hex
        self._opened = opened
        self._study = opened.study
        self.shared = False
        """Whether another supervisor has been seen at work on the study."""
        self.fenced = False
        """Whether another has taken the study over, as this one gave no sign."""
        self._seen: dict[str, tuple[Owner, float]] = {}
        self._looked = time.monotonic()
        self._lock, self._leaving = threading.Lock(), threading.Event()
        process = psutil.Process()
        self._owner = Owner(socket.gethostname(), system.boot_id(), process.pid, process.create_time())
        if join:
            self._join()
        else:
            self._acquire()
        # By itself, as its supervisor may train a last model or wait for a sampler for minutes.
        self._thread = threading.Thread(target=self._renew_regularly, name="vidclf-owner", daemon=True)
        self._thread.start()

    def _acquire(self) -> None:
        for uuid_, other in _owners(self._study.user_attrs):
            if other.lives() and ((other.here and other.holds()) or self._is_renewed(uuid_, other)):
                raise self._refusal(other)
            self._study.set_user_attr(f"{_FENCED}{uuid_}", str(self._owner))
            self.forget(uuid_)
        self._write(self._owner)
        for uuid_, other in _owners(self._study.user_attrs):
            # Of two that registered at once the one with the smaller name stays.
            if uuid_ < self.uuid and other.lives():
                self.forget(self.uuid)
                raise self._refusal(other)

    def _join(self) -> None:
        self._owner = replace(self._owner, leads=False)
        self._write(self._owner)
        time.sleep(SETTLING_SECONDS)
        if self.first():
            self.lead()

    def _is_renewed(self, uuid_: str, other: Owner) -> bool:
        """Whether an owner's counter grows within a minute of this host's clock."""
        logger.info("waiting up to %.0f s for a sign of %s …", STANDSTILL_SECONDS, other)
        end = time.monotonic() + STANDSTILL_SECONDS
        now: Owner | None = other
        while now == other and time.monotonic() < end:
            time.sleep(min(2.0, STANDSTILL_SECONDS))
            now = dict(_owners(self._study.user_attrs)).get(uuid_)
        return now not in (None, other)

    def _refusal(self, other: Owner) -> InputError:
        return InputError(
            f"the study {self._opened.name} is being run by {other}; "
            "wait for it, stop it with Ctrl-C there, or run trials beside it with --join"
        )

    @property
    def leads(self) -> bool:
        """Whether this supervisor keeps the study's own run and page."""
        return self._owner.leads and not self.fenced

    def lead(self) -> None:
        """From now on this supervisor keeps the study's own run and page."""
        with self._lock:
            self._owner = replace(self._owner, leads=True)
            self._write(self._owner)

    def first(self) -> bool:
        """Whether this is the supervisor that leads, or is to lead as none does."""
        others = self.others()
        leads = any(other.leads for other in others.values())
        return self.leads or not (leads or any(uuid_ < self.uuid for uuid_ in others))

    def others(self) -> dict[str, Owner]:
        """The other live supervisors, by uuid.

        One is held to be dead when its counter has stood still for a minute of this host's clock, from
        the first look on. The time between two looks counts up to half of that:
        where this supervisor could not look because the database was away, no other could renew itself.
        """
        owners, found = list(_owners(self._study.user_attrs)), {}
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, STANDSTILL_SECONDS / 2), now
        for uuid_, other in owners:
            seen, stood = self._seen.get(uuid_, (None, 0.0))
            stood = stood + passed if other == seen else 0.0
            self._seen[uuid_] = (other, stood)
            if uuid_ != self.uuid and other.lives() and stood < STANDSTILL_SECONDS:
                found[uuid_] = other
        self.shared |= bool(found)
        return found

    def registered(self) -> set[str]:
        """Every supervisor that has not left, dead ones too, by uuid."""
        return {uuid_ for uuid_, _ in _owners(self._study.user_attrs)}

    def renew(self) -> None:
        """Shows others that this supervisor lives; comes every 15 s by itself."""
        with self._lock:
            if self._leaving.is_set():
                return
            attributes = self._study.user_attrs
            if self._taken_over_by(attributes):
                return
            owner = replace(self._owner, counter=self._owner.counter + 1)
            if attributes.get(f"{_PREFIX}{self.uuid}") is None:
                owner = replace(owner, leads=False)  # struck off by those that run it too: one of them leads
            self._owner = owner
            self._write(owner)

    def _taken_over_by(self, attributes: Mapping[str, Any]) -> str:
        """Who has taken the study over, by its attributes; empty where nobody has."""
        by = str(attributes.get(f"{_FENCED}{self.uuid}", ""))
        self.fenced = bool(by)
        return by

    def check(self) -> None:
        """To be called before anything is written of the study as a whole.

        Raises:
            InputError: Another supervisor has taken it over; names its host and process.
        """
        if by := self._taken_over_by(self._study.user_attrs):
            raise InputError(
                f"the study {self._opened.name} was taken over by {by}, as this process had given no sign "
                f"for {STANDSTILL_SECONDS:.0f} s; it goes on there: to help, run the same command with --join"
            )

    def _renew_regularly(self) -> None:
        while not self._leaving.wait(RENEWAL_SECONDS):
            with contextlib.suppress(DatabaseUnavailableError):  # which its supervisor hears of, too
                self.renew()

    def release(self) -> None:
        """Leaves the study."""
        self._leaving.set()
        with self._lock:
            self.forget(self.uuid)

    def forget(self, uuid_: str) -> None:
        """Removes a supervisor, this one or a dead one."""
        self._study.set_user_attr(f"{_PREFIX}{uuid_}", None)

    def _write(self, owner: Owner) -> None:
        signed = replace(owner, renewed=time.time())
        self._study.set_user_attr(f"{_PREFIX}{self.uuid}", json.dumps(asdict(signed)))


def _owners(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Owner]]:
    """Registered supervisors with their uuids, dead ones too; none that is fenced."""
    for key, value in attributes.items():
        uuid_ = key.removeprefix(_PREFIX)
        if uuid_ != key and value is not None and f"{_FENCED}{uuid_}" not in attributes:
            yield uuid_, Owner(**json.loads(value))


def live_owners(opened: OpenStudy) -> list[Owner]:
    """The supervisors that run the study now, the one that leads first."""
    live = [owner for _, owner in _owners(opened.study.user_attrs) if owner.holds()]
    return sorted(live, key=lambda owner: not owner.leads)


def silent_owners(opened: OpenStudy) -> list[Owner]:
    """Supervisors that may live and give no sign: the next `tune` takes the study over from them."""
    return [owner for _, owner in _owners(opened.study.user_attrs) if owner.lives() and not owner.holds()]
