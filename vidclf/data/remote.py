"""Files behind URLs: the only module that imports fsspec.

A file is fetched once into the caches of the machine, and everything else works on that copy; `named` tells
which URL a copy is of, so that people read of URLs and never of copies.

A copy lies under ``files/<scheme>/<host>/<path>/<version>/<name>``. The version is made of what the server
says of the file, so that a changed file gets another copy, and work on the old one goes on undisturbed.
"""

import errno
import logging
import os
import posixpath
import re
import urllib.parse
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

from vidclf import config
from vidclf.config import is_url
from vidclf.data import cache
from vidclf.exceptions import InputError
from vidclf.progress import Advance, Progress, counted, silent

logger = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

SCHEMES = ("file", "http", "https", "s3", "gs", "az", "hf")
"""URLs that are opened. fsspec knows more, and a manifest may come from anyone: some read any file, run
templates, or open others in turn."""
_CACHE = "files"
_THREADS = 32
"""Requests at once: they wait for the network, not for a core."""
_LOCKS = 64
"""Locks that all files share; two that fall on one only wait for each other."""
_WORTH_TELLING = 10**9
"""Bytes from which on the amount is told before it is fetched."""
_CONTENT = ("etag", "md5hash", "content-md5", "digest", "generation")
_TIME = ("mtime", "modified", "lastmodified", "last_modified", "last-modified", "updated", "created")
"""By what servers tell one version of a file from another, under fsspec's names in lower case."""
_ABSENT = "absent"
"""In place of a version: where the copy of a file would lie that does not exist."""
_SECRET = re.compile(
    r"(?<=://)[^/@:]*:[^/@]*@"
    r"|(?<=[?&])(x-(amz|goog|oss)-[^=&]*|(access_?)?token|sig(nature)?|expires|policy|key-pair-id|awsaccesskeyid"
    r"|googleaccessid|se|sp|sv|sr|st|skoid|sktid|skt|ske|sks|skv)=[^&]*&?",
    re.IGNORECASE,
)
"""A password in an address, or what signs it: that changes with each signature, and the file does not."""
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_GONE = (404, 410)
_NOT_FIT = "do not fit into the caches"
_ROOM = "raise VIDCLF_CACHE_GB, or make room with: vidclf data store --clear"

_copies: dict[tuple[Path, str], Path] = {}
"""Copies by caches' folder and URL: a process asks the server once, and then stays with that version."""


def local_file(name: str) -> Path:
    """A path as it is, a URL as its copy; see `local_files`."""
    return local_files([name])[0]


def local_files(names: Sequence[str], progress: Progress = silent) -> list[Path]:
    """Paths as they are, and URLs as their copies, which are fetched where they lack.

    A file that does not exist gets a path where none is, as a wrong path would be.

    Args:
        names: Absolute paths and URLs.
        progress: Called with (files fetched, files to fetch).

    Raises:
        InputError: Something stands in the way of fetching: no driver, credentials, network or room.
    """
    urls = list(dict.fromkeys(filter(is_url, names)))
    if urls:
        cache.hold(_CACHE)
    folder = cache.folder()
    found = {url: copy for url in urls if (copy := _copies.get((folder, url))) and copy.is_file()}
    addresses = [_address(url) for url in urls if url not in found]
    # Drivers without asyncio, as that of FTP, have one connection, which threads must not share.
    threads = _THREADS if all(address.driver.async_impl for address in addresses) else 1
    files = _each(_look_up, addresses, threads)
    lacking = [file for file in files if file.exists and not file.copy.is_file()]
    _check_room(lacking)
    _each(partial(_fetch, done=counted(progress, len(lacking))), lacking, threads)
    _copies.update({(folder, file.address.url): file.copy for file in files if file.exists})
    found |= {file.address.url: file.copy for file in files}
    return [found[name] if is_url(name) else Path(name) for name in names]


def named(path: Path) -> str:
    """What people know a file by: the URL that it is a copy of, else its path."""
    try:
        scheme, *place, _, _ = map(_unquoted, path.relative_to(_root()).parts)
    except ValueError:
        return str(path)
    return f"{scheme}://{'/'.join(place)}"


def public(url: str) -> str:
    """The address without passwords and signatures, as it may stand in reports."""
    public, secrets = _SECRET.subn("", url)
    return public.rstrip("?&") if secrets else url


