"""Clips behind URLs: fetched once, whole or not at all, and known to people by their URLs only."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.clips import CLASSES, moving_square, write_experiment
from tests.s3 import S3Server, need_module, s3_server
from vidclf import cli, metrics, pictures
from vidclf.comparison.clips import thumbnail
from vidclf.config import InputError, expand_path, is_url
from vidclf.data import cache, remote, video
from vidclf.data.check import check_clips as checked
from vidclf.data.check import read_clip_list, write_clean
from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.manifest import Manifest, read_manifest
from vidclf.data.sources import import_clips
from vidclf.doctor import weigh
from vidclf.experiment import load_experiment, portable
from vidclf.registry.serving import VideoClassifier
from vidclf.store import Attempt, Store

SQUARES = "memory://sets/squares"
STUDY = """
question = "Does it find its clips?"
base = ["svm.toml"]
workers = 2
[objective]
metric = "val/macro_f1"
direction = "maximize"
[budget]
trials = 4
[sampler]
name = "random"
[space]
"model.C" = { low = 0.1, high = 10.0, log = true }
"""


class Memory:
    """Files behind memory://, and what was asked of them.

    Attributes:
        fetched: URLs in the order in which they were fetched.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._files = MemoryFileSystem()
        self.fetched: list[str] = []
        real = MemoryFileSystem.get_file

        def get_file(driver: MemoryFileSystem, path: str, local: str, **options: Any) -> None:
            self.fetched.append(f"memory://{path.lstrip('/')}")
            real(driver, path, local, **options)

        monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)

    def put(self, url: str, content: bytes) -> str:
        self._files.pipe_file(url, content)
        return url

    def put_folder(self, folder: Path, url: str) -> str:
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{url}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return url

    def clear(self) -> None:
        self._files.store.clear()
        self._files.pseudo_dirs[:] = [""]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    made = Memory(monkeypatch)
    yield made
    made.clear()


@pytest.fixture
def behind(memory: Memory, squares: Manifest) -> Memory:
    """The squares and their manifest below `SQUARES`."""
    memory.put_folder(squares.path.parent, SQUARES)
    return memory


def another_process() -> None:
    """What this process knows of versions is forgotten, as if it were a new one."""
    remote._copies.clear()


# Names


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("s3://bucket/a.avi", True),
        ("simplecache::s3://bucket/a.avi", True),
        ("zip://a.avi::s3://bucket/clips.zip", True),
        ("/clips/a.avi", False),
        ("clips/v://a.avi", False),
        ("take1::left.avi", False),
        ("C:/clips/a.avi", False),
    ],
)
def test_urls_are_told_from_paths(text: str, means: bool) -> None:
    assert is_url(text) == means


@pytest.mark.parametrize(
    ("folder", "text", "meant"),
    [
        ("s3://bucket/set", "A/x.avi", "s3://bucket/set/A/x.avi"),
        ("s3://bucket", "x.avi", "s3://bucket/x.avi"),
        ("s3://bucket/set/", "../other/x.avi", "s3://bucket/other/x.avi"),
        ("s3://bucket/set", "gs://else/x.avi", "gs://else/x.avi"),
        ("s3://bucket/set", "/clips/x.avi", "/clips/x.avi"),
        ("/clips", "A/x.avi", "/clips/A/x.avi"),
        ("/clips", "s3://bucket/x.avi", "s3://bucket/x.avi"),
    ],
)
def test_clips_are_named_from_the_place_of_their_list(folder: str, text: str, meant: str) -> None:
    assert remote.join(folder, text) == meant


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("s3://bucket/set/m.csv", "s3://bucket/set"),
        ("s3://bucket/m.csv", "s3://bucket"),
        ("https://host/set/m.csv?file=a/b", "https://host/set"),
        ("/clips/m.csv", "/clips"),
    ],
)
def test_a_list_lies_in_a_folder(name: str, folder: str) -> None:
    assert remote.parent(name) == folder


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(["", ".", "..", "%"])))
def test_a_copy_knows_its_url_and_lies_below_the_caches(parts: list[str]) -> None:
    url = "/".join(["s3://bucket", *parts])
    if remote.public(url) != url:
        return
    copy = remote._home(url) / "version" / "name"
    assert remote.named(copy) == url
    assert Path(os.path.normpath(copy)).is_relative_to(cache.folder() / "files" / "s3" / "bucket")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@host/a.avi", "https://host/a.avi"),
        ("https://host/a.avi?id=3&X-Amz-Signature=ab&X-Amz-Date=1", "https://host/a.avi?id=3"),
        ("https://host/a.avi?sv=1&se=2&sig=ab", "https://host/a.avi"),
        ("https://host/a.avi?id=3", "https://host/a.avi?id=3"),
        ("abfs://container@account.net/a.avi", "abfs://container@account.net/a.avi"),
        ("zip://a.avi::ftp://me:secret@host/clips.zip", "zip://a.avi::ftp://host/clips.zip"),
    ],
)
def test_reports_hold_no_passwords(url: str, shown: str) -> None:
    assert remote.public(url) == shown
    assert remote.named(remote._home(url) / "version" / "a.avi") == shown


