"""`data check`: every verdict, and files that crash, hang or flood take nothing down."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.clips import write_experiment, write_squares
from tests.command import run
from tests.deeds import act
from tests.rounds import rounds
from vidclf.data import check, video
from vidclf.data.check import ClipCheck, check_clips
from vidclf.data.clips import ClipStore
from vidclf.data.guarded import Child
from vidclf.data.manifest import read_manifest
from vidclf.exceptions import InputError
from vidclf.models.base import DataConfig

REAL = os.environ.get("VIDCLF_REAL_DATA")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_squares(tmp_path / "squares", groups=4)


def verdicts(checks: list[ClipCheck]) -> list[str]:
    return [found.verdict for found in checks]


@pytest.mark.slow
def test_good_clips_are_ok_with_their_facts(manifest: Path) -> None:
    paths = [entry.clip_path for entry in read_manifest(manifest).entries]
    seen: list[int] = []
    checks = check_clips(paths, lambda: seen.append(1))
    assert [found.clip_path for found in checks] == paths
    assert set(verdicts(checks)) == {"ok"}
    assert len(seen) == len(paths)
    facts = checks[0].facts
    assert facts is not None
    assert (facts.codec, facts.fps, facts.width, facts.height) == ("mpeg4", 25, 32, 32)
    assert (facts.declared, facts.decoded, facts.notes) == (8, 8, ())
    assert facts.seconds == pytest.approx(8 / 25)


def test_bad_clips_have_their_verdicts(manifest: Path, tmp_path: Path) -> None:
    whole = read_manifest(manifest).entries[0].clip_path.read_bytes()
    long = tmp_path / "long.avi"
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), dtype=np.uint8)
    video.write_video(long, noise)
    files = {
        "whole.avi": whole,
        "zero.avi": b"",
        "text.avi": b"hello" * 99,
        "cut.avi": long.read_bytes()[: long.stat().st_size // 2],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    checks = check_clips([tmp_path / name for name in [*files, "absent.avi"]])
    assert verdicts(checks)[:3] == ["ok", "unreadable", "unreadable"]
    assert checks[3].verdict in ("short", "damaged")
    assert (checks[4].verdict, checks[4].reason) == ("unreadable", "no such file")


def misbehave(path: Path) -> ClipCheck:
    """Does what the file's name says."""
    act(path.stem)
    return ClipCheck(path, "ok", "", 0.0)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that gives an error when it is read")
@pytest.mark.slow
def test_a_clip_that_the_disk_does_not_give_is_named_and_the_others_are_looked_at(manifest: Path) -> None:
    broken = manifest.parent / "broken.avi"
    broken.symlink_to("/proc/self/mem")
    first, *others = manifest.read_text().splitlines()[1:]
    rows = [first.replace(first.split(",")[0], broken.name), *others]
    manifest.write_text("\n".join(["clip_path,label,group,split", *rows]))
    result = run("data", "check", manifest, "--json", expect=1)
    found = {clip["clip_path"]: clip["verdict"] for clip in json.loads(result.stdout)["clips"]}
    assert found.pop(str(broken)) == "unreadable"
    assert set(found.values()) == {"ok"}
    experiment = write_experiment(manifest.parent / "svm.toml", "svm", manifest)
    result = run("train", experiment, expect=2)
    assert result.stdout == ""
    assert f"{broken}: unreadable: Input/output error" in result.stderr


@pytest.mark.slow
@pytest.mark.guarded
def test_a_crash_a_hang_and_a_flood_cost_one_clip_each() -> None:
    paths = [Path(name) for name in ("a", "crash", "b", "hang", "c", "flood", "d", "crash", "e")]
    checks = check_clips(paths, time_limit_s=1.0, memory_limit_mb=256, inspect=misbehave)
    assert verdicts(checks) == ["ok", "damaged", "ok", "slow", "ok", "damaged", "ok", "damaged", "ok"]
    assert checks[1].reason == "the decoder crashed: SIGABRT"
    assert checks[3].reason == "over the limit of 1 s"
    assert checks[5].reason == "decoding it takes more memory than the limit"