def known_copy(name: str) -> Path | None:
    """The file of a name that `named` gave, without asking a server; ``None`` where nothing was fetched."""
    if not is_url(name):
        return Path(name)
    copies = [copy for copy in _home(name).glob("*/*") if copy.is_file() and copy.suffix != ".partial"]
    return max(copies, key=lambda copy: copy.stat().st_mtime_ns, default=None)


def join(folder: str, text: str) -> str:
    """The absolute path or URL that a text in ``folder``, a path or URL, means."""
    if is_url(text):
        return text
    if not is_url(folder) or text.startswith("/"):
        return str(Path(folder, text).absolute())
    scheme, mark, place = folder.partition("://")
    return f"{scheme}{mark}{posixpath.normpath(posixpath.join(place, text))}"


def parent(name: str) -> str:
    """The folder of a path or URL."""
    if not is_url(name):
        return str(Path(name).parent)
    return (name.partition("?")[0] if _is_web(name) else name).rpartition("/")[0]


def local_target(option: str, name: str) -> Path:
    """The path of a file to write.

    Raises:
        InputError: It is a URL.
    """
    if is_url(name):
        raise InputError(f"{option} {name}: files are written on this machine only; copy it there afterwards")
    return Path(name)


def children(folder: str) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files right below a folder, a path or URL; each sorted.

    Raises:
        InputError: There is no such folder, or it cannot be listed.
    """
    if not is_url(folder):
        if not Path(folder).is_dir():
            raise InputError(f"{folder}: no such folder")
        below = sorted(Path(folder).iterdir())
        folders = [child.name for child in below if child.is_dir()]
        return folders, [child.name for child in below if not child.is_dir()]
    address = _address(folder)
    with _explained(folder):
        try:
            listed = address.driver.ls(address.path, detail=True)
        except FileNotFoundError:
            raise InputError(f"{public(folder)}: no such folder") from None
    names: dict[bool, list[str]] = {True: [], False: []}
    for item in listed:
        path = item["name"].strip("/")
        if path != address.path.strip("/"):  # object stores may have an object of the folder's own name
            names[item["type"] == "directory"].append(posixpath.basename(path))
    return sorted(names[True]), sorted(names[False])


@dataclass(frozen=True)
class _Address:
    """A URL, fsspec's driver for it, and the path by which the driver knows it."""

    url: str
    driver: Any
    path: str


@dataclass(frozen=True)
class _File:
    """What a server says of a file.

    Attributes:
        address: Where it lies.
        copy: Where its copy lies, or will.
        size: In bytes; ``None`` where the server does not say.
        exists: Whether there is such a file.
    """

    address: _Address
    copy: Path
    size: int | None = None
    exists: bool = True


def _address(url: str) -> _Address:
    """Raises:
    InputError: Its scheme is none that may be opened, or it is a chain of several.
    """
    scheme, chain = url.partition("://")[0], "::" in url
    known = [*SCHEMES, *os.environ.get("VIDCLF_URL_SCHEMES", "").split(",")]
    if chain or scheme.lower() not in known:
        why = "chains of schemes are not opened" if chain else f"{scheme}:// is not opened"
        raise InputError(
            f"{public(url)}: {why}: only {', '.join(SCHEMES)}, and what VIDCLF_URL_SCHEMES lists, as ftp,sftp"
        )
    with _explained(url):
        return _Address(url, *fsspec.core.url_to_fs(url))


def _look_up(address: _Address) -> _File:
    """Asks the server, by one request."""
    url, driver, path = address.url, address.driver, address.path
    name = _quoted(posixpath.basename(path.partition("?")[0]))
    with _explained(url):
        try:
            facts = driver.info(path)
        except FileNotFoundError as error:
            # The driver of http says so whatever went wrong.
            if _is_web(url) and getattr(error.__cause__, "status", None) not in _GONE:
                raise (error.__cause__ or error) from None
            return _File(address, _home(url) / _ABSENT / name, exists=False)
        if facts["type"] == "directory":
            raise InputError(f"{public(url)}: a folder; expected a file")
    if isinstance(driver, LocalFileSystem):
        return _File(address, Path(path))
    size = facts.get("size")
    version = config.digest([size, _version(facts)])[:16]
    return _File(address, _home(url) / version / name, size)


