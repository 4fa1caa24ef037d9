"""``vidclf review``."""

import contextlib
import getpass
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidclf.cli.console import FAILED, StoreOption, counted_bar, progress_bar, report_epoch, say, tell

if TYPE_CHECKING:
    from vidclf.review.journal import Journal
    from vidclf.review.session import Session
    from vidclf.review.subject import Subject
    from vidclf.runs.store import Store

_MOST_NAMED = 20
"""Changed labels that are named in the terminal; the record has all."""


def review(
    manifest_or_study: Annotated[
        str,
        typer.Argument(
            metavar="MANIFEST_OR_STUDY",
            help="A manifest, which quick models then judge, or a study's name or file, which has judged.",
        ),
    ],
    unlabelled: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Also ask what the clips of this folder are, the least certain first; they join it.",
        ),
    ] = None,
    retrain: Annotated[
        bool,
        typer.Option(
            "--retrain",
            help="At the end train on the new manifest, and test before against after on clips whose label "
            "did not change.",
        ),
    ] = False,
    who: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Who decides, for the record [the user of this machine]."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve on; 0: a free one.")] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page, or only print its link.")
    ] = True,
    store: StoreOption = None,
) -> None:
    """Asks about doubtful labels, clips that no model gets right and copies; writes a mended manifest.

    A page of this machine alone shows one clip after another; keys keep, relabel, drop, merge groups, split
    them, and undo. Each answer is on the disk at once, in MANIFEST.review.jsonl, so Ctrl-C, a reload or a
    crash loses none, and the same command goes on. Finish writes MANIFEST.reviewed.csv beside the old one,
    and who decided what, when and why.
    """
    from vidclf.review.journal import Journal
    from vidclf.review.subject import subject_of
    from vidclf.runs.store import find_store

    found = find_store(store)
    with progress_bar("Judging clips") as progress:
        subject = subject_of(manifest_or_study, found, progress)
    with Journal.opened(subject.manifest.path) as journal:
        session = _session(subject, unlabelled, who, journal)
        if not session.questions and not journal.decisions:
            tell("Nothing to doubt: no label looks wrong, and no pair of clips looks like one.")
            return
        _serve(session, subject, port, browser)
    tell(f"{session.progress()}.")
    if session.written is None:
        if journal.decisions:
            say(f"No manifest was written. The answers are in {journal.path}; the same command goes on.")
        return
    _print_written(session)
    if retrain:
        _retrain(subject, session.written.manifest, found)
        if subject.row is not None:  # it has its run
            return
    for command in subject.commands(session.written.manifest, store):
        say(f"Train on it:  {command}")


def _session(subject: "Subject", unlabelled: Path | None, who: str | None, journal: "Journal") -> "Session":
    """The questions, those that models and copies raise and those of the folder."""
    from vidclf.data.answers import read_answers
    from vidclf.review.questions import label_questions, pair_questions, unlabelled_questions
    from vidclf.review.session import Session
    from vidclf.review.subject import unlabelled_clips

    entries = subject.manifest.entries
    for note in subject.notes:
        say(f"note: {note}")
    questions = label_questions(entries, subject.judged)
    with counted_bar("Comparing clips", len(entries)) as advance:
        questions += pair_questions(entries, read_answers(subject.manifest.path), advance)
    if unlabelled is not None:
        with progress_bar("Predicting") as progress:
            clips, problems = unlabelled_clips(subject, unlabelled, progress)
        for problem in problems:
            say(f"left out: {problem}", "yellow")
        questions += unlabelled_questions(clips)
    return Session(subject.manifest, questions, journal, who or _user())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container
        return "unknown"


def _serve(session: "Session", subject: "Subject", port: int, browser: bool) -> None:
    from vidclf.review.server import serve_review

    def announce(link: str) -> None:
        say(f"{session.progress()}. Go on here; Ctrl-C stops, and nothing is lost:")
        say(link)
        if browser:  # beside the server, as a browser in a terminal ends when it is closed
            threading.Thread(target=webbrowser.open, args=(link,), daemon=True).start()

    with contextlib.suppress(KeyboardInterrupt):
        serve_review(session, subject.examples(), port, announce)


def _print_written(session: "Session") -> None:
    from vidclf.labels import plural

    assert session.written is not None
    say(f"Written: {session.written.manifest}")
    say(f"Who, when and why: {session.written.record}")
    for split in ("val", "test"):
        changed = [
            f"{change.clip} ({change.before} to {change.after})"
            for change in session.clips.changes
            if change.column == "label" and change.before and split == session.clips.split(change.clip)
        ]
        if changed:
            more = f", and {len(changed) - _MOST_NAMED} more" if len(changed) > _MOST_NAMED else ""
            names = ", ".join(changed[:_MOST_NAMED])
            say(f"{plural(len(changed), 'label')} of {split} changed: {names}{more}", "yellow")


def _retrain(subject: "Subject", manifest: Path, store: "Store") -> None:
    """Trains the study's best anew as a run; before against after, by folds, of it or of the quick model."""
    from vidclf.data.manifest import read_manifest
    from vidclf.labels import plural
    from vidclf.review.retrain import compare
    from vidclf.runs.experiment import load_experiment

    if subject.row is not None and subject.row.attempt is not None:
        from vidclf.runs.store import open_store
        from vidclf.tracking.train import train  # imports mlflow: some seconds

        experiment = load_experiment(subject.row.attempt.config, {"data.manifest": str(manifest.absolute())})
        name = f"{subject.row.study}-{subject.row.number}-reviewed"
        with progress_bar("Preparing clips") as progress:
            trained = train(
                experiment,
                name,
                open_store(store.folder),
                again=False,
                report=report_epoch,
                progress=progress,
            )
        if trained.outcome.status != "complete":
            say(f"{trained.outcome.status}: {trained.outcome.reason}", "red")
            raise typer.Exit(FAILED)
        tell(f"Run {trained.run_id} in {trained.attempt.folder}")
    before, after = subject.manifest.entries, read_manifest(manifest).entries
    with progress_bar("Comparing by folds") as progress:
        gain = compare(subject.experiment, before, after, progress)
    which = subject.row.label if subject.row is not None else f"the quick {subject.experiment.kind}"
    tell(f"{which}, out of fold on {plural(gain.clips, 'clip')} whose label did not change: {gain}")