def test_config_files_take_urls_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_experiment(tmp_path / "svm.toml", "svm", Path("x"))
    path.write_text(path.read_text().replace('"x"', '"$BUCKET/set/m.csv"'))
    monkeypatch.setenv("BUCKET", "s3://bucket")
    assert load_experiment(path).data.manifest == "s3://bucket/set/m.csv"
    given = load_experiment(path, {"data.manifest": "gs://other/m.csv"})
    assert given.data.manifest == "gs://other/m.csv"
    monkeypatch.setenv("VIDCLF_DATA", "s3://bucket/data/")
    assert expand_path("$VIDCLF_DATA/demo/manifest.csv", tmp_path) == "s3://bucket/data/demo/manifest.csv"


# Fetching


def test_a_file_is_fetched_once_and_keeps_its_name(memory: Memory) -> None:
    url = memory.put("memory://b/a clip.avi", b"content")
    copy = remote.local_file(url)
    assert (copy.read_bytes(), copy.name, remote.named(copy)) == (b"content", "a clip.avi", url)
    assert copy.is_relative_to(cache.folder())
    assert remote.local_file(url) == copy
    another_process()
    assert remote.local_files([url, url]) == [copy, copy]
    assert memory.fetched == [url]
    assert cache.usage().entries == {"files": 1}


def test_a_changed_file_is_fetched_anew_by_the_next_process(memory: Memory) -> None:
    url = memory.put("memory://b/a.avi", b"old")
    old = remote.local_file(url)
    memory.put(url, b"new")
    assert remote.local_file(url) == old
    another_process()
    new = remote.local_file(url)
    assert (old.read_bytes(), new.read_bytes()) == (b"old", b"new")
    assert remote.known_copy(url) == new
    assert remote.named(new) == remote.named(old) == url


