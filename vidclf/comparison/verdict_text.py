"""The recommendation of a comparison as text, with the evidence for it."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vidclf.comparison.baselines import Baselines
from vidclf.comparison.rows import ModelRow, RowGroup
from vidclf.data.manifest import SPLITS
from vidclf.evaluation import metrics, ranking
from vidclf.evaluation.chance import LEVEL, Chance
from vidclf.evaluation.intervals import CONFIDENCE, FEWEST_GROUPS, Interval
from vidclf.evaluation.ranking import LATENCY, SIZE
from vidclf.labels import plural

_CHEAPER = 1.5
"""How many times faster or smaller another model must be to be named beside the best."""


@dataclass(frozen=True)
class Recommendation:
    """What to ship from one group.

    Attributes:
        others: What else deserves a thought, a sentence each.
        short: The headline in some words, without trials and figures.
        worth: Whether the best is worth shipping.
        ship: The one row of a whole comparison that is to be shipped; ``None`` for all other groups.
    """

    headline: str
    others: Sequence[str]
    short: str
    worth: bool = False
    ship: ModelRow | None = None


def name_of(group: RowGroup, groups: Sequence[RowGroup]) -> str:
    """What a group is called among all; its digest where its name alone is not enough."""
    alike = [other for other in groups if other.clips.name == group.clips.name]
    digest = f" ({group.clips.digest[:8]})" if len({other.clips.digest for other in alike}) > 1 else ""
    folds = f", {group.clips.folds}" if group.clips.folds else ""
    return f"{group.clips.name or 'unnamed clips'}{digest}{folds}"


def metric_words(metric: str) -> str:
    """``val/macro_f1`` as ``macro F1``; of a class's recall its name stays as it is."""
    name, mark, label = metric.partition("/")[2].partition("/")
    return f"{name.replace('_', ' ').replace('f1', 'F1')}{mark}{label}"


INTERVAL = f"{100 * CONFIDENCE:.0f} % interval"
"""Heading of `interval_words`."""


def interval_words(reached: Interval | None) -> str:
    """As ``0.62 to 0.91``; a dash where there is none."""
    return "–" if reached is None else f"{reached.low:.2f} to {reached.high:.2f}"


def judged_on(group: RowGroup) -> str:
    """`` selected on val``: by what its figures were chosen; empty where no split decides, as of a size."""
    split = group.metric.partition("/")[0]
    if group.clips.out_of_fold and split == "val":
        return f" selected, mean over {group.clips.folds}"
    return f" selected on {split}" if split in SPLITS else ""


def answer(
    group: RowGroup, measured: Baselines, apart: str = "", chance: Chance | None = None
) -> Recommendation:
    """What to ship, what val put before it, and which cheaper models come near.

    Args:
        apart: Why the group cannot be compared with that of which one model is to be shipped.
        chance: What its rows would reach without signal, where that is known.
    """
    best = group.choice
    if best is None:
        within = " within its constraints" if any(row.state == "complete" for row in group.rows) else ""
        short = f"Nothing to ship: no model has finished{within}"
        return Recommendation(f"{short}.", [], short)
    found = ", ".join(filter(None, (_score_words(group, best, measured), ranking.cost_words(best.metrics))))
    if not group.useful(best):
        floor = f"{metric_words(group.metric)} {ranking.figure(group.floor, '.3f')}"
        return Recommendation(
            f"Ship none of these: the best, {best.label} ({best.family}: {found}), is no better than always "
            f"saying the most frequent class ({floor}).{_overturned(group, best)}",
            list(_unconfirmed(group, best)),
            "Ship none of these: none is better than always saying the most frequent class",
        )
    if chance is not None and chance.p >= LEVEL:
        tries = f"the best of {chance.models}" if chance.models > 1 else "one model"
        return Recommendation(
            f"{apart} Ship none of these: no better than chance. The best, {best.label} ({best.family}: "
            f"{found}), is not told from noise, of which {tries} reaches {chance.level:.3f} on average "
            f"(p = {chance.p:.2g}, labels permuted by group).{_overturned(group, best)}".lstrip(),
            list(_unconfirmed(group, best)),
            "Ship none of these: the best is no better than chance",
        )
    others = [*_unconfirmed(group, best), *_cheaper(group, best)]
    near = _near(group, best, measured.val_clips)
    if near:
        families = ", ".join(dict.fromkeys(row.family for row in near))
        models = plural(len(near), "other model")
        others.append(
            f"No more than one val clip lies between it and {models}, a difference within chance: {families}."
        )
    if len({row.model for row in group.rows}) == 1:
        others.append(f"Nothing but {best.model} was tried on these clips; another kind may do better.")
    which = f"{best.family}: {best.label}, {found}.{_overturned(group, best)}"
    if apart:
        short = f"The best here is {best.family}"
        return Recommendation(f"{apart} The best here is {which}", others, short, worth=True)
    return Recommendation(f"Ship {which}", others, f"Ship {best.family}", worth=True, ship=best)


