"""The recommendation of a comparison as text, with the evidence for it."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vidclf.comparison.baselines import Baselines
from vidclf.comparison.rows import ModelRow, RowGroup
from vidclf.comparison.significance import PairVerdict
from vidclf.data.manifest import SPLITS
from vidclf.evaluation import metrics, ranking
from vidclf.evaluation.ranking import LATENCY, SIZE
from vidclf.labels import plural

_CHEAPER = 1.5
"""How many times faster or smaller another model must be to be named beside the best."""


@dataclass(frozen=True)
class Recommendation:
    """What to ship from one block.

    Attributes:
        headline: The answer in one sentence.
        others: What else deserves a thought, a sentence each.
    """

    headline: str
    others: Sequence[str]


def name_of(block: RowGroup, blocks: Sequence[RowGroup]) -> str:
    """What a block is called among all; its digest where its name alone is not enough."""
    alike = [other for other in blocks if other.clips.name == block.clips.name]
    digest = f" ({block.clips.digest[:8]})" if len({other.clips.digest for other in alike}) > 1 else ""
    folds = f", {block.clips.folds}" if block.clips.folds else ""
    return f"{block.clips.name or 'unnamed clips'}{digest}{folds}"


def metric_words(metric: str) -> str:
    """``val/macro_f1`` as ``macro F1``."""
    return metric.partition("/")[2].replace("_", " ").replace("f1", "F1")


def judged_on(metric: str) -> str:
    """`` on val`` for ``val/macro_f1``; empty for what no split decides, as ``size/file_mb``."""
    split = metric.partition("/")[0]
    return f" on {split}" if split in SPLITS else ""


def answer(block: RowGroup, measured: Baselines) -> Recommendation:
    """What to ship, what val put before it, and which cheaper models come near."""
    best = block.choice
    if best is None:
        return Recommendation("Nothing to ship: no model has finished within its constraints.", [])
    found = ", ".join(filter(None, (_score_words(block, best, measured), ranking.cost_words(best.metrics))))
    if not block.useful(best):
        floor = f"{metric_words(block.metric)} {ranking.figure(block.floor, '.3f')}"
        return Recommendation(
            f"Ship none of these: the best, {best.label} ({best.family}: {found}), is no better than always "
            f"saying the most frequent class ({floor}).{_overturned(block, best)}",
            list(_unconfirmed(block, best)),
        )
    others = [*_unconfirmed(block, best), *_cheaper(block, best)]
    near = _near(block, best, measured.val_clips)
    if near:
        families = ", ".join(dict.fromkeys(line.family for line in near))
        apart = plural(len(near), "other model")
        others.append(
            f"No more than one val clip lies between it and {apart}, a difference within chance: {families}."
        )
    if len({line.model for line in block.lines}) == 1:
        others.append(f"Nothing but {best.model} was tried on these clips; another kind may do better.")
    return Recommendation(f"Ship {best.family}: {best.label}, {found}.{_overturned(block, best)}", others)


def _score_words(block: RowGroup, line: ModelRow, measured: Baselines) -> str:
    """What a line reached, and on what; its figure on val comes after one that did not choose it."""
    on_val = block.metric.startswith("val/") and measured.val_clips
    clips = f" of {measured.val_clips} clips" if on_val else ""
    ranked_by = f"{ranking.figure(line.value, '.3f')}{judged_on(block.metric)}{clips}"
    if line.confirmed is None:
        return f"{metric_words(block.metric)} {ranked_by}"
    word = "confirmed with" if line.won else "to which confirm gave"
    basis = "on fresh seeds but the same clips" if line.confirmed.optimistic else "out of fold on fresh seeds"
    return f"{word} {metric_words(block.metric)} {line.score:.3f} {basis}, {ranked_by}"


def _overturned(block: RowGroup, best: ModelRow) -> str:
    """Which trial was ahead on val until it was confirmed, as a further sentence."""
    for line in _ahead(block, best):
        if line.confirmed is not None:
            value = ranking.figure(line.value, ".3f")
            return f" On val {line.label} was ahead with {value}; confirm gave it {line.score:.3f}."
    return ""


def _unconfirmed(block: RowGroup, best: ModelRow) -> Iterator[str]:
    """The first that is ahead on val, and that no confirmation speaks of."""
    firsts = {line.study: line for line in reversed(block.ranked)}
    for line in _ahead(block, best):
        settled, value = line.study in block.settled, line.value or 0.0
        judged = line.confirmed is not None or (settled and line is not firsts[line.study])
        if judged or not block.useful(line) or not block.better(value, best.value or 0.0):
            continue
        score = f"{metric_words(block.metric)} {value:.3f}"
        why = f"come since {line.study} was confirmed" if settled else "not confirmed"
        judge = f"; vidclf confirm {line.study} judges it" if line.study else ""
        yield f"Ahead on val, but {why}: {line.family}, {line.label}, {score}{judge}."
        return


def _ahead(block: RowGroup, best: ModelRow) -> list[ModelRow]:
    """Lines that rank before the one to ship."""
    return list(itertools.takewhile(lambda line: line is not best, block.ranked))


def values_of(line: ModelRow) -> str:
    """The searched values of a trial, or the source of a published figure."""
    if line.origin != "trial":
        return line.source
    return ranking.param_words(line.params)


def _cheaper(block: RowGroup, best: ModelRow) -> Iterator[str]:
    """The best ranked that is clearly faster than the best, and that is clearly smaller."""
    found: dict[int, tuple[ModelRow, list[str]]] = {}
    for key, word in ((LATENCY, "faster"), (SIZE, "smaller")):
        mine = best.metrics.get(key)
        for line in block.ranked if mine else ():
            theirs = line.metrics.get(key)
            if theirs and mine and block.useful(line) and mine / theirs >= _CHEAPER:
                _, words = found.setdefault(id(line), (line, []))
                words.append(f"{mine / theirs:.1f} times {word}")
                break
    for line, words in found.values():
        value = f"{metric_words(block.metric)} {ranking.figure(line.value, '.3f')}"
        if best.confirmed is not None:
            value += judged_on(block.metric)
        if line.confirmed is not None:
            value += f" ({line.score:.3f} by confirm)"
        costs = ranking.cost_words(line.metrics)
        yield f"{' and '.join(words).capitalize()}: {line.family}, {line.label}, {value}, {costs}."


def _near(block: RowGroup, best: ModelRow, clips: int | None) -> list[ModelRow]:
    """Lines whose score differs from the best by no more than one clip of val, where val chose that."""
    lower = metrics.lower_is_better(block.metric)
    if not clips or lower or not block.metric.startswith("val/") or best.won:
        return []
    others = (line for line in block.ranked if line is not best)
    return [line for line in others if abs((best.value or 0.0) - (line.value or 0.0)) <= 1 / clips]


def notes(
    block: RowGroup,
    measured: Baselines,
    verdicts: Sequence[PairVerdict],
    test_reads: Callable[[str], int],
) -> list[str]:
    """What the figures of a block rest on and where they flatter, a sentence or two each.

    Args:
        block: The lines.
        measured: Their baselines.
        verdicts: Of the best against others, on predictions that selected nothing.
        test_reads: How often the test split of that digest was read.
    """
    return [
        *_selected(block, measured),
        _test(block, test_reads),
        *_separated(block, verdicts),
        *_floor(block, measured),
        *_costs(block),
        *_left_out(block),
        *measured.notes,
    ]


def _selected(block: RowGroup, measured: Baselines) -> Iterator[str]:
    if not block.ranked:
        return
    tries = len(block.ranked)
    yield (
        f"Figures on val were selected: the best of {tries:,} is partly the luckiest of {tries:,}, so expect "
        "less on new clips."
        if tries > 1
        else "Figures on val may have chosen the model or its epoch, so expect less on new clips."
    )
    if measured.val_clips and block.metric.startswith("val/"):
        yield (
            f"val has {measured.val_clips} clips: one of them right or wrong moves accuracy by "
            f"{100 / measured.val_clips:.1f} points."
        )


def tags(block: RowGroup) -> Mapping[str, str]:
    """What a run of these clips says of them, from the first folder that is there."""
    for line in block.lines:
        if line.attempt is not None and (line.attempt.folder / "attempt.json").exists():
            return line.attempt.identity().tags
    return {}


def _test(block: RowGroup, test_reads: Callable[[str], int]) -> str:
    digest = tags(block).get("vidclf.test_digest")
    reads = test_reads(digest) if digest else 0
    if not reads:
        return "The test split was not read."
    return f"The test split was read {'once' if reads == 1 else f'{reads} times'}."


def _separated(block: RowGroup, verdicts: Sequence[PairVerdict]) -> Iterator[str]:
    yield from (verdict.words for verdict in verdicts)
    if verdicts or len(block.ranked) < 2:
        return
    if block.choice is not None and block.choice.won:
        yield (
            "Whether the best is really better than the others was not tested: that takes predictions of two "
            "finalists in this store, for clips of three groups."
        )
    else:
        yield (
            "Whether the best is really better than the others cannot be said from val, on which it was "
            "chosen; vidclf confirm tests that."
        )


def _floor(block: RowGroup, measured: Baselines) -> Iterator[str]:
    below = sum(not block.useful(line) for line in block.ranked)
    if below:
        are = "model is" if below == 1 else "models are"
        yield f"{below:,} {are} no better than always saying the most frequent class."
    if measured.published:
        sources = "; ".join(dict.fromkeys(line.source for line in measured.published))
        yield f"Published figures are on splits of their source and are not ranked: {sources}."


def _costs(block: RowGroup) -> Iterator[str]:
    known = [line for line in block.ranked if LATENCY in line.metrics]
    if block.ranked and len(known) < len(block.ranked):
        yield (
            f"The latency of {len(block.ranked) - len(known)} of {len(block.ranked)} models is not known: "
            "they can be on the Pareto front by score and size only."
        )
    busy = [line for line in known if ranking.disturbed(line.metrics)]
    if busy:
        whose = "One model's latency was"
        if len(busy) > 1:
            whose = f"The latencies of {len(busy)} models, as that of {busy[0].label}, were"
        words = ranking.disturbed(busy[0].metrics)
        yield f"{whose} measured while {words}: too high. vidclf bench measures again."
    if known:
        yield (
            "Latency was measured on the machine of each run, at batch 1, as the median of warmed calls: in "
            "a study once for all trials of one shape (network, frames, size, machine)."
        )


def _left_out(block: RowGroup) -> Iterator[str]:
    complete = [line for line in block.lines if line.state == "complete"]
    infeasible = sum(not line.feasible for line in complete)
    ends = {
        state: sum(line.state == state for line in block.lines)
        for state in ("pruned", "failed", "interrupted")
    }
    ended = ", ".join(f"{count:,} {state}" for state, count in ends.items() if count)
    if infeasible:
        are = (
            "model outside a constraint of its study is"
            if infeasible == 1
            else ("models outside a constraint of their study are")
        )
        yield f"{infeasible:,} {are} not ranked."
    if ended:
        yield f"Not ranked because not complete: {ended}."
    if tags(block).get("split/grouped") == "false":
        yield (
            "Clips name no groups, so each counts as one: if several show one scene or person, all figures "
            "and intervals are too good."
        )
    if tags(block).get("split/leak") == "true":
        yield "Groups of clips stand in several splits, so all figures are too good."
