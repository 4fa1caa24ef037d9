"""Strict files: every problem at once, each with its key and the closest right one."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from vidclf import config
from vidclf.config import Choice, PathKey, Range, Section
from vidclf.exceptions import InputError


class Inner(Section):
    frames: int = Field(16, ge=1)
    """Frames."""
    weights: Annotated[str, PathKey(("none",))] = "none"
    """Weights."""


class Outer(Section):
    seed: int = 0
    """Seed."""
    data: Inner = Inner()
    """Data."""


def test_a_field_docstring_is_its_description() -> None:
    assert Inner.model_fields["frames"].description == "Frames."


def test_all_problems_of_a_file_are_reported_at_once_with_the_closest_key() -> None:
    with pytest.raises(InputError) as caught:
        config.validate(Outer, {"data": {"frmaes": 8, "frames": 0}, "sed": 1}, "x.toml")
    problems = sorted(caught.value.problems)
    assert problems == [
        "x.toml: data.frames: Input should be greater than or equal to 1 (given: 0)",
        "x.toml: unknown key data.frmaes, did you mean data.frames?",
        "x.toml: unknown key sed, did you mean seed?",
    ]


def test_a_key_in_the_wrong_section_is_pointed_to_the_right_one() -> None:
    with pytest.raises(InputError, match=r"unknown key frames, did you mean data\.frames\?"):
        config.validate(Outer, {"frames": 8}, "x.toml")


@pytest.mark.parametrize("value", ["16", 16.5, True])
def test_values_are_not_coerced(value: Any) -> None:
    with pytest.raises(InputError, match=r"data\.frames"):
        config.validate(Outer, {"data": {"frames": value}}, "x.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a = ", "not valid TOML"), (None, "no such file"), (b"\xff\xfe", "not text in UTF-8")],
)
def test_unreadable_files_are_named(tmp_path: Path, text: str | bytes | None, message: str) -> None:
    path = tmp_path / "x.toml"
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError, match=message) as caught:
        config.read_toml(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_or_is_a_folder_names_those_that_could_be_meant(tmp_path: Path) -> None:
    for stem in ("svm", "tiny"):
        (tmp_path / f"{stem}.toml").touch()
    for name, words in {
        "smv.toml": f"no such file, did you mean {tmp_path / 'svm.toml'}?",
        "svm": f"no such file, did you mean {tmp_path / 'svm.toml'}?",
        "other.toml": "no such file (there are svm.toml, tiny.toml)",
        "": f"a folder, not a file; name one of {tmp_path / 'svm.toml'}, {tmp_path / 'tiny.toml'}",
    }.items():
        with pytest.raises(InputError) as caught:
            config.read_toml(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {words}"


def test_a_bare_name_is_looked_for_where_files_usually_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "demo.toml").touch()
    (tmp_path / "experiments" / "ball").mkdir(parents=True)
    (tmp_path / "experiments" / "ball" / "svm.toml").touch()
    monkeypatch.chdir(tmp_path)
    for name, meant in (("demo", "studies/demo.toml"), ("smv.toml", "experiments/ball/svm.toml")):
        with pytest.raises(InputError) as caught:
            config.read_toml(Path(name))
        assert str(caught.value) == f"{name}: no such file, did you mean {meant}?"
    with pytest.raises(InputError) as caught:
        config.read_toml(Path("elsewhere/demo"))
    assert str(caught.value) == "elsewhere/demo: no such file"


scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text()
trees = st.recursive(
    st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), scalars, max_size=4),
    lambda inner: st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), scalars | inner, max_size=4),
    max_leaves=10,
)


@given(trees)
@pytest.mark.slow
def test_flat_values_put_back_give_the_tree(tree: dict[str, Any]) -> None:
    flat = config.flatten(tree)
    assert config.flatten(config.override({}, flat)) == flat
    assert all(config.lookup(tree, path) == value for path, value in flat.items())


@given(trees)
@pytest.mark.slow
def test_a_written_tree_reads_back(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "tree.toml"
    config.write_toml(tree, path)
    assert tomllib.loads(path.read_text(encoding="utf-8")) == tree


def test_override_leaves_the_original_alone() -> None:
    tree = {"data": {"frames": 16}}
    assert config.override(tree, {"data.frames": 8, "train.lr": 0.1}) == {
        "data": {"frames": 8},
        "train": {"lr": 0.1},
    }
    assert tree == {"data": {"frames": 16}}


def test_assignments_are_toml_values_or_texts() -> None:
    assert config.parse_assignments(
        ["train.lr=1e-3", "model.weights=none", "augment.scale=[0.5, 1.0]", "a.b=true"]
    ) == {"train.lr": 1e-3, "model.weights": "none", "augment.scale": [0.5, 1.0], "a.b": True}
    with pytest.raises(InputError, match="expected KEY=VALUE"):
        config.parse_assignments(["train.lr"])


def test_paths_expand_and_are_relative_to_their_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert config.expand_path("$VIDCLF_DATA/x.csv", Path("/etc")) == f"{tmp_path}/data/x.csv"
    monkeypatch.setenv("VIDCLF_DATA", "mine")
    assert config.expand_path("$VIDCLF_DATA/x.csv", Path("/etc")) == f"{tmp_path}/mine/x.csv"
    monkeypatch.setenv("VIDCLF_DATASET", "/other")
    assert config.expand_path("$VIDCLF_DATASET/x.csv", Path("/etc")) == "/other/x.csv"
    monkeypatch.setenv("VIDCLF_DATA", "/clips")
    assert config.expand_path("${VIDCLF_DATA}/x.csv", Path("/etc")) == "/clips/x.csv"
    assert config.expand_path("../x.csv", Path("/etc/vidclf")) == "/etc/x.csv"


def test_no_variable_but_that_of_the_data_is_sent_to_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "secret")
    monkeypatch.setenv("VIDCLF_DATA", "s3://bucket/data")
    for text in ("https://host/$SECRET_KEY/m.csv", "https://host/${SECRET_KEY}/m.csv"):
        assert config.expand_path(text, Path("/etc")) == text
    assert (
        config.expand_path("$VIDCLF_DATA/$SECRET_KEY.csv", Path("/etc")) == "s3://bucket/data/$SECRET_KEY.csv"
    )
    values = {"data.weights": "none", "data.frames": 8}
    assert config.resolve_paths(Outer, values, Path("/etc")) == values
    assert config.resolve_paths(Outer, {"data.weights": "w.pth"}, Path("/etc")) == {
        "data.weights": "/etc/w.pth"
    }


@pytest.mark.parametrize(
    "value",
    [
        {"low": 2, "high": 1},
        {"low": 0, "high": 1, "log": True},
        {"low": 1, "high": 8, "step": 0},
        {"low": 1.0, "high": 8.0, "step": 1.0, "log": True},
        {"low": 1, "high": 8, "step": 0.5},
        {"low": "1", "high": 8},
    ],
)
def test_impossible_ranges_are_refused(value: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        config.validate(Range, value, "x.toml")


def test_choices_must_differ_but_true_is_not_one() -> None:
    assert config.validate(Choice, {"choices": [1, True]}, "x").choices == (1, True)
    with pytest.raises(InputError, match="repeat"):
        config.validate(Choice, {"choices": [8, 8]}, "x")


@given(st.dictionaries(st.text(max_size=3), scalars, max_size=4))
def test_a_digest_ignores_the_order_of_keys(values: dict[str, Any]) -> None:
    assert config.digest(values) == config.digest(dict(reversed(list(values.items()))))
    assert config.digest(values) != config.digest({**values, "more": 1})
