"""``vidclf review`` as a user runs it: in a real browser with the keyboard, through a reload and a kill."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.browser import Browser, needs_chromium
from tests.clips import write_squares
from tests.command import run
from tests.review.fabricated import add_judged_study, mislabelled
from vidclf import config
from vidclf.data.manifest import read_manifest, write_manifest
from vidclf.review.session import Session
from vidclf.runs.store import Store
from vidclf.search.record.study import find_study


@contextmanager
def reviewing() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command at work on the study, and its link."""
    command = [sys.executable, "-m", "vidclf", "review", "s", "--no-browser", "--who", "ann"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            lines = iter(process.stderr.readline, "")
            found = (re.search(r"http://127\.0\.0\.1:\d+/\S+/", line) for line in lines)
            link = next((match[0] for match in found if match), None)
            assert link, "it has ended"
            yield process, link
        finally:
            process.kill()


def heading(browser: Browser) -> str:
    return str(browser.evaluate("document.querySelector('h1').innerText"))


def shown(browser: Browser) -> str:
    """The clip that is asked about."""
    return str(browser.evaluate("document.querySelector('figcaption').innerText"))


@pytest.mark.browser
@pytest.mark.slow
@needs_chromium
def test_the_keyboard_alone_mends_labels_and_a_reload_or_a_kill_loses_nothing(
    tmp_path: Path, store: Store
) -> None:
    manifest = mislabelled(tmp_path, "down2", "right7")
    add_judged_study(store, manifest)
    before = manifest.read_bytes()
    with Browser(tmp_path / "profile") as browser:
        with reviewing() as (process, link):
            browser.open(link)
            asked = [shown(browser)]
            assert heading(browser) == ("Is this right?" if "down2" in asked[0] else "Is this down?")
            assert browser.evaluate("document.querySelector('video').readyState >= 0")
            browser.press("1" if "down2" in asked[0] else "2")
            browser.wait_for("document.body.innerText.includes('relabel 1')")
            asked.append(shown(browser))
            browser.open(link)  # a reload
            assert shown(browser) == asked[1]
            assert "relabel 1" in browser.text
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=20)
            browser.press("k")
            browser.wait_for("!document.getElementById('gone').hidden")
        with reviewing() as (process, link):
            browser.open(link)
            assert "relabel 1" in browser.text
            assert shown(browser) == asked[1]
            browser.press("u")
            browser.wait_for("document.body.innerText.includes('taken back: relabel')")
            assert shown(browser) == asked[0]
            for clip in asked:
                browser.wait_for(f"document.querySelector('figcaption').innerText === {clip!r}")
                browser.press("Tab")  # a button is focused, and seen to be
                ring = "getComputedStyle(document.activeElement).outlineStyle"
                assert (browser.evaluate("document.activeElement.tagName"), browser.evaluate(ring)) == (
                    "BUTTON",
                    "solid",
                )
                browser.press("1" if "down2" in clip else "2")
            browser.wait_for("document.body.innerText.includes('relabel 2')")
            browser.press("f")
            browser.wait_for("document.body.innerText.includes('2 changes to write')")
            browser.press("f")
            browser.wait_for("document.querySelector('h1').innerText === 'Written'")
            output, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
    assert "relabel 2." in output
    assert manifest.read_bytes() == before
    new = manifest.with_name("manifest.reviewed.csv")
    best = find_study("s", store).attempt(0).config
    assert f"vidclf train {shlex.quote(str(best))} --set data.manifest={new}\n" in errors
    assert "2 labels of val changed: " in errors
    labels = {(entry.clip_path.parent.name, entry.label) for entry in read_manifest(new).entries}
    assert labels == {("down", "down"), ("right", "right")}
    record = pd.read_csv(manifest.with_name("manifest.reviewed.review.csv"))
    assert list(record["column"]) == ["label", "label"]
    assert set(record["who"]) == {"ann"}


