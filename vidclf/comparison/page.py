"""A comparison as one HTML page that needs no network, for a reader who knows neither studies nor trials."""

import html
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from plotly.graph_objects import Figure

from vidclf.comparison import figures
from vidclf.comparison.data import Comparison, GroupReport
from vidclf.comparison.label_errors import PooledPredictions, pool, thumbnail
from vidclf.comparison.rows import ModelRow, RowGroup
from vidclf.comparison.verdict_text import judged_on, metric_words, name_of, values_of
from vidclf.evaluation import ranking
from vidclf.evaluation.ranking import FILE_LATENCY, LATENCY, SIZE
from vidclf.reports import html as pages
from vidclf.search.report.data import FEWEST, StudyData
from vidclf.search.report.figures import importances

_SHOWN_CLIPS = 24
"""Clips that are shown with a picture, at most."""
_SHOWN_LINES = 200
"""Models of a table, at most; a file for spreadsheets has all."""
_STYLE = """
body{max-width:70rem}h1{font-size:2rem;letter-spacing:-.01em}
.block{margin-top:3.2rem;padding-top:.4rem;border-top:3px solid #1c1c1c}
.block:first-of-type{border:0;margin-top:1.6rem;padding:0}
.kicker{color:#555;font-size:.85rem;letter-spacing:.06em;text-transform:uppercase;margin:0}
.answer{font-size:1.5rem;line-height:1.35;font-weight:600;max-width:58rem;margin:.3rem 0 .6rem}
ul{max-width:56rem;padding-left:1.2rem;margin:.5rem 0}li{margin:.25rem 0}
.facts{gap:.7rem;margin:1.4rem 0}.facts div{border-color:#e0e0e0;min-width:8rem}.facts b{font-size:1.5rem}
.honest{background:#fff8ec;border-left:4px solid #e69f00;border-radius:0 .4rem .4rem 0;
padding:.7rem 1.1rem;margin:1.2rem 0;max-width:56rem;font-size:.95rem}
.honest h3{margin:0}.honest ul{margin:.3rem 0}
.wide{overflow-x:auto}tr.base td{color:#666;font-style:italic}tr.best td{font-weight:600}
.swatch{display:inline-block;width:.75rem;height:.75rem;border-radius:.2rem;margin-right:.5rem}
td{vertical-align:top}td .id{display:block;color:#777;font-size:.85rem;font-weight:400;margin-left:1.25rem;
white-space:nowrap}
.clips{display:grid;grid-template-columns:repeat(auto-fill,minmax(12rem,1fr));gap:1rem;margin:1rem 0}
.clips figure{margin:0;border:1px solid #e0e0e0;border-radius:.5rem;overflow:hidden;font-size:.85rem}
.clips img{display:block;width:100%;height:9rem;object-fit:cover;background:#eee}
.clips .none{height:9rem;background:#f2f2f2;color:#777;display:grid;place-items:center}
.clips figcaption{padding:.5rem .7rem .6rem;line-height:1.45;overflow-wrap:anywhere}
.clips .file{color:#777;font-size:.78rem}
"""


def write_page(comparison: Comparison, path: Path) -> None:
    """Writes the page.

    Raises:
        OSError: It cannot be written.
    """
    blocks = [part.block for part in comparison.parts]
    ids = itertools.count()
    body = ["<h1>Which classifier to ship</h1>"]
    if len(blocks) > 1:
        body.append(
            f'<p class="lead">{len(blocks)} sets of clips, each with its own ranking: figures for '
            "different clips say nothing about each other.</p>"
        )
    for part in comparison.parts:
        body += _part(part, name_of(part.block, blocks), comparison, ids)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(pages.document("Which classifier to ship", body, _STYLE), encoding="utf-8")


