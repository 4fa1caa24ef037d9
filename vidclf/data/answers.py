"""What a user has said of pairs of clips, kept beside the manifest for the next import, check and report."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidclf.data.manifest import Entry, relative_path
from vidclf.data.remote import named
from vidclf.data.tables import read_table
from vidclf.exceptions import InputError

Answers = Mapping[tuple[Path, Path], bool]
"""For pairs of clips, whether they are of one scene."""

_WORDS = {"merge": True, "split": False}


def answers_file(manifest: Path) -> Path:
    """Where the answers to a manifest's clips lie."""
    return manifest.with_suffix(".answers.csv")


def read_answers(manifest: Path) -> Answers:
    """The answers beside a manifest, which may not exist itself; none where there is no such file.

    Raises:
        InputError: The file has other columns, or another answer than ``merge`` and ``split``.
    """
    path = answers_file(manifest)
    if not path.is_file():
        return {}
    table = read_table(path)
    if not {"a", "b", "answer"} <= set(table.columns) or not set(table["answer"]) <= _WORDS.keys():
        raise InputError(
            f"{named(path)}: expected the columns a, b (clips) and answer (merge or split); mend or delete it"
        )
    rows = zip(table["a"], table["b"], table["answer"], strict=True)
    return {(_place(path, a), _place(path, b)): _WORDS[answer] for a, b, answer in rows}


def _place(path: Path, clip: str) -> Path:
    return Path(path.parent, clip).absolute()


def add_answers(
    manifest: Path, merge: Iterable[str], apart: Iterable[str], entries: Sequence[Entry]
) -> Answers:
    """Adds answers to those beside a manifest, in place of earlier ones to the same pair, and keeps all.

    Args:
        manifest: The manifest.
        merge: Pairs of clips of one scene, as ``A,B``: paths, or as much of their ends as tells them apart.
        apart: Likewise, of two scenes.
        entries: The clips.

    Raises:
        InputError: A text is no pair, or names no clip or several.
    """
    answers = dict(read_answers(manifest))
    for option, texts, same in (("--merge", merge, True), ("--apart", apart, False)):
        for text in texts:
            a, b = _pair(f"{option} {text}", text, entries)
            answers.pop((b, a), None)
            answers[a, b] = same
    if answers:
        write_answers(manifest, answers)
    return answers


def write_answers(manifest: Path, answers: Answers) -> None:
    """Writes the file of answers beside a manifest, in place of an earlier one."""
    path = answers_file(manifest)
    word = {same: text for text, same in _WORDS.items()}
    rows = [
        (relative_path(a, path.parent), relative_path(b, path.parent), word[same])
        for (a, b), same in sorted(answers.items())
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    import pandas as pd  # half a second, which mistyped names do without

    pd.DataFrame(rows, columns=["a", "b", "answer"]).to_csv(path, index=False, lineterminator="\n")


def _pair(given: str, text: str, entries: Sequence[Entry]) -> tuple[Path, Path]:
    """The clips of ``A,B``, whose names may hold commas themselves."""
    parts = text.split(",")
    found = [
        (a, b)
        for cut in range(1, len(parts))
        for a in _meant(",".join(parts[:cut]), entries)
        for b in _meant(",".join(parts[cut:]), entries)
        if a != b
    ]
    if len(found) != 1:
        what = "names no two clips of the set" if not found else "can mean several pairs of clips"
        raise InputError(f"{given}: {what}; write A,B with their paths, as data report shows them")
    return found[0]


def _meant(text: str, entries: Sequence[Entry]) -> list[Path]:
    return [
        entry.clip_path.absolute()
        for entry in entries
        if f"/{entry.name}".endswith(f"/{text.strip().removeprefix('/')}")
    ]


def certain_pairs(answers: Answers, paths: Sequence[Path]) -> NDArray[np.int8]:
    """What is known of each pair, shape (n, n): 1 for one scene, -1 for two, 0 for nothing."""
    known = np.zeros((len(paths), len(paths)), dtype=np.int8)
    place = {path.absolute(): index for index, path in enumerate(paths)}
    for (a, b), same in answers.items():
        if a in place and b in place:
            known[place[a], place[b]] = known[place[b], place[a]] = 1 if same else -1
    return known
