"""Gates of a promotion: what a model must reach, as pure rules over figures that are known.

A gate is one function from a `Candidacy` to `Gate` results and one row in `BEFORE_TEST` or `ON_TEST`; what a
user can set of it is a field of `vidclf.search.record.settings.Gates`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vidclf.evaluation import intervals, significance
from vidclf.evaluation.chance import LEVEL, by_chance
from vidclf.evaluation.intervals import CONFIDENCE
from vidclf.evaluation.significance import PairedComparison
from vidclf.exceptions import InputError
from vidclf.labels import plural
from vidclf.registry.test_split import ScoredClips
from vidclf.search.record.settings import COSTS, Gates


@dataclass(frozen=True)
class Acceptance:
    """What the user takes on: ``--accept``.

    Attributes:
        margin: Where the challenger cannot be told from the champion, it is good enough if it is certainly
            worse by less than this (a non-inferiority test: the interval's lower end is above -margin).
        untested: Promote although the test split has too few groups to tell anything.
    """

    margin: float | None = None
    untested: bool = False

    @classmethod
    def parse(cls, texts: Sequence[str]) -> "Acceptance":
        """Reads ``not-worse=0.05`` and ``untested``.

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
                        f"--accept {text}: the margin must be from 0 to below 1, as not-worse=0.05"
                    )
            else:
                raise InputError(f"--accept {text}: expected not-worse=MARGIN or untested")
        return cls(margin, untested)


@dataclass(frozen=True)
class Gate:
    """One rule and whether it is kept.

    Attributes:
        gate: What is asked, as ``test/macro_f1 at least``.
        detail: Why, in words.
        waived: Whether it is not kept, and passes for the user takes that on.
    """

    gate: str
    passed: bool
    value: float | None
    limit: float | None
    detail: str
    waived: bool = False


@dataclass(frozen=True)
class Candidacy:
    """All that gates may look at.

    Attributes:
        rules: What the study and the command line ask for.
        manifest: Name of the data set.
        groups: Group of each test clip; empty without a test split.
        metric: What models are compared by.
        grouped: Whether the clips name groups; where they do not, each counts as one.
        metrics: The model's final figures; after the test split was read, with those on test.
        own: The model's predictions of the test clips, once they were read.
        champion: As ``version 3``; empty where there is none.
        comparison: The place of this comparison with it among all on clips of this split, from 1.
        shared_groups: Groups of the test split by whose names the champion had clips in training.
        compared_by: The metric, as ``test/macro_f1``.
        paired: Against the champion on the same test clips; ``None`` with too few groups.
    """

    rules: Gates
    accepted: Acceptance
    manifest: str
    groups: Sequence[str]
    metric: str = "macro_f1"
    grouped: bool = True
    metrics: Mapping[str, float] = field(default_factory=dict)
    own: ScoredClips | None = None
    champion: str = ""
    comparison: int = 1
    shared_groups: Sequence[str] = ()
    compared_by: str = ""
    paired: PairedComparison | None = None


def test_split_gate(case: Candidacy) -> Iterator[Gate]:
    """There must be test clips."""
    if not case.groups:
        detail = f"{case.manifest} has no test clips, so what to expect of it on new clips is unknown"
        yield Gate("a test split", False, 0, 1, detail)


def group_gate(case: Candidacy) -> Iterator[Gate]:
    """Enough groups in the test split for an interval, or a user who does without."""
    count = len(set(case.groups))
    enough = count >= intervals.FEWEST_GROUPS
    if enough:
        detail = "intervals can be given"
        if not case.grouped:
            detail += "; but clips name none, so each counts as one: they mislead if several show one scene"
    elif case.accepted.untested:
        detail = "nothing can be told from so few; accepted as untested"
    else:
        detail = "nothing can be told from so few: add groups to test, or --accept untested"
    if case.shared_groups:
        some = ", ".join(case.shared_groups[:3])
        detail += (
            f"; {case.champion} had clips of {plural(len(case.shared_groups), 'group')} of them in training "
            f"({some}): its figures may be too good"
        )
    if count:
        passed = enough or case.accepted.untested
        yield Gate("groups in test", passed, count, intervals.FEWEST_GROUPS, detail, passed and not enough)


def verdict_gate(case: Candidacy) -> Iterator[Gate]:
    """A comparison that cannot decide anything costs no read: so few groups give no small enough p."""
    groups, margin = len(set(case.groups)), case.accepted.margin
    if not case.champion or groups < intervals.FEWEST_GROUPS or margin is not None:
        return
    alpha = significance.spent_alpha(case.comparison)
    least, needed = significance.smallest_p(groups), significance.groups_needed(alpha)
    if least >= alpha:
        yield Gate(
            f"groups to compare with {case.champion}",
            False,
            groups,
            needed,
            f"comparison {case.comparison} on these clips asks for p < {alpha:.2g}, and {groups} groups give "
            f"no less than {least:.2g}: {needed} groups could tell; test was not read",
        )


