"""Files behind URLs: fetched once, whole or not at all, and known to people by their URLs only."""

import errno
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from tests.clips import write_experiment
from tests.command import run
from tests.memory import Memory
from tests.s3 import need_module
from vidclf.config import expand_path, is_url
from vidclf.data import cache, remote
from vidclf.exceptions import InputError
from vidclf.maintenance.doctor import weigh
from vidclf.runs.experiment import load_experiment
from vidclf.runs.store import Store


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


def test_a_big_fetch_is_told_beforehand(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote, "_WORTH_TELLING", 1000)
    urls = [memory.put(f"memory://b/{number}.avi", bytes(600)) for number in range(2)]
    steps: list[tuple[int, int]] = []
    remote.local_files(urls, lambda *step: steps.append(step))
    assert caplog.messages == [f"fetching 2 files behind URLs, 0.0 MB, into {cache.folder()}"]
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


@pytest.mark.slow
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
        (
            "xyz://b/a.avi",
            None,
            "xyz:// is not opened: only file, http, https, s3, gs, az, hf",
        ),
        ("github://me:us@main/a.csv", None, "github:// is not opened"),
        ("local://b/a.csv", None, "local:// is not opened"),
        ("reference://b/a.csv", None, "reference:// is not opened"),
        ("simplecache::memory://b/a.avi", None, "chains of schemes are not opened"),
        ("memory://b/a.avi::file:///etc", None, "chains of schemes are not opened"),
        ("zip://a.avi::s3://bucket/clips.zip", None, "chains of schemes are not opened"),
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
    answer = run("data", "check", url, expect=2)
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


@pytest.mark.slow
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