def test_who_asks_while_a_file_is_fetched_waits_for_it(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = memory.put("memory://b/a.avi", b"content")
    began, go_on = threading.Event(), threading.Event()
    real = MemoryFileSystem.get_file

    def slow(driver: MemoryFileSystem, path: str, local: str) -> None:
        began.set()
        go_on.wait(20)
        real(driver, path, local)

    monkeypatch.setattr(MemoryFileSystem, "get_file", slow)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(remote.local_file, url)
        assert began.wait(20)
        second = pool.submit(remote.local_file, url)
        done, _ = wait([second], timeout=0.3)
        go_on.set()
        assert not done
        assert first.result().read_bytes() == second.result().read_bytes() == b"content"
    assert memory.fetched == [url]


def test_a_lost_copy_is_fetched_again(memory: Memory) -> None:
    url = memory.put("memory://b/a.avi", b"content")
    remote.local_file(url).unlink()
    assert remote.local_file(url).read_bytes() == b"content"
    assert memory.fetched == [url, url]


def test_a_file_url_is_the_file_itself(tmp_path: Path) -> None:
    (tmp_path / "a.avi").write_bytes(b"content")
    assert remote.local_file(f"file://{tmp_path}/a.avi") == tmp_path / "a.avi"
    assert not remote.local_file(f"file://{tmp_path}/b.avi").is_file()
    assert cache.usage().total == 0


def test_what_does_not_exist_is_a_path_where_nothing_is(memory: Memory) -> None:
    there = memory.put("memory://b/a.avi", b"content")
    copies = remote.local_files([there, "memory://b/none.avi", "/no/such.avi"])
    assert [copy.is_file() for copy in copies] == [True, False, False]
    assert [remote.named(copy) for copy in copies] == [there, "memory://b/none.avi", "/no/such.avi"]
    assert remote.known_copy("memory://b/none.avi") is None
    memory.put("memory://b/none.avi", b"now")
    assert remote.local_file("memory://b/none.avi").read_bytes() == b"now"


def test_what_does_not_fit_is_refused_before_any_of_it_is_fetched(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [memory.put(f"memory://b/{number}.avi", bytes(400_000)) for number in range(3)]
    monkeypatch.setenv("VIDCLF_CACHE_GB", "0.001")
    with pytest.raises(InputError, match=r"3 files behind URLs, 1\.2 MB, do not fit .* 1\.0 of 1\.0 MB left"):
        remote.local_files(urls)
    assert memory.fetched == []
    remote.local_files(urls[:2])
    assert cache.free_bytes() == 200_000


def test_a_big_fetch_is_told_beforehand(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_WORTH_TELLING", 1000)
    urls = [memory.put(f"memory://b/{number}.avi", bytes(600)) for number in range(2)]
    said: list[str] = []
    steps: list[tuple[int, int]] = []
    remote.local_files(urls, lambda *step: steps.append(step), said.append)
    assert said == [f"fetching 2 files behind URLs, 0.0 MB, into {cache.folder()}"]
    assert steps == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError("Forbidden"), "b/a.avi: PermissionError: Forbidden (credentials are given"),
        (TimeoutError("too slow\nat 10.0.0.1"), "b/a.avi: TimeoutError: too slow"),
        (RuntimeError("odd"), "b/a.avi: RuntimeError: odd"),
        (OSError(errno.ENOSPC, "full"), "b/a.avi: do not fit into the caches or onto the disk"),
        (None, "b/a.avi: 3 of 7 bytes came"),
    ],
)
def test_a_fetch_that_breaks_off_leaves_nothing(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, error: Exception | None, message: str
) -> None:
    url = memory.put("memory://b/a.avi", b"content")

    def breaks(driver: object, path: str, local: str) -> None:
        Path(local).write_bytes(b"con")
        if error:
            raise error

    monkeypatch.setattr(MemoryFileSystem, "get_file", breaks)
    monkeypatch.setenv("VIDCLF_CACHE_GB", "0.001")
    with pytest.raises(InputError) as caught:
        remote.local_file(url)
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1
    assert cache.usage().entries.get("files", 0) == 0
    assert cache.free_bytes() == 1_000_000
    assert remote.known_copy(url) is None


def test_what_a_killed_process_left_is_no_copy_and_goes(memory: Memory) -> None:
    url = memory.put("memory://b/a.avi", b"content")
    copy = remote.local_file(url)
    left = copy.with_name("a.abc.partial")
    copy.rename(left)
    assert remote.known_copy(url) is None
    assert remote.local_file(url) == copy
    assert not left.exists()


