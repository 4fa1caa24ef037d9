"""What decisions make of a manifest: its clips afterwards, what changed and why, and the files with both."""

import itertools
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from vidclf.data.answers import Answers, read_answers, write_answers
from vidclf.data.manifest import SPLITS, Entry, Manifest, read_manifest, relative_path
from vidclf.data.remote import join
from vidclf.data.scenes import nearer_to_second
from vidclf.data.sources import named_group
from vidclf.data.splitting import group_of
from vidclf.data.tables import COLUMNS, GROUP_BY, read_table
from vidclf.exceptions import InputError
from vidclf.review.journal import Decision, Kind

_ORDER: tuple[str, ...] = SPLITS


@dataclass(frozen=True)
class Change:
    """One value of one clip that a decision changed, or that a clip was looked at and left as it is.

    Attributes:
        clip: As the manifest names it from its folder.
        column: ``label``, ``group`` or ``split``; ``clip_path`` of a clip that was dropped; empty where
            nothing was changed.
        before: The value; empty for the label of a clip that was added.
        after: The value; empty for a dropped clip.
        decision: What changed it.
    """

    clip: str
    column: str
    before: str
    after: str
    decision: Decision


class Clips:
    """A manifest's clips while decisions are applied to them.

    Args:
        entries: The clips of the manifest.
        folder: The manifest's.

    Attributes:
        entries: The clips as they are now, by their names from the folder.
        changes: What was changed, and what was looked at and left, in order.
    """

    def __init__(self, entries: Iterable[Entry], folder: Path) -> None:
        self._folder = folder
        self.entries = {self.name(entry): entry for entry in entries}
        self._before = dict(self.entries)
        self.changes: list[Change] = []

    def name(self, entry: Entry) -> str:
        """What decisions call a clip."""
        return relative_path(entry.clip_path, self._folder)

    def split(self, clip: str) -> str:
        """The split of a clip; empty where it was dropped."""
        return self.entries[clip].split if clip in self.entries else ""

    def settled(self, kind: Kind, clips: Sequence[str]) -> bool:
        """Whether decisions about other clips leave nothing to ask: one was dropped, or a pair made alike."""
        if kind == "unlabelled":
            return False
        if any(name not in self.entries for name in clips):
            return True
        return kind == "pair" and _alike(self.entries, clips) and not _alike(self._before, clips)

    def apply(self, decision: Decision) -> None:
        """Changes the clips as decided; a clip that is not there any more is passed over."""
        count = len(self.changes)
        here = [name for name in decision.clips if name in self.entries]
        match decision.action:
            case "relabel" if decision.kind == "unlabelled":
                self._add(decision)
            case "relabel":
                for name in here:
                    self._set(name, decision, label=decision.value)
            case "drop" if decision.value in self.entries:
                del self.entries[decision.value]
                self.changes.append(Change(decision.value, "clip_path", decision.value, "", decision))
            case "merge" if len(here) == 2:
                self._merge(here, decision)
            case "split" if len(here) == 2:
                self._split(here, decision)
        if len(self.changes) == count:
            self.changes += [Change(name, "", "", "", decision) for name in decision.clips]

    def _add(self, decision: Decision) -> None:
        """A clip joins its group's split where the group is known, else train."""
        [name] = decision.clips
        group = named_group(name)
        if group and any(each.group.startswith(f"{each.label}/") for each in self.entries.values()):
            group = f"{decision.value}/{group}"  # as `data import --group-scope class` names them
        splits = (entry.split for entry in self.entries.values() if group and entry.group == group)
        path = Path(join(str(self._folder), name))
        self.entries[name] = Entry(path, decision.value, group, next(splits, "train"))
        self.changes.append(Change(name, "label", "", decision.value, decision))

    def _merge(self, pair: Sequence[str], decision: Decision) -> None:
        """Two groups become one, in the first of their splits: what was trained on is never judged by."""
        first, second = (self.entries[name] for name in pair)
        members = self._members({group_of(first), group_of(second)})
        group = first.group or second.group or self._free_group(Path(pair[0]).stem)
        split = min((self.entries[name].split for name in members), key=_ORDER.index)
        guessed = next(filter(None, (self.entries[name].group_by for name in members)), "")
        for name in members:
            self._set(name, decision, group=group, split=split, group_by=guessed)

    def _split(self, pair: Sequence[str], decision: Decision) -> None:
        """One group becomes two: by the splits it stands in, else by which clip of the pair each is like."""
        first, second = (self.entries[name] for name in pair)
        if not first.group or first.group != second.group:
            return
        members = self._members({group_of(first)})
        if first.split != second.split:
            apart = [self.entries[name].split == second.split for name in members]
        else:
            paths = [self.entries[name].clip_path for name in members]
            apart = nearer_to_second(paths, members.index(pair[0]), members.index(pair[1]))
        group = self._free_group(first.group)
        for name, other in zip(members, apart, strict=True):
            if other:
                self._set(name, decision, group=group)

    def _members(self, groups: Set[str]) -> list[str]:
        return [name for name, entry in self.entries.items() if group_of(entry) in groups]

    def _free_group(self, name: str) -> str:
        taken = {entry.group for entry in self.entries.values()}
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        return next(each for each in itertools.chain([name], numbered) if each not in taken)

    def _set(self, name: str, decision: Decision, **values: str) -> None:
        before = self.entries[name]
        after = self.entries[name] = replace(before, **values)  # type: ignore[arg-type]
        for column in COLUMNS[1:]:
            old, new = getattr(before, column), getattr(after, column)
            if old != new:
                self.changes.append(Change(name, column, old, new, decision))


