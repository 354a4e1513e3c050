"""Observations in units of their own spread, from statistics that run along.

    x = clip((clip(s, -200, 200) - mean) / max(std, 0.01), -5, 5)

The constants are those of OpenAI's HER baselines, which the authors of arXiv 2110.00445 took over.

What is handed out takes plain observations: the mean lies inside of both bounds, so the two are one clip between
low = max(-200, mean - 5 std) and high = min(200, mean + 5 std), and a pair of ReLUs for each number is that clip:

    x = (low - mean) / std + relu((s - low) / std) - relu((s - high) / std)

A normalised actor is therefore a plain one with one layer of 2 O units more; what differs is float32's rounding of
numbers of the size of s / std.
"""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from hybrid_jax.types import Array, PyTree

OBS_BOUND = 200.0  # on an observation, before anything else
BOUND = 5.0  # on a normalised observation, in standard deviations
FLOOR = 0.01  # the least standard deviation


class Statistics(NamedTuple):
    """Of the observations seen so far, as clipped."""

    count: Array  # [] float32: rows
    mean: Array  # [O]
    variance: Array  # [O]


def init(size: int) -> Statistics:
    """Of none: observations pass as they are, but for the bounds."""
    return Statistics(jnp.float32(0), jnp.zeros(size), jnp.ones(size))


def observe(seen: Statistics, obs: Array, valid: Array | None = None) -> Statistics:
    """With the rows [B, O] of a batch, all rows ever seen weighing the same (Chan, Golub and LeVeque 1979).

    valid: [B] bool, the rows that count; None: all. Of none, the statistics stay as they are, whatever the rows hold.
    """
    chex.assert_rank(obs, 2)
    chex.assert_type(obs, float)
    obs = jnp.clip(obs, -OBS_BOUND, OBS_BOUND)
    if valid is not None:
        obs = jnp.where(valid[:, None], obs, seen.mean[None])
    new = obs.shape[0] if valid is None else jnp.sum(valid)
    count = seen.count + new
    share = new / jnp.maximum(count, 1)
    where = None if valid is None else valid[:, None] | (new == 0)  # no mean of nothing
    away = jnp.mean(obs, axis=0, where=where) - seen.mean
    within = (1 - share) * seen.variance + share * jnp.var(obs, axis=0, where=where)
    return Statistics(count, seen.mean + share * away, within + share * (1 - share) * jnp.square(away))


def normalise(seen: Statistics, obs: Array) -> Array:
    """x of this module's head for observations [B, O]."""
    chex.assert_rank(obs, 2)
    return jnp.clip((jnp.clip(obs, -OBS_BOUND, OBS_BOUND) - seen.mean[None]) / _std(seen)[None], -BOUND, BOUND)


def fold(seen: Statistics, params: PyTree) -> PyTree:
    """An actor's params for normalised observations -> one layer deeper, for plain ones; leading axes are kept."""
    mlp, std = params["params"]["MLP_0"], _std(seen)
    low = jnp.maximum(seen.mean - BOUND * std, -OBS_BOUND)
    high = jnp.minimum(seen.mean + BOUND * std, OBS_BOUND)
    scale, kernel = jnp.vectorize(jnp.diag, signature="(o)->(o,o)")(1 / std), mlp["Dense_0"]["kernel"]
    bias = mlp["Dense_0"]["bias"] + jnp.einsum("...i,...ij->...j", (low - seen.mean) / std, kernel)
    layers = [
        {"kernel": jnp.concatenate([scale, scale], -1), "bias": -jnp.concatenate([low / std, high / std], -1)},
        {"kernel": jnp.concatenate([kernel, -kernel], -2), "bias": bias},
        *(mlp[f"Dense_{i}"] for i in range(1, len(mlp))),
    ]
    deeper = {f"Dense_{i}": layer for i, layer in enumerate(layers)}
    return {"params": params["params"] | {"MLP_0": deeper}}


def _std(seen: Statistics) -> Array:
    return jnp.maximum(jnp.sqrt(seen.variance), FLOOR)