def _version(facts: Mapping[str, Any]) -> str:
    """What tells this content of a file from others."""
    known = {name.lower(): value for name, value in facts.items() if value}
    return next((f"{name} {known[name]}" for name in (*_CONTENT, *_TIME) if name in known), "")


def _check_room(files: Sequence[_File]) -> None:
    needed, free = sum(file.size or 0 for file in files), cache.free_bytes()
    amount = f"{len(files)} file{'s' if len(files) > 1 else ''} behind URLs, {needed / 1e6:,.1f} MB"
    if needed > free:
        raise InputError(
            f"{amount}, {_NOT_FIT}: {free / 1e6:,.1f} of {cache.limit_bytes() / 1e6:,.1f} MB left; {_ROOM}"
        )
    if needed > _WORTH_TELLING:
        logger.info("fetching %s, into %s", amount, cache.folder())


def _fetch(file: _File, done: Advance) -> None:
    """Fetches a file whole or not at all, unless another process was faster."""
    url = file.address.url
    with _explained(url), FileLock(cache.lock_file(f"{_CACHE}-{zlib.crc32(url.encode()) % _LOCKS:02}")):
        if not file.copy.is_file():
            for left in file.copy.parent.glob("*.partial"):  # of a process that was killed
                left.unlink()
            if not cache.keep(file.copy, file.size or 0, partial(_write, file)):
                raise InputError(f"{public(url)}: {_NOT_FIT} or onto the disk; {_ROOM}")
    done()


def _write(file: _File, opened: IO[bytes]) -> None:
    target = Path(opened.name)
    try:
        file.address.driver.get_file(file.address.path, str(target))
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise
        raise _Lost(error) from error  # an OSError means to the cache that the disk is full
    came = target.stat().st_size
    if file.size is not None and came != file.size:
        raise InputError(
            f"{public(file.address.url)}: {came:,} of {file.size:,} bytes came: it has changed meanwhile, "
            "or the connection broke; repeat the command"
        )


class _Lost(Exception):  # noqa: N818  (carries an error through the cache)
    """What a driver raised while it fetched."""


def _each(work: Callable[[T], R], items: Iterable[T], threads: int) -> list[R]:
    """The results in order; the first problems end it, as they are mostly those of all other items too.

    Raises:
        InputError: All problems until then.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        futures = [pool.submit(work, item) for item in items]
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:
        pool.shutdown(cancel_futures=True)
    errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
    problems = [problem for error in errors if isinstance(error, InputError) for problem in error.problems]
    if problems:
        raise InputError(*problems)
    if errors:
        raise errors[0]
    return [future.result() for future in futures]


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Says in one line what a driver could not do: drivers raise what the libraries below them do."""
    try:
        yield
    except InputError:
        raise
    except ImportError as error:
        raise InputError(
            f"{public(url)}: its driver is not installed: {error}; those of s3:// and https:// come with: "
            "pip install 'vidclf[server]'"
        ) from None
    except Exception as error:
        cause = error.__cause__ if isinstance(error, _Lost) and error.__cause__ else error
        raise InputError(f"{public(url)}: {_reason(cause)}") from None


def _reason(error: BaseException) -> str:
    status = getattr(error, "status", None)  # of http; its text repeats the address
    text = f"{status} {getattr(error, 'message', '')}" if status else str(error)
    reason = f"{type(error).__name__}: {text.strip().partition(chr(10))[0]}"
    if "Credential" in reason or isinstance(error, PermissionError):
        reason += " (credentials are given to the driver, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
    return reason


def _root() -> Path:
    return (cache.folder() / _CACHE).absolute()


def _home(url: str) -> Path:
    """The folder of all versions of a file; `named` is its inverse."""
    scheme, _, place = public(url).partition("://")
    return _root().joinpath(*map(_quoted, [scheme, *place.split("/")]))


def _quoted(text: str) -> str:
    """A part of an address as the name of a file, and no way out of its folder."""
    return {"": "%", ".": "%2E", "..": "%2E%2E"}.get(text) or urllib.parse.quote(text, safe=" ()+,;=@!&'")


def _unquoted(name: str) -> str:
    return "" if name == "%" else urllib.parse.unquote(name)


def _is_web(url: str) -> bool:
    return url.startswith(("http://", "https://"))
