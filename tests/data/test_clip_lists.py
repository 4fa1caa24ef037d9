"""Lists of clips as people have them: each messy file gives the rows it means, or says what is expected."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rounds import rounds
from vidclf.data.check import read_clip_list
from vidclf.data.importing import import_clips, read_sources
from vidclf.data.manifest import SPLITS, Entry, read_manifest, write_manifest
from vidclf.exceptions import InputError

FILES = (
    "set/Punch/1.avi",
    "set/Punch/v_Punch_g07_c01.avi",
    "set/Kick it/2.avi",
    "set/Kick it/a, b;c.mp4",
    "set/Kick it/a, b.mp4",
    "set/videos/-1q7jA3DXQM_000055_000065.mp4",
    "set/videos/0Gc2aF_xyz.mp4",
    "set/videos/78687.webm",
    "set/videos/100218.webm",
    "set/#1.avi",
    "set/ 2.avi",
    "set/other.xyz",
)
ONE, UCF = "Punch/1.avi", "Punch/v_Punch_g07_c01.avi"
TWO, ODD, COMMA = "Kick it/2.avi", "Kick it/a, b;c.mp4", "Kick it/a, b.mp4"
PLAIN = {(ONE, "Punch", "", ""), (TWO, "Kick it", "", "")}
SPLIT = {(ONE, "Punch", "", "train"), (TWO, "Kick it", "", "test")}
GROUPED = {(ONE, "Punch", "g1", "train"), (TWO, "Kick it", "g2", "val")}
MANIFEST = f"clip_path,label,group,split\n{ONE},Punch,g1,train\n{TWO},Kick it,g2,val\n"
KINETICS = "label,youtube_id,time_start,time_end,split\n"
KINETICS_ROWS = {
    ("videos/-1q7jA3DXQM_000055_000065.mp4", "abseiling", "", "train"),
    ("videos/0Gc2aF_xyz.mp4", "zumba", "", "val"),
}
SOMETHING = [
    {
        "id": "78687",
        "label": "holding potato next to a bottle",
        "template": "Holding [something] next to [something]",
        "placeholders": ["potato", "a bottle"],
    },
    {
        "id": "100218",
        "label": "a jar colliding with a cup",
        "template": "[Something] colliding with [something]",
    },
]
SOMETHING_ROWS = {
    ("videos/78687.webm", "Holding something next to something", "", "train"),
    ("videos/100218.webm", "Something colliding with something", "", "train"),
}
NUMBERS = f"clip_path,label\n{ONE},0\n{UCF},0\n{TWO},1\n"
FLAT = "clip_path,label\n#1.avi,0\nvideos/78687.webm,1\nvideos/100218.webm,1\n"
NAMED = PLAIN | {(UCF, "Punch", "g07", "")}
EXPECTED = "expected a first line with the columns clip_path and label"

CASES: dict[str, tuple[str, str | bytes, object]] = {
    "plain": ("list.csv", MANIFEST, GROUPED),
    "semicolon": ("list.csv", MANIFEST.replace(",", ";"), GROUPED),
    "tab": ("list.tsv", MANIFEST.replace(",", "\t"), GROUPED),
    "bar": ("list.txt", MANIFEST.replace(",", "|"), GROUPED),
    "bom": ("list.csv", MANIFEST.encode("utf-8-sig"), GROUPED),
    "utf-16 with a mark": ("list.csv", MANIFEST.encode("utf-16"), GROUPED),
    "utf-16 without a mark": ("list.csv", MANIFEST.encode("utf-16-le"), GROUPED),
    "utf-16, big-endian, tab": ("list.txt", MANIFEST.replace(",", "\t").encode("utf-16-be"), GROUPED),
    "crlf": ("list.csv", MANIFEST.replace("\n", "\r\n"), GROUPED),
    "cr": ("list.csv", MANIFEST.replace("\n", "\r"), GROUPED),
    "no last line end": ("list.csv", MANIFEST.rstrip(), GROUPED),
    "backslashes": ("list.csv", MANIFEST.replace("/", "\\"), GROUPED),
    "header in capitals": ("list.csv", MANIFEST.replace("clip_path,label", "Clip_Path,LABEL"), GROUPED),
    "blanks around values": ("list.csv", MANIFEST.replace(",", " , "), GROUPED),
    "everything quoted": (
        "list.csv",
        '"clip_path","label"\n"Punch/1.avi","Punch"\n"Kick it/2.avi","Kick it"',
        PLAIN,
    ),
    "quotes after a blank": (
        "list.csv",
        f'path, class\n"{ODD}", "Kick it"\n"{ONE}", "Punch"\n',
        {(ODD, "Kick it", "", ""), (ONE, "Punch", "", "")},
    ),
    "empty lines": ("list.csv", MANIFEST.replace("\n", "\n\n,,,\n  \n"), GROUPED),
    "comments": (
        "list.csv",
        "# made by hand, in May\n" + MANIFEST.replace("\n", "\n# next: a line\n"),
        GROUPED,
    ),
    "trailing separators": ("list.csv", MANIFEST.replace("\n", ",\n"), GROUPED),
    "short lines": ("list.csv", f"clip_path,label,group,split\n{ONE},Punch\n{TWO},Kick it\n", PLAIN),
    "filename and class": ("list.csv", f"filename,class\n{ONE},Punch\n{TWO},Kick it\n", PLAIN),
    "File Name and Class Name": ("list.csv", f"File Name;Class-Name\n{ONE};Punch\n{TWO};Kick it\n", PLAIN),
    "video and label_name": ("list.csv", f"video,label,label_name\n{ONE},0,Punch\n{TWO},1,Kick it\n", PLAIN),
    "file in its class's folder": ("list.csv", "file,class\n1.avi,Punch\n2.avi,Kick it\n", PLAIN),
    "subset": ("list.csv", f"path,label,subset\n{ONE},Punch,Training\n{TWO},Kick it,TESTING\n", SPLIT),
    "clip_name beside clip_path": (
        "list.csv",
        f"clip_name,clip_path,label\n1,/{ONE},Punch\n2,/{TWO},Kick it\n",
        PLAIN,
    ),
    "split of the file's name": (
        "my_train.csv",
        f"path,label\n{ONE},Punch\n{TWO},Kick it\n",
        {(ONE, "Punch", "", "train"), (TWO, "Kick it", "", "train")},
    ),
    "no header": ("list.csv", f"{ONE},Punch\n{TWO},Kick it\n", PLAIN),
    "no header, semicolon, commas inside": (
        "list.csv",
        f"{COMMA};Kick it\n{ONE};Punch\n",
        {(COMMA, "Kick it", "", ""), (ONE, "Punch", "", "")},
    ),
    "no header, class first, split": ("list.csv", f"Punch,{ONE},train\nKick it,{TWO},test\n", SPLIT),
    "no header, no class": ("list.csv", f'"{ONE}"\n"{TWO}"\n', PLAIN),
    "blanks in a list of UCF-101's": ("list.txt", f"{ONE} 1\n{TWO} 2\n{UCF} 1\n", NAMED),
    "without numbers": (
        "trainlist01.txt",
        f"{UCF}\n{TWO}\n",
        {(UCF, "Punch", "g07", "train"), (TWO, "Kick it", "", "train")},
    ),
    "kinetics": (
        "list.csv",
        f"{KINETICS}abseiling,-1q7jA3DXQM,55,65,train\nzumba,0Gc2aF_xyz,3,13,validate\nzumba,gone,3,13,train\n",
        KINETICS_ROWS,
    ),
    "kinetics, json": (
        "kinetics_train.json",
        json.dumps(
            {
                "-1q7jA3DXQM": {
                    "annotations": {"label": "abseiling", "segment": [55.0, 65.0]},
                    "subset": "train",
                },
                "0Gc2aF_xyz": {"annotations": {"label": "zumba", "segment": [3, 13]}, "subset": "validate"},
                "gone": {"annotations": {"label": "zumba", "segment": [3, 13]}, "subset": "train"},
            }
        ),
        KINETICS_ROWS,
    ),
    "activitynet's form": (
        "list.json",
        json.dumps(
            {
                "version": "1.3",
                "database": {
                    "-1q7jA3DXQM": {
                        "annotations": [{"label": "abseiling", "segment": [55.0, 65.0]}],
                        "subset": "training",
                    },
                    "0Gc2aF_xyz": {
                        "annotations": [{"label": "zumba", "segment": [3, 13]}],
                        "subset": "validation",
                    },
                    "hidden": {"annotations": [], "subset": "testing"},
                    "torn": {"annotations": ["?", {"label": "zumba", "segment": 3}]},
                },
            }
        ),
        KINETICS_ROWS,
    ),
    "something-something": ("something-something-v2-train.json", json.dumps(SOMETHING), SOMETHING_ROWS),
    "numbers named by folders": ("list.csv", NUMBERS, NAMED),
    "a path of another machine": (
        "list.csv",
        f"path,label\nC:\\me\\set\\{ONE.replace('/', chr(92))},Punch\n/home/you/{TWO},Kick it\n",
        PLAIN,
    ),
    "a name with #": (
        "list.csv",
        f"path,label\n#1.avi,Punch\n{TWO},Kick it\n",
        {("#1.avi", "Punch", "", ""), (TWO, "Kick it", "", "")},
    ),
    "a name with a blank before": (
        "list.csv",
        f'path,label\n" 2.avi",Punch\n{TWO},Kick it\n',
        {(" 2.avi", "Punch", "", ""), (TWO, "Kick it", "", "")},
    ),
    "a hint to Excel": ("list.csv", "sep=;\n" + MANIFEST.replace(",", ";"), GROUPED),
    "a column of line numbers": ("list.csv", f",path,label\n0,{ONE},Punch\n1,{TWO},Kick it\n", PLAIN),
    "a column of clips by any name": ("list.csv", f"footage,label\n{ONE},Punch\n{TWO},Kick it\n", PLAIN),
    "any suffix": ("list.lst", f"{ONE};Punch\n{TWO};Kick it\n", PLAIN),
    "something-something, version 1": (
        "list.csv",
        "78687;Holding it\n100218;Dropping it\n",
        {("videos/78687.webm", "Holding it", "", ""), ("videos/100218.webm", "Dropping it", "", "")},
    ),
    "files in folders below": (
        "list.csv",
        "video,label\n78687.webm,a\n100218.webm,b\n",
        {("videos/78687.webm", "a", "", ""), ("videos/100218.webm", "b", "", "")},
    ),
    "names that videos have not": (
        "list.csv",
        f"clip_path,label\nother.xyz,Punch\n{TWO},Kick it\n",
        {("other.xyz", "Punch", "", ""), (TWO, "Kick it", "", "")},
    ),
    "no class": (
        "list.csv",
        f"clip_path,fps\n{ONE},25\n",
        f"no column for the class (it has clip_path, fps); {EXPECTED}",
    ),
    "neither": (
        "list.csv",
        "name;what\n1;2\n",
        f"no column for the clip or the class (it has name, what); {EXPECTED}",
    ),
    "which is the class": (
        "list.csv",
        f"{ONE},Punch,25\n",
        f"which value of its first line is the class, as it names no columns: {ONE} | Punch | 25",
    ),
    "no list": ("list.csv", "hello\n", "no column for the clip or the class (it has hello)"),
    "empty": ("list.csv", "\n\n", f"holds no clips; {EXPECTED}"),
    "latin-1": (
        "list.csv",
        "clip_path,label\nx.avi,caf\xe9\n".encode("latin-1"),
        "line 2 is neither UTF-8 nor UTF-16; save the file as UTF-8",
    ),
    "binary": ("list.csv", b"RIFF\x01\x00\x00\x00", "holds NUL characters"),
    "a quote without an end": (
        "list.csv",
        f'path,label\n"{ONE},Punch\n',
        "not a readable CSV file: unexpected end of data",
    ),
    "too many values": (
        "list.csv",
        f"path,label\n{ONE},Punch,{TWO},Kick it\n",
        "line 2: its 4 values are more than the 2 columns",
    ),
    "a column twice": (
        "list.csv",
        f"path,label,label\n{ONE},Punch,Kick\n",
        "column label stands there more than once",
    ),
    "an empty label": ("list.csv", f"path,label\n{ONE},\n{TWO},Kick it\n", "line 2: the label is empty"),
    "an empty path": ("list.csv", f"path,label\n{ONE},Punch\n ,Kick it\n", "line 3: it names no clip"),
    "an unknown split": (
        "list.csv",
        f"path,label,split\n{ONE},Punch,trian\n",
        "line 2: split 'trian' is none of train, val, test",
    ),
    "a control character": (
        "list.csv",
        f"path,label\n{ONE},Pun\x1b[31mch\n",
        r"the label 'Pun\x1b[31mch' holds a character that is no text",
    ),
    "missing clips": ("list.csv", "path,label\nA/0.avi,Punch\n", "1 of 1 clips are missing, as "),
    "no clip of kinetics": (
        "list.csv",
        f"{KINETICS}abseiling,absent,1,2,train\n",
        "/set for any of its 1 clip, as absent",
    ),
    "json of something else": ("list.json", '{"a": 1}', 'expected a list of clips, as [{"id": "78687"'),
    "no json": ("list.json", "[{", "not readable as JSON"),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lists")
    for number, name in enumerate(FILES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"%d" % number)
    return folder / "set"


def rows(folder: Path, name: str, content: str | bytes) -> set[tuple[str, str, str, str]]:
    """What is read of a list in the folder; the list is gone afterwards."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        entries, _ = read_sources([str(path)])
    finally:
        path.unlink()
    return {
        (entry.clip_path.relative_to(folder).as_posix(), entry.label, entry.group, entry.split)
        for entry in entries
    }


