"""Counts against laws, and many replicas of the mixing scheme, from which the counts are."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import chdtri

from hybrid_jax import chains, finite
from hybrid_jax.chains import Chains
from hybrid_jax.mixing import Rates

LEVEL = 1e-6
"""Of the chi-square tests: how often a right implementation would fail with fresh seeds. Ours are fixed."""

TWO_STATES = Chains(
    np.array([[[0.9, 0.1], [0.4, 0.6]], [[0.5, 0.5], [0.5, 0.5]]]),  # real; sim
    np.array([[0.0, 1.0], [0.0, 1.0]]),
)
LAWS = chains.stationary(TWO_STATES.kernel)  # [2, 2] (4/5, 1/5), (1/2, 1/2)
ONLY = np.ones((2, 1), np.float32)  # the policy of two states with one action


def assert_law(counts, law, level=LEVEL):
    """Pearson's chi-square; nothing impossible was seen. Cells of fewer than 5 expected counts are pooled."""
    counts, law = np.asarray(counts, float).ravel(), np.asarray(law, float).ravel()
    np.testing.assert_allclose(law.sum(), 1)
    assert not counts[law < 1e-15].any(), "the impossible was counted"
    expected = law * counts.sum()
    rare = expected < 5
    expected = np.append(expected[~rare], expected[rare].sum())
    seen = np.append(counts[~rare], counts[rare].sum())
    kept = expected > 0
    statistic = np.sum((seen - expected)[kept] ** 2 / expected[kept])
    bound = chdtri(kept.sum() - 1, level)
    assert statistic < bound, f"chi-square {statistic:.1f} of {kept.sum() - 1} degrees, bound {bound:.1f}"


def assert_same_law(first, second, level=LEVEL):
    """Two-sample chi-square, for counts of two runs whose law need not be known."""
    table = np.stack([np.ravel(first), np.ravel(second)]).astype(float)
    table = table[:, table.sum(axis=0) >= 10]
    expected = table.sum(axis=0) * table.sum(axis=1, keepdims=True) / table.sum()
    statistic, bound = np.sum((table - expected) ** 2 / expected), chdtri(table.shape[1] - 1, level)
    assert statistic < bound, f"chi-square {statistic:.1f}, bound {bound:.1f}"


def assert_mean(values, mean, sigmas=5.0):
    """The mean of independent values lies within so many of its standard errors (5: once in 1.7 million)."""
    values = np.asarray(values, float)
    error = values.std() / values.size**0.5
    assert abs(values.mean() - mean) < sigmas * error, f"{values.mean():.5f} is not {mean:.5f} +- {error:.5f}"


def rejects(check, *arguments, **named):
    """The check fails on this."""
    with pytest.raises(AssertionError):
        check(*arguments, **named)


def table(shape, *columns):
    """How often each combination of the columns [R] occurs: counts of that shape."""
    cell = np.ravel_multi_index([np.asarray(c) for c in columns], shape)
    return np.bincount(cell, minlength=int(np.prod(shape))).reshape(shape)


class Seen(NamedTuple):
    """The last steps of R independent replicas; leaves [last, R]."""

    visited: np.ndarray  # i
    source: np.ndarray  # j
    environment: np.ndarray  # of the row drawn
    here: np.ndarray  # s
    there: np.ndarray  # s'
    window: np.ndarray  # [last, R, stores, capacity] s' of every row, the newest first; -1 for none


def replicas(store, rates, steps, last=1, filled=0, count=40_000, seed=0, world=TWO_STATES, first=None) -> Seen:
    """Runs the scheme `count` times from stationary first states (or those of law `first`), one draw a step."""
    scheme = finite.make(chains.without_actions(world), store)
    law = jnp.asarray(chains.stationary(world.kernel) if first is None else first, jnp.float32)

    def run(key, rates):
        init_key, fill_key, key = jax.random.split(key, 3)
        state = scheme.init(init_key, law)
        if filled:
            state = scheme.fill(state, fill_key, ONLY, filled)

        def step(state, key):
            state, visited, batch = scheme.step(state, key, ONLY, rates)
            row = jax.tree.map(lambda leaf: leaf[0], batch.rows)
            seen = (visited, batch.source[0], row.extras["environment"], row.obs, row.next_obs)
            return state, Seen(*seen, windows(store, state.buffers))

        seen = jax.lax.scan(step, state, jax.random.split(key, steps))[1]
        return jax.tree.map(lambda leaf: leaf[steps - last :], seen)

    rates = Rates(*(jnp.asarray(p, jnp.float32) for p in rates))
    return jax.device_get(jax.jit(jax.vmap(run, (0, None), 1))(jax.random.split(jax.random.key(seed), count), rates))


def windows(store, state):
    """s' of every row [stores, capacity], the newest first, -1 where there is none; capacities all alike."""
    capacity = store.capacities[0]
    age = jnp.arange(capacity)
    if len(set(store.capacities)) > 1:
        return jnp.zeros((0,), jnp.int32)
    data = state.data.next_obs.reshape(-1, capacity)
    newest_first = jnp.take_along_axis(data, (state.head[:, None] - 1 - age[None]) % capacity, axis=1)
    return jnp.where(age[None] < state.size[:, None], newest_first, -1)


def aliased(store):
    """The authors' buffers as coded: one observation array stands in every store, so that each write is in all."""
    offsets = np.cumsum((0, *store.capacities[:-1]))

    def add(state, k, rows, count=None):
        place = state.head[k]
        after = store.add(state, k, rows, count)
        written = 1 if count is None else count
        obs = after.data.obs
        for offset, capacity in zip(offsets, store.capacities, strict=True):
            index = offset + place % capacity
            obs = obs.at[index].set(jnp.where(written > 0, rows.obs[0], obs[index]))
        return after._replace(data=after.data._replace(obs=obs))

    return store._replace(add=add)
