"""Columns of a log that some algorithms declare beyond a transition's."""

from collections.abc import Sequence

import numpy as np

from hybrid_jax.datasets import checks
from hybrid_jax.datasets.hdf5 import Dataset


def columns(dataset: Dataset, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The declared columns [D, ...] by name. Raises ValueError for one that no log can give."""
    unknown = sorted(set(names) - MAKERS.keys())
    if unknown:
        raise ValueError(f"a log has no column {unknown[0]!r}; the known ones: {', '.join(MAKERS)}")
    return {name: MAKERS[name](dataset) for name in names}


def next_action_known(dataset: Dataset) -> np.ndarray:
    """1 where the next row is the same episode's next step, else 0; [D] float32."""
    jumps = checks.broken(dataset.observations, dataset.next_observations)  # a cut that no flag tells
    same = ~(dataset.terminals | dataset.timeouts | jumps)
    same[-1] = False
    return same.astype(np.float32)


def next_action(dataset: Dataset) -> np.ndarray:
    """The action taken at the successor; zeros where it is not known; [D, A] float32."""
    following = np.roll(dataset.actions, -1, axis=0)
    return following * next_action_known(dataset)[:, None]


MAKERS = {"next_action": next_action, "next_action_known": next_action_known}
