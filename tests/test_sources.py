"""From folders to a manifest: groups from names, splits that cut no group."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidclf.config import InputError
from vidclf.data.check import ClipCheck, read_clip_list, write_clean
from vidclf.data.manifest import SPLITS, Entry, read_manifest
from vidclf.data.sources import GroupScope, import_clips, read_folder
from vidclf.data.splitting import (
    carve_val,
    group_of,
    parse_shares,
    split_at_random,
    split_by_fold,
    split_by_group,
)

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
        read_folder(str(source), classes, "dataset")
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
    found = [
        (entry.clip_path.name, entry.label, entry.group)
        for entry in read_folder(str(tmp_path), None, "dataset")
    ]
    assert found == [
        ("holiday.MP4", "A", ""),
        ("v_A_g03_c02.avi", "A", "g03"),
        ("v_A_g3_x.avi", "A", ""),
        ("x.mkv", "B", ""),
    ]


def test_group_scope_decides_whether_equal_names_are_one_group(tmp_path: Path) -> None:
    ucf(tmp_path)
    assert {entry.group for entry in read_folder(str(tmp_path), ["Punch"], "class")} == {
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
    assert "8 of 8 clips name no group" in result.notes[0]
    assert result.counts()["A"] == {"train": 2, "val": 1, "test": 1}
    assert result.groups() == {"train": 4, "val": 2, "test": 2}


@pytest.mark.parametrize(
    ("names", "classes", "message"),
    [
        ((), None, "holds no folders; expected one for each class"),
        (("A/x.avi", "B/readme.txt"), None, "B: the class is empty"),
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


@pytest.mark.parametrize(
    "text", ["70,15", "a,b,c", "70,-5,35", "70,35,-5", "-70,85,85", "0,50,50", "inf,1,1", ""]
)
def test_impossible_shares_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--shares"):
        parse_shares(text)


def test_shares_are_fractions() -> None:
    assert parse_shares("70,15,15") == pytest.approx(SHARES)
    assert parse_shares("1,1,0") == (0.5, 0.5, 0.0)


def test_too_few_groups_name_the_class_and_what_to_do() -> None:
    entries = [
        Entry(Path(f"/{label}{n}"), label, f"{label}{n % groups}", "")
        for label, groups in (("A", 3), ("B", 2))
        for n in range(6)
    ]
    with pytest.raises(InputError) as caught:
        split_by_group(entries, SHARES, 0)
    assert str(caught.value).startswith("class B has 2 groups, too few for 3 (train, val, test); ")
    assert "--shares 70,30,0" in str(caught.value)
    halves = split_by_group(entries, (0.7, 0.3, 0.0), 0)
    assert {entry.split for entry in halves} == {"train", "val"}


def test_three_groups_go_one_to_each_side() -> None:
    entries = [Entry(Path(f"/{label}{n}"), label, f"g{n % 3}", "") for label in "ABC" for n in range(9)]
    counts = Counter(entry.split for entry in split_by_group(entries, SHARES, 0))
    assert counts == {"train": 9, "val": 9, "test": 9}


groupings = st.lists(
    st.tuples(st.sampled_from("ABC"), st.integers(0, 11), st.integers(1, 5)), min_size=1, max_size=40
)


@given(groupings, st.integers(0, 5), st.booleans())
def test_no_group_is_cut_and_every_class_is_everywhere(
    drawn: list[tuple[str, int, int]], seed: int, shared: bool
) -> None:
    # Three groups of all classes make every split possible; the drawn ones make it uneven.
    rows = [(label, f"base{n}", 2) for label in "ABC" for n in range(3)]
    rows += [(label, f"g{number}" if shared else f"{label}{number}", size) for label, number, size in drawn]
    entries = [
        Entry(Path(f"/{index}-{clip}"), label, group, "")
        for index, (label, group, size) in enumerate(rows)
        for clip in range(size)
    ]
    done = split_by_group(entries, SHARES, seed)
    assert [(entry.clip_path, entry.label, entry.group) for entry in done] == [
        (entry.clip_path, entry.label, entry.group) for entry in entries
    ]
    sides = defaultdict(set)
    for entry in done:
        sides[entry.group].add(entry.split)
    assert all(len(found) == 1 for found in sides.values())
    assert {(entry.label, entry.split) for entry in done} == {
        (label, split) for label in "ABC" for split in SPLITS
    }
    assert split_by_group(entries, SHARES, seed) == done


@given(st.integers(0, 20), st.integers(30, 80))
def test_many_groups_come_near_their_shares(seed: int, groups: int) -> None:
    entries = [
        Entry(Path(f"/{label}-{group}-{clip}"), label, f"{label}{group}", "")
        for label in "AB"
        for group in range(groups)
        for clip in range(1 + (group * 7 + seed) % 4)
    ]
    done = split_by_group(entries, SHARES, seed)
    for label in "AB":
        total = sum(entry.label == label for entry in done)
        for split, share in zip(SPLITS, SHARES, strict=True):
            got = sum(entry.label == label and entry.split == split for entry in done)
            assert got == pytest.approx(share * total, abs=2)


def test_a_seed_gives_another_split() -> None:
    entries = [Entry(Path(f"/{label}{n}"), label, "", "") for label in "AB" for n in range(20)]
    assert split_by_group(entries, SHARES, 0) != split_by_group(entries, SHARES, 1)


def alone(number: int, split: str = "", split_by: str = "") -> list[Entry]:
    """Clips of two classes, each a group of its own."""
    return [Entry(Path(f"/{label}{n}"), label, "", split, split_by) for label in "AB" for n in range(number)]


def test_a_seed_gives_the_same_split_however_it_is_made() -> None:
    entries = alone(20, "train")
    assert split_at_random(entries, SHARES, 3) == split_at_random(entries, SHARES, 3)
    assert carve_val(entries, 0.3, 3) == carve_val(entries, 0.3, 3)


@pytest.mark.parametrize(
    ("groups", "sizes", "val", "test", "counts"),
    [
        (16, 7, "g01 g02 g05 g07", "g04 g08", [[29, 27, 32], [15, 13, 11], [7, 7, 7]]),
        (20, 13, "g02 g06 g08 g13 g19", "g00 g09 g15", [[78, 78, 78], [29, 30, 31], [16, 17, 18]]),
    ],
)
def test_uneven_groups_end_where_neither_a_move_nor_an_exchange_helps(
    groups: int, sizes: int, val: str, test: str, counts: list[list[int]]
) -> None:
    """Placed well, then moved, exchanged, moved and exchanged again; other versions give the same."""
    entries = [
        Entry(Path(f"/{label}-{g}-{clip}"), label, f"g{g:02}", "")
        for weight, label in enumerate("ABC", start=3)
        for g in range(groups)
        for clip in range((g + 1) * weight % sizes)
    ]
    done = split_by_group(entries, (0.6, 0.25, 0.15), 0)
    for split, wanted in (("val", val), ("test", test)):
        assert sorted({entry.group for entry in done if entry.split == split}) == wanted.split()
    found = Counter((entry.split, entry.label) for entry in done)
    assert [[found[split, label] for label in "ABC"] for split in SPLITS] == counts


def test_a_share_of_train_becomes_val_and_the_rest_stays() -> None:
    rest = [*alone(2, "test"), *alone(1, "val")]
    done = carve_val([*rest, *alone(40, "train")], 0.25, 0)
    assert Counter((entry.label, entry.split) for entry in done[:80]) == {
        (label, split): number for label in "AB" for split, number in (("train", 30), ("val", 10))
    }
    assert done[80:] == rest


def test_a_split_by_group_forgets_that_it_was_random() -> None:
    assert {entry.split_by for entry in split_at_random(alone(4), SHARES, 0)} == {"random"}
    assert {entry.split_by for entry in split_by_group(alone(4, "", "random"), SHARES, 0)} == {""}


def test_a_class_that_no_placement_brings_everywhere_is_named() -> None:
    entries = [Entry(Path(f"/{label}{n}"), label, f"{label}{n}", "") for label in "AB" for n in range(4)]
    with pytest.raises(InputError) as caught:
        split_by_group(entries, (0.5, 0.5, 0.0), 0, {f"A{n}": "train" for n in range(4)})
    assert str(caught.value) == (
        "no split by group was found in which val has a clip of A; "
        "try another --seed, fewer splits (--shares 70,30,0), or --group-scope class"
    )


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
    with pytest.raises(InputError, match=r"trainlist01\.txt is not in"):
        import_clips([source], tmp_path / "m.csv", split="official:1")


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
        ("path,label\nx,A\n", "needs the columns clip_path and label"),
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
    assert "the split leaks: same group" in result.notes[0]
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


@given(st.integers(2, 6), st.integers(0, 3), st.integers(6, 15))
def test_folds_part_train_and_val_by_group_and_leave_test(folds: int, seed: int, groups: int) -> None:
    entries = [
        Entry(Path(f"/{label}-{group}-{clip}"), label, f"g{group}", "test" if group == 99 else "train")
        for label in "AB"
        for group in [*range(groups), 99]
        for clip in range(1 + group % 3)
    ]
    held_out: list[Path] = []
    for fold in range(folds):
        done = split_by_fold(entries, folds, fold, seed)
        sides = defaultdict(set)
        for entry in done:
            sides[entry.group].add(entry.split)
        assert all(len(found) == 1 for found in sides.values())
        assert sides["g99"] == {"test"}
        assert {entry.split for entry in done} == {"train", "val", "test"}
        val = [entry for entry in done if entry.split == "val"]
        assert {entry.label for entry in val} == {"A", "B"}
        held_out += [entry.clip_path for entry in val]
    assert sorted(held_out) == sorted(entry.clip_path for entry in entries if entry.split != "test")


def test_more_folds_than_groups_are_refused() -> None:
    entries = [Entry(Path(f"/{label}{g}"), label, f"g{g}", "train") for label in "AB" for g in range(3)]
    with pytest.raises(InputError, match="too few for 4"):
        split_by_fold(entries, 4, 0, 0)
