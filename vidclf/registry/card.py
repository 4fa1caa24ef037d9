"""The model card of a promoted model: its data, metrics, gates, costs and limits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from vidclf.data.splitting import group_doubt
from vidclf.evaluation import intervals
from vidclf.evaluation.intervals import CONFIDENCE
from vidclf.evaluation.ranking import LATENCY_HIGH, LATENCY_LOW
from vidclf.models.saved import read_card
from vidclf.registry.gates import Gate
from vidclf.registry.test_split import TestResult, TestSplit
from vidclf.runs.folder import Attempt
from vidclf.search.report.text import escaped
from vidclf.tracking.deliverer import metric_key
from vidclf.tracking.lookup import words

_COSTS = (
    ("latency/p50_ms", "decoded clip to probabilities, median", "ms"),
    ("latency/file_p50_ms", "file to label, median", "ms"),
    ("size/file_mb", "size of the saved model", "MB"),
    ("size/parameters", "parameters", ""),
    ("cost/fit_seconds", "training", "s"),
)


@dataclass(frozen=True)
class Evidence:
    """What a promotion rests on.

    Attributes:
        name: Registered model.
        label: What the candidate is, in words.
        metrics: All final figures.
    """

    name: str
    alias: str
    label: str
    metrics: Mapping[str, float]
    result: TestResult
    gates: Sequence[Gate]

    @property
    def untested(self) -> bool:
        """Whether the test split has too few groups to tell anything."""
        return len(set(self.result.own.groups)) < intervals.FEWEST_GROUPS

    def tags(self) -> dict[str, str]:
        """As tags of the registered version."""
        scores = {key: f"{value:.6g}" for key, value in self.metrics.items() if key.startswith("test/")}
        costs = {key: f"{self.metrics[key]:.6g}" for key, *_ in _COSTS if key in self.metrics}
        judged = {metric_key(f"gate/{gate.gate}"): gate.detail for gate in self.gates}
        return {
            **{metric_key(key): value for key, value in (scores | costs).items()},
            **judged,
            "test": words(self.result.reads),
            "vidclf.untested": str(self.untested).lower(),
        }


def model_card(attempt: Attempt, evidence: Evidence) -> str:
    """The card of an attempt that kept its model, as Markdown."""
    sections = [
        f"# {evidence.name}\n\n{evidence.label}, trained with vidclf.",
        _data(attempt, evidence),
        _scores(evidence),
        _gates(evidence),
        _cost(evidence.metrics),
        _limits(attempt, evidence),
        _loading(f"{evidence.name}@{evidence.alias}"),
    ]
    return "\n\n".join(sections) + "\n"


def _data(attempt: Attempt, evidence: Evidence) -> str:
    split = TestSplit.of(attempt)
    counts = Counter(entry.split for entry in split.manifest.entries)
    clips = ", ".join(f"{counts[each]} {each}" for each in ("train", "val", "test") if counts[each])
    groups = len(set(evidence.result.own.groups))
    doubt = group_doubt(split.manifest.entries)
    grouped = f"{doubt}: leaks cannot be excluded" if doubt else "no group is in two splits"
    if split.manifest.leaks:
        grouped = "GROUPS STAND IN SEVERAL SPLITS: all figures are too good"
    when = datetime.fromtimestamp(evidence.result.read.when_ms / 1000, UTC).strftime("%Y-%m-%d")
    return (
        f"## Data\n\n{split.name}: {clips} clips of {len(split.manifest.classes)} classes "
        f"({', '.join(map(escaped, split.manifest.classes))}); {grouped}. Test: {groups} groups, digest "
        f"`{split.digest[:12]}`, {words(evidence.result.reads)}, last on {when}."
    )


def _scores(evidence: Evidence) -> str:
    lines = [
        f"| metric | test | {100 * CONFIDENCE:.0f} % interval | val (selected, optimistic) |",
        "|---|---|---|---|",
    ]
    # By name alone the recall of a class called kick_low would be taken for the end of an interval.
    bounded = (*intervals.KNOWN, *intervals.MEANS, "coverage", "answered_error")
    ends = {f"test/{name}_{end}" for name in bounded for end in ("low", "high")}
    for key, value in evidence.metrics.items():
        name = key.removeprefix("test/")
        if not key.startswith("test/") or key in ends:
            continue
        low, high = (evidence.metrics.get(f"{key}_{end}") for end in ("low", "high"))
        reached = f"{low:.3f} to {high:.3f}" if low is not None and high is not None else "–"
        val = evidence.metrics.get(f"val/{name}")
        lines.append(
            f"| {escaped(name)} | {value:.4f} | {reached} | {'–' if val is None else f'{val:.4f}'} |"
        )
    return "## How good it is\n\n" + "\n".join(lines)


def _gates(evidence: Evidence) -> str:
    lines = [f"- {escaped(gate.gate)}: {gate.detail}" for gate in evidence.gates]
    return "## What it had to pass\n\n" + "\n".join(lines)


def _cost(metrics: Mapping[str, float]) -> str:
    known = [(words, metrics[key], unit) for key, words, unit in _COSTS if key in metrics]
    lines = [f"- {words}: {value:,.4g} {unit}".rstrip() for words, value, unit in known]
    low, high = (metrics.get(key) for key in (LATENCY_LOW, LATENCY_HIGH))
    if low is not None and high is not None:
        runs = metrics.get("latency/runs", 0)
        lines[0] += f", {low:,.4g} to {high:,.4g} at {100 * CONFIDENCE:.0f} %, {runs:.0f} runs"
    return "## What it costs\n\n" + "\n".join(lines)


def _limits(attempt: Attempt, evidence: Evidence) -> str:
    card = read_card(attempt.model)
    device = f"{card.versions.get('cpu', '')}, {card.versions.get('device', '')}"
    lines = [
        f"- It answers with one of its {len(card.classes)} classes, whatever the clip shows"
        + (f", or not at all where it is less than {card.confidence:.0%} sure." if card.confidence else "."),
        f"- Latencies are of the machine that trained it ({device}); `vidclf bench` measures another.",
        f"- Intervals are {evidence.result.own.basis('accuracy')}; group_weighted metrics and theirs are "
        "weighed by groups. New groups (people, scenes) must be like those.",
        "- A metric without an interval was measured on these clips and says little of others; the "
        "calibration error (ece) of few clips is too large.",
    ]
    if evidence.untested:
        few = f"fewer than {intervals.FEWEST_GROUPS} groups, too few to tell anything"
        lines.insert(0, f"- **Untested**: the test split has {few}.")
    if evidence.result.reads > 1:
        lines.append(
            f"- The test split was read {evidence.result.reads} times; each read makes its figures "
            "a little more optimistic."
        )
    return "## Limits\n\n" + "\n".join(lines)


def _loading(reference: str) -> str:
    return (
        f"## How to load it\n\n```\nvidclf predict {reference} CLIP...\n```\n\n"
        f'```python\nimport mlflow\nmodel = mlflow.pyfunc.load_model("models:/{reference}")\n'
        'model.predict(["data:video/mp4;base64,..."])\n```'
    )
