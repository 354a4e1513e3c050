"""The columns of D4RL's layout: their names, and what each must be whatever stands in the others."""

from typing import Any

import numpy as np

from hybrid_jax.datasets.faults import Fault, at_rows

RANKS = {"observations": 2, "actions": 2, "rewards": 1, "terminals": 1}
OPTIONAL_RANKS = {"timeouts": 1, "next_observations": 2, "final_observations": 2}
KEYS = RANKS | OPTIONAL_RANKS
FLAGS = ("terminals", "timeouts")
TOLERANCE = 1e-6  # of the action bounds


def float32(array: np.ndarray) -> np.ndarray:
    """As float32; what is too large becomes infinity."""
    with np.errstate(over="ignore"):
        return np.asarray(array, np.float32)


def form(key: str, array: Any) -> list[Fault]:
    """Kind, rank and emptiness of one column, which need not have been read."""
    kinds = "bfiu" if key in FLAGS else "fiu"
    shape = "[rows, width]" if KEYS[key] == 2 else "[rows]"
    if array.dtype.kind not in kinds:
        wanted = "a flag (bool or 0/1)" if key in FLAGS else "a number"
        return [Fault(key, None, 1, f"has type {array.dtype}, wanted is {wanted}")]
    if array.ndim != KEYS[key]:
        return [Fault(key, None, 1, f"has shape {array.shape}, wanted is {shape}")]
    if array.size == 0:
        return [Fault(key, None, 1, f"is empty, shape {array.shape}")]
    return []


def flags(key: str, array: np.ndarray) -> list[Fault]:
    """Flags that are no flags."""
    bad = (array != 0) & (array != 1)
    return at_rows(key, bad, "are neither 0 nor 1", f" ({array[bad.argmax()]})")


def finite(key: str, array: np.ndarray) -> list[Fault]:
    """Rows with a number that is none."""
    bad = ~np.isfinite(float32(array))
    return at_rows(key, bad.reshape(len(bad), -1).any(axis=1), "hold NaN or infinity (in float32)")


def outside(key: str, array: np.ndarray) -> list[Fault]:
    """Actions beyond their bounds are counted, never clipped; NaN and infinity are for `finite` to tell."""
    size = np.abs(float32(array))
    size = np.where(np.isfinite(size), size, 0).max(axis=1)
    cure = "; divide the actions by the environment's limits"
    return at_rows(key, size > 1 + TOLERANCE, "lie outside [-1, 1]", f" (largest magnitude {size.max():.6g}){cure}")


def constant(key: str, array: np.ndarray) -> list[Fault]:
    """Numbers that are the same in every row, and so teach nothing."""
    array = array.reshape(len(array), -1)
    highest = array.max(axis=0)
    columns = np.flatnonzero((highest == array.min(axis=0)) & np.isfinite(highest)) if len(array) > 1 else ()
    named = ", ".join(map(str, columns[:8]))
    return [Fault(key, None, len(columns), f"{len(columns):,} columns never change: {named}")] if len(columns) else []