def _part(part: GroupReport, name: str, comparison: Comparison, ids: Iterator[int]) -> Iterator[str]:
    block = part.block
    shown = part.lines(every=comparison.every, most=_SHOWN_LINES)
    hidden = len(part.lines(every=comparison.every)) - len(shown)
    yield f'<section class="block"><p class="kicker">{html.escape(name)}</p>'
    yield f'<p class="answer">{html.escape(part.answer.headline)}</p>'
    if part.answer.others:
        yield f"<ul>{_items(part.answer.others)}</ul>"
    yield _facts(part)
    yield f'<div class="honest"><h3>How sure this is</h3><ul>{_items(part.notes)}</ul></div>'
    yield from _table(part, shown, hidden)
    better = "up" if block.direction == "maximize" else "down"
    yield from _drawn(
        "What accuracy costs",
        f"Each point is a finished model; {better} and to the left is better. Diamonds are the Pareto front: "
        "no other model is better, faster and smaller at once, to two digits. The thin line is the best "
        "score for at most that cost, the dotted one what always saying the most frequent class scores.",
        figures.pareto(block, part.measured.majority),
        "Needs a finished model whose size or latency is known.",
        ids,
    )
    yield from _drawn(
        "What each confuses",
        "The best of each family on the same val clips: rows are the true classes, columns what the model "
        "said, numbers are clips.",
        figures.confusion(block.best),
        "No predictions are on disk.",
        ids,
    )
    pooled = pool(block.best)
    if pooled is not None:
        yield from _wrong(pooled)
    yield from _doubts([each for each in (pooled, pool(block.ranked, "confirm")) if each is not None])
    yield from _drawn(
        "Would more clips help?",
        " ".join(curve.words for curve in part.growth),
        figures.growth(part.growth) if part.growth else None,
        "Not measured: vidclf compare --learning-curve trains the best on ever more of the groups.",
        ids,
    )
    yield from _importances(block, ids)
    yield "</section>"


def _items(texts: Sequence[str]) -> str:
    return "".join(f"<li>{html.escape(text)}</li>" for text in texts)


def _facts(part: GroupReport) -> str:
    block = part.block
    facts = {"models compared": f"{len(block.ranked):,}"}
    best = block.choice
    if best is not None:
        facts = {
            f"{metric_words(block.metric)}{judged_on(block.metric)}": ranking.figure(best.value, ".3f"),
            "ms a clip": ranking.figure(best.metrics.get(LATENCY), ".1f"),
            "MB": ranking.figure(best.metrics.get(SIZE), ".2f"),
            **facts,
        }
        if best.confirmed is not None:
            facts = {f"{metric_words(block.metric)} by confirm": f"{best.score:.3f}", **facts}
    if part.measured.val_clips:
        facts["clips judged on"] = f"{part.measured.val_clips:,}"
    floor = part.measured.majority
    if floor is not None and floor.value is not None:
        facts["most frequent class"] = f"{floor.value:.3f}"
    cells = (
        f"<div><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>"
        for name, value in facts.items()
    )
    return f'<div class="facts">{"".join(cells)}</div>'


def _table(part: GroupReport, shown: Sequence[ModelRow], hidden: int) -> Iterator[str]:
    block = part.block
    front, colours = {id(line) for line in block.front}, figures.colours(block)
    yield "<h2>Side by side</h2>"
    yield '<p class="note">Shaded rows are the Pareto front. Figures in italics are baselines and are not '
    yield f"ranked.{f' {hidden:,} more are in the CSV file.' if hidden > 0 else ''}</p>"
    yield '<div class="wide"><table><tr><th>rank</th><th class="text">model</th>'
    yield f"<th>{html.escape(metric_words(block.metric))}</th><th>accuracy</th>"
    yield '<th>ms a clip</th><th>ms a file</th><th>MB</th><th class="text">searched values</th></tr>'
    for line in shown:
        rank, own = block.rank(line), line.origin in ("trial", "run")
        kinds = [
            name
            for name, holds in (
                ("front", id(line) in front),
                ("best", line is block.choice),
                ("base", not own),
            )
            if holds
        ]
        yield f'<tr class="{" ".join(kinds)}"><td>{rank or ""}</td>'
        colour = colours.get(line.family, "transparent") if own else "transparent"
        state = f", {line.state}" if own and line.state != "complete" else ""
        state += "" if line.feasible else ", outside a constraint"
        yield f'<td class="text"><span class="swatch" style="background:{colour}"></span>'
        yield f'{html.escape(line.family)} <span class="id">{html.escape(line.marked + state)}</span></td>'
        yield f"<td>{ranking.figure(line.value, '.4f')}</td><td>{_accuracy(line)}</td>"
        for key, form in ((LATENCY, ".1f"), (FILE_LATENCY, ".1f"), (SIZE, ".2f")):
            yield f"<td>{ranking.figure(line.metrics.get(key), form)}</td>"
        yield f'<td class="text">{html.escape(values_of(line))}</td></tr>'
    yield "</table></div>"


