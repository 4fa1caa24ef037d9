"""What the page of a review shows: the next question, what to finish comes to, what was written."""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from markupsafe import Markup

from vidclf.data.manifest import Entry
from vidclf.data.splitting import group_of
from vidclf.labels import plural
from vidclf.reports.loops import Loop, Loops
from vidclf.reports.rendering import render
from vidclf.review.changes import Change
from vidclf.review.questions import Question
from vidclf.review.session import Session

_SIDE, _SMALL = 288, 144
"""Short sides of the clips that are asked about, and of those beside them."""
_KEYS = "1234567890"
"""Of the classes; of more classes than these, of the most probable ones."""
_BESIDE = 4
"""Clips of the same group that are shown, at most."""
_COLUMNS = 6
"""Classes whose probabilities are shown, at most: the most probable."""
_MOST_CHANGES = 500
_HEADINGS = {
    "label": "Is this {label}?",
    "pair": "One scene, or two?",
    "unlabelled": "What is this? The model is the least sure of it",
}
Examples = Mapping[str, Sequence[Entry]]
"""Of each class some clips that models are sure of."""


@functools.lru_cache(128)
def _loop(clip_path: str, side: int) -> Loop | None:
    """A clip that plays; the same one is shown with many questions."""
    return Loops(side=side).of(clip_path)


def page(session: Session, examples: Examples, nonce: str) -> str:
    """The whole page, with what is next."""
    title = f"Review of {session.manifest.path.name}"
    return render("review.html.j2", title=title, nonce=nonce, fragment=Markup(next_html(session, examples)))


def next_html(session: Session, examples: Examples, message: str = "") -> str:
    """The next question, or where none is left, what to finish comes to.

    Args:
        session: The review.
        examples: See `Examples`.
        message: What is said above it.
    """
    pending = session.pending()
    if not pending:
        return finish_html(session, message)
    place = pending[0]
    question = session.questions[place]
    entries = [session.clips.entries.get(session.clips.name(entry), entry) for entry in question.clips]
    return _render(
        session,
        message,
        state="question",
        heading=_HEADINGS[question.kind].format(label=entries[0].label),
        why=question.why,
        question=place,
        clips=[_card(entry, letter) for entry, letter in zip(entries, ("A: ", "B: "), strict=False)]
        if len(entries) > 1
        else [_card(entries[0])],
        answers=_answers(place, question, entries),
        **_classes(session, place, question),
        says=_says(question, entries[0].label),
        examples=_examples(question, entries[0], examples),
        group=_beside(session, question, entries),
    )


def finish_html(session: Session, message: str = "") -> str:
    """What would be written."""
    changes = [change for change in session.clips.changes if change.column]
    left = len(session.pending())
    shown = [_row(session, change) for change in changes[:_MOST_CHANGES]]
    more = len(changes) - len(shown)
    notes = [f"{more} more" if more else "", f"{plural(left, 'question')} not looked at" if left else ""]
    return _render(
        session,
        message,
        state="finish",
        heading=f"{plural(len(changes), 'change')} to write" if changes else "Nothing is to be changed",
        changes=shown,
        left="; ".join(filter(None, notes)),
    )


def written_html(session: Session) -> str:
    """What was written."""
    written = session.written
    files = [written.manifest, written.record] if written else []
    return _render(
        session,
        "",
        state="written",
        heading="Written" if written else "Nothing was changed, so no manifest was written",
        lines=[str(path) for path in files],
    )


def _render(session: Session, message: str, **values: Any) -> str:
    title = f"Review of {session.manifest.path.name}"
    return render(
        "review_question.html.j2", title=title, progress=session.progress(), message=message, **values
    )


def _row(session: Session, change: Change) -> tuple[str, str, str, str, str]:
    what = "dropped" if change.column == "clip_path" else change.column
    return (
        PurePosixPath(change.clip).name,
        what,
        change.before,
        change.after,
        session.clips.split(change.clip),
    )