def test_there_are_many_messy_lists() -> None:
    assert len(CASES) > 50


@pytest.mark.parametrize("case", CASES)
def test_a_messy_list_gives_its_rows_or_says_what_is_expected(clips: Path, case: str) -> None:
    name, content, expected = CASES[case]
    if isinstance(expected, str):
        with pytest.raises(InputError) as caught:
            rows(clips, name, content)
        assert expected in str(caught.value)
        assert name in str(caught.value)
    else:
        assert rows(clips, name, content) == expected


def notes(folder: Path, content: str, name: str = "", text: str = "") -> list[str]:
    """What is said of a list with such contents, and with a file of that name beside it."""
    files = {"list.csv": content, **({name: text} if name else {})}
    paths = [folder / file for file in files]
    for path, lines in zip(paths, files.values(), strict=True):
        path.write_text(lines)
    try:
        return [note.partition("list.csv: ")[2] for note in read_sources([str(paths[0])])[1]]
    finally:
        for path in paths:
            path.unlink()


def test_what_was_not_taken_of_a_list_is_counted(clips: Path) -> None:
    rows = "abseiling,-1q7jA3DXQM,55,65,train\nzumba,0Gc2aF_xyz,3,13,val\nzumba,gone,3,13,val\n"
    assert notes(clips, f"{KINETICS}{rows}") == [
        "left out, as there is no such file: 1 clip, as gone",
    ]
    assert notes(clips, f"path,label,fps,mood\n{ONE},Punch,1,2\n{TWO},Kick it,3,4") == [
        "columns that were not read: fps, mood"
    ]
    assert notes(clips, f"path,label\n/home/you/{ONE},Punch\n/home/you/{TWO},Kick it\n") == [
        f"2 paths found by how they end, as /home/you/{ONE}"
    ]


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        ("classInd.txt", "0 Punch\n1 Kick it\n", "0 = Punch, 1 = Kick it"),
        ("classes.txt", "Punch\nKick it\n", "0 = Punch, 1 = Kick it"),
        ("label_map.txt", "# by number\nlabel\nPunch\nKick it\n", "0 = Punch, 1 = Kick it"),
        ("classes.csv", "id,name\n0,Punch\n1,Kick it\n", "0 = Punch, 1 = Kick it"),
        ("labels.csv", "Kick it;1\nPunch;0\n", "0 = Punch, 1 = Kick it"),
        ("labels.json", '{"Punch": "0", "Kick it": "1", "Run": 2}', "0 = Punch, 1 = Kick it, 2 = Run"),
        ("classes.json", '["Punch", "Kick it"]', "0 = Punch, 1 = Kick it"),
        ("ucf101-class-names.txt", "level 1\nlevel 2\n", "0 = level 1, 1 = level 2"),
    ],
)
def test_numbers_are_named_by_a_list_of_classes(clips: Path, file: str, text: str, named: str) -> None:
    [note] = notes(clips, FLAT, file, text)
    assert note.startswith("labels are numbers, named by ")
    assert note.endswith(f": {named}")


