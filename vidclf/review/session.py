"""A review under way: the questions, what was decided, and what is to be looked at next."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from vidclf.data.manifest import Manifest
from vidclf.exceptions import InputError
from vidclf.labels import plural
from vidclf.review.changes import Clips, WrittenReview, write_reviewed
from vidclf.review.journal import Action, Decision, Journal, Kind
from vidclf.review.questions import Question

ACTIONS: dict[Kind, tuple[Action, ...]] = {
    "label": ("keep", "relabel", "drop"),
    "pair": ("keep", "relabel", "drop", "merge", "split"),
    "unlabelled": ("keep", "relabel"),
}
"""What may be decided about each kind of question."""


@dataclass(frozen=True)
class Progress:
    """How far a review has come.

    Attributes:
        decided: Questions that were answered, or that answers to others have settled.
        total: All questions.
        changes: Answers by action, those that change something.
    """

    decided: int
    total: int
    changes: Mapping[str, int]

    def __str__(self) -> str:
        counts = ", ".join(f"{action} {count}" for action, count in self.changes.items())
        return (
            f"{self.decided} of {plural(self.total, 'question')} looked at{f': {counts}' if counts else ''}"
        )


class Session:
    """One user's review of one manifest; its methods may be called by several threads.

    Args:
        manifest: What is reviewed.
        questions: In the order in which they are asked.
        journal: Open, beside the manifest.
        who: Who decides.

    Attributes:
        classes: What a clip may be called.
        clips: The clips as the decisions leave them.
        written: The files, once it is finished.
    """

    def __init__(self, manifest: Manifest, questions: Sequence[Question], journal: Journal, who: str) -> None:
        self.manifest, self.questions, self.classes = manifest, tuple(questions), manifest.classes
        self.written: WrittenReview | None = None
        self._journal, self._who = journal, who
        self._lock = threading.RLock()
        self._later: list[int] = []
        self._replay()
        self._keys = [(each.kind, tuple(map(self.clips.name, each.clips))) for each in self.questions]

    def _replay(self) -> None:
        self.clips = Clips(self.manifest.entries, self.manifest.path.parent)
        for decision in self._journal.decisions:
            self.clips.apply(decision)

    def pending(self) -> list[int]:
        """Places of the questions that are to be answered, those that were put off last."""
        with self._lock:
            decided = {decision.question for decision in self._journal.decisions}
            left = [
                place
                for place, key in enumerate(self._keys)
                if key not in decided and not self.clips.settled(*key)
            ]
            return sorted(left, key=lambda place: self._later.index(place) if place in self._later else -1)

    def progress(self) -> Progress:
        with self._lock:
            counts = Counter(each.action for each in self._journal.decisions if each.action != "keep")
            total = len(self.questions)
            return Progress(
                total - len(self.pending()), total, {str(name): count for name, count in counts.items()}
            )

    def decide(self, place: int, action: Action, value: int = -1) -> None:
        """Keeps an answer.

        Args:
            place: Of the question.
            action: What is decided.
            value: The place of the class for ``relabel``, of the clip for ``drop``.

        Raises:
            InputError: The question is answered already, or the answer does not fit it.
        """
        with self._lock:
            if place not in self.pending():
                raise InputError("that was decided already, perhaps in another window; this is what is next")
            kind, clips = self._keys[place]
            choices: Sequence[str] = {"relabel": self.classes, "drop": clips}.get(action, ())
            if action not in ACTIONS[kind] or (choices and not 0 <= value < len(choices)):
                raise InputError(f"{action} is no answer to this question")
            when = datetime.now(UTC).isoformat(timespec="seconds")
            chosen = choices[value] if choices else ""
            decision = Decision(kind, clips, action, chosen, self.questions[place].why, self._who, when)
            self._journal.add(decision)
            self.clips.apply(decision)

    def put_off(self, place: int) -> None:
        """Asks a question after all others; a later run of the command has forgotten it."""
        with self._lock:
            self._later = [*(each for each in self._later if each != place), place]

    def undo(self) -> str:
        """Takes the last decision back, also one of an earlier run; what it was, in words.

        Raises:
            InputError: Nothing was decided.
        """
        with self._lock:
            decision = self._journal.undo()
            if decision is None:
                raise InputError("there is nothing to take back")
            self._replay()
            place = next((place for place, key in enumerate(self._keys) if key == decision.question), None)
            self._later = [each for each in self._later if each != place]
            return f"taken back: {decision.action} {decision.value}".rstrip()

    def finish(self) -> WrittenReview | None:
        """Writes the new manifest; ``None`` where nothing is to be changed.

        Raises:
            InputError: The manifest was changed meanwhile, or no command would read the new one.
        """
        with self._lock:
            self._journal.check(self.manifest.path)
            if any(change.column for change in self.clips.changes):
                self.written = write_reviewed(self.manifest, self.clips)
            return self.written