def apart(group: RowGroup, groups: Sequence[RowGroup]) -> str:
    """Why no row of a group can be compared with those of the first; empty of the first."""
    if group is groups[0]:
        return ""
    own, first = group.clips, groups[0].clips
    if own.name != first.name:
        why = "another data set"
    elif own.digest != first.digest:
        why = "the clips, labels, groups or splits were others"
    else:
        why = f"val was {own.folds or 'that of the manifest'}, there {first.folds or 'that of the manifest'}"
    return f"Not comparable with {name_of(groups[0], groups)}: {why}."


def _score_words(group: RowGroup, row: ModelRow, measured: Baselines) -> str:
    """What a row reached, and on what; its figure on val comes after one that did not choose it."""
    on_val = group.metric.startswith("val/") and measured.val_clips
    clips = f" of {measured.val_clips} clips" if on_val else ""
    ranked_by = f"{ranking.figure(row.value, '.3f')}{judged_on(group)}{clips}"
    if row.confirmed is None:
        return f"{metric_words(group.metric)} {ranked_by}"
    word, basis = "confirmed with" if row.won else "to which confirm gave", "out of fold on fresh seeds"
    if row.confirmed.optimistic:
        word, basis = "again", "on fresh seeds but the clips that chose it"
    return f"{word} {metric_words(group.metric)} {row.score:.3f} {basis}, {ranked_by}"


def _overturned(group: RowGroup, best: ModelRow) -> str:
    """Which trial was ahead on val until it was confirmed, as a further sentence."""
    for row in _ahead(group, best):
        if row.confirmed is not None:
            value = ranking.figure(row.value, ".3f")
            return f" On val {row.label} was ahead with {value}; confirm gave it {row.score:.3f}."
    return ""


def _unconfirmed(group: RowGroup, best: ModelRow) -> Iterator[str]:
    """The first that is ahead on val, and that no confirmation speaks of."""
    firsts = {row.study: row for row in reversed(group.ranked)}
    for row in _ahead(group, best):
        settled, value = row.study in group.settled, row.value or 0.0
        judged = row.confirmed is not None or (settled and row is not firsts[row.study])
        if judged or not group.useful(row) or not group.better(value, best.value or 0.0):
            continue
        score = f"{metric_words(group.metric)} {value:.3f}"
        why = f"come since {row.study} was confirmed" if settled else "not confirmed"
        judge = f"; vidclf confirm {row.study} judges it" if row.study else ""
        yield f"Ahead on val, but {why}: {row.family}, {row.label}, {score}{judge}."
        return


def _ahead(group: RowGroup, best: ModelRow) -> list[ModelRow]:
    """Rows that rank before the one to ship."""
    return list(itertools.takewhile(lambda row: row is not best, group.ranked))


def values_of(row: ModelRow) -> str:
    """The searched values of a trial, or the source of a published figure."""
    if row.origin != "trial":
        return row.source
    return ranking.param_words(row.params)


