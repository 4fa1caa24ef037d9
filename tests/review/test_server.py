"""The page of a review over HTTP: who may open it, what it shows, and what it accepts."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.review.fabricated import copied
from vidclf.data.manifest import Entry, Manifest, read_manifest
from vidclf.review.journal import Journal
from vidclf.review.questions import Question
from vidclf.review.server import application
from vidclf.review.session import Session

TOKEN = "a-token"
STOPPED: list[str] = []


@pytest.fixture
def session(squares: Manifest, tmp_path: Path) -> Iterator[Session]:
    manifest = read_manifest(copied(squares, tmp_path))
    gone = Entry(tmp_path / "<i>gone.avi", "", "", "")
    first, second, *_ = manifest.entries
    says = (("svm", {"down": 0.1, "right": 0.9}), ("tiny2d", {"down": 0.3, "right": 0.7}))
    asked = [
        Question("label", (first,), "models give down 20 %, right 80 %", "right", says),
        Question("pair", (first, second), "nearly identical, in train and val"),
        Question("unlabelled", (gone,), "between down 50 % and right 50 %", "down", says),
    ]
    STOPPED.clear()
    with Journal.opened(manifest.path) as journal:
        yield Session(manifest, asked, journal, "ann")


@pytest.fixture
def client(session: Session) -> TestClient:
    examples = {label: [e for e in session.manifest.entries if e.label == label] for label in session.classes}
    app = application(session, examples, TOKEN, lambda: STOPPED.append("stopped"))
    return TestClient(app, base_url="http://127.0.0.1:5999", raise_server_exceptions=False)


def text(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<(script|style).*?</\1>", "", html)).split())


@pytest.mark.parametrize("link", ["/", "/wrong/", "/a-toke/", "/docs", "/openapi.json", "/a-token/clips/0"])
def test_without_the_token_there_is_nothing(client: TestClient, link: str) -> None:
    assert client.get(link).status_code == 404


def test_only_the_link_decides(client: TestClient, session: Session) -> None:
    answer = {"question": 0, "action": "keep"}
    assert client.post("/wrong/decide", json=answer).status_code == 404
    assert client.post("/wrong/finish").status_code == 404
    for host in ("evil.example", "evil.example:5999", "127.0.0.1.evil.example"):
        assert client.get(f"/{TOKEN}/", headers={"Host": host}).status_code == 400
    assert session.progress().decided == 0
    assert client.get(f"/{TOKEN}/", headers={"Host": "localhost:5999"}).status_code == 200


def test_the_page_loads_nothing_and_runs_only_its_own_script(client: TestClient) -> None:
    page = client.get(f"/{TOKEN}/")
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'nonce-")
    nonce = re.findall("'nonce-([^']+)'", policy)
    assert re.findall(r"<script([^>]*)>", page.text) == [f' nonce="{nonce[0]}"']
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page.text)
    assert client.get(f"/{TOKEN}/").headers["Content-Security-Policy"] != policy
    assert (page.headers["Cache-Control"], page.headers["Referrer-Policy"]) == ("no-store", "no-referrer")


def test_a_question_shows_the_clip_what_models_say_and_what_may_be_answered(client: TestClient) -> None:
    page = client.get(f"/{TOKEN}/").text
    words = text(page)
    assert "Is this down? models give down 20 %, right 80 %" in words
    assert "v_down_g00_c00.avi, group g00, train" in words
    assert "svm 10 % 90 % tiny2d 30 % 70 %" in words
    assert "K keep down D drop the clip 1 down 2 right U Undo L Later F Finish" in words
    assert "To compare: clips that the models find typical down right" in words
    assert "1 other clip of the same group: right 1" in words
    assert page.count("<video") == 4
    assert re.findall(r'class="main" data-key="(.)"', page) == ["2"]


def decide(client: TestClient, **answer: object) -> str:
    found = client.post(f"/{TOKEN}/decide", json=answer)
    assert found.status_code == 200, found.text
    return text(found.text)


def test_answers_lead_to_the_next_question_and_to_the_files(client: TestClient, session: Session) -> None:
    words = decide(client, question=0, action="relabel", value=1)
    assert "1 of 3 questions looked at: relabel 1 One scene, or two?" in words
    assert "A: right" in words
    words = decide(client, question=1, action="merge")
    assert "What is this? The model is the least sure of it" in words
    assert "gone.avi gives no pictures: its file is gone, or cannot be read" in words
    assert "Is this" not in words
    words = decide(client, question=2, action="keep")
    assert "5 changes to write" in words
    assert "label down right" in words
    done = client.post(f"/{TOKEN}/finish")
    assert "Written" in text(done.text)
    assert STOPPED == ["stopped"]
    assert session.written is not None
    assert str(session.written.manifest) in done.text


def test_of_many_classes_the_most_probable_have_keys_and_the_others_a_list(tmp_path: Path) -> None:
    names = [f"class {letter}" for letter in "abcdefghijkl"]
    entries = tuple(Entry(tmp_path / f"{name}.avi", name, name, "train") for name in names)
    path = tmp_path / "m.csv"
    path.write_text("")
    says = {name: (place + 1) / 78 for place, name in enumerate(names)}
    question = Question("label", entries[:1], "", "class l", (("svm", says),))
    with Journal.opened(path) as journal:
        many = Session(Manifest(path, entries), [question], journal, "ann")
        page = (
            TestClient(application(many, {}, TOKEN, list), base_url="http://127.0.0.1").get(f"/{TOKEN}/").text
        )
        keys = " ".join(
            f"{key} class {letter}" for key, letter in zip("1234567890", "lkjihgfedc", strict=True)
        )
        assert f"{keys} C another class class a class b = call it that" in text(page)
        assert re.findall(r'<option value="(\d+)">([^<]*)', page) == [("0", "class a"), ("1", "class b")]
        shown = "model class a class g class h class i class j class k class l svm"
        assert shown in text(page)  # the given one too


def test_undo_and_later_are_said(client: TestClient) -> None:
    assert client.post(f"/{TOKEN}/undo").status_code == 409
    decide(client, question=0, action="keep")
    assert "taken back: keep Is this down?" in text(client.post(f"/{TOKEN}/undo").text)
    assert "One scene" in text(client.post(f"/{TOKEN}/later", json={"question": 0}).text)
    assert "3 questions not looked at F End Escape Back" in text(client.post(f"/{TOKEN}/summary").text)
    assert "One scene" in text(client.post(f"/{TOKEN}/next", json={}).text)


@pytest.mark.parametrize(
    "answer",
    [
        {"question": "0", "action": "keep"},
        {"question": 0, "action": "relabel", "value": "../x"},
        {"question": 0, "action": "explode"},
        {"question": 0, "action": "drop", "value": 0, "path": "/etc/passwd"},
        {"action": "keep"},
    ],
)
def test_only_places_in_lists_are_taken(
    client: TestClient, session: Session, answer: dict[str, object]
) -> None:
    assert client.post(f"/{TOKEN}/decide", json=answer).status_code == 422
    assert session.progress().decided == 0


def test_a_second_window_is_told_what_is_next(client: TestClient) -> None:
    decide(client, question=0, action="keep")
    again = client.post(f"/{TOKEN}/decide", json={"question": 0, "action": "relabel", "value": 1})
    assert again.status_code == 409
    assert "decided already, perhaps in another window; this is what is next One scene" in text(again.text)


def test_what_cannot_be_kept_is_said(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "add", full)
    answer = client.post(f"/{TOKEN}/decide", json={"question": 0, "action": "keep"})
    assert answer.status_code == 507
    assert "that was not kept: No space left on device Is this down?" in text(answer.text)


def test_a_manifest_that_cannot_be_written_is_said_and_the_review_goes_on(
    client: TestClient, session: Session
) -> None:
    session.manifest.path.write_text("")
    decide(client, question=0, action="relabel", value=1)
    answer = client.post(f"/{TOKEN}/finish")
    assert answer.status_code == 409
    assert "changed since its review began" in text(answer.text)
    assert STOPPED == []
