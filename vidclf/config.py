"""Strict TOML files as frozen pydantic models, addressed by dotted path.

A run's dotted path (``train.lr``) is its name everywhere: in the file, in a
study's space, as Optuna parameter and as MLflow param.
"""

import difflib
import hashlib
import json
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from vidclf.exceptions import InputError

Tree = dict[str, Any]
"""A TOML document as nested dicts."""
Scalar = bool | int | float | str
T = TypeVar("T", bound=BaseModel)


class Section(BaseModel):
    """A strict, frozen part of a file; a field's docstring is its description."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


@dataclass(frozen=True)
class PathKey:
    """Marks a string field as a path or URL: variables expand, then a path is made absolute.

    Attributes:
        keywords: Values that are words, not paths.
        prefix: What stands before a path, which begins with ``.``, ``/``, ``~`` or ``$``; others are words.
    """

    keywords: tuple[str, ...] = ()
    prefix: str = ""

    def expanded(self, text: str, folder: Path) -> str:
        """The text with its path absolute from ``folder``."""
        path = text.removeprefix(self.prefix)
        if text in self.keywords or (self.prefix and (path == text or path[:1] not in {*"./~$"})):
            return text
        return self.prefix + expand_path(path, folder)


class Range(Section):
    """A numeric search range, ends included; integers give an integer parameter."""

    low: int | float
    """Lowest value."""
    high: int | float
    """Highest value."""
    step: int | float | None = None
    """Distance between values; none: continuous, or 1 for integers."""
    log: bool = False
    """Sample on a logarithmic scale."""
    when: dict[str, Scalar] = Field(default_factory=dict)
    """Searched only where the resolved config has these values."""

    @property
    def integer(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def highest(self) -> int | float:
        """The highest value that steps from ``low`` reach."""
        if self.step is None:
            return self.high
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        reached = low + (Decimal(str(self.high)) - low) // step * step
        return int(reached) if self.integer else float(reached)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs low > 0, not {self.low}")
        if self.step is not None and self.step <= 0:
            raise ValueError("step must be above 0")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other")
        if self.integer and isinstance(self.step, float):
            raise ValueError("an integer range wants an integer step")
        return self


class Choice(Section):
    """A categorical search dimension."""

    choices: Annotated[tuple[Scalar, ...], Field(min_length=1, strict=False)]
    """The values to choose from."""
    when: dict[str, Scalar] = Field(default_factory=dict)
    """Searched only where the resolved config has these values."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len({(type(choice), choice) for choice in self.choices}) < len(self.choices):
            raise ValueError("choices repeat")
        return self


Dimension = Range | Choice

_WRONG_SHAPE = ("model_type", "dict_type", "tuple_type", "too_short")
"""pydantic's errors of a value that is no section, or no list."""
_LARGEST_TOML = 2**20
"""Bytes of a file of settings; the largest of vidclf's own have some thousands."""
_DEEPEST = 32
"""Sections and lists within each other; vidclf's own files have four."""
_FILES_NAMED = 8
"""Files that a message names at most."""
_LONG_KEY = re.compile(
    rf"""(?<![\w"'-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{_DEEPEST}}}"""
)
"""A key as a.b.c of more parts than `_DEEPEST`; tomllib's time grows with the square of their number."""
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*"
_URL = re.compile(rf"{_SCHEME}(::{_SCHEME})*://")
"""How a URL begins, also one of fsspec's chains, as simplecache::s3://."""
_TOO_DEEP = f"sections or lists are nested more than {_DEEPEST} deep"


