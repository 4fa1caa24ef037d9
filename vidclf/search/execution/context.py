"""The context of a session: the study, its definition, and what this process reports to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from optuna.trial import FrozenTrial

from vidclf.data.manifest import read_manifest
from vidclf.evaluation import ranking
from vidclf.evaluation.ranking import TrialRow
from vidclf.progress import silent
from vidclf.runs.experiment import dataset_record, divided, provenance
from vidclf.runs.folder import Attempt
from vidclf.search.definition.study_file import StudyDefinition
from vidclf.search.execution.budget import BudgetClock
from vidclf.search.execution.display import Display, StudyState
from vidclf.search.record.owners import Ownership
from vidclf.search.record.study import OWNER, OpenStudy


@dataclass(frozen=True)
class SessionContext:
    """What every part of a session works with.

    Attributes:
        opened: The study, owned and reconciled.
        definition: The same, as its file has it.
        ownership: This process's hold on the study.
        display: Shows the state to the user.
        register: Called with the folder of each attempt that is to be delivered to MLflow.
        trial_ended: Called when a trial has ended.
        preparing: Seconds from the opening of its databases to here.
    """

    opened: OpenStudy
    definition: StudyDefinition
    ownership: Ownership
    display: Display
    register: Callable[[Attempt], None]
    trial_ended: Callable[[], None] = silent
    preparing: float = 0.0

    @cached_property
    def state(self) -> StudyState:
        """The study's progress in this session."""
        file = self.definition.file
        metric = self.opened.objective.metric
        return StudyState(self.opened.name, file.question, metric, file.budget.trials, file.workers)

    @cached_property
    def clock(self) -> BudgetClock:
        """The study's wall time, this command included."""
        seconds, begun = self.definition.file.budget.seconds, self.definition.begun
        return BudgetClock(self.opened, seconds, begun, self.preparing)

    @cached_property
    def provenance(self) -> dict[str, dict[str, str]]:
        """Tags of the trials' runs by stem of their base."""
        bases = self.definition.space.bases
        return {stem: provenance(base, read_manifest(base.data.manifest)) for stem, base in bases.items()}

    @cached_property
    def dataset(self) -> dict[str, str]:
        """The data set, as MLflow lists it."""
        base = next(iter(self.definition.space.bases.values()))
        return dataset_record(base, read_manifest(base.data.manifest))

    @cached_property
    def latency_clip(self) -> Path:
        """What latencies are measured on: the first clip of val."""
        base = next(iter(self.definition.space.bases.values()))
        if self.opened.repeats is not None:
            base = self.opened.repeats.variant(base, 0)
        return divided(base, read_manifest(base.data.manifest))["val"][0].clip_path

    def kept(self, rows: Sequence[TrialRow]) -> list[TrialRow]:
        """Those whose models are kept for the registry."""
        direction, keep = self.opened.objective.direction, self.definition.file.keep
        return ranking.kept(rows, direction, keep, self.opened.answers)

    def own_trials(self) -> Callable[[FrozenTrial], bool]:
        """Which trials this process finishes: its own, and those of dead ones whose folders are here."""
        others = self.ownership.others()

        def own(trial: FrozenTrial) -> bool:
            here = self.opened.attempt(trial.number).exists()
            return here and trial.user_attrs.get(OWNER) not in others

        return own