def test_clearing_the_caches_spares_what_a_running_command_uses(memory: Memory) -> None:
    copy = remote.local_file(memory.put("memory://b/a.avi", b"content"))
    cache.keep(cache.folder() / "clips" / "x.npy", 3, lambda file: file.write(b"abc"))
    clear = [sys.executable, "-m", "vidclf", "data", "store", "--clear"]
    said = subprocess.run(clear, check=True, capture_output=True, text=True).stderr
    assert "a running command uses them" in said
    assert copy.is_file()
    assert cache.usage().entries == {"files": 1}
    assert [weight.name for weight in weigh(Store(cache.folder()))] == ["files"]
    for lock in [lock for lock in cache._held if lock.is_relative_to(cache.folder())]:
        cache._held.pop(lock).close()
    subprocess.run(clear, check=True, capture_output=True)
    assert not copy.exists()


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("xyz://b/a.avi", None, "xyz://b/a.avi: ValueError: Protocol not known: xyz"),
        ("s3://b/a.avi", ImportError("Install s3fs to access S3"), "pip install 'vidclf[server]'"),
        ("memory://b", None, "memory://b: a folder; expected a file"),
    ],
)
def test_what_stands_in_the_way_is_said(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, url: str, error: Exception | None, message: str
) -> None:
    memory.put("memory://b/a.avi", b"content")
    if error:

        def refuse(url: str) -> None:
            raise error

        monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    answer = CliRunner().invoke(cli.app, ["data", "check", url])
    assert answer.exit_code == 2
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr


