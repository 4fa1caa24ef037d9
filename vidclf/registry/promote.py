"""Promotes a model: gates, one read of the test split, a version in the registry with its evidence."""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from vidclf.data.splitting import group_of
from vidclf.evaluation import intervals, significance
from vidclf.exceptions import AliasMovedError, GateRefusedError, InputError, NotComparableError
from vidclf.models.saved import card_digest
from vidclf.progress import Progress, silent
from vidclf.registry import aliases, gates
from vidclf.registry.card import Evidence, model_card
from vidclf.registry.confirm_report import finalists_of
from vidclf.registry.download import fetch_run, fetch_study_file, fetch_trial
from vidclf.registry.gates import Acceptance, Candidacy, Gate
from vidclf.registry.resolve import CARD_TAG, version_folder
from vidclf.registry.test_split import Champion, TestResult, TestSplit, read_test, show
from vidclf.runs.folder import Attempt
from vidclf.runs.repeats import Repeats
from vidclf.runs.store import Store
from vidclf.search.record.names import study_names
from vidclf.search.record.owners import live_owners
from vidclf.search.record.settings import Gates
from vidclf.search.record.study import OpenStudy, find_study
from vidclf.tracking.deliverer import Deliverer
from vidclf.tracking.ledger import Ledger
from vidclf.tracking.lookup import ATTEMPT_TAG, attempt_of, mlflow_exists
from vidclf.tracking.model_package import deliver_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A complete attempt; its model may have been dropped.

    Attributes:
        label: What it is, in words.
        repeats: How often its study ran each configuration.
        metric: What models are compared by, as ``macro_f1``.
        gates: Those of its study.
    """

    attempt: Attempt
    label: str
    repeats: Repeats | None = None
    metric: str = "macro_f1"
    gates: Gates = field(default_factory=Gates)


def find_candidate(study_or_run: str, store: Store) -> Candidate:
    """The best feasible trial of a study, or the attempt of an MLflow run.

    Of a study that `vidclf confirm` has looked at, it is the trial that came out best there.

    Raises:
        InputError: No such study or run, or it has nothing complete to promote.
    """
    names = study_names(store)
    if study_or_run in names or study_or_run.endswith(".toml"):
        return _best_of_study(study_or_run, store)
    attempt = attempt_of(store, study_or_run) or fetch_run(store, study_or_run)
    if attempt is not None:
        return _of_run(attempt, study_or_run, store, names)
    known = f"studies here: {', '.join(names)}" if names else "there is no study here yet"
    raise InputError(f"{study_or_run}: no study or run of {store.folder} ({known})")


def _of_run(attempt: Attempt, run_id: str, store: Store, names: Sequence[str]) -> Candidate:
    outcome, identity = attempt.outcome(), attempt.identity()
    trained = attempt.config.exists() and "vidclf.role" not in identity.tags
    if outcome is None or outcome.status != "complete" or not trained:
        raise InputError(f"run {run_id} has no finished model ({attempt.folder})")
    study = identity.tags.get("vidclf.study")
    if study is None or study not in names:
        return Candidate(attempt, identity.run_name)
    opened = find_study(study, store)
    return _in_study(opened, attempt, identity.run_name)


def _in_study(opened: OpenStudy, attempt: Attempt, label: str) -> Candidate:
    metric = opened.objective.metric.removeprefix("val/")
    fetch_study_file(opened, opened.file.name)
    return Candidate(attempt, label, opened.repeats, metric, opened.gates())


def _best_of_study(name: str, store: Store) -> Candidate:
    opened = find_study(name, store)
    best = opened.require_ranked()
    if live_owners(opened):
        logger.warning(f"the study {opened.name} is still running: a trial that is better may yet come")
    judged = finalists_of(opened)
    winner = next((row for row in best if row.number in judged and judged[row.number].won), None)
    row = winner or best[0]
    value = f"selected {opened.objective.metric} {row.value:.4f}"
    seal = f", confirmed{judged[winner.number].reservation}" if winner else ""
    if seal and best[0].number not in judged:
        seal += f"; trial {best[0].number} has come since, vidclf confirm judges it"
    label = f"trial {row.number} of {opened.name} ({row.base}, {value}{seal})"
    return _in_study(opened, fetch_trial(opened, row.number), label)


_CARD = "model_card.md"
_MOST_TRIES = 5
"""Where other clients of a server promote models meanwhile: the candidate is judged against each of them."""


@dataclass(frozen=True)
class PromoteRequest:
    """What is asked of a promotion: a version of the registered model ``name`` that gets ``alias``.

    Attributes:
        show: Whether a refusal tells the figures on test too. Who tries on until they please chooses by luck.
    """

    name: str
    alias: str = aliases.CHAMPION
    gates: Gates = field(default_factory=Gates)
    accepted: Acceptance = field(default_factory=Acceptance)
    show: bool = False


@dataclass(frozen=True)
class Promotion:
    """A registered version and the alias that now points to it.

    Attributes:
        created: False where the alias pointed to this model before, so that nothing was judged.
        metrics: The attempt's final figures, those on test among them.
        reads: How often its test split has been read, this time included.
        basis: What the intervals on test are for and rest on; empty where nothing was judged.
    """

    version: int
    run_id: str
    created: bool
    gates: Sequence[Gate]
    metrics: Mapping[str, float]
    reads: int
    basis: str = ""


def promote(
    store: Store,
    candidate: Candidate,
    request: PromoteRequest,
    progress: Progress = silent,
) -> Promotion:
    """Judges a candidate, and registers it where it passes.

    Costs are judged first, so that a model that is too slow or too large costs no read of the test split.
    A champion is beaten by a paired test over the groups of the same clips, whose error rate is shared out
    over all reads of that split.

    Raises:
        GateRefusedError: It fails a gate, or cannot be compared with the champion.
        InputError: The attempt kept no model, MLflow does not take the name, or its database is lost.
    """
    if not mlflow_exists(store):
        raise InputError(
            f"{store.folder}: MLflow's database is not there any more; vidclf doctor --fix makes it anew"
        )
    deliverer = Deliverer(store)
    with aliases.taking_turns(store, request.name):
        for _ in range(_MOST_TRIES):
            with contextlib.suppress(AliasMovedError):
                return _judge(deliverer, candidate, request, progress)
    raise InputError(f"{request.name}@{request.alias}: others keep moving it; run this again")


def _judge(
    deliverer: Deliverer, candidate: Candidate, request: PromoteRequest, progress: Progress
) -> Promotion:
    """As `promote`, against the champion of now.

    Raises:
        AliasMovedError: It is that no more.
    """
    store, attempt = deliverer.store, candidate.attempt
    try:
        champion = _champion(deliverer, request)
    except MlflowException as error:
        raise _not_taken(request, error) from None
    if champion is not None and champion.attempt == attempt.identity().id:
        run_id = str(deliverer.receipt(attempt).run_id)
        metrics, reads = _figures(attempt), len(TestSplit.of(attempt).reads(store))
        return Promotion(champion.version, run_id, False, (), metrics, reads)
    case = _candidacy(store, candidate, request, champion)
    first = gates.check(gates.BEFORE_TEST, case)
    if not all(gate.passed for gate in first):
        raise GateRefusedError(first)
    try:
        result = read_test(store, attempt, champion, progress)
    except NotComparableError as why:
        gate = f"comparison with version {champion.version}" if champion else "a test split of its own"
        raise GateRefusedError([*first, Gate(gate, False, None, None, str(why))]) from None
    case = _after_test(case, candidate.metric, champion, result)
    judged = [*first, *gates.check(gates.ON_TEST, case)]
    refused = not all(gate.passed for gate in judged)
    if refused and not request.show:
        Ledger(store).shown(result.read, {})
        raise GateRefusedError([*first, *map(_verdict_alone, judged[len(first) :])])
    show(store, attempt, result)
    if refused:
        deliverer.deliver(attempt)
        raise GateRefusedError(judged)
    expected = champion.version if champion else None
    return _register(deliverer, candidate, request, result, judged, expected=expected)


def _verdict_alone(gate: Gate) -> Gate:
    return replace(gate, value=None, detail="not shown; --show does, and the ledger notes that")


def _not_taken(request: PromoteRequest, error: MlflowException) -> InputError:
    return InputError(f"{request.name}@{request.alias}: MLflow does not take it: {error.message}")


def _figures(attempt: Attempt) -> Mapping[str, float]:
    outcome = attempt.outcome()
    return outcome.metrics if outcome else {}


def _champion(deliverer: Deliverer, request: PromoteRequest) -> Champion | None:
    """Who has the alias now."""
    client = deliverer.client
    for version in aliases.versions(client, request.name):
        if request.alias in client.get_model_version(request.name, version.version).aliases:
            number = int(version.version)
            attempt = version.tags.get(ATTEMPT_TAG, "")
            return Champion(number, attempt, version_folder(deliverer, request.name, number))
    return None


def _candidacy(
    store: Store, candidate: Candidate, request: PromoteRequest, champion: Champion | None
) -> Candidacy:
    """What is known before the test split is read."""
    attempt = candidate.attempt
    split = TestSplit.of(attempt)
    against = (attempt.identity().id, champion.attempt) if champion else ()
    compared = [read for read in split.reads(store) if read.comparison]
    known = (
        read.comparison
        for read in compared
        if (read.split, read.model, read.champion) == (split.digest, *against)
    )
    return Candidacy(
        champion=f"version {champion.version}" if champion else "",
        comparison=next(known, len(compared) + 1),
        shared_groups=split.shared_groups(champion.model) if champion else (),
        rules=request.gates,
        accepted=request.accepted,
        manifest=split.manifest.name,
        metric=intervals.comparable(candidate.metric),
        groups=[group_of(entry) for entry in split.entries],
        grouped=split.manifest.grouped,
        metrics=_figures(attempt),
    )


def _after_test(case: Candidacy, metric: str, champion: Champion | None, result: TestResult) -> Candidacy:
    """What is known after the test split was read."""
    own, theirs = result.own, result.champion
    case = replace(case, metrics={**case.metrics, **result.figures}, own=own)
    if champion is None or theirs is None:
        return case
    metric, alpha = intervals.comparable(metric), significance.spent_alpha(result.read.comparison)
    paired = significance.paired(metric, own.labels, own.guesses, theirs.guesses, own.groups, alpha)
    return replace(case, compared_by=f"test/{metric}", paired=paired)


def _register(
    deliverer: Deliverer,
    candidate: Candidate,
    request: PromoteRequest,
    result: TestResult,
    judged: Sequence[Gate],
    *,
    expected: int | None,
) -> Promotion:
    attempt = candidate.attempt
    metrics = _figures(attempt)
    evidence = Evidence(
        name=request.name,
        alias=request.alias,
        label=candidate.label,
        metrics=metrics,
        result=result,
        gates=judged,
    )
    card = model_card(attempt, evidence)
    (attempt.artifacts / _CARD).write_text(card, encoding="utf-8")
    tags = {**evidence.tags(), "vidclf.ledger": result.read.run_id}
    version = register(deliverer, attempt, request, expected, tags=tags, description=card)
    run_id = str(deliverer.receipt(attempt).run_id)
    basis = result.own.basis(intervals.comparable(candidate.metric))
    return Promotion(version, run_id, True, judged, metrics, result.reads, basis)


def register(
    deliverer: Deliverer,
    attempt: Attempt,
    request: PromoteRequest,
    expected: int | None = None,
    *,
    tags: Mapping[str, str],
    description: str,
) -> int:
    """Makes an attempt's model a version of its name, with its evidence, and moves the alias to it.

    ``expected`` is the version that the alias points to, as far as the caller knows.

    Returns:
        The version: the one that this run has already, or a new one.

    Raises:
        AliasMovedError: The alias points elsewhere.
        InputError: The attempt kept no model, or MLflow does not take the name.
    """
    model_id = deliver_model(deliverer, attempt)
    run_id = str(deliverer.receipt(attempt).run_id)
    client, name = deliverer.client, request.name
    try:
        own = next((version for version in aliases.versions(client, name) if version.run_id == run_id), None)
        version = own or _create(client, attempt, name, model_id, run_id)
        number = int(version.version)
        for key, value in tags.items():
            client.set_model_version_tag(name, str(number), key, value)
        client.update_model_version(name, str(number), description)
        aliases.move(client, name, request.alias, number, "promote", expected=expected)
    except MlflowException as error:
        raise _not_taken(request, error) from None
    return number


def _create(client: MlflowClient, attempt: Attempt, name: str, model_id: str, run_id: str) -> ModelVersion:
    with contextlib.suppress(MlflowException):  # it exists, without a version
        client.create_registered_model(name)
    identity = attempt.identity()
    # Not models:/ID, which an embedded registry looks up in mlflow's global tracking store, not in this one.
    source = client.get_logged_model(model_id).artifact_location
    tags = {**identity.tags, ATTEMPT_TAG: identity.id, CARD_TAG: card_digest(attempt.model)}
    return client.create_model_version(name, source, run_id, tags=tags, model_id=model_id)
