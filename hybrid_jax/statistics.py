"""Summaries of a handful of returns: mean and standard deviation, bootstrap interval."""

from collections.abc import Sequence

import numpy as np


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (divisor n - 1); the latter is NaN for a single value."""
    x = _vector(values)
    return float(x.mean()), float(x.std(ddof=1)) if x.size > 1 else float("nan")


def bootstrap_ci(
    values: Sequence[float], level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The percentile-bootstrap interval of the mean (Efron, 1979).

    Draws `resamples` samples of n values with replacement; the interval holds the middle `level` of their
    means. A single value gives (value, value). Raises ValueError for no value, or a level outside (0, 1).
    """
    x = _vector(values)
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; give a share between 0 and 1, such as 0.95.")
    rows = np.random.default_rng(seed).integers(0, x.size, (resamples, x.size))
    low, high = np.quantile(x[rows].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _vector(values: Sequence[float]) -> np.ndarray:
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"a summary needs at least one value in one row, not an array of shape {x.shape}.")
    return x