class Web(BaseHTTPRequestHandler):
    """Serves one clip to those who know its token."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        content = b"content" if path == "/a.avi" else b""
        self.send_response(404 if not content else 200 if "token=secret" in query else 403)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815  (the base class names it)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_files_of_the_web() -> None:
    need_module("aiohttp")
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        copy = remote.local_file(f"{address}/a.avi?token=secret")
        assert (copy.read_bytes(), copy.name) == (b"content", "a.avi")
        assert remote.named(copy) == f"{address}/a.avi"
        assert not remote.local_file(f"{address}/none.avi?token=secret").is_file()
        with pytest.raises(InputError, match=rf"^{address}/a.avi: ClientResponseError: 403 Forbidden"):
            remote.local_file(f"{address}/a.avi?token=wrong")
        server.shutdown()
    with pytest.raises(InputError, match=rf"^{address}/b.avi: ClientConnectorError: Cannot connect"):
        remote.local_file(f"{address}/b.avi")


# Manifests


def test_a_manifest_behind_a_url_has_the_digest_of_the_same_clips_here(
    behind: Memory, squares: Manifest
) -> None:
    read = read_manifest(f"{SQUARES}/manifest.csv")
    assert read.digest() == squares.digest()
    assert read.name == f"{SQUARES}/manifest.csv"
    names = {f"{SQUARES}/{entry.clip_path.relative_to(squares.path.parent)}" for entry in squares.entries}
    assert {entry.name for entry in read.entries} == names
    assert sorted(behind.fetched) == sorted([*names, read.name])


def test_missing_clips_are_all_named(behind: Memory, squares: Manifest, tmp_path: Path) -> None:
    lines = squares.path.read_text().replace(".avi", "_.avi").splitlines()
    behind.put(f"{SQUARES}/broken.csv", "\n".join(lines).encode())
    with pytest.raises(InputError) as caught:
        read_manifest(f"{SQUARES}/broken.csv")
    [problem] = caught.value.problems
    assert problem.startswith(f"{SQUARES}/broken.csv: 12 of 12 clips are missing: ")
    assert problem.count(f"{SQUARES}/down/v_down_g0") == problem.count(f"{SQUARES}/right/v_right_g0") == 6
    with pytest.raises(InputError, match=rf"^{SQUARES}/none.csv: no such manifest$"):
        read_manifest(f"{SQUARES}/none.csv")


def test_checks_name_urls(behind: Memory, tmp_path: Path) -> None:
    behind.put(f"{SQUARES}/down/v_down_g00_c00.avi", b"no video")
    behind.put(f"{SQUARES}/right/v_right_g01_c00.avi", (b"RIFF" + bytes(100)))
    table, entries = read_clip_list(f"{SQUARES}/manifest.csv")
    checks = checked([entry.clip_path for entry in entries])
    bad = {item.as_dict()["clip_path"]: item.verdict for item in checks if item.verdict != "ok"}
    assert bad == {
        f"{SQUARES}/down/v_down_g00_c00.avi": "unreadable",
        f"{SQUARES}/right/v_right_g01_c00.avi": "unreadable",
    }
    write_clean(table, checks, tmp_path / "clean.csv")
    kept = pd.read_csv(tmp_path / "clean.csv")["clip_path"]
    assert len(kept) == 10
    assert all(name.startswith(f"{SQUARES}/") for name in kept)
    with pytest.raises(InputError, match=f"{SQUARES}/down/v_down_g00_c00.avi: unreadable"):
        ClipStore(6, 16).build([entry.clip_path for entry in entries])


@pytest.mark.parametrize("layout", ["classes", "splits", "official", "csv"])
def test_an_import_from_a_url_is_the_one_from_here(
    behind: Memory, squares: Manifest, tmp_path: Path, layout: str
) -> None:
    source, options = squares.path.parent, {}
    if layout == "splits":
        source = tmp_path / "splits"
        for entry in squares.entries:
            target = source / entry.split / entry.label / entry.clip_path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(entry.clip_path.read_bytes())
    elif layout == "official":
        source = tmp_path / "official"
        for entry in squares.entries:
            target = source / entry.label / entry.clip_path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(entry.clip_path.read_bytes())
        for split in ("train", "test"):
            lines = [
                f"{e.label}/{e.clip_path.name}"
                for e in squares.entries
                if (e.split == "test") == (split == "test")
            ]
            (source / f"{split}list01.txt").write_text("\n".join(lines))
        options = {"split": "official:1"}
    url = behind.put_folder(source, "memory://sets/imported")
    suffix = "/manifest.csv" if layout == "csv" else ""
    here = import_clips([f"{source}{suffix}"], tmp_path / "here.csv", **options)
    there = import_clips([f"{url}{suffix}"], tmp_path / "there.csv", **options)
    tables = [pd.read_csv(tmp_path / f"{name}.csv", dtype=str) for name in ("here", "there")]
    assert tables[1]["clip_path"].str.startswith(f"{url}/").all()
    assert list(tables[0]["clip_path"].map(os.path.basename)) == list(
        tables[1]["clip_path"].map(os.path.basename)
    )
    pd.testing.assert_frame_equal(*(table.drop(columns="clip_path") for table in tables))
    assert here.notes == there.notes
    assert read_manifest(tmp_path / "here.csv").digest() == read_manifest(tmp_path / "there.csv").digest()
    extended = import_clips(
        [f"{url}{suffix}"], tmp_path / "more.csv", extend=tmp_path / "there.csv", **options
    )
    assert extended.entries == there.entries


def test_clips_without_groups_are_split_alike_wherever_copies_lie(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    for label in ("down", "right"):
        for number in range(6):
            path = tmp_path / "plain" / label / f"{number}.avi"
            path.parent.mkdir(parents=True, exist_ok=True)
            video.write_video(path, moving_square(label, generator))
    url = memory.put_folder(tmp_path / "plain", "memory://sets/plain")
    texts = []
    for name in ("one", "two"):
        monkeypatch.setenv("VIDCLF_CACHE", str(tmp_path / name))
        import_clips([url], tmp_path / f"{name}.csv")
        texts.append((tmp_path / f"{name}.csv").read_text())
        read = read_manifest(tmp_path / f"{name}.csv")
        clips = ClipSet.of_split(read, "train", ClipStore(6, 16))
        assert all(group.startswith(url) for group in clips.groups)
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["import", SQUARES, "--to"],
        ["check", f"{SQUARES}/manifest.csv", "--drop"],
        ["report", f"{SQUARES}/manifest.csv", "--to"],
    ],
)
def test_nothing_is_written_behind_a_url(behind: Memory, arguments: list[str]) -> None:
    answer = CliRunner().invoke(cli.app, ["data", *arguments, "memory://sets/out.csv"])
    assert answer.exit_code == 2
    assert "memory://sets/out.csv: files are written on this machine only" in answer.stderr


# What is made of clips


def test_pictures_of_wrong_clips_and_thumbnails_find_the_copies(
    behind: Memory, squares: Manifest, tmp_path: Path
) -> None:
    url = f"{SQUARES}/down/v_down_g00_c00.avi"
    assert thumbnail(url) == ""
    assert behind.fetched == []
    val = ClipSet.of_split(read_manifest(f"{SQUARES}/manifest.csv"), "val", ClipStore(6, 16))
    (tmp_path / "val").mkdir()
    wrong = {"clip_path": [url], "label": ["down"], "predicted": ["right"], "confidence": [0.9]}
    pd.DataFrame(wrong).to_csv(tmp_path / "val" / "wrong_clips.csv", index=False)
    fetched = list(behind.fetched)
    pictures.write_wrong_clips(tmp_path, val.read)
    assert (tmp_path / "val" / "wrong_clips.png").is_file()
    assert thumbnail(url).startswith("<img")
    assert behind.fetched == fetched


def test_weights_behind_a_url_count_by_their_content(memory: Memory, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"weights")
    url = memory.put("memory://weights/w.pth", b"weights")
    path = write_experiment(tmp_path / "tiny.toml", "frames2d", Path("m.csv"))
    values = [
        portable(load_experiment(path, {"model.weights": name})) for name in (str(tmp_path / "w.pth"), url)
    ]
    assert values[0] == values[1]
    with pytest.raises(InputError, match=f"model.weights: {url}: not a file of weights"):
        load_experiment(path, {"model.weights": url, "model.network": "squeezenet1_1"}).check_weights()


@pytest.mark.parametrize("item", ["s3://b/a.avi", f"{SQUARES}/down/v_down_g00_c00.avi", "https://h/a.avi"])
def test_a_served_model_fetches_nothing(item: str, behind: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str) -> None:
        pytest.fail(f"asked for {url}")

    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    served = VideoClassifier()
    served._limits = type("Limits", (), {"file_mb": 1})()  # type: ignore[assignment]
    reason = "not a data: URL in base64, nor a file: URL that this server serves"
    assert served.predict([item])[0]["error"] == reason
    monkeypatch.setenv("VIDCLF_SERVE_ROOT", SQUARES)
    assert served.predict([item])[0]["error"] == reason
    outside = served.predict(["file://memory://sets/squares/manifest.csv"])[0]["error"]
    assert outside == "the file lies outside the folder that this server reads"


# A real S3 server


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    need_module("s3fs")
    with s3_server() as running:
        yield running


@pytest.fixture
def s3(
    server: S3Server, squares: Manifest, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> str:
    """URL of a folder of this test's own that holds the squares and their manifest."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    url = server.put_folder(squares.path.parent, request.node.name)
    server.requests.clear()
    return url


