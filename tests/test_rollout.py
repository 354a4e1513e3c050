"""The rollout on the point mass, whose every row has a known successor."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import half_cheetah, point_mass
from hybrid_jax import physics, rollout
from hybrid_jax.types import Step

SIMS, LENGTH = 6, 250  # more than two episodes of 100 steps


def _random(obs, key):
    return jax.random.uniform(key, (obs.shape[0], 1), minval=-1.0, maxval=1.0)


@pytest.fixture(scope="module")
def seen():
    """A long rollout of the point mass: (rows [T, N], valid, stats, first state)."""
    env = point_mass.make()
    state = rollout.init(env, jax.random.key(0), SIMS, 32)
    run = jax.jit(lambda state, key: rollout.rollout(env, _random, state, key, LENGTH))
    _, rows, valid, stats = jax.device_get(run(state, jax.random.key(1)))
    return rows, valid, stats, jax.device_get(state)


def test_every_row_holds_its_true_successor(seen):
    rows, valid, *_ = seen
    constants = point_mass.make().model
    x, v, reward, fell = point_mass.dynamics(constants, rows.obs, rows.action)
    assert valid.all()
    np.testing.assert_allclose(rows.next_obs, np.stack([x, v], -1), atol=1e-6)
    np.testing.assert_allclose(rows.reward, reward, atol=1e-5)
    np.testing.assert_array_equal(rows.discount, 1.0 - fell)
    assert fell.any() and not fell.all()


def test_rows_follow_each_other_except_where_an_episode_ends(seen):
    rows, _, stats, first = seen
    follows = np.all(rows.next_obs[:-1] == rows.obs[1:], axis=-1)
    terminated = rows.discount[:-1] == 0
    time = np.array(first.time)
    pool = {tuple(obs) for obs in first.pool.obs}
    ended = 0
    for t in range(LENGTH):
        time = time + 1
        ends = (rows.discount[t] == 0) | (time >= point_mass.SPEC.episode_length)
        ended += ends.sum()
        if t < LENGTH - 1:
            np.testing.assert_array_equal(follows[t], ~ends)
            for n in np.flatnonzero(ends):
                assert tuple(rows.obs[t + 1, n]) in pool  # a reset goes to a first state of the pool
        time[ends] = 0
    assert stats.episodes == ended
    assert stats.terminated == (rows.discount == 0).sum()
    assert terminated.sum() < ended  # some were cut by the clock, and those rows keep discount 1


def test_clocks_are_staggered(seen):
    np.testing.assert_array_equal(seen[3].time, np.arange(SIMS) * 100 // SIMS)


def test_returns_of_ended_episodes_are_summed(seen):
    rows, _, stats, first = seen
    total, running, time = 0.0, np.zeros(SIMS), np.array(first.time)
    for t in range(LENGTH):
        running, time = running + rows.reward[t], time + 1
        ends = (rows.discount[t] == 0) | (time >= 100)
        total += running[ends].sum()
        running[ends], time[ends] = 0.0, 0
    np.testing.assert_allclose(stats.return_sum, total, rtol=1e-4)


def _sick(env, bad_obs):
    """The point mass, but simulation states with x > 0.5 give a broken observation."""

    def step(model, state, action):
        state, out = env.step(model, state, action)
        obs = jnp.where(out.obs[0] > 0.5, bad_obs, out.obs)
        return obs, Step(obs, out.reward, out.terminated, out.truncated)

    return env._replace(step=step)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, 1e11])
def test_diverged_simulations_are_masked_counted_and_reset(bad):
    env = _sick(point_mass.make(), bad)
    state = rollout.init(env, jax.random.key(0), 8, 16)
    state, rows, valid, stats = rollout.rollout(env, _random, state, jax.random.key(1), 40)
    broken = ~np.all(np.isfinite(rows.next_obs) & (np.abs(rows.next_obs) < 1e10), axis=-1)
    assert broken.any()
    np.testing.assert_array_equal(~valid, broken)
    assert stats.diverged == broken.sum()
    chex.assert_tree_all_finite((state.obs, rows.obs))
    assert np.all(np.asarray(state.time)[broken[-1]] == 0)
    chunk, count = rollout.compact(rows, valid)
    assert count == valid.sum()
    expected = np.asarray(rows.obs)[np.asarray(valid)]
    np.testing.assert_array_equal(chunk.obs[: int(count)], expected)  # in order, valid ones first
    chex.assert_tree_all_finite(chunk)
    assert not np.any(chunk.next_obs[int(count) :])


def test_each_simulation_may_have_its_own_physics():
    env = half_cheetah.make(engine="native", threads=1)
    base = env.model
    scales = np.linspace(0.5, 2.0, 4).astype(np.float32)
    env = env._replace(model=physics.stack([base._replace(gravity=base.gravity * s) for s in scales]))
    state = rollout.init(env, jax.random.key(0), 4, 2)
    assert state.pool.obs.shape == (4, 17)
    still = lambda obs, key: jnp.zeros((obs.shape[0], 6))  # noqa: E731
    _, rows, _, _ = rollout.rollout(env, still, state, jax.random.key(1), 1)
    step = jax.jit(env.step)
    for n, scale in enumerate(scales):
        alone = base._replace(gravity=base.gravity * scale)
        _, out = step(alone, state.env[n], jnp.zeros(6))
        np.testing.assert_array_equal(rows.next_obs[0, n], out.obs)