def cost_gates(case: Candidacy) -> Iterator[Gate]:
    """Bounds on sizes and latencies, which are known without reading the test split."""
    return (gate for metric, gate in _bounds(case) if metric in COSTS)


def score_gates(case: Candidacy) -> Iterator[Gate]:
    """Bounds on the test split's figures."""
    return (gate for metric, gate in _bounds(case) if metric not in COSTS)


def _bounds(case: Candidacy) -> Iterator[tuple[str, Gate]]:
    for word, sign, bounds in (("at least", 1, case.rules.min), ("at most", -1, case.rules.max)):
        for metric, limit in bounds.items():
            name, value = f"{metric} {word}", case.metrics.get(metric)
            if value is None:
                yield metric, Gate(name, False, None, limit, "it is not known of this model")
                continue
            miss = sign * (limit - value)
            detail = f"{value:.4g}, {f'missed by {miss:.4g}' if miss > 0 else 'kept'}"
            low, high = (case.metrics.get(f"{metric}_{end}") for end in ("low", "high"))
            if low is not None and high is not None:
                detail += (
                    f" on these clips; of new groups {low:.3f} to {high:.3f} at {100 * CONFIDENCE:.0f} %"
                )
            yield metric, Gate(name, miss <= 0, value, limit, detail)


def recall_gates(case: Candidacy) -> Iterator[Gate]:
    """No class may be certainly below the floor: its recall's interval must reach it.

    A class that too few groups have cannot be judged, which is no pass; one without a test clip has no gate.
    """
    floor, own = case.rules.class_recall, case.own
    if floor is None or own is None:
        return
    for index, name in enumerate(own.classes):
        if not (own.labels == index).any():
            continue
        recall = float((own.guesses[own.labels == index] == index).mean())
        reached = intervals.interval(f"recall/{index}", own.labels, own.guesses, own.groups, CONFIDENCE)
        if reached is None:
            words = "it cannot be judged: too few groups have it"
            words += "; accepted as untested" if case.accepted.untested else ", or --accept untested"
            waived = case.accepted.untested
            yield Gate(f"recall of {name}", waived, recall, floor, words, waived)
            continue
        detail = f"{recall:.3f}, in [{reached.low:.3f}, {reached.high:.3f}] at {100 * CONFIDENCE:.0f} %"
        yield Gate(f"recall of {name}", reached.high >= floor, recall, floor, detail)


def chance_gate(case: Candidacy) -> Iterator[Gate]:
    """A first champion must be better than chance, labels permuted by group, or accepted as untested."""
    own = case.own
    if case.champion or own is None:
        return
    found = by_chance(case.metric, own.labels, own.guesses[None], own.groups)
    score = case.metrics.get(f"test/{case.metric}")
    passed = found.p < LEVEL
    words = f"without signal it would reach {found.level:.3f} on average, p = {found.p:.2g}"
    if not passed:
        words += "; accepted as untested" if case.accepted.untested else "; --accept untested takes it"
    waived = case.accepted.untested and not passed
    yield Gate("better than chance", passed or waived, score, found.level, words, waived)


def champion_gate(case: Candidacy) -> Iterator[Gate]:
    """The challenger must be better than the champion on the same clips, or accepted as no worse."""
    champion, accepted, compared = case.champion, case.accepted, case.paired
    if not champion:
        return
    gate = f"better than {champion}"
    if compared is None:
        words = "too few groups to compare them"
        yield Gate(gate, accepted.untested, None, 0.0, words, accepted.untested)
        return
    spread = f"[{compared.low:+.4f}, {compared.high:+.4f}] at {1 - compared.alpha:.2%}"
    found = (
        f"{case.compared_by} {compared.difference:+.4f}, {spread}, p = {compared.p:.2g}, "
        f"{compared.groups} groups"
    )
    undecided = compared.verdict == "cannot tell"
    if compared.verdict == "better":
        yield Gate(gate, True, compared.difference, 0.0, found)
    elif undecided and accepted.margin is not None:
        enough, limit = compared.low > -accepted.margin, -accepted.margin
        words = "accepted" if enough else "it may be worse by more than the margin"
        yield Gate(f"not worse than {champion}", enough, compared.low, limit, f"{found}: {words}")
    else:
        words = "they cannot be told apart" if undecided else "it is worse"
        yield Gate(gate, False, compared.difference, 0.0, f"{found}: {words}")


GateCheck = Callable[[Candidacy], Iterator[Gate]]
BEFORE_TEST: tuple[GateCheck, ...] = (test_split_gate, group_gate, verdict_gate, cost_gates)
"""Checked first: a model that is too slow or too large costs no read of the test split."""
ON_TEST: tuple[GateCheck, ...] = (score_gates, recall_gates, chance_gate, champion_gate)
"""Checked on what the read of the test split found."""


def check(checks: Sequence[GateCheck], case: Candidacy) -> list[Gate]:
    """The results of all checks, in their order."""
    return [gate for each in checks for gate in each(case)]