@pytest.mark.slow
@pytest.mark.guarded
def test_there_are_no_more_children_than_clips(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    class Counted(Child):
        def __init__(self, *arguments: Any) -> None:
            started.append(1)
            super().__init__(*arguments)

    monkeypatch.setattr(check, "Child", Counted)
    monkeypatch.setattr(check, "cpu_count", lambda: 6)
    paths = [entry.clip_path for entry in read_manifest(manifest).entries]
    assert verdicts(check_clips(paths[:2])) == ["ok", "ok"]
    assert len(started) == 2
    assert check_clips([]) == []
    assert len(started) == 2


@pytest.mark.slow
@pytest.mark.guarded
def test_the_command_names_bad_clips_and_writes_a_clean_manifest(manifest: Path, tmp_path: Path) -> None:
    bad = read_manifest(manifest).entries[0].clip_path
    bad.write_bytes(b"")
    clean = tmp_path / "elsewhere/clean.csv"
    result = run("data", "check", manifest, "--drop", clean, "--json", expect=1)
    answer = json.loads(result.stdout)
    assert [item["clip_path"] for item in answer["clips"] if item["verdict"] != "ok"] == [str(bad)]
    assert answer["clips"][0].keys() >= {
        "declared",
        "decoded",
        "seconds",
        "reason",
        "codec",
        "fps",
        "notes",
    }
    assert answer["leaks"] == []
    assert "with 7 clips; dropped 1" in result.stderr
    assert bad not in {entry.clip_path for entry in read_manifest(clean).entries}
    run("data", "check", clean)
    table = run("data", "check", manifest, expect=1)
    assert "8 clips: 7 decode to their end, 1 do not" in table.stderr


def test_the_command_says_how_a_choice_was_made(tmp_path: Path) -> None:
    picture = np.full((10, 32, 32, 3), 90, np.uint8)
    video.write_video(tmp_path / "part.mpg", picture, codec="mpeg1video")
    (tmp_path / "twice.mpg").write_bytes((tmp_path / "part.mpg").read_bytes() * 2)
    (tmp_path / "clips.csv").write_text("clip_path,group\npart.mpg,g\ntwice.mpg,g\n")
    said = run("data", "check", tmp_path / "clips.csv")
    note = f"note: {tmp_path / 'twice.mpg'}: its clock jumps after frame 9, which is taken out"
    assert [line for line in said.stderr.splitlines() if "note:" in line] == [note]


def test_only_the_clips_need_to_be_named(manifest: Path) -> None:
    bare = manifest.with_name("bare.csv")
    pd.read_csv(manifest)[["clip_path"]].to_csv(bare, index=False)
    table, entries = check.read_clip_list(bare)
    assert list(table.columns) == ["clip_path"]
    assert len(entries) == 8
    bare.write_text("path\nx.avi\n")
    with pytest.raises(InputError, match="column clip_path is missing"):
        check.read_clip_list(bare)


@pytest.mark.slow
@pytest.mark.guarded
@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="VIDCLF_REAL_DATA is not set")
def test_real_clips_have_the_verdicts_that_are_known_of_them() -> None:
    paths = [path for name in ("clips", "awkward") for path in sorted(Path(str(REAL), name).iterdir())]
    assert len(paths) == 20
    known = {"corrupted.mp4": "damaged", "zero_bytes.webm": "unreadable", "sine_mono_s16.wav": "unreadable"}
    found = {item.clip_path.name: item.verdict for item in check_clips(paths)}
    assert found == {path.name: known.get(path.name, "ok") for path in paths}


@pytest.mark.guarded
@pytest.mark.slow
@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="VIDCLF_REAL_DATA is not set")
def test_broken_files_crash_nothing(tmp_path: Path) -> None:
    generator, count = np.random.default_rng(0), rounds(80, 300)
    sources = [path for path in sorted(Path(str(REAL), "clips").iterdir()) if path.suffix == ".avi"]
    sources += sorted(Path(str(REAL), "basketball5/passing").iterdir())[:10]
    assert len(sources) == 16
    cut, flipped = [], []
    for number in range(count):
        source = sources[number % len(sources)]
        content = bytearray(source.read_bytes())
        path = tmp_path / f"{number:03}{source.suffix}"
        if number % 2:
            content = content[: int(generator.integers(1, len(content)))]
            cut.append(path)
        else:
            for place in generator.integers(0, len(content), 20):
                content[place] = int(generator.integers(0, 256))
            flipped.append(path)
        path.write_bytes(content)
    checks = {item.clip_path: item for item in check_clips([*cut, *flipped], time_limit_s=20)}
    assert len(checks) == count
    for path in cut:
        facts = checks[path].facts
        if checks[path].verdict == "ok" and facts is not None and facts.declared is not None:
            assert facts.decoded >= facts.declared - 1
    noticed = sum(checks[path].verdict != "ok" for path in flipped) / len(flipped)
    assert noticed > 0.3


def test_what_a_check_has_decoded_is_trained_on(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [entry.clip_path for entry in read_manifest(manifest).entries]
    check_clips(paths)
    data = DataConfig(manifest="m.csv")
    monkeypatch.setattr(video, "decode", None)
    assert ClipStore(data.grid, data.store_side).build(paths) == []
