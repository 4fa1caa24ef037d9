"""From folders to a manifest: groups from names, splits that cut no group."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidclf.config import InputError
from vidclf.data.manifest import SPLITS, Entry, read_manifest
from vidclf.data.sources import GroupScope, import_clips, import_folder, parse_shares, split_by_group

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
        import_folder(source, classes, "dataset")
    return str(caught.value)


def test_labels_are_folders_and_groups_come_from_ucf_names(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "A/v_A_g03_c02.avi",
        "A/v_A_g3_x.avi",
        "A/holiday.MP4",
        "A/notes.txt",
        "B/x.mkv",
        ".git/y.avi",
    )
    found = [
        (entry.clip_path.name, entry.label, entry.group) for entry in import_folder(tmp_path, None, "dataset")
    ]
    assert found == [
        ("holiday.MP4", "A", ""),
        ("v_A_g03_c02.avi", "A", "g03"),
        ("v_A_g3_x.avi", "A", ""),
        ("x.mkv", "B", ""),
    ]


def test_group_scope_decides_whether_equal_names_are_one_group(tmp_path: Path) -> None:
    ucf(tmp_path)
    assert {entry.group for entry in import_folder(tmp_path, ["Punch"], "class")} == {
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
        (("train/A/x.avi", "test/A/y.avi"), None, "holds test, train and no classes"),
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


@pytest.mark.parametrize("text", ["70,15", "a,b,c", "70,-5,35", "0,50,50", "inf,1,1", ""])
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
    assert str(caught.value).startswith("class B has 2 groups, too few for 3 splits; ")
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
