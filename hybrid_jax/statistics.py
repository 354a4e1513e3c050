"""Summaries of a handful of returns: mean and standard deviation, inter-quartile mean, bootstrap intervals."""

from collections.abc import Callable, Sequence

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


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of the middle half (Agarwal et al. 2021, arXiv 2108.13264): floor(n / 4) are cut at either end."""
    return float(_middle_mean(_vector(values)))


def stratified_ci(
    strata: Sequence[Sequence[float]],
    statistic: Callable[[np.ndarray], np.ndarray] | None = None,
    times: Sequence[int] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile interval of a statistic of all values, each stratum (task) resampled by itself.

    As in Agarwal et al. 2021: of a stratum's n runs n are drawn with replacement; a task never stands in for another.
    statistic: [..., n] -> [...], along the last axis; None: the inter-quartile mean.
    times: how often the runs of each stratum stand among the values; None: once.
    """
    parts = [_vector(stratum) for stratum in strata]
    if not parts:
        raise ValueError("a stratified interval needs at least one stratum; none was given.")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; give a share between 0 and 1, such as 0.95.")
    rng = np.random.default_rng(seed)
    drawn = [part[rng.integers(0, part.size, (resamples, part.size))] for part in parts]
    standing = [part for part, often in zip(drawn, times or [1] * len(parts), strict=True) for _ in range(often)]
    found = (statistic or _middle_mean)(np.concatenate(standing, axis=1))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _middle_mean(x: np.ndarray) -> np.ndarray:
    cut = x.shape[-1] // 4
    return np.sort(x, axis=-1)[..., cut : x.shape[-1] - cut].mean(axis=-1)


def _vector(values: Sequence[float]) -> np.ndarray:
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"a summary needs at least one value in one row, not an array of shape {x.shape}.")
    return x
