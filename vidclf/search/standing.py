"""What MLflow's UI is told of a study: its views, and which trials stand out."""

from vidclf import ranking
from vidclf.ranking import TrialRow
from vidclf.search.record import OpenStudy
from vidclf.search.study import StudyDefinition
from vidclf.tracking.checks import runs_by_attempt
from vidclf.tracking.deliverer import Deliverer
from vidclf.tracking.views import INFEASIBLE, mark_standings, save_study_view


def show_in_ui(opened: OpenStudy, definition: StudyDefinition, run_id: str | None, *, standing: bool) -> None:
    """Saves the views that `vidclf ui` opens; ``standing``: it is told which trials stand out."""
    if run_id is not None:
        save_study_view(
            Deliverer(opened.store),
            experiment=opened.stored["experiment"],
            study=opened.name,
            parent_run_id=run_id,
            objectives=[objective.metric for objective in opened.objectives],
            direction=opened.objective.direction,
            params={
                stem: [path for owner, path in definition.space.dimensions if owner == stem]
                for stem in definition.space.bases
            },
            conditional={path for (_, path), item in definition.space.dimensions.items() if item.when},
            standing=standing,
        )


def mark(opened: OpenStudy, definition: StudyDefinition, rows: list[TrialRow], stay: list[TrialRow]) -> None:
    """Says in MLflow which trials stand out, and which cannot win."""
    deliverer = Deliverer(opened.store)
    best = ranking.ranked(rows, opened.objective.direction)
    front = ranking.pareto_front(rows, opened.objective.direction)
    leaders = {row.base: row for row in reversed(best)}
    run_ids = _run_ids(opened, deliverer, rows)
    standings = {}
    for row in rows:
        words = {
            "best": row in best[:1],
            "Pareto front": row in front,
            f"best {row.base}": row is leaders.get(row.base) and row not in best[:1],
            "kept": row in stay,
            INFEASIBLE: row.value is not None and not row.feasible,
        }
        run_id = run_ids.get(row.number)
        word = next((word for word, holds in words.items() if holds), None)
        if word and run_id is not None:
            standings[run_id] = word
    parent = deliverer.receipt(opened.own_attempt).run_id
    if parent is not None:
        mark_standings(deliverer, parent, standings)
        show_in_ui(opened, definition, parent, standing=True)


def _run_ids(opened: OpenStudy, deliverer: Deliverer, rows: list[TrialRow]) -> dict[int, str]:
    """Each trial's run, from its receipt; MLflow is asked for those of other supervisors."""
    found = {row.number: deliverer.receipt(opened.attempt(row.number)).run_id for row in rows}
    if None in found.values():
        runs = runs_by_attempt(opened.store)
        for number in [number for number, run_id in found.items() if run_id is None]:
            run = runs.get(opened.attempt_id(number))
            found[number] = run.info.run_id if run else None
    return {number: run_id for number, run_id in found.items() if run_id is not None}