def read_toml(path: Path) -> Tree:
    """The TOML document at ``path``.

    Raises:
        InputError: The file is missing, not text, not TOML, or of a size that no settings have.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_TOML + 1)
        if len(content) > _LARGEST_TOML:
            raise InputError(f"{path}: larger than {_LARGEST_TOML:,} bytes, this is no file of settings")
        if _LONG_KEY.search(content.decode()):
            raise InputError(f"{path}: {_TOO_DEEP}")
        tree = tomllib.loads(content.decode())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file{_suggested(path)}") from None
    except IsADirectoryError:
        inside = ", ".join(str(file) for file in sorted(path.glob("*.toml"))[:_FILES_NAMED])
        raise InputError(
            f"{path}: a folder, not a file{f'; name one of {inside}' if inside else ''}"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: no TOML file: it is not text in UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: {_TOO_DEEP}") from None
    level: list[Any] = [tree]
    for _ in range(_DEEPEST):
        level = [
            item
            for node in level
            if isinstance(node, dict | list)
            for item in (node.values() if isinstance(node, dict) else node)
        ]
    if level:
        raise InputError(f"{path}: {_TOO_DEEP}")
    return tree


def _suggested(path: Path) -> str:
    """The file that was meant, or, where none has such a name, those that there are."""
    beside = [file for file in sorted(path.parent.glob("*.toml")) if file.name != "pyproject.toml"]
    usual = [Path("studies"), Path("experiments")] if path.parent == Path() else []
    files = [*beside, *(file for folder in usual for file in sorted(folder.rglob("*.toml")))]
    close = difflib.get_close_matches(path.stem, [file.stem for file in files], n=1)
    if close:
        return f", did you mean {next(file for file in files if file.stem == close[0])}?"
    names = ", ".join(file.name for file in beside[:_FILES_NAMED])
    return f" (there are {names})" if names else ""


def write_toml(tree: Mapping[str, Any], path: Path) -> None:
    """Writes ``tree``, its ``None`` values left out, as `write_text` does."""
    write_text(tomli_w.dumps(_without_none(tree)), path)


def write_text(text: str, path: Path) -> None:
    """Writes a file; a reader sees all of it, or what was there before."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _without_none(tree: Mapping[str, Any]) -> Tree:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in tree.items()
        if value is not None
    }


def dump(section: BaseModel) -> Tree:
    """The section as plain TOML values, unset optional keys left out."""
    return section.model_dump(mode="json", exclude_none=True)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict by dotted path."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def lookup(tree: Mapping[str, Any], dotted: str) -> Any:
    """The value at a dotted path, ``None`` where there is none."""
    node: Any = tree
    for key in dotted.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return None
        node = node[key]
    return node


def override(tree: Mapping[str, Any], values: Mapping[str, Any]) -> Tree:
    """A copy of ``tree`` with the dotted paths of ``values`` set."""
    result: Tree = {
        key: override(value, {}) if isinstance(value, Mapping) else value for key, value in tree.items()
    }
    for dotted, value in values.items():
        *parents, last = dotted.split(".")
        node = result
        for key in parents:
            child = node.setdefault(key, {})
            if not isinstance(child, dict):
                raise InputError(f"{dotted}: {key} is a value, not a section")
            node = child
        node[last] = value
    return result


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """``key=value`` texts (``--set``) as values by dotted path.

    A value is read as TOML; what is no TOML value is a string.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set {assignment}: expected KEY=VALUE, as in --set train.epochs=2")
        try:
            value = tomllib.loads(f"value = {text.strip()}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        values[key.strip()] = value
    return values


def is_url(text: str) -> bool:
    """Whether a text names something behind a URL, as ``s3://bucket/a.avi``, and no path."""
    return _URL.match(text) is not None


def expand_path(text: str, folder: Path) -> str:
    """An absolute path or URL: in a path variables and ``~`` expand, then it is relative to ``folder``.

    ``VIDCLF_DATA``, a path or URL too, is relative to the current folder, and defaults to ``data`` there.
    """
    given = os.environ.get("VIDCLF_DATA", "data")
    data = given.rstrip("/") if is_url(given) else str(Path.cwd() / given)
    text = re.sub(r"\$(VIDCLF_DATA\b|\{VIDCLF_DATA\})", lambda _: data, text)
    if is_url(text):  # other variables stay as they are: they may hold secrets, which go to no server
        return text
    text = os.path.expandvars(text)
    # Path would make one slash of the two behind the scheme.
    return text if is_url(text) else os.path.normpath(folder / Path(text).expanduser())