def test_lists_of_hmdb_51_name_their_class_and_splits(clips: Path) -> None:
    lists = {"Punch": "1.avi 1 \n", "Kick it": "2.avi 0 \na, b.mp4 2 \n"}
    paths = [clips / f"{label}_test_split1.txt" for label in lists]
    for path, text in zip(paths, lists.values(), strict=True):
        path.write_text(text)
    entries, said = read_sources([*map(str, paths)])
    for path in paths:
        path.unlink()
    assert [(entry.clip_path, entry.label, entry.split) for entry in entries] == [
        (clips / ONE, "Punch", "train"),
        (clips / COMMA, "Kick it", "test"),
    ]
    assert said == [f"{paths[1]}: left out, as the list has them in neither split: 1 clip"]


def test_videos_without_annotations_are_counted(clips: Path) -> None:
    said = {"annotations": {"label": "zumba", "segment": [3, 13]}}
    (clips / "list.json").write_text(
        json.dumps({"0Gc2aF_xyz": said, "78687": {**said, "annotations": {"label": "a"}}, "bare": {}})
    )
    _, notes = read_sources([str(clips / "list.json")])
    (clips / "list.json").unlink()
    assert notes == [f"{clips / 'list.json'}: left out, as nothing is said of them: 1 video"]


def test_numbers_of_a_list_of_classes_may_begin_with_one(clips: Path) -> None:
    from_1 = FLAT.replace(",1", ",2").replace(",0", ",1")
    [note] = notes(clips, from_1, "classes.txt", "Punch\nKick it\n")
    assert note.endswith(": 1 = Punch, 2 = Kick it")
    with pytest.raises(InputError, match="whether its 3 classes count from 0 or 1 cannot be told"):
        notes(clips, from_1, "classes.txt", "Punch\nKick it\nRun\n")
    with pytest.raises(InputError, match=r"label 2 is not in .*classInd\.txt \(0 to 1\)"):
        notes(clips, from_1, "classInd.txt", "0 Punch\n1 Kick it\n")
    for name, text in (("notes.txt", "Punch\nKick it\n"), ("labels.txt", f"{ONE} 1\n{TWO} 2\n")):
        [note] = notes(clips, from_1, name, text)
        assert note.startswith("labels are numbers; a file classes.txt beside the list")


