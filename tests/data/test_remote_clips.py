"""Clips behind URLs give what the same clips here do: manifests, imports, checks, pictures, models."""

import os
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest

from tests.clips import moving_square, write_experiment
from tests.command import run
from tests.memory import Memory
from vidclf.data import video
from vidclf.data.check import check_clips as checked
from vidclf.data.check import read_clip_list, write_clean
from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.guarded import Limits
from vidclf.data.importing import import_clips
from vidclf.data.manifest import Manifest, read_manifest
from vidclf.exceptions import InputError
from vidclf.registry.serving import VideoClassifier
from vidclf.reports import diagnostics
from vidclf.reports.loops import Loops
from vidclf.runs.experiment import load_experiment, portable

SQUARES = "memory://sets/squares"


@pytest.fixture
def behind(memory: Memory, squares: Manifest) -> Memory:
    """The squares and their manifest below `SQUARES`."""
    memory.put_folder(squares.path.parent, SQUARES)
    return memory


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


@pytest.mark.slow
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
@pytest.mark.slow
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
    assert here.notes == tuple(note.replace(url, str(source)) for note in there.notes)
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
    answer = run("data", *arguments, "memory://sets/out.csv", expect=2)
    assert "memory://sets/out.csv: files are written on this machine only" in answer.stderr


# What is made of clips


def test_pictures_of_wrong_clips_and_loops_find_the_copies(
    behind: Memory, squares: Manifest, tmp_path: Path
) -> None:
    url = f"{SQUARES}/down/v_down_g00_c00.avi"
    assert Loops().of(url) is None
    assert behind.fetched == []
    val = ClipSet.of_split(read_manifest(f"{SQUARES}/manifest.csv"), "val", ClipStore(6, 16))
    (tmp_path / "val").mkdir()
    wrong = {"clip_path": [url], "label": ["down"], "predicted": ["right"], "confidence": [0.9]}
    pd.DataFrame(wrong).to_csv(tmp_path / "val" / "wrong_clips.csv", index=False)
    fetched = list(behind.fetched)
    diagnostics.write_wrong_clips(tmp_path, val.read)
    assert (tmp_path / "val" / "wrong_clips.png").is_file()
    assert Loops().of(url) is not None
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
    served._limits = Limits()
    reason = "not a data: URL in base64, nor a file: URL that this server serves"
    assert served.predict([item])[0]["error"] == reason
    monkeypatch.setenv("VIDCLF_SERVE_ROOT", SQUARES)
    assert served.predict([item])[0]["error"] == reason
    outside = served.predict(["file://memory://sets/squares/manifest.csv"])[0]["error"]
    assert outside == "the file lies outside the folder that this server reads"