def schema_fields(schema: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Every leaf field of a schema by dotted path."""
    fields: dict[str, FieldInfo] = {}
    for name, field in schema.model_fields.items():
        section = _section_of(field.annotation)
        if section is None:
            fields[f"{prefix}{name}"] = field
        else:
            fields |= schema_fields(section, f"{prefix}{name}.")
    return fields


def _section_of(annotation: Any) -> type[BaseModel] | None:
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    sections = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
    return sections[0] if sections else None


def resolve_paths(schema: type[BaseModel], values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The flat ``values`` with every path key of ``schema`` absolute from ``folder``, URLs as they are."""
    keys = path_keys(schema)
    resolved = dict(values)
    for dotted, value in values.items():
        if dotted in keys and isinstance(value, str):
            resolved[dotted] = keys[dotted].expanded(value, folder)
    return resolved


def path_keys(schema: type[BaseModel]) -> dict[str, PathKey]:
    """The leaf fields of a schema that hold paths, by dotted path."""
    return {
        dotted: mark
        for dotted, field in schema_fields(schema).items()
        for mark in field.metadata
        if isinstance(mark, PathKey)
    }


def validate(schema: type[T], tree: Mapping[str, Any], source: str) -> T:
    """The tree as a checked section.

    Raises:
        InputError: Every problem of the tree, each with ``source``, its key and what was given.
    """
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        raise InputError(*_problems(error, schema, source)) from None


def _problems(error: ValidationError, schema: type[BaseModel], source: str) -> Iterator[str]:
    known = list(dict.fromkeys([*schema_fields(schema), *schema.model_fields]))
    items = [(_key(item["loc"]), item) for item in error.errors()]
    deep = {key for key, item in items if item["type"] not in _WRONG_SHAPE}
    for dotted, item in sorted(items, key=lambda pair: pair[1]["type"] != "extra_forbidden"):
        # A misspelt key is why another one is missing, so it comes first. Of a value that may have one of
        # several shapes, each shape has its own errors: those of the shape that was meant go deeper.
        if item["type"] in _WRONG_SHAPE and any(f"{key}.".startswith(f"{dotted}.") for key in deep):
            continue
        if item["type"] == "extra_forbidden":
            yield f"{source}: unknown key {dotted}{meant_key(dotted, known)}"
        elif item["type"] == "missing":
            yield f"{source}: {dotted} is required"
        elif item["type"] == "model_type":
            yield f"{source}: {dotted} is a section; set one of its keys"
        elif item["type"] == "tuple_type":
            yield f"{source}: {dotted} takes a list, as [{json.dumps(item['input'])}]"
        else:
            message = item["msg"].removeprefix("Value error, ")
            given = item["input"]
            shown = f" (given: {given!r})" if isinstance(given, Scalar | list | tuple) else ""
            yield f"{source}: {dotted}: {message}{shown}" if dotted else f"{source}: {message}"


def _key(location: Sequence[str | int]) -> str:
    """The key as it is written; pydantic also names the validators and the shapes that it tried."""
    return ".".join(str(part) for part in location if "[" not in str(part))


def meant_key(dotted: str, known: Sequence[str]) -> str:
    """What to say behind an unknown key: the closest one, else those of its section, else all."""
    section = dotted.rpartition(".")[0]
    names = [name for name in known if name.rpartition(".")[0] == section] or known
    return did_you_mean(dotted, known) or (f" (there are {', '.join(names)})" if names else "")


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """``, did you mean …?`` for the closest known word, else empty; to share a section is no likeness."""
    section, _, last = word.rpartition(".")
    beside = {name.rpartition(".")[2]: name for name in known if section and name.startswith(f"{section}.")}
    close = [name for name in known if name.lower() == word.lower()]
    if not close:
        alike = difflib.get_close_matches(last if beside else word, beside or known, n=1, cutoff=0.6)
        close = [beside.get(name, name) for name in alike]
    close = close or [name for name in known if name.rpartition(".")[2] == last]
    return f", did you mean {close[0]}?" if close else ""


def digest(value: Any) -> str:
    """SHA-256 of the value's canonical JSON, hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