def vidclf(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vidclf", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def answer_of(process: subprocess.Popen[str], code: int = 0) -> str:
    out, err = process.communicate(timeout=200)
    assert process.returncode == code, err
    return out if code == 0 else err


def once_each(squares: Manifest) -> dict[str, int]:
    """One fetch of the manifest and of each clip."""
    folder = squares.path.parent
    return {
        path.relative_to(folder).as_posix(): 1
        for path in (squares.path, *(e.clip_path for e in squares.entries))
    }


def key_of(url: str, server: S3Server) -> str:
    return url.removeprefix(f"{server.url}/")


@pytest.mark.slow
def test_processes_at_once_and_later_fetch_each_object_once(
    s3: str, server: S3Server, squares: Manifest
) -> None:
    together = [vidclf("data", "check", f"{s3}/manifest.csv", "--json") for _ in range(2)]
    for process in together:
        clips = json.loads(answer_of(process))["clips"]
        assert {clip["verdict"] for clip in clips} == {"ok"}
        assert all(clip["clip_path"].startswith(f"{s3}/") for clip in clips)
    assert server.reads(key_of(s3, server)) == once_each(squares)
    answer_of(vidclf("data", "check", f"{s3}/manifest.csv"))
    assert server.reads(key_of(s3, server)) == once_each(squares)

    changed, other = "right/v_right_g05_c00.avi", squares.entries[0].clip_path
    server.put(f"{key_of(s3, server)}/{changed}", other.read_bytes())
    process = vidclf("data", "check", f"{s3}/manifest.csv", "--json")
    leaks = json.loads(process.communicate(timeout=200)[0])["leaks"]
    copied = {"a": f"{s3}/down/v_down_g00_c00.avi", "b": f"{s3}/{changed}"}
    assert leaks == [{**copied, "splits": ["train", "val"], "why": "same file"}]
    assert server.reads(key_of(s3, server)) == once_each(squares) | {changed: 2}


@pytest.mark.slow
def test_a_run_on_clips_in_s3(
    s3: str, server: S3Server, squares: Manifest, store: Store, tmp_path: Path
) -> None:
    answer_of(vidclf("data", "import", s3, "--to", str(tmp_path / "own.csv"), "--shares", "50,25,25"))
    manifest = f"{s3}/manifest.csv"
    path = write_experiment(tmp_path / "tiny.toml", "frames2d", Path("x"), train="epochs = 1\nbatch_size = 2")
    path.write_text(path.read_text().replace('"x"', f'"{manifest}"'))
    trained = json.loads(answer_of(vidclf("train", str(path), "--json")))
    assert (trained["status"], trained["reused"]) == ("complete", False)
    again = json.loads(answer_of(vidclf("train", str(path), "--json")))
    assert (again["run_id"], again["reused"]) == (trained["run_id"], True)
    assert server.reads(key_of(s3, server)) == once_each(squares)

    attempt = Attempt(Path(trained["model_dir"]).parent)
    assert attempt.identity().tags["vidclf.data_digest"] == squares.digest()
    assert attempt.identity().dataset["source"] == manifest
    judged = metrics.read_predictions(attempt.artifacts / "val" / "predictions.csv")["clip_path"]
    assert sorted(judged) == sorted(entry.name for entry in read_manifest(manifest).split("val"))
    assert all(name.startswith(f"{s3}/") for name in judged)
    clip, none = f"{s3}/down/v_down_g02_c00.avi", f"{s3}/down/none.avi"
    said = vidclf("predict", trained["model_dir"], clip, none, "--json")
    found, missing = json.loads(said.communicate(timeout=200)[0])
    assert said.returncode == 1
    assert (found["clip_path"], found["error"], found["label"] in CLASSES) == (clip, None, True)
    assert (missing["clip_path"], missing["error"]) == (none, "unreadable: no such file")


@pytest.mark.slow
def test_the_workers_of_a_study_fetch_each_clip_once(
    s3: str, server: S3Server, squares: Manifest, store: Store, tmp_path: Path
) -> None:
    path = write_experiment(tmp_path / "svm.toml", "svm", Path("x"))
    path.write_text(path.read_text().replace('"x"', f'"{s3}/manifest.csv"'))
    (tmp_path / "study.toml").write_text(STUDY)
    study = json.loads(answer_of(vidclf("tune", str(tmp_path / "study.toml"), "--json")))
    assert (study["trials"]["complete"], study["trials"]["failed"]) == (4, 0)
    assert server.reads(key_of(s3, server)) == once_each(squares)


@pytest.mark.slow
def test_what_s3_refuses_is_said(s3: str, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.client.delete_object(Bucket=server.bucket, Key=f"{key_of(s3, server)}/down/v_down_g03_c00.avi")
    with pytest.raises(InputError) as caught:
        read_manifest(f"{s3}/manifest.csv")
    assert caught.value.problems == (
        f"{s3}/manifest.csv: 1 of 12 clips are missing: {s3}/down/v_down_g03_c00.avi",
    )
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/none")
    said = answer_of(vidclf("data", "check", f"{s3}/manifest.csv"), 2)
    assert f"{s3}/manifest.csv: NoCredentialsError: Unable to locate credentials" in said
    assert "Traceback" not in said