def _accuracy(line: ModelRow) -> str:
    value = line.metrics.get("val/accuracy")
    if value is None and "test/accuracy" in line.metrics:
        return f"{line.metrics['test/accuracy']:.3f} (test)"
    return ranking.figure(value, ".3f")


def _drawn(
    title: str, reading: str, figure: Figure | None, lacking: str, ids: Iterator[int]
) -> Iterator[str]:
    yield f"<h2>{html.escape(title)}</h2>"
    yield f'<p class="note">{html.escape(reading if figure is not None else lacking)}</p>'
    if figure is not None:
        yield pages.drawn(figure, f"figure{next(ids)}")


def _wrong(pooled: PooledPredictions) -> Iterator[str]:
    wrong = pooled.always_wrong()
    models = "the one model" if pooled.models == 1 else f"all {pooled.models} families"
    yield f"<h2>Clips that {models} get{'s' if pooled.models == 1 else ''} wrong</h2>"
    if wrong.empty:
        yield f'<p class="note">None of {len(pooled.table)} val clips.</p>'
        return
    yield f'<p class="note">{len(wrong)} of {len(pooled.table)} val clips, the surest mistakes first. What '
    yield "no model gets is worth a look: hard, mislabelled, or unlike what was trained on.</p>"
    yield '<div class="clips">'
    for path, row in wrong.head(_SHOWN_CLIPS).iterrows():
        yield _clip(str(path), f"<b>{html.escape(row['label'])}</b>, called {html.escape(row['said'])}")
    yield "</div>"


def _doubts(judged: Sequence[PooledPredictions]) -> Iterator[str]:
    """Labels that look wrong: of val, and where `vidclf confirm` has judged the clips of train, of train."""
    if not judged:
        return
    doubts = sorted(
        (doubt for pooled in judged for doubt in pooled.doubts()), key=lambda doubt: doubt.given - doubt.other
    )
    clips = sum(len(pooled.table) for pooled in judged)
    yield "<h2>Labels to look at</h2>"
    if not doubts:
        yield f'<p class="note">None of {clips} labels looks wrong.</p>'
        return
    yield f'<p class="note">{len(doubts)} of {clips} clips: models that were not trained on them find the '
    yield "given label less likely than for other clips of that class, and another class as likely as for "
    yield "its own clips (confident learning; Northcutt, Jiang and Chuang, 2021). Weak models doubt good "
    yield "labels too.</p>"
    yield '<div class="clips">'
    for doubt in doubts[:_SHOWN_CLIPS]:
        said = f"labelled <b>{html.escape(doubt.label)}</b> ({100 * doubt.given:.0f} %), rather "
        yield _clip(
            doubt.clip_path, f"{said}<b>{html.escape(doubt.suggested)}</b> ({100 * doubt.other:.0f} %)?"
        )
    yield "</div>"


def _clip(path: str, caption: str) -> str:
    picture = thumbnail(path) or '<div class="none">no picture</div>'
    name = html.escape(Path(path).name)
    return f'<figure>{picture}<figcaption>{caption}<div class="file">{name}</div></figcaption></figure>'


def _importances(block: RowGroup, ids: Iterator[int]) -> Iterator[str]:
    for name, study in block.studies.items():
        yield from _drawn(
            f"Which values mattered in {name}",
            "How far each searched value sets the best trials of its base apart from the rest (PED-ANOVA), "
            "in shares of 100 %. More is on the study's own page.",
            importances(StudyData.of(study)),
            f"Needs {FEWEST} complete trials of a base with different values.",
            ids,
        )
