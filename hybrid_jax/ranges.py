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


def widths(config: Any, *names: str) -> None:
    """Raises ValueError unless each field named holds the widths of one hidden layer or more, or None."""
    for name in names:
        value = getattr(config, name)
        if value is not None and (not value or min(value) < 1):
            raise ValueError(f"{name} is {value}; give at least one positive width, e.g. (256, 256).")
