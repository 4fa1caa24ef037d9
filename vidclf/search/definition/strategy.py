"""Sections of a study file that choose their class by ``name``: the sampler and the pruner."""

from collections.abc import Mapping
from typing import Any

from vidclf.config import Section, did_you_mean, meant_key


class Strategy(Section):
    """What a ``[sampler]`` and a ``[pruner]`` have in common."""

    name: str
    """Which one."""

    @property
    def options(self) -> dict[str, Any]:
        """Its options, those that the file leaves at their defaults too."""
        return self.model_dump(exclude={"name", "seed"})


def validate_strategy(noun: str, table: Mapping[str, type[Strategy]], default: str, given: Any) -> Any:
    """The section as the class that its ``name`` stands for.

    A union that pydantic discriminates would list the classes beside the table again, and would call
    an option that only others have unknown.

    Args:
        noun: What is named, which is also the section's key in the file.
        table: Class by name.
        default: The name where none is given.
        given: The section as read from the file.

    Raises:
        ValueError: The name or an option is unknown, or the option is another one's.
        ValidationError: Every option whose value is refused.
    """
    if not isinstance(given, Mapping):
        return given
    name = given.get("name", default)
    if not isinstance(name, str) or name not in table:
        raise ValueError(
            f"unknown {noun} {name!r}{did_you_mean(str(name), list(table))} (there are {', '.join(table)})"
        )
    for option in sorted(given.keys() - table[name].model_fields.keys()):
        owners = ", ".join(other for other, kind in table.items() if option in kind.model_fields)
        if not owners:
            known = [f"{noun}.{field}" for field in table[name].model_fields]
            raise ValueError(f"unknown key {noun}.{option}{meant_key(f'{noun}.{option}', known)}")
        raise ValueError(f"{noun}.{option} has no effect with the {noun} {name}; it is an option of {owners}")
    return table[name].model_validate({**given, "name": name})
