"""Tables of texts as people have them: separated by comma, semicolon, tab or bar, in UTF-8 or UTF-16."""

import codecs
import csv
import difflib
import io
import itertools
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vidclf.config import is_url
from vidclf.data.remote import named
from vidclf.exceptions import InputError

if TYPE_CHECKING:  # half a second, which predictions and mistyped names do without
    import pandas as pd

COLUMNS = ("clip_path", "label", "group", "split")
"""Of a manifest."""
SPLIT_BY = "split_by"
"""Column that only a manifest split at random has, so that its runs can say so."""
GROUP_BY = "group_by"
"""Column that only a manifest with guessed groups has, so that nothing calls it free of leaks."""
_LARGEST = 2**27
"""Bytes of a list of clips at most: enough for about a million clips."""
_MOST_COLUMNS = 1000
_SEPARATORS = (",", ";", "\t", "|")
_NONE = "\x1f"
"""In place of a separator where each line is one value."""
_SNIFFED = 50
"""Lines that decide which separator it is."""
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
"""How files begin that say their encoding, and Python's names of these."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet runs."""
FILE_NAME = re.compile(r"\.\w{2,5}\s*$")
"""How the name of a file ends."""

Row = tuple[int, list[str]]
"""The number of the line that a row begins in, and its values."""


def read_table(path: Path) -> "pd.DataFrame":
    """A table whose first line names its columns; without empty lines and comments.

    Names of a manifest's columns are known in any case. Labels, groups and splits are without blanks around
    them; what a short line lacks is empty.

    Returns:
        Texts, indexed by the number of their line.

    Raises:
        InputError: The file is missing or no such table.
    """
    import pandas as pd

    name = named(path)
    _, rows = read_rows(path)
    if not rows:
        raise InputError(f"{name}: is empty; expected a first line that names its columns")
    (_, header), *body = rows
    known = {column.casefold(): column for column in (*COLUMNS, SPLIT_BY, GROUP_BY)}
    columns = [known.get(text.strip().casefold(), text.strip()) for text in header]
    check_width(name, columns, body)
    table = pd.DataFrame(
        [[*values, *[""] * (len(columns) - len(values))][: len(columns)] for _, values in body],
        columns=columns,
        index=[line for line, _ in body],
        dtype=str,
    )
    for column in {*COLUMNS[1:], SPLIT_BY, GROUP_BY} & set(columns):
        table[column] = table[column].str.strip()
    return table


def check_width(name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Refuses columns of one name, too many of them, and lines with values beyond them.

    Raises:
        InputError: One of these.
    """
    if len(columns) > _MOST_COLUMNS:
        raise InputError(f"{name}: more than {_MOST_COLUMNS:,} columns, this is no list of clips")
    twice = [column for column, count in Counter(columns).items() if column and count > 1]
    if twice:
        raise InputError(f"{name}: column {', '.join(twice)} stands there more than once")
    for line, values in rows:
        if any(text.strip() for text in values[len(columns) :]):
            raise InputError(
                f"{name}: line {line}: its {len(values)} values are more than the {len(columns)} columns of "
                "the first line; put quotes around a value that holds the separator"
            )


def read_rows(path: Path) -> tuple[str, list[Row]]:
    """The lines of a table, the first too, without empty ones and comments (``# …``).

    Returns:
        The separator, empty where none was found, and the rows.

    Raises:
        InputError: The file is missing, no text, or has a quote without an end.
    """
    text = read_text(path)
    separator = max(_SEPARATORS, key=lambda each: _fitness(text, each))
    if not _fitness(text, separator)[0]:
        separator = ""
    try:
        return separator, list(_parsed(text, separator or _NONE))
    except csv.Error as error:
        raise InputError(f"{named(path)}: not a readable CSV file: {error}") from None


def _parsed(text: str, separator: str) -> Iterator[Row]:
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    line = 1
    for values in reader:
        hint = line == 1 and values and values[0].startswith("sep=")  # to Excel
        if any(value.strip() for value in values) and not hint and not is_comment(values[0]):
            yield line, values
        line = reader.line_num + 1


def is_comment(text: str) -> bool:
    """Whether a line that begins so is a comment: ``#``, and then no name of a file, as ``#1.avi`` is."""
    return text.startswith("#") and not FILE_NAME.search(text.split(maxsplit=1)[0])


def _fitness(text: str, separator: str) -> tuple[int, int, int]:
    """How well a separator fits the first lines.

    Returns:
        Lines of as many values as the first has, where these are several; values that are names of files as
        they stand; values of the first line.
    """
    try:
        rows = [values for _, values in itertools.islice(_parsed(text, separator), _SNIFFED)]
    except csv.Error:
        return 0, 0, 0
    width = len(rows[0]) if rows else 0
    alike = sum(len(values) == width for values in rows) if width > 1 else 0
    files = sum(bool(FILE_NAME.search(value)) for row in rows for value in row)
    return alike, files, width


def read_text(path: Path) -> str:
    """A file of text in UTF-8 or UTF-16.

    Raises:
        InputError: The file is missing, too large, or no such text.
    """
    name = named(path)
    try:
        if path.stat().st_size > _LARGEST:
            raise InputError(f"{name}: larger than {_LARGEST:,} bytes, this is no list of clips")
        content = path.read_bytes()
    except FileNotFoundError:
        hint = _meant(path) or f"; make one with: vidclf data import CLIPS_FOLDER --to {shlex.quote(name)}"
        raise InputError(f"{name}: no such manifest{'' if is_url(name) else hint}") from None
    except IsADirectoryError:
        hint = f"vidclf data import {shlex.quote(name)} --to MANIFEST.csv makes one of its clips"
        raise InputError(f"{name}: a folder, and no manifest; {hint}") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}") from None
    unmarked = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be" if content[:1] == b"\0" else "utf-8"
    encoding = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), unmarked)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{name}: line {line} is neither UTF-8 nor UTF-16; save the file as UTF-8") from None
    if "\0" in text:
        raise InputError(f"{name}: not a readable CSV file: it holds NUL characters")
    return text


def _meant(path: Path) -> str:
    """Another file of the folder, or the same file of another folder, whose name is alike."""
    beside = {file.name: file for file in path.parent.glob("*.csv")}
    others = {file.parent.name: file for file in path.parent.parent.glob(f"*/{path.name}")}
    close = [
        files[name]
        for files, given in ((beside, path.name), (others, path.parent.name))
        for name in difflib.get_close_matches(given, files, n=1)
    ]
    return f", did you mean {close[0]}?" if close else ""


def for_spreadsheets(table: "pd.DataFrame") -> "pd.DataFrame":
    """The table with its texts and headings as `no_formula`."""
    return table.map(no_formula).rename(columns=no_formula)


def no_formula(value: object) -> object:
    """A cell, with an apostrophe before a text that a spreadsheet would take for a formula.

    Names of files and classes may come from anyone: https://owasp.org/www-community/attacks/CSV_Injection.
    """
    return f"'{value}" if isinstance(value, str) and value[:1] in _FORMULA else value
