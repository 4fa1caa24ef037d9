"""Options that belong to one of several named things, as those of a sampler or a pruner."""

from collections.abc import Iterable, Mapping
from typing import Any

from vidclf import config
from vidclf.config import Section

Defaults = Mapping[str, Any]
"""What a named thing's options are when the file does not set them."""


def given_options(settings: Section, common: Iterable[str]) -> dict[str, Any]:
    """The options that a file sets; ``common`` fields are none."""
    names = sorted(settings.model_fields_set - set(common))
    return {name: value for name in names if (value := getattr(settings, name)) is not None}


def check_options(noun: str, name: str, given: Iterable[str], table: Mapping[str, Defaults]) -> None:
    """Refuses an unknown name, and options that only others have.

    Args:
        noun: What is named, which is also its section of the file.
        name: The name given.
        given: Options that the file sets.
        table: The options of every name.

    Raises:
        ValueError: The first problem.
    """
    if name not in table:
        raise ValueError(
            f"unknown {noun} {name!r}{config.did_you_mean(name, list(table))} (there are {', '.join(table)})"
        )
    for option in sorted(set(given) - table[name].keys()):
        owners = ", ".join(other for other, options in table.items() if option in options)
        raise ValueError(f"{noun}.{option} has no effect with the {noun} {name}; it is an option of {owners}")