def _card(entry: Entry, letter: str = "", side: int = _SIDE) -> dict[str, Any]:
    facts = [entry.clip_path.name, f"group {entry.group}" if entry.group else "no group", entry.split]
    return {
        "name": entry.clip_path.name,
        "letter": letter,
        "label": entry.label,
        "about": ", ".join(filter(None, facts)),
        "loop": _loop(entry.name, side),
    }


def _answers(place: int, question: Question, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Buttons beside those of the classes."""

    def answer(key: str, words: str, action: str, value: int = -1, *, main: bool = False) -> dict[str, Any]:
        body = {"question": place, "action": action, "value": value}
        return {"key": key, "words": words, "body": body, "main": main}

    if question.kind == "unlabelled":
        return [answer("K", "leave it out", "keep")]
    if question.kind == "label":
        return [answer("K", f"keep {entries[0].label}", "keep"), answer("D", "drop the clip", "drop", 0)]
    return [
        answer("M", "one scene: make the groups one", "merge", main=True),
        answer("S", "two scenes: keep or split apart", "split"),
        answer("A", "drop A", "drop", 0),
        answer("B", "drop B", "drop", 1),
        answer("K", "keep all as it is", "keep"),
    ]


def _classes(session: Session, place: int, question: Question) -> dict[str, Any]:
    """Buttons of the classes, and beyond ten of them a list of the rest."""
    names = list(session.classes)
    order = names
    if len(names) > len(_KEYS):
        likely = _likely(question) or {clip.label: 1.0 for clip in question.clips}
        order = sorted(names, key=lambda name: (-likely.get(name, 0.0), name))
    both = "both are " if question.kind == "pair" else ""
    body = {"question": place, "action": "relabel"}
    return {
        "classes": [
            {
                "key": key,
                "words": f"{both}{name}",
                "body": {**body, "value": names.index(name)},
                "main": name == question.suggested,
            }
            for key, name in zip(_KEYS, order, strict=False)
        ],
        "others": [{"place": names.index(name), "name": name} for name in sorted(order[len(_KEYS) :])],
        "others_body": body,
    }


def _likely(question: Question) -> dict[str, float]:
    """The probability of each class, over the models."""
    total: Counter[str] = Counter()
    for _, says in question.opinions:
        total.update(says)
    return dict(total)


def _says(question: Question, given: str) -> dict[str, Any] | None:
    """The models' probabilities as a table."""
    if not question.opinions:
        return None
    likely = _likely(question)
    first = sorted(likely, key=lambda name: -likely[name])[:_COLUMNS]
    shown = sorted({*first, *([given] if given in likely else [])})
    rows = [
        {"model": name, "shares": [says.get(label, 0.0) for label in shown]}
        for name, says in question.opinions
    ]
    return {"classes": shown, "rows": rows, "given": given}


def _examples(question: Question, entry: Entry, examples: Examples) -> list[dict[str, Any]]:
    """A sure clip of the given and of the suggested class, of other groups than the clip's."""
    if question.kind == "pair":
        return []
    chosen = []
    for label in dict.fromkeys(filter(None, (entry.label, question.suggested))):
        others = [each for each in examples.get(label, ()) if group_of(each) != group_of(entry)]
        chosen += others[:1]
    return [_card(each, side=_SMALL) for each in chosen]


def _beside(session: Session, question: Question, entries: Sequence[Entry]) -> dict[str, Any] | None:
    """Other clips of the group, whose labels say whether one slip was made for all of it."""
    groups = {group_of(entry) for entry in entries}
    shown = {entry.clip_path for entry in entries}
    members = [
        each
        for each in session.clips.entries.values()
        if group_of(each) in groups and each.clip_path not in shown
    ]
    if not members or not any(entry.group for entry in entries):
        return None
    counts = Counter(each.label for each in members)
    words = ", ".join(f"{label} {count}" for label, count in sorted(counts.items()))
    whose = "the same group" if len(groups) == 1 else "these groups"
    title = f"{plural(len(members), 'other clip')} of {whose}: {words}"
    return {"title": title, "clips": [_card(each, side=_SMALL) for each in members[:_BESIDE]]}
