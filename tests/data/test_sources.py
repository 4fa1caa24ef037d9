"""From folders to a manifest: groups from names, splits that cut no group."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.clips import write_scene
from tests.command import run
from vidclf.cli.app import app
from vidclf.data.check import ClipCheck, read_clip_list, write_clean
from vidclf.data.class_names import label_findings
from vidclf.data.importing import GroupScope, import_clips, read_sources
from vidclf.data.manifest import SPLITS, Entry, read_manifest, write_manifest
from vidclf.data.sources import read_folder
from vidclf.data.splitting import (
    group_of,
)
from vidclf.exceptions import InputError

SHARES = (0.7, 0.15, 0.15)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def imported(source: Path, to: Path, scope: GroupScope = "dataset", shares: str = "70,15,15") -> None:
    import_clips([source], to, classes=None, shares=shares, seed=0, group_scope=scope)


def ucf(folder: Path, groups: int = 5) -> Path:
    return touch(
        folder,
        *(
            f"{label}/v_{label}_g{g:02}_c{c:02}.avi"
            for label in ("Punch", "PushUps")
            for g in range(groups)
            for c in (1, 2)
        ),
    )


def refusal(source: Path, classes: Sequence[str] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        read_sources([str(source)], classes)
    return str(caught.value)


def test_labels_are_folders_and_groups_come_from_ucf_names(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "A/v_A_g03_c02.avi",
        "A/v_A_g3_x.avi",
        "A/holiday.MP4",
        "A/notes.txt",
        "A/._holiday.MP4",
        "B/x.mkv",
        ".git/y.avi",
    )
    found = [(Path(clip.name).name, clip.label, clip.group) for clip in read_folder(str(tmp_path), None)[0]]
    assert found == [
        ("holiday.MP4", "A", ""),
        ("v_A_g03_c02.avi", "A", "g03"),
        ("v_A_g3_x.avi", "A", ""),
        ("x.mkv", "B", ""),
    ]


def test_group_scope_decides_whether_equal_names_are_one_group(tmp_path: Path) -> None:
    ucf(tmp_path)
    entries, _ = read_sources([str(tmp_path)], group_scope="class")
    assert {entry.group for entry in entries if entry.label == "Punch"} == {
        f"Punch/g{g:02}" for g in range(5)
    }


def test_importing_twice_gives_the_same_bytes_with_relative_paths(tmp_path: Path) -> None:
    ucf(tmp_path / "clips")
    imported(tmp_path / "clips", tmp_path / "manifest.csv")
    first = (tmp_path / "manifest.csv").read_bytes()
    imported(tmp_path / "clips", tmp_path / "manifest.csv")
    assert (tmp_path / "manifest.csv").read_bytes() == first
    assert b"\nclips/Punch/v_Punch_g00_c01.avi,Punch,g00," in first
    manifest = read_manifest(tmp_path / "manifest.csv")
    assert manifest.classes == ("Punch", "PushUps")
    assert manifest.grouped
    assert all(entry.clip_path.exists() for entry in manifest.entries)


def test_clips_without_groups_are_said_to_be_so(tmp_path: Path) -> None:
    touch(tmp_path / "c", *(f"{label}/{n}.avi" for label in "AB" for n in range(4)))
    result = import_clips(
        [tmp_path / "c"], tmp_path / "m.csv", classes=None, shares="70,15,15", seed=0, group_scope="dataset"
    )
    assert result.notes[0].startswith("groups unknown: leaks cannot be excluded")
    assert "8 of 8 clips name no group" in result.notes[1]
    first = tmp_path / "c" / "A" / "0.avi"
    assert result.unreadable == f"8 of 8 clips cannot be read, as {first}: vidclf data check says why"
    assert result.counts()["A"] == {"train": 2, "val": 1, "test": 1}
    assert result.groups() == {"train": 4, "val": 2, "test": 2}


@pytest.mark.parametrize(
    ("names", "classes", "message"),
    [
        ((), None, "holds no folders of clips; expected one for each class"),
        (("x.avi",), None, "expected one for each class; not taken: 1 clip outside of the classes' folders"),
        (("A/x.avi", "B/readme.txt"), None, "folders without clips: B"),
        (("A/1.JPG", "B/1.png"), None, "pictures are not read: make a clip of each series"),
        (("A/x.avi", "B/readme.txt"), ["A", "B"], "no class B (it has A)"),
        (
            ("set/Punch/x.avi", "set/Kick/x.avi"),
            None,
            "2 clips of 2 in folders below their class's, as set/Kick/x.avi; if those are the classes, name",
        ),
        (
            ("train/A/x.avi", "test/A/x.avi", "C/x.avi"),
            None,
            "holds the splits test, train, and clips in C too",
        ),
        (("Punch/x.avi", "B/x.avi"), ["Pnch"], "no class Pnch, did you mean Punch?"),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused(
    tmp_path: Path, names: tuple[str, ...], classes: list[str] | None, message: str
) -> None:
    assert message in refusal(touch(tmp_path, *names), classes)


def test_a_missing_folder_and_a_single_class_are_refused(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "nothing")
    with pytest.raises(InputError, match="only one class"):
        imported(touch(tmp_path / "c", "A/x.avi", "A/y.avi", "A/z.avi"), tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists()


def counted(path: Path) -> Counter[tuple[str, str]]:
    return Counter((entry.label, entry.split) for entry in read_manifest(path).entries)


def test_folders_below_train_and_test_give_the_split(tmp_path: Path) -> None:
    source = touch(
        tmp_path / "c",
        *(
            f"{side}/{label}/{side}{n}.avi"
            for side in ("train", "Valid", "test")
            for label in "AB"
            for n in range(2)
        ),
    )
    result = import_clips([source], tmp_path / "m.csv")
    assert counted(tmp_path / "m.csv") == {(label, split): 2 for label in "AB" for split in SPLITS}
    assert not any(note.startswith("the split leaks") for note in result.notes)
    import_clips([source], tmp_path / "m.csv", split="group", shares="50,50,0")
    assert {split for _, split in counted(tmp_path / "m.csv")} == {"train", "val"}


def official(folder: Path) -> Path:
    """UCF-101 in small: groups 1 to 2 are test, 3 to 9 train."""
    clips = [f"{label}/v_{label}_g{g:02}_c01.avi" for label in ("Punch", "PushUps") for g in range(1, 10)]
    touch(folder / "UCF-101", *clips)
    lists = folder / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Punch\n2 PushUps\n")
    (lists / "testlist02.txt").write_text(
        "\n".join(clip for clip in clips if clip[-12:-8] in ("_g01", "_g02"))
    )
    train = [f"{clip} {1 + ('PushUps' in clip)}" for clip in clips if clip[-12:-8] not in ("_g01", "_g02")]
    (lists / "trainlist02.txt").write_text("\n".join(train) + "\n")
    return folder / "UCF-101"


def test_clips_belong_to_a_class_however_deep_and_what_is_none_is_counted(tmp_path: Path) -> None:
    clips = touch(
        tmp_path / "c",
        *("A/x.avi", "A/day 1/am/y.mp4", "A/notes.gif.txt", "A/.DS_Store", "B/z.avi", "loose.avi", "readme"),
        *("B/1.jpg", "B/2.JPG", "splits/train.csv", "__MACOSX/A/._x.avi", ".git/HEAD", "A/.old/w.avi"),
    )
    (clips / "Empty").mkdir()
    (clips / "A" / "again").symlink_to(clips / "A")
    result = import_clips([clips], tmp_path / "m.csv", shares="100,0,0")
    assert {(entry.clip_path.name, entry.label) for entry in result.entries} == {
        ("x.avi", "A"),
        ("y.mp4", "A"),
        ("z.avi", "B"),
    }
    assert [note.removeprefix(f"{clips}: ") for note in result.notes[-4:]] == [
        "not taken: 1 clip outside of the classes' folders, as loose.avi, 2 hidden, 2 .jpg, "
        "1 without a suffix, 1 .txt, 1 .csv",
        "hidden folders, not looked into: .git, A/.old",
        "folders without clips: Empty, __MACOSX, splits",
        "1 clip of 3 in folders below their class's, as A/day 1/am/y.mp4; if those are the classes, name the "
        "folder that holds them",
    ]
    some = import_clips([clips], tmp_path / "m.csv", shares="100,0,0", classes=["A", "B"])
    assert some.notes == result.notes
    touch(clips, "C/c.avi", "C/d.avi")
    left = import_clips([clips], tmp_path / "m.csv", shares="100,0,0", classes=["A", "B"])
    assert left.notes[-1] == f"{clips}: left out by --classes: 2 clips"


def test_folders_beside_splits_may_hold_anything_but_clips(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{side}/{label}/1.avi" for side in ("train", "test") for label in "AB"))
    touch(tmp_path, "annotations/a.txt", "train/loose.avi", "train/C/notes.txt")
    clips, notes = read_folder(str(tmp_path), None)
    assert {(clip.label, clip.split) for clip in clips} == {
        (label, split) for label in "AB" for split in ("train", "test")
    }
    assert notes == [
        f"{tmp_path}: not taken: 1 clip outside of the classes' folders, as train/loose.avi, 2 .txt",
        f"{tmp_path}: folders without clips: annotations, train/C",
    ]


def test_blanks_around_the_names_of_folders_belong_to_no_class(tmp_path: Path) -> None:
    clips, notes = read_folder(str(touch(tmp_path, "A/1.avi", "A /2.avi", "B/1.avi")), None)
    assert [clip.label for clip in clips] == ["A", "A", "B"]
    assert notes[-1].endswith("blanks around the names of folders are no part of a class's name: 'A '")


def test_classes_that_are_hardly_two_are_named_with_the_cure(tmp_path: Path) -> None:
    touch(tmp_path, "jump/1.avi", "Jump/2.avi", "Jump/3.avi", "push up/4.avi", "push_up/5.avi", "run/6.avi")
    touch(tmp_path, "caf\u00e9/7.avi", "cafe\u0301/8.avi")
    found = label_findings(read_sources([str(tmp_path)])[0])
    assert found == [
        "the classes 'Jump' (2 clips) and 'jump' (1 clip) differ only in case; if they are one, call them "
        "all 'Jump'",
        "the classes 'cafe\\u0301' (1 clip) and 'caf\\xe9' (1 clip) differ only in how accents are composed "
        "(Unicode NFC and NFD); if they are one, call them all 'cafe\u0301'",
        "the classes 'push up' (1 clip) and 'push_up' (1 clip) differ only in blanks, hyphens, underscores "
        "or case; if they are one, call them all 'push up'",
    ]


def test_one_file_under_two_labels_is_found_inside_a_split_too(tmp_path: Path) -> None:
    touch(tmp_path, "A/1.avi", "A/2.avi", "B/3.avi", "B/4.avi")
    for copy in ("B/copy.avi", "A/copy.avi"):
        (tmp_path / copy).write_bytes((tmp_path / "A/1.avi").read_bytes())
    result = import_clips([tmp_path], tmp_path / "m.csv", shares="100,0,0")
    finding = (
        f"one file under 2 labels: {tmp_path}/A/1.avi (A) and {tmp_path}/B/copy.avi (B); keep the right one"
    )
    assert finding in result.notes
    checked = CliRunner().invoke(app, ["data", "check", str(tmp_path / "m.csv"), "--json"])
    assert json.loads(checked.stdout)["labels"] == [finding]
    assert checked.exit_code == 1


def test_names_that_look_alike_are_said_by_check_and_no_failure(tmp_path: Path) -> None:
    clips = [
        write_scene(tmp_path / label / f"{room}.avi", room, 0) for room, label in enumerate(("jump", "Jump"))
    ]
    entries = [Entry(clip, clip.parent.name, clip.stem, "train") for clip in clips]
    write_manifest(entries, tmp_path / "m.csv")
    [finding] = json.loads(run("data", "check", tmp_path / "m.csv", "--json").stdout)["labels"]
    assert "differ only in case" in finding


def test_a_split_that_lacks_a_class_is_said_before_training_refuses_it(tmp_path: Path) -> None:
    touch(tmp_path, "train/A/1.avi", "train/B/1.avi", "test/A/2.avi")
    result = import_clips([tmp_path], tmp_path / "m.csv")
    assert any(note.startswith("split test has no clip of B: train and tune refuse") for note in result.notes)


def test_official_lists_keep_test_and_carve_val_out_of_train(tmp_path: Path) -> None:
    source = official(tmp_path)
    import_clips([source], tmp_path / "m.csv", split="official:2")
    entries = read_manifest(tmp_path / "m.csv").entries
    sides = defaultdict(set)
    for entry in entries:
        sides[entry.split].add(entry.group)
    assert sides["test"] == {"g01", "g02"}
    assert len(sides["val"]) == 1
    assert not sides["val"] & sides["train"]
    touch(source, "Punch/more.avi", "Punch/readme.txt")
    result = import_clips([source], tmp_path / "m.csv", split="official:2")
    assert result.notes[-1] == f"{source}: not taken: 1 clip in neither list, as Punch/more.avi"
    with pytest.raises(InputError, match=r"trainlist01\.txt is not in"):
        import_clips([source], tmp_path / "m.csv", split="official:1")


@pytest.mark.parametrize("place", [".", "hmdb51_org", "hmdb51_org/testTrainMulti_7030_splits"])
def test_hmdbs_lists_give_splits_and_its_names_source_videos(place: str, tmp_path: Path) -> None:
    source = tmp_path / "hmdb51_org"
    folder = tmp_path / ("testTrainMulti_7030_splits" if place == "." else place)
    for label in ("brush_hair", "wave"):
        clips = {f"Film_{n}_{label}_u_nm_np1_ba_goo_{take}.avi": n for n in range(5) for take in range(2)}
        clips["#20_Rhythm.Clap-s" + f"_{label}_h_cm_np0_le_bad_3.avi"] = 5
        touch(source, *(f"{label}/{clip}" for clip in clips))
        folder.mkdir(exist_ok=True)
        lines = [f"{clip} {2 if n == 0 else 0 if n == 5 else 1} " for clip, n in clips.items()]
        (folder / f"{label}_test_split3.txt").write_text("\n".join(lines) + "\n")
    result = import_clips([source], tmp_path / "m.csv", split="official:3")
    sides = defaultdict(set)
    for entry in result.entries:
        sides[entry.split].add(entry.group)
    assert (sides["test"], len(sides["val"])) == ({"Film_0"}, 1)
    assert sides["train"] | sides["val"] == {f"Film_{n}" for n in range(1, 5)}
    assert not sides["val"] & sides["train"]
    assert f"{source}: not taken: 2 clips in neither list" in result.notes[-1]
    with pytest.raises(InputError, match=r"nor is CLASS_test_split1\.txt below testTrainMulti_7030_splits"):
        import_clips([source], tmp_path / "m.csv", split="official:1")
    found = import_clips([source], tmp_path / "m.csv", split="group").entries
    assert {entry.group for entry in found} == {*(f"Film_{n}" for n in range(5)), "#20_Rhythm.Clap-s"}


def test_csv_files_give_labels_splits_and_leading_slashes(tmp_path: Path) -> None:
    ucf(tmp_path / "clips", groups=3)
    for number, split in enumerate(("train", "val", "test")):
        rows = [
            f"/{label}/v_{label}_g{number:02}_c0{c}.avi,{label}"
            for label in ("Punch", "PushUps")
            for c in (1, 2)
        ]
        (tmp_path / "clips" / f"{split}.csv").write_text("clip_path,class\n" + "\n".join(rows) + "\n")
    files = [tmp_path / "clips" / f"{split}.csv" for split in SPLITS]
    import_clips(files, tmp_path / "m.csv")
    assert counted(tmp_path / "m.csv") == {
        (label, split): 2 for label in ("Punch", "PushUps") for split in SPLITS
    }
    assert read_manifest(tmp_path / "m.csv").grouped
    again = tmp_path / "again.csv"
    import_clips([tmp_path / "m.csv"], again)
    assert again.read_bytes() == (tmp_path / "m.csv").read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "clip_path,fps\nx,A\n",
            "no column for the class (it has clip_path, fps); expected a first line with",
        ),
        ("clip_path,label,split\nA/x.avi,A,trian\n", "line 2: split 'trian' is none of train, val, test"),
        ("clip_path,label\n\nA/x.avi,\n", "line 3: the label is empty"),
        ("clip_path,label\nA/none.avi,A\n", "1 of 1 clips are missing"),
    ],
)
def test_bad_csv_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "A/x.avi")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        import_clips([tmp_path / "list.csv"], tmp_path / "m.csv")
    assert message in str(caught.value)


def test_a_random_split_and_a_leaking_file_are_called_leaks(tmp_path: Path) -> None:
    ucf(tmp_path / "c", groups=8)
    by_group = import_clips([tmp_path / "c"], tmp_path / "m.csv", split="group")
    assert not any("leak" in note for note in by_group.notes)
    result = import_clips([tmp_path / "c"], tmp_path / "m.csv", split="random", shares="50,25,25")
    assert "the split leaks, 20 pairs: same group" in result.notes[0]
    assert read_manifest(tmp_path / "m.csv").leaks
    again = import_clips([tmp_path / "m.csv"], tmp_path / "m2.csv")
    assert again.notes == result.notes


def test_a_random_split_stays_known_as_one_where_clips_name_no_group(tmp_path: Path) -> None:
    for label in "AB":
        for number in range(8):
            touch(tmp_path / "c", f"{label}/{number}.avi")
    import_clips([tmp_path / "c"], tmp_path / "m.csv", split="group")
    assert "split_by" not in (tmp_path / "m.csv").read_text()
    assert not read_manifest(tmp_path / "m.csv").leaks
    result = import_clips([tmp_path / "c"], tmp_path / "m.csv", split="random")
    assert any("split clip by clip" in note for note in result.notes)
    import_clips([tmp_path / "m.csv"], tmp_path / "copy.csv")
    touch(tmp_path / "c", "A/new.avi")
    import_clips([tmp_path / "c"], tmp_path / "more.csv", extend=tmp_path / "copy.csv")
    table, entries = read_clip_list(tmp_path / "m.csv")
    write_clean(table, [ClipCheck(entry.clip_path, "ok", "", 0.0) for entry in entries], tmp_path / "d.csv")
    for name in ("m", "copy", "more", "d"):
        assert read_manifest(tmp_path / f"{name}.csv").leaks, name
    import_clips([tmp_path / "m.csv"], tmp_path / "mended.csv", split="group")
    assert not read_manifest(tmp_path / "mended.csv").leaks


def test_extending_leaves_every_known_group_where_it_is(tmp_path: Path) -> None:
    ucf(tmp_path / "c", groups=5)
    import_clips([tmp_path / "c"], tmp_path / "old.csv")
    before = {group_of(entry): entry.split for entry in read_manifest(tmp_path / "old.csv").entries}
    ucf(tmp_path / "c", groups=20)
    touch(tmp_path / "c", "Punch/v_Punch_g00_c09.avi")
    import_clips([tmp_path / "c"], tmp_path / "new.csv", extend=tmp_path / "old.csv", seed=7)
    after = read_manifest(tmp_path / "new.csv")
    sides = {group_of(entry): entry.split for entry in after.entries}
    assert len(after.entries) == 81
    assert {group: sides[group] for group in before} == before
    assert not after.leaks
    assert 0.6 < sum(entry.split == "train" for entry in after.entries) / 81 < 0.8


def test_extending_knows_a_clip_by_another_name(tmp_path: Path) -> None:
    ucf(tmp_path / "c", groups=5)
    (tmp_path / "there").symlink_to(tmp_path / "c")
    import_clips([tmp_path / "c"], tmp_path / "old.csv")
    import_clips([tmp_path / "there"], tmp_path / "new.csv", extend=tmp_path / "old.csv")
    assert (tmp_path / "new.csv").read_text() == (tmp_path / "old.csv").read_text()


@pytest.mark.parametrize("split", ["file", "random"])
def test_extending_refuses_a_split_that_it_would_not_heed(split: str, tmp_path: Path) -> None:
    import_clips([ucf(tmp_path / "c")], tmp_path / "old.csv")
    with pytest.raises(InputError, match=f"--split {split}: --extend places new clips by group"):
        import_clips([tmp_path / "old.csv"], tmp_path / "new.csv", split=split, extend=tmp_path / "old.csv")
    assert not (tmp_path / "new.csv").exists()


def test_a_clip_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    clips = ucf(tmp_path / "c")
    with pytest.raises(InputError, match=r"20 clips are listed more than once: .*v_Punch_g00_c01.avi"):
        import_clips([clips, clips], tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists()
    result = import_clips([clips], tmp_path / "m.csv", classes=["Punch", "PushUps", "Punch"])
    assert len(result.entries) == 20


def test_an_unknown_way_to_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one of group, file, official:1"):
        import_clips([ucf(tmp_path / "c")], tmp_path / "m.csv", split="clips")
    with pytest.raises(InputError, match="the source gives no split"):
        import_clips([tmp_path / "c"], tmp_path / "m.csv", split="file")
