"""Clips in a real S3 server: each object is read once, whoever asks, and refusals are told."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clips import CLASSES, write_experiment, write_study
from tests.command import run
from tests.s3 import S3Server, need_module, s3_server
from vidclf.data.manifest import Manifest, read_manifest
from vidclf.evaluation.predictions import read_predictions
from vidclf.exceptions import InputError
from vidclf.runs.folder import Attempt


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
    command = [sys.executable, "-m", "vidclf", "data", "check", f"{s3}/manifest.csv", "--json"]
    together = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in together:
        clips = json.loads(process.communicate(timeout=200)[0])["clips"]
        assert {clip["verdict"] for clip in clips} == {"ok"}
        assert all(clip["clip_path"].startswith(f"{s3}/") for clip in clips)
    assert server.reads(key_of(s3, server)) == once_each(squares)

    changed, other = "right/v_right_g05_c00.avi", squares.entries[0].clip_path
    server.put(f"{key_of(s3, server)}/{changed}", other.read_bytes())
    # This process has asked for nothing yet.
    leaks = json.loads(run("data", "check", f"{s3}/manifest.csv", "--json", expect=1).stdout)["leaks"]
    copied = {"a": f"{s3}/down/v_down_g00_c00.avi", "b": f"{s3}/{changed}"}
    same = [leak for leak in leaks if leak["why"] == "same file"]  # squares are much alike
    assert same == [{**copied, "splits": ["train", "val"], "why": "same file"}]
    assert server.reads(key_of(s3, server)) == once_each(squares) | {changed: 2}


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_a_run_on_clips_in_s3(s3: str, server: S3Server, squares: Manifest, tmp_path: Path) -> None:
    run("data", "import", s3, "--to", tmp_path / "own.csv", "--shares", "50,25,25")
    manifest = f"{s3}/manifest.csv"
    path = write_experiment(tmp_path / "tiny.toml", "frames2d", Path("x"), train="epochs = 1\nbatch_size = 2")
    path.write_text(path.read_text().replace('"x"', f'"{manifest}"'))
    trained = json.loads(run("train", path, "--json").stdout)
    assert (trained["status"], trained["reused"]) == ("complete", False)
    again = json.loads(run("train", path, "--json").stdout)
    assert (again["run_id"], again["reused"]) == (trained["run_id"], True)
    assert server.reads(key_of(s3, server)) == once_each(squares)

    attempt = Attempt(Path(trained["model_dir"]).parent)
    assert attempt.identity().tags["vidclf.data_digest"] == squares.digest()
    assert attempt.identity().dataset["source"] == manifest
    judged = read_predictions(attempt.artifacts / "val" / "predictions.csv")["clip_path"]
    assert sorted(judged) == sorted(entry.name for entry in read_manifest(manifest).split("val"))
    assert all(name.startswith(f"{s3}/") for name in judged)
    clip, none = f"{s3}/down/v_down_g02_c00.avi", f"{s3}/down/none.avi"
    said = run("predict", trained["model_dir"], clip, none, "--json", expect=1)
    found, missing = json.loads(said.stdout)
    assert (found["clip_path"], found["error"], found["label"] in CLASSES) == (clip, None, True)
    assert (missing["clip_path"], missing["error"]) == (none, "unreadable: no such file")


@pytest.mark.long
@pytest.mark.usefixtures("store")
def test_the_workers_of_a_study_fetch_each_clip_once(
    s3: str, server: S3Server, squares: Manifest, tmp_path: Path
) -> None:
    path = write_experiment(tmp_path / "svm.toml", "svm", Path("x"))
    path.write_text(path.read_text().replace('"x"', f'"{s3}/manifest.csv"'))
    space = '"model.C" = { low = 0.1, high = 10.0, log = true }'
    sampler = 'name = "random"'
    write_study(tmp_path / "study.toml", "svm.toml", top="workers = 2", sampler=sampler, space=space)
    study = json.loads(run("tune", tmp_path / "study.toml", "--json").stdout)
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
    need_module("s3fs").S3FileSystem.clear_instance_cache()
    said = run("data", "check", f"{s3}/manifest.csv", expect=2).stderr
    assert re.match(f"error: {s3}/\\S+: NoCredentialsError: Unable to locate credentials", said)
