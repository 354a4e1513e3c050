"""The scale of observations: moments of real data, and networks that see (s - mean) / std.

The normalised networks are trained on scaled rows; what is handed out has the scaling folded into its first layer
and takes plain observations, so nothing behind it need know.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hybrid_jax.types import Array, PyTree, Transition

FLOOR = 1e-3  # added to every standard deviation


class Moments(NamedTuple):
    """Mean and standard deviation, over real rows, of observations and of their successors; float64 [O]."""

    mean: np.ndarray
    std: np.ndarray
    next_mean: np.ndarray
    next_std: np.ndarray

    @classmethod
    def of(cls, obs: np.ndarray, next_obs: np.ndarray) -> "Moments":
        """The moments of observations and successors [D, O]."""
        both = (np.asarray(array, np.float64) for array in (obs, next_obs))
        return cls(*(moment for array in both for moment in (array.mean(axis=0), array.std(axis=0))))


class Scaling(NamedTuple):
    """(s - mean) / (std + 1e-3) for rows, and the same inside an actor's first layer."""

    rows: Callable  # (Transition [B, ...]) -> the same with scaled observations
    fold: Callable  # (actor params for scaled observations) -> params for plain ones

    @classmethod
    def of(cls, moments: Moments | None, wanted: bool, obs_size: int) -> "Scaling":
        """The scaling by the moments of a log, or none. Raises ValueError where it is wanted without fitting ones."""
        if not wanted:
            return cls(lambda rows: rows, lambda params: params)
        if moments is None:
            raise ValueError("normalise_states needs the moments of a log of real data; give one, or leave it off.")
        check(moments, obs_size)
        mean, std = (np.asarray(x, np.float32) for x in (moments.mean, moments.std + FLOOR))

        def scaled(rows: Transition) -> Transition:
            return rows._replace(
                obs=(rows.obs - mean[None]) / std[None], next_obs=(rows.next_obs - mean[None]) / std[None]
            )

        def fold(params: PyTree) -> PyTree:
            return _with_first_layer(params, mean, std)

        return cls(scaled, fold)


def check(moments: Moments, obs_size: int) -> None:
    """Refuses moments of other observations. Raises ValueError."""
    for moment in moments:
        if moment.shape != (obs_size,):
            raise ValueError(
                f"the moments are of {moment.shape} numbers, the observation of ({obs_size},); "
                "compute them with scaling.Moments.of from the same data."
            )


def _with_first_layer(params: PyTree, mean: np.ndarray, std: np.ndarray) -> PyTree:
    """W^T (s - mean) / std + b = (W / std)^T s + (b - (W / std)^T mean)."""
    mlp = params["params"]["MLP_0"]
    kernel: Array = mlp["Dense_0"]["kernel"] / jnp.asarray(std)[:, None]
    bias = mlp["Dense_0"]["bias"] - jnp.asarray(mean) @ kernel
    first = {"kernel": kernel, "bias": bias}
    return {"params": params["params"] | {"MLP_0": mlp | {"Dense_0": first}}}