def _alike(entries: Mapping[str, Entry], clips: Sequence[str]) -> bool:
    """Whether clips are of one class, one group and one split."""
    return len({(group_of(entries[name]), entries[name].label, entries[name].split) for name in clips}) == 1


@dataclass(frozen=True)
class WrittenReview:
    """The files of a review that was finished.

    Attributes:
        manifest: The new manifest.
        record: What was changed and kept, by whom, when and why.
    """

    manifest: Path
    record: Path


def write_reviewed(manifest: Manifest, clips: Clips) -> WrittenReview:
    """Writes a new manifest beside the old one, with the record of what was decided and the answers to pairs.

    Columns of the old manifest that vidclf does not know stay.

    Raises:
        InputError: No command would read it, as where no clip of a class is left in a split; nothing was
            written then.
    """
    folder, stem = manifest.path.parent, manifest.path.stem
    numbered = (folder / f"{stem}.reviewed-{number}.csv" for number in itertools.count(2))
    path = next(
        each for each in itertools.chain([folder / f"{stem}.reviewed.csv"], numbered) if not each.exists()
    )
    draft = folder / f".{path.name}"
    _table(manifest, clips).to_csv(draft, index=False, lineterminator="\n")
    try:
        read_manifest(draft)
    except InputError as error:
        draft.unlink()
        problems = [problem.replace(str(draft), "the new manifest") for problem in error.problems]
        raise InputError(*problems, "Take back what leads to it (undo), then finish.") from None
    if answers := _answers(manifest, clips):
        write_answers(path, answers)
    record = path.with_suffix(".review.csv")
    _record(clips.changes).to_csv(record, index=False, lineterminator="\n")
    draft.rename(path)  # last: a new manifest has its record
    return WrittenReview(path, record)


def _answers(manifest: Manifest, clips: Clips) -> Answers:
    """The answers beside the old manifest, and what was decided about pairs."""
    answers = dict(read_answers(manifest.path))
    for decision in dict.fromkeys(change.decision for change in clips.changes):
        if decision.action in ("merge", "split") and all(name in clips.entries for name in decision.clips):
            a, b = (clips.entries[name].clip_path.absolute() for name in decision.clips)
            answers.pop((b, a), None)
            answers[a, b] = decision.action == "merge"
    return answers


def _table(manifest: Manifest, clips: Clips) -> pd.DataFrame:
    """The old manifest's rows as they are now, in their order, then the clips that were added."""
    table = read_table(manifest.path)
    names = [clips.name(entry) for entry in manifest.entries]
    rows = dict(zip(names, table.to_dict("records"), strict=True))
    columns = [*table.columns, *([] if GROUP_BY in table.columns else [GROUP_BY])]
    kept = [
        {
            **dict.fromkeys(columns, ""),
            **rows.get(name, {"clip_path": name}),
            **{column: getattr(entry, column) for column in (*COLUMNS[1:], GROUP_BY)},
        }
        for name, entry in clips.entries.items()
    ]
    made = pd.DataFrame(kept, columns=columns)
    return made if made[GROUP_BY].any() else made.drop(columns=GROUP_BY)


def _record(changes: Iterable[Change]) -> pd.DataFrame:
    rows = [
        {
            "clip_path": each.clip,
            "action": each.decision.action,
            "column": each.column,
            "before": each.before,
            "after": each.after,
            "why": each.decision.why,
            "who": each.decision.who,
            "when": each.decision.when,
        }
        for each in changes
    ]
    return pd.DataFrame(rows)