def _cheaper(group: RowGroup, best: ModelRow) -> Iterator[str]:
    """The best ranked that is clearly faster than the best, and that is clearly smaller."""
    found: dict[int, tuple[ModelRow, list[str]]] = {}
    for key, word in ((LATENCY, "faster"), (SIZE, "smaller")):
        mine = best.metrics.get(key)
        for row in group.ranked if mine else ():
            theirs = row.metrics.get(key)
            if not theirs or not mine or not group.useful(row) or mine / theirs < _CHEAPER:
                continue
            if key == SIZE or ranking.is_faster(row.metrics, best.metrics):
                _, words = found.setdefault(id(row), (row, []))
                words.append(f"{mine / theirs:.1f} times {word}")
                break
    for row, words in found.values():
        value = f"{metric_words(group.metric)} {ranking.figure(row.value, '.3f')}"
        if best.confirmed is not None:
            value += judged_on(group)
        if row.confirmed is not None:
            value += f" ({row.score:.3f} by confirm)"
        costs = ranking.cost_words(row.metrics)
        yield f"{' and '.join(words).capitalize()}: {row.family}, {row.label}, {value}, {costs}."


def _near(group: RowGroup, best: ModelRow, clips: int | None) -> list[ModelRow]:
    """Rows whose score differs from the best by no more than one clip of val, where val chose that."""
    lower = metrics.lower_is_better(group.metric)
    if not clips or lower or not group.metric.startswith("val/") or best.won:
        return []
    others = (row for row in group.ranked if row is not best)
    return [row for row in others if abs((best.value or 0.0) - (row.value or 0.0)) <= 1 / clips]


def champion_words(alias: str, version: int, row: ModelRow, metric: str, tags: Mapping[str, str]) -> str:
    """Which row is a champion, and its figure on test when it was promoted.

    Args:
        alias: As ``exercises@champion``.
        version: What it points to.
        row: The same as a row.
        metric: What rows are ranked by.
        tags: Of the version.
    """
    key = f"test/{metric.partition('/')[2]}"
    reached = ""
    if key in tags:
        reached = f", on test {metric_words(metric)} {float(tags[key]):.3f}"
        if (low := tags.get(f"{key}_low")) and (high := tags.get(f"{key}_high")):
            reached += f", {INTERVAL} {float(low):.2f} to {float(high):.2f}"
    return f"{alias} is version {version}: {row.family}, {row.label}{reached}."


def chance_within(chance: Chance, reached: Interval) -> Iterator[str]:
    """Why an interval may hold what chance gives though the model is better than chance."""
    if chance.p < LEVEL and reached.low <= chance.level:
        yield (
            f"The interval of the best holds {chance.level:.2f}, which would be reached without signal, and "
            f"yet it is better than chance (p = {chance.p:.2g}): the interval is for clips of new groups, of "
            "which few groups say little; the test says that on these clips the labels matter."
        )


def leak_doubt(said: Mapping[str, str]) -> str:
    """Whether the splits leak or may do so, which no figure shows; empty where groups exclude it.

    Args:
        said: Tags of a run on these clips.
    """
    if said.get("split/leak") == "true":
        return "Groups of clips stand in several splits: all figures and intervals are too good."
    unknown = "groups unknown: leaks cannot be excluded" if said.get("split/grouped") == "false" else ""
    found = said.get("split/doubt") or unknown
    return found and (
        f"{found}. Where clips of one scene or person stand on two sides, all figures and intervals are too "
        "good."
    )


def notes(
    group: RowGroup,
    measured: Baselines,
    verdicts: Sequence[str],
    test_reads: Callable[[str], int | None],
) -> list[str]:
    """What the figures of a group rest on and where they flatter, a sentence or two each.

    Args:
        verdicts: Of the best against others, on predictions that selected nothing.
        test_reads: How often the test split of that digest was read.
    """
    return [
        *_selected(group, measured),
        _test(group, test_reads),
        *_separated(group, verdicts),
        *_floor(group, measured),
        *_costs(group),
        *_left_out(group),
        *measured.notes,
    ]


