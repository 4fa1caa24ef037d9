"""The Hugging Face hub, from which networks of other libraries come."""

import contextlib
import functools
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants

from vidclf.exceptions import InputError

_SECONDS = 10
"""In which the hub should answer, and for which an answer counts."""


def endpoint() -> str:
    """The hub's address."""
    return str(constants.ENDPOINT)


@contextlib.contextmanager
def downloads(what: str, cure: str, source: str = "") -> Iterator[None]:
    """What is asked of the hub inside comes from its cache where the hub does not answer.

    Otherwise its client would try for a minute. What it prints goes to stderr.

    Args:
        what: The thing that is wanted.
        cure: What to do where it cannot be had.
        source: Where it is; the hub is not asked for what is in a folder.

    Raises:
        InputError: It cannot be had.
    """
    offline, reason = constants.HF_HUB_OFFLINE, ""
    if not (
        offline or Path(source or "-").is_dir() or _answers(endpoint(), int(time.monotonic() / _SECONDS))
    ):
        constants.HF_HUB_OFFLINE = True
        reason = f"{endpoint()} does not answer, and it is not in {constants.HF_HUB_CACHE}"
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except InputError:
        raise
    except Exception as error:  # of the libraries, the hub's client and its client, safetensors, torch
        reason = reason or " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{what} could not be downloaded or read ({reason}); {cure}") from None
    finally:
        constants.HF_HUB_OFFLINE = offline


@functools.cache
def _answers(url: str, now: int) -> bool:
    """Whether there is a server; asked again when ``now`` has changed."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True
