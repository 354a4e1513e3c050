"""Rolling straight: the reward of the state before the step, on the robot of `wheel_legged`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import wheel_legged, wheel_legged_straight
from hybrid_jax import evaluate


@pytest.fixture(scope="module")
def sim():
    return wheel_legged_straight.make(engine="native", threads=1)


def test_reward_is_fifteen_less_the_error_in_speed_and_the_torque_squared():
    reward = wheel_legged_straight.reward(jnp.array([9.0, -0.3, 9.0, 9.0]), jnp.array([0.5]))
    assert reward == pytest.approx(15 - (0.5**2 + 1.5**2), abs=1e-5)
    best = wheel_legged_straight.reward(np.array([0.0, 0.2, 0.0, 0.0]), np.zeros(1), np)
    assert best == 15.0 and best * wheel_legged_straight.SPEC.episode_length == 15_000


def _check_rewards(obs, actions, rewards):
    """Each reward by hand: the speed of the row's own state, not of the next."""
    obs, actions = np.array(obs), np.array(actions)[:, 0]
    by_hand = 15 - (obs[:-1, 1] - 0.2) ** 2 - (3 * actions) ** 2
    np.testing.assert_allclose(rewards, by_hand, rtol=1e-5)
    next_speed = 15 - (obs[1:, 1] - 0.2) ** 2 - (3 * actions) ** 2
    assert np.abs(next_speed - by_hand).max() > 0.01  # the difference shows


def test_simulated_reward_is_of_the_state_before_the_step(sim):
    rng, step = np.random.default_rng(0), jax.jit(sim.step)
    state, first = sim.reset(sim.model, jax.random.key(0))
    obs, actions, rewards = [np.asarray(first)], [], []
    for _ in range(30):
        actions.append(rng.uniform(-1, 1, 1).astype(np.float32))
        state, out = step(sim.model, state, jnp.asarray(actions[-1]))
        obs.append(np.asarray(out.obs))
        rewards.append(float(out.reward))
    _check_rewards(obs, actions, rewards)


def test_real_reward_is_of_the_reading_before_the_step():
    rng, env = np.random.default_rng(0), wheel_legged_straight.make_real()
    for seed in range(2):  # after a reset, of the first reading
        obs, actions, rewards = [env.reset(seed=seed)[0]], [], []
        for _ in range(30):
            actions.append(rng.uniform(-1, 1, 1).astype(np.float32))
            reading, reward, *_ = env.step(actions[-1])
            obs.append(reading)
            rewards.append(reward)
        _check_rewards(obs, actions, rewards)


def test_robot_fall_and_gap_are_those_of_standing(sim):
    """The same motion, end and clock from the same start, on both sides and at every strength."""
    for strength in (0.0, 1.0):
        mine = wheel_legged_straight.at_strength(strength)(engine="native", threads=1)
        theirs = wheel_legged.at_strength(strength)(engine="native", threads=1)
        (a, _), (b, _) = (env.reset(env.model, jax.random.key(1)) for env in (mine, theirs))
        step, other = jax.jit(mine.step), jax.jit(theirs.step)
        ended = False
        for _ in range(400):
            a, out = step(mine.model, a, jnp.full(1, 0.3))
            b, expected = other(theirs.model, b, jnp.full(1, 0.3))
            np.testing.assert_array_equal(out.obs, expected.obs)
            assert bool(out.terminated) == bool(expected.terminated)
            ended = ended or bool(out.terminated)
        assert ended
    real, standing = wheel_legged_straight.make_real(), wheel_legged.make_real()
    real.reset(seed=0), standing.reset(seed=0)
    assert real.reality == standing.reality
    for _ in range(100):
        (obs, _, *ends, _), (theirs, _, *their_ends, _) = real.step([0.2]), standing.step([0.2])
        np.testing.assert_array_equal(obs, theirs)
        assert ends == their_ends


def _episodes(driver):
    env = wheel_legged_straight.make_real()
    return [evaluate.real_episode(env, driver, seed, 1000) for seed in range(10)]


def test_the_hand_tuned_driver_is_poor_but_rolls_forward():
    """It falls in most episodes and wanders in speed, most of the time faster than asked."""
    episodes = _episodes(wheel_legged_straight.hand_tuned(np.random.default_rng(0)))
    lengths = [len(episode.rewards) for episode in episodes]
    speeds = np.concatenate([episode.obs[:, 1] for episode in episodes])
    assert 200 < np.mean(lengths) < 950 and sum(episode.terminated for episode in episodes) >= 5
    assert 0.2 < speeds.mean() < 1.2 and speeds.std() > 0.3
    assert np.mean([np.sum(episode.rewards) for episode in episodes]) < 0.6 * 15_000


def test_the_driver_steers_for_the_wanted_speed_wherever_it_is():
    act = wheel_legged_straight.hand_tuned(np.random.default_rng(0), wheel_legged_straight.DRIVER._replace(noise=0.0))
    np.testing.assert_allclose(act(np.array([5.0, 0.2, 0.0, 0.0])), 0.0, atol=1e-12)
    np.testing.assert_allclose(act(np.array([5.0, 0.0, 0.1, 0.0])), 0.6 * -0.2 + 4.0 * 0.1)


def test_a_good_driver_comes_near_the_maximum():
    """The task can be done: state feedback about the true balance, -0.066 rad, holds 0.2 m/s without a fall."""
    balance = np.array([0.0, 0.2, -np.arctan2(0.02, 0.30), 0.0])
    gains = np.array([0.0, 0.8, 6.0, 0.8])
    episodes = _episodes(lambda obs: np.clip([gains @ (obs - balance)], -1, 1))
    assert not any(episode.terminated for episode in episodes)
    assert min(np.sum(episode.rewards) for episode in episodes) > 0.95 * 15_000