def test_clips_without_a_split_among_others_are_counted(clips: Path, tmp_path: Path) -> None:
    path = clips / "list.csv"
    path.write_text(f'path,label,split\n{ONE},Punch,train\n{UCF},Punch,\n{TWO},Kick it,\n"{ODD}",Kick it,\n')
    result = import_clips([path], tmp_path / "m.csv", shares="50,50,0")
    path.unlink()
    assert "1 of 4 clips name their split, so that all are split by group" in result.notes


def test_a_name_of_several_files_is_refused_where_no_folder_decides(tmp_path: Path) -> None:
    for name in ("A/1.avi", "B/1.avi", "old/2.avi", "new/2.avi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    assert rows(tmp_path, "list.csv", "video_name,tag\n1,A\n1,B\n") == {
        ("A/1.avi", "A", "", ""),
        ("B/1.avi", "B", "", ""),
    }
    with pytest.raises(
        InputError, match=r"line 3: 2 is the name of several files: .*/new/2\.avi, .*/old/2\.avi"
    ):
        rows(tmp_path, "list.csv", "video_name,tag\n1,A\n2,B\n")


NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0\r"), min_size=1, max_size=20
).filter(lambda name: name.strip(".") and len(name.encode()) < 200)


@settings(
    max_examples=rounds(40, 150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(NAMES, min_size=6, max_size=6, unique=True), st.lists(NAMES, min_size=2, max_size=2))
@pytest.mark.slow
def test_what_import_writes_reading_accepts(tmp_path: Path, names: list[str], folders: list[str]) -> None:
    """Whatever the clips, their folders and their groups are called."""
    entries = []
    for number, (name, split) in enumerate(zip(names, SPLITS * 2, strict=True)):
        inside = [folders[number // 3]] if number % 2 else []
        path = tmp_path.joinpath(*inside, f"{name}.avi")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
        entries.append(Entry(path, f"class {number // 3}", folders[0].strip(), split))
    write_manifest(entries, tmp_path / "m" / ".." / "manifest.csv")
    assert set(read_manifest(tmp_path / "manifest.csv").entries) == set(entries)
    assert set(read_clip_list(tmp_path / "manifest.csv")[1]) == set(entries)


def test_a_name_that_no_table_can_hold_is_refused(tmp_path: Path) -> None:
    for name in ("A/1.avi", "B/Icon\r.avi"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"the name '.*/B/Icon\\r\.avi' is no text that a table can hold"):
        import_clips([tmp_path], tmp_path / "m.csv")
