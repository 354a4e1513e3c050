"""HalfCheetah's semantics; the physics themselves are compared in test_physics.py."""

import jax
import jax.numpy as jnp
import numpy as np

from envs import half_cheetah


def test_real_and_simulated_side_agree_on_the_task():
    real = half_cheetah.make_real()
    assert real.observation_space.shape == (half_cheetah.SPEC.obs_size,)
    assert real.action_space.shape == (half_cheetah.SPEC.action_size,)
    assert real.unwrapped.dt == half_cheetah.SPEC.dt
    assert real.spec.max_episode_steps == half_cheetah.SPEC.episode_length
    real.close()


def test_first_states_are_spread_as_gymnasium_spreads_them():
    env = half_cheetah.make(engine="native", threads=1)
    _, obs = jax.vmap(env.reset, in_axes=(None, 0))(env.model, jax.random.split(jax.random.key(0), 2000))
    positions, velocities = np.asarray(obs[:, :8]), np.asarray(obs[:, 8:])
    assert np.abs(positions).max() <= 0.1 and np.abs(positions).max() > 0.099
    np.testing.assert_allclose(positions.std(), 0.1 / np.sqrt(3), rtol=0.03)
    np.testing.assert_allclose(velocities.std(), 0.1, rtol=0.03)


def test_reward_is_speed_less_control_and_nothing_terminates():
    env = half_cheetah.make(engine="native", threads=1)
    state, _ = env.reset(env.model, jax.random.key(0))
    action = jnp.array([1.0, -1.0, 0.5, 0.0, 0.2, -0.3])
    _, motion = env.physics.step(env.model, state, action)
    _, out = env.step(env.model, state, action)
    expected = motion.displacement[0] / 0.05 - 0.1 * (1 + 1 + 0.25 + 0.04 + 0.09)
    np.testing.assert_allclose(out.reward, expected, rtol=1e-5)
    assert not out.terminated and not out.truncated
