"""What a model must reach before it is promoted: pure rules over figures that are known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidclf.evaluation import intervals
from vidclf.evaluation.intervals import CONFIDENCE, PairedComparison
from vidclf.exceptions import InputError
from vidclf.search.record.settings import COSTS, Gates

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Acceptance:
    """What the user takes on: ``--accept``.

    Attributes:
        margin: Where nobody can tell the challenger from the champion, it is good enough if it was
            measured worse by no more than this.
        untested: Promote although the test split has too few groups to tell anything.
    """

    margin: float | None = None
    untested: bool = False

    @classmethod
    def parse(cls, texts: Sequence[str]) -> "Acceptance":
        """Reads ``not-worse=0.01`` and ``untested``.

        Raises:
            InputError: It is neither, or the margin is no share.
        """
        margin, untested = None, False
        for text in texts:
            name, _, value = text.partition("=")
            if text == "untested":
                untested = True
            elif name == "not-worse":
                try:
                    margin = float(value)
                except ValueError:
                    margin = -1.0
                if not 0 <= margin < 1:
                    raise InputError(
                        f"--accept {text}: the margin must be from 0 to below 1, as not-worse=0.01"
                    )
            else:
                raise InputError(f"--accept {text}: expected not-worse=MARGIN or untested")
        return cls(margin, untested)


@dataclass(frozen=True)
class Gate:
    """One rule and whether it is kept.

    Attributes:
        gate: What is asked, as ``test/macro_f1 at least``.
        passed: Whether it is.
        value: What was found.
        limit: What was asked.
        detail: Why, in words.
    """

    gate: str
    passed: bool
    value: float | None
    limit: float | None
    detail: str


def cost_gates(gates: Gates, metrics: Mapping[str, float]) -> list[Gate]:
    """The gates that can be judged without reading the test split."""
    return [gate for gate in _bounds(gates, metrics) if _metric(gate) in COSTS]


def test_gates(gates: Gates, metrics: Mapping[str, float]) -> list[Gate]:
    """The gates on the test split's figures."""
    return [gate for gate in _bounds(gates, metrics) if _metric(gate) not in COSTS]


def _metric(gate: Gate) -> str:
    return gate.gate.partition(" ")[0]


def _bounds(gates: Gates, metrics: Mapping[str, float]) -> list[Gate]:
    found = []
    for word, sign, bounds in (("at least", 1, gates.min), ("at most", -1, gates.max)):
        for metric, limit in bounds.items():
            value = metrics.get(metric)
            if value is None:
                found.append(Gate(f"{metric} {word}", False, None, limit, "it is not known of this model"))
                continue
            miss = sign * (limit - value)
            detail = f"{value:.4g}, {f'missed by {miss:.4g}' if miss > 0 else 'kept'}"
            found.append(Gate(f"{metric} {word}", miss <= 0, value, limit, detail))
    return found


def recall_gates(
    floor: float | None, labels: Labels, guesses: Labels, groups: Sequence[str], classes: Sequence[str]
) -> list[Gate]:
    """No class may be certainly below the floor: its recall's interval must reach it.

    Args:
        floor: The least recall, in [0, 1]; ``None``: there are no gates.
        labels: True classes, shape (clips,).
        guesses: Predicted classes, shape (clips,).
        groups: Name of each clip's group.
        classes: Names by index; one without a clip has no gate.
    """
    if floor is None:
        return []
    found: list[Gate] = []
    for index, name in enumerate(classes):
        if not (labels == index).any():
            continue
        recall = float((guesses[labels == index] == index).mean())
        reached = intervals.interval(f"recall/{index}", labels, guesses, groups, CONFIDENCE)
        if reached is None:
            found.append(Gate(f"recall of {name}", True, recall, floor, "too few groups to be certain"))
            continue
        detail = f"{recall:.3f}, in [{reached.low:.3f}, {reached.high:.3f}] at {100 * CONFIDENCE:.0f} %"
        found.append(Gate(f"recall of {name}", reached.high >= floor, recall, floor, detail))
    return found


def group_gate(groups: Sequence[str], accepted: Acceptance, *, grouped: bool = True) -> Gate:
    """Enough groups in the test split for an interval, or a user who does without.

    Args:
        groups: Name of each clip's group.
        accepted: What the user does without.
        grouped: Whether the clips name groups; where they do not, each counts as one.
    """
    count = len(set(groups))
    enough = count >= intervals.FEWEST_GROUPS
    if enough:
        detail = "intervals can be given"
        if not grouped:
            detail += "; but clips name none, so each counts as one: they mislead if several show one scene"
    elif accepted.untested:
        detail = "nothing can be told from so few; accepted as untested"
    else:
        detail = "nothing can be told from so few: add groups to test, or --accept untested"
    return Gate("groups in test", enough or accepted.untested, count, intervals.FEWEST_GROUPS, detail)


def champion_gate(
    metric: str, compared: PairedComparison | None, accepted: Acceptance, champion: str
) -> Gate:
    """The challenger must be better than the champion on the same clips, or accepted as no worse."""
    gate = f"better than {champion}"
    if compared is None:
        return Gate(gate, accepted.untested, None, 0.0, "too few groups to compare them")
    spread = f"[{compared.low:+.4f}, {compared.high:+.4f}] at {1 - compared.alpha:.2%}"
    found = f"{metric} {compared.difference:+.4f}, {spread}, p = {compared.p:.2g}, {compared.groups} groups"
    if compared.verdict == "better":
        return Gate(gate, True, compared.difference, 0.0, found)
    if accepted.margin is not None and compared.verdict == "cannot tell":
        enough = compared.difference >= -accepted.margin
        words = "accepted: nobody can tell them apart" if enough else "measured worse by more than the margin"
        limit = -accepted.margin
        return Gate(f"not worse than {champion}", enough, compared.difference, limit, f"{found}: {words}")
    words = "it is worse" if compared.verdict == "worse" else "nobody can tell them apart"
    return Gate(gate, False, compared.difference, 0.0, f"{found}: {words}")