@pytest.mark.slow
def test_the_page_is_opened_and_ctrl_c_ends_it_with_what_was_done(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = mislabelled(tmp_path, "down2")
    add_judged_study(store, manifest)
    opened: list[int] = []

    def look(link: str) -> None:
        with urllib.request.urlopen(link, timeout=30) as page:
            opened.append(page.status)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("webbrowser.open", look)
    result = run("review", "s")
    assert opened == [200]
    assert result.stdout == "0 of 1 question looked at.\n"
    assert not list(manifest.parent.glob("*.review*"))


def test_a_taken_port_is_named(tmp_path: Path, store: Store) -> None:
    add_judged_study(store, mislabelled(tmp_path, "down2"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port}: " in run("review", "s", "--no-browser", "--port", port, expect=2).stderr


@pytest.mark.slow
def test_where_nothing_is_doubtful_that_is_all_that_is_said(tmp_path: Path, store: Store) -> None:
    manifest = mislabelled(tmp_path)
    add_judged_study(store, manifest)
    before = sorted(manifest.parent.iterdir())
    result = run("review", "s", "--no-browser")
    assert result.stdout.startswith("Nothing to doubt: no label looks wrong, and no pair of clips")
    assert (
        "4 clips were judged by the study's models (svm); vidclf confirm judges those of train too"
        in result.stderr
    )
    assert sorted(manifest.parent.iterdir()) == before


def answer_truly(session: Session, *_: object) -> None:
    """In place of the page: a label that is asked about becomes that of the clip's folder."""
    for place, question in enumerate(session.questions):
        clip = question.clips[0]
        if question.kind == "label" and clip.label != clip.clip_path.parent.name:
            session.decide(place, "relabel", session.classes.index(clip.clip_path.parent.name))
    session.finish()


@pytest.mark.slow
def test_a_study_is_trained_again_and_compared(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = mislabelled(tmp_path, "down2", "right7")
    add_judged_study(store, manifest)
    monkeypatch.setattr("vidclf.review.server.serve_review", answer_truly)
    result = run("review", "s", "--no-browser", "--retrain")
    assert "trial 0 of s, out of fold on 4 clips whose label did not change: macro F1 " in result.stdout
    assert "too few groups for an interval (4 clips of 3 groups)" in result.stdout
    [trained] = store.attempts.glob("train/*")
    assert trained.name.startswith("s-0-reviewed")
    new = manifest.with_name("manifest.reviewed.csv")
    assert config.read_toml(trained / "config.toml")["data"]["manifest"] == str(new)


@pytest.mark.slow
def test_without_a_study_the_quick_model_is_compared(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_squares(tmp_path, groups=8)
    entries = read_manifest(path).entries
    wrong = {"v_down_g01_c00": "right", "v_right_g04_c00": "down"}
    labelled = [replace(entry, label=wrong.get(entry.clip_path.stem, entry.label)) for entry in entries]
    write_manifest(labelled, path)
    monkeypatch.setattr("vidclf.review.server.serve_review", answer_truly)
    result = run("review", path, "--no-browser", "--retrain")
    new = path.with_name("manifest.reviewed.csv")
    assert read_manifest(new).entries == entries
    assert (
        "the quick logistic, out of fold on 10 clips whose label did not change: macro F1 " in result.stdout
    )
    assert "1 label of val changed: down/v_down_g01_c00.avi (right to down)" in result.stderr
    assert f"vidclf train EXPERIMENT.toml --set data.manifest={new}" in result.stderr
    assert not list(store.attempts.glob("train/*"))


def test_a_study_whose_manifest_changed_is_refused(tmp_path: Path, store: Store) -> None:
    manifest = mislabelled(tmp_path)
    add_judged_study(store, manifest)
    mislabelled(tmp_path, "down2")
    assert "are not those any more that the study was made on" in run("review", "s", expect=2).stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.csv", "nothing.csv: no such manifest"),
        ("nothing", "no study nothing"),
        ("https://example.org/m.csv", "copy it to this machine"),
        ("nothing.toml", "nothing.toml: no such file"),
    ],
)
def test_a_name_that_means_nothing_is_answered(name: str, message: str) -> None:
    assert message in " ".join(run("review", name, expect=2).stderr.split())


def test_a_missing_clip_is_named(tmp_path: Path) -> None:
    manifest = write_squares(tmp_path, groups=4)
    (tmp_path / "down" / "v_down_g00_c00.avi").unlink()
    assert "v_down_g00_c00.avi" in run("review", manifest, expect=2).stderr