def _selected(group: RowGroup, measured: Baselines) -> Iterator[str]:
    if not group.ranked:
        return
    tries = group.tries
    if group.metric.startswith("test/"):
        yield (
            f"Ranked by test, which so chooses among {plural(tries, 'model')}: the best figure is selected, "
            "as one of val is, and this split is no longer untouched. Only models whose test was read are "
            "ranked, and no difference is tested; vidclf promote compares two on test, and counts it."
        )
        return
    yield (
        f"Figures on val were selected: the best of {tries:,} is partly the luckiest of {tries:,}, so expect "
        "less on new clips; where there are intervals, their lower ends count that."
        if tries > 1
        else "Figures on val may have chosen the model or its epoch, so expect less on new clips."
    )
    if measured.val_clips and group.metric.startswith("val/"):
        yield ranking.clips_words(measured.val_clips, group.clips.out_of_fold)


def tags(group: RowGroup) -> Mapping[str, str]:
    """What a run of these clips says of them, from the first folder that is there."""
    return next((identity.tags for row in group.rows if (identity := row.identity())), {})


def _test(group: RowGroup, test_reads: Callable[[str], int | None]) -> str:
    digest = tags(group).get("vidclf.test_digest")
    reads = test_reads(digest) if digest else 0
    if reads is None:
        return "How often the test split was read is not known, as MLflow is away."
    if not reads:
        return "The test split was not read."
    return f"The test split was read {'once' if reads == 1 else f'{reads} times'}."


def _separated(group: RowGroup, verdicts: Sequence[str]) -> Iterator[str]:
    yield from verdicts
    if verdicts or len(group.ranked) < 2:
        return
    table = group.choice.repeats() if group.choice is not None and group.clips.out_of_fold else None
    groups = table["group"].nunique() if table is not None else FEWEST_GROUPS
    if groups < FEWEST_GROUPS:
        yield (
            f"Whether the best is really better than the others cannot be said from clips of "
            f"{plural(groups, 'group')}, by vidclf confirm neither: that takes {FEWEST_GROUPS}."
        )
    elif group.choice is not None and group.choice.won:
        yield (
            "Whether the best is really better than the others was not tested: that takes predictions of two "
            f"finalists in this store, for clips of {FEWEST_GROUPS} groups."
        )
    else:
        yield (
            "Whether the best is really better than the others cannot be said from val, on which it was "
            "chosen; vidclf confirm tests that."
        )


def _floor(group: RowGroup, measured: Baselines) -> Iterator[str]:
    below = sum(not group.useful(row) for row in group.ranked)
    if below:
        are = "model is" if below == 1 else "models are"
        yield f"{below:,} {are} no better than always saying the most frequent class."
    if measured.published:
        sources = "; ".join(dict.fromkeys(row.source for row in measured.published))
        yield f"Published figures are on splits of their source and are not ranked: {sources}."


def _costs(group: RowGroup) -> Iterator[str]:
    known = [row for row in group.ranked if LATENCY in row.metrics]
    if group.ranked and len(known) < len(group.ranked):
        yield (
            f"The latency of {len(group.ranked) - len(known)} of {len(group.ranked)} models is not known: "
            "they can be on the Pareto front by score and size only."
        )
    busy = [row for row in known if ranking.disturbed(row.metrics)]
    if busy:
        whose = "One model's latency was"
        if len(busy) > 1:
            whose = f"The latencies of {len(busy)} models, as that of {busy[0].label}, were"
        words = ranking.disturbed(busy[0].metrics)
        yield (
            f"{whose} measured while {words}: too high, and nothing is called faster by them. vidclf bench "
            "measures again."
        )
    if known:
        yield (
            "Latency was measured on the machine of each run, at batch 1, as the median of warmed calls: in "
            "a study once for all trials of one shape (network, frames, size, machine), and side by side by "
            "vidclf confirm, which replaces that. Faster is what the intervals of both medians tell apart."
        )


def _left_out(group: RowGroup) -> Iterator[str]:
    complete = [row for row in group.rows if row.state == "complete"]
    infeasible = sum(not row.feasible for row in complete)
    ends = {
        state: sum(row.state == state for row in group.rows) for state in ("pruned", "failed", "interrupted")
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
