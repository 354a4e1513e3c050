"""Hyper-parameters out of their range: one sentence with name, value and cure."""

import math
from typing import Any


def positive(config: Any, *names: str, none: str = "") -> None:
    """Raises ValueError unless each field named is a positive number, or None where `none` says what that means."""
    for name in names:
        value = getattr(config, name)
        if none and value is None:
            continue
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; give a positive number{none and f', or None for {none}'}.")


def at_least(config: Any, least: float, *names: str) -> None:
    """Raises ValueError unless each field named is a number of that size or above."""
    for name in names:
        if not least <= getattr(config, name) < math.inf:
            raise ValueError(f"{name} is {getattr(config, name)}; give at least {least}.")


def share(config: Any, *names: str) -> None:
    """Raises ValueError unless each field named is a number in [0, 1]."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}; give a share in [0, 1].")


def one_of(config: Any, name: str, known: tuple[str, ...]) -> None:
    """Raises ValueError unless the field is one of the words."""
    if getattr(config, name) not in known:
        raise ValueError(f"{name} is {getattr(config, name)!r}; use one of {', '.join(known)}.")


def only(config: Any, why: str, **values: Any) -> None:
    """Raises ValueError unless each field has the one value that the algorithm knows."""
    for name, value in values.items():
        if getattr(config, name) != value:
            raise ValueError(f"{name} is {getattr(config, name)}; {why}: give {value}.")


def widths(config: Any, *names: str) -> None:
    """Raises ValueError unless each field named holds the widths of one hidden layer or more, or None."""
    for name in names:
        value = getattr(config, name)
        if value is not None and (not value or min(value) < 1):
            raise ValueError(f"{name} is {value}; give at least one positive width, e.g. (256, 256).")
