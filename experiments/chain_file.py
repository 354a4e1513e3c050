"""Finite chains of one's own as a JSON file: its keys, and one sentence for each mistake in it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hybrid_jax import chains
from hybrid_jax.chains import Chains

TWO_STATES = {
    "transitions": [[[0.9, 0.1], [0.4, 0.6]], [[0.5, 0.5], [0.5, 0.5]]],
    "rewards": [0.0, 1.0],
    "features": [[0.0], [1.0]],
    "beta": [0.5, 0.5],
    "q": [[0.1, 0.9], [0.5, 0.5]],
    "gamma": None,
}


class Problem(NamedTuple):
    """What is asked for, once it has been checked."""

    chains: Chains
    features: np.ndarray  # [S, d]
    beta: np.ndarray  # [K]
    qs: list[np.ndarray]  # of [K]
    gamma: float | None


def read(path: Path) -> dict[str, Any]:
    """The JSON object in the file. Raises ValueError or OSError."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON ({error}); see --help for what it must hold.") from error
    if not isinstance(given, dict):
        raise ValueError(f"{path} holds a {type(given).__name__}; give an object with {', '.join(TWO_STATES)}.")
    return given


def checked(given: dict[str, Any]) -> Problem:
    """The chains of a JSON object. Raises ValueError, one sentence, for the first thing that is wrong with them."""
    for name in given.keys() - TWO_STATES.keys():
        raise ValueError(f"the chain has a key {name!r}; it knows {', '.join(TWO_STATES)}.")
    for name in TWO_STATES.keys() - given.keys() - {"gamma"}:
        raise ValueError(f"the chain has no {name!r}; see --help for its form.")
    kernel, rewards, features, beta, q = (_numbers(name, given[name]) for name in list(TWO_STATES)[:5])
    if rewards.ndim == 1 and kernel.ndim == 3:
        rewards = np.tile(rewards, (len(kernel), 1))
    gamma = given.get("gamma")
    if isinstance(gamma, bool) or not isinstance(gamma, int | float | None):
        raise ValueError(f"gamma is {gamma!r}; give a number in [0, 1), or null for the average-reward form.")
    qs = [q] if q.ndim < 2 else list(q)
    if not qs:
        raise ValueError("q is an empty list; give a share for each environment.")
    for each in qs:
        chains.check(Chains(kernel, rewards), features, beta, each, gamma)
    return Problem(Chains(kernel, rewards), features, beta, qs, gamma)


def _numbers(name: str, given: Any) -> np.ndarray:
    try:
        return np.array(given, np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} is no regular array of numbers; give lists of equal length.") from error
