"""Evaluation on the point mass against returns summed by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from envs import point_mass
from hybrid_jax import evaluate


def _brake(obs):
    return np.clip(-1.5 * obs[:1] - 1.0 * obs[1:], -1, 1)


def test_a_real_episode_holds_every_observation_and_reward():
    env, frames = point_mass.make_real(), []
    episode = evaluate.real_episode(env, _brake, seed=3, limit=100, frame=lambda: frames.append(1))
    assert episode.obs.shape == (101, 2) and episode.actions.shape == (100, 1) and len(frames) == 100
    assert not episode.terminated
    env.reset(seed=3)
    total = 0.0
    for t in range(100):
        obs, reward, *_ = env.step(_brake(episode.obs[t]))
        np.testing.assert_allclose(obs, episode.obs[t + 1], rtol=1e-6, atol=1e-7)
        total += reward
    np.testing.assert_allclose(episode.total, total, rtol=1e-6)


def test_an_episode_that_leaves_the_track_terminates():
    episode = evaluate.real_episode(point_mass.make_real(), lambda obs: np.ones(1), seed=0, limit=100)
    assert episode.terminated and len(episode.rewards) < 100 and abs(episode.obs[-1, 0]) > 2


def test_policies_meet_the_same_first_states():
    env = point_mass.make_real()
    first = [
        [episode.obs[0] for episode in evaluate.real_episodes(env, act, 3, 50, 10)]
        for act in (_brake, lambda obs: np.ones(1))
    ]
    np.testing.assert_array_equal(*first)
    assert len({tuple(obs) for obs in first[0]}) == 3


def test_sim_returns_stop_at_the_terminal():
    env = point_mass.make()
    push = lambda policy, obs: jnp.broadcast_to(policy, (obs.shape[0], 1))  # noqa: E731
    returns = np.asarray(jax.jit(evaluate.sim_returns(env, push, 5))(jnp.ones(1), jax.random.key(0)))
    keys = jax.random.split(jax.random.key(0), 5)
    for key, value in zip(keys, returns, strict=True):
        _, obs = env.reset(env.model, key)
        obs, total = np.asarray(obs), 0.0
        for _ in range(100):
            x, v, reward, fell = point_mass.dynamics(point_mass.Constants(), obs, np.ones(1))
            obs, total = np.array([x, v]), total + reward
            if fell:
                break
        np.testing.assert_allclose(value, total, rtol=1e-4, atol=1e-3)
