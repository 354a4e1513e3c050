"""Noise and delay between the intended action and the executed one: known figures, ids, a second implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import action_gap, gap, half_cheetah, point_mass, wheel_legged
from hybrid_jax import rollout
from hybrid_jax.testing import check_sim_env


@pytest.fixture(scope="module")
def cheetah():
    return half_cheetah.make(engine="native", threads=1)


def _listening(env):
    """The same simulator, whose reward is the action it was given: of one joint."""
    return env._replace(step=lambda model, state, action: _with_reward(env.step(model, state, action), action[0]))


def _with_reward(stepped, reward):
    return stepped[0], stepped[1]._replace(reward=reward)


def _clipped_moments(mean):
    """(E[c], E[c^2]) of c = clip(mean + e, -1, 1), e standard normal, by quadrature."""
    e = np.linspace(-8, 8, 200_001)
    weight = np.exp(-0.5 * e**2) / np.sqrt(2 * np.pi) * (e[1] - e[0])
    c = np.clip(mean + e, -1, 1)
    return np.sum(weight * c), np.sum(weight * c**2)


@pytest.mark.parametrize(("intended", "executed", "cost"), [(0.0, 0.0, -0.05), (0.9, 0.56, 0.016)])
def test_joint_noise_is_clipped_and_the_control_cost_is_the_executed_ones(cheetah, intended, executed, cost):
    """Per joint: mean executed action, and by how much the reward differs from the clean action's."""
    sims = 4000
    mean, square = _clipped_moments(intended)
    assert mean == pytest.approx(executed, abs=0.005) and 0.1 * (intended**2 - square) == pytest.approx(cost, abs=2e-3)

    def cost_alone(model, state, action):
        reached, out = cheetah.step(model, state, action)
        _, motion = cheetah.physics.step(model, state, action)
        return reached, out._replace(reward=out.reward - motion.displacement[0] / 0.05, obs=action)

    noisy = action_gap.joint_noise(cheetah._replace(step=cost_alone), 1.0)
    action = jnp.full(6, intended)

    @jax.jit
    @jax.vmap
    def first_step(key):
        return noisy.step(noisy.model, noisy.reset(noisy.model, key)[0], action)[1]

    out = first_step(jax.random.split(jax.random.key(0), sims))
    assert np.abs(out.obs).max() <= 1 and len(np.unique(out.obs[0])) > 1  # a draw of its own for each joint
    np.testing.assert_allclose(np.mean(out.obs), mean, atol=0.01)
    difference = np.mean(out.reward + 0.1 * np.sum(np.square(action))) / 6
    np.testing.assert_allclose(difference, cost, atol=0.003)


def test_joint_noise_is_fresh_each_step(cheetah):
    noisy = action_gap.joint_noise(_listening(cheetah), 0.3)
    state, _ = noisy.reset(noisy.model, jax.random.key(0))
    executed = []
    for _ in range(20):
        state, out = noisy.step(noisy.model, state, jnp.zeros(6))
        executed.append(float(out.reward))
    assert len(set(executed)) == 20


@pytest.mark.parametrize("delay", [1, 2, 5])
def test_a_delayed_action_is_that_of_k_steps_ago_and_zero_before(delay):
    late = action_gap.action_delay(_listening(point_mass.make()), delay)
    state, _ = late.reset(late.model, jax.random.key(0))
    intended, executed = [0.01 * (1 + t) for t in range(12)], []
    for action in intended:
        state, out = late.step(late.model, state, jnp.full(1, action))
        executed.append(float(out.reward))
    np.testing.assert_allclose(executed, ([0.0] * delay + intended)[:12], rtol=1e-6)


def test_rows_keep_the_intended_action_and_a_new_episode_starts_with_an_empty_line():
    """Closed form on every row: the successor is that of the action three rows earlier, of the same episode."""
    delay, sims = 3, 6
    env = gap.apply(point_mass.make(), gap.Gap(action_delay=delay))
    state = rollout.init(env, jax.random.key(0), sims, 32)

    def explore(obs, key):
        return jax.random.uniform(key, (sims, 1), minval=-1.0, maxval=1.0)

    _, rows, *_ = jax.jit(lambda s: rollout.rollout(env, explore, s, jax.random.key(1), 250))(state)
    rows = jax.device_get(rows)
    started = np.concatenate([np.ones((1, sims), bool), np.any(rows.next_obs[:-1] != rows.obs[1:], axis=-1)])
    executed = np.zeros_like(rows.action)
    for t in range(delay, 250):
        same_episode = ~started[t - delay + 1 : t + 1].any(axis=0)
        executed[t, same_episode] = rows.action[t - delay, same_episode]
    x, v, reward, _ = point_mass.dynamics(point_mass.make().model, rows.obs, executed)
    np.testing.assert_allclose(rows.next_obs, np.stack([x, v], -1), atol=1e-5)
    np.testing.assert_allclose(rows.reward, reward, atol=1e-4)
    assert started.sum() > 3 * sims


def test_a_delayed_simulator_is_the_robot_with_that_motor_delay():
    """The host's robot has a delay of its own making: the same motion from the same start."""
    sim = gap.apply(wheel_legged.make(engine="native", threads=1), gap.Gap(action_delay=2))
    exact = wheel_legged.SIMULATED._replace(motor_delay=2)
    real = wheel_legged.RealWheelLegged(exact)
    obs, _ = real.reset(seed=0)
    state = action_gap.DelayedState(
        sim.physics.init(sim.model, jnp.asarray(real.data.qpos, jnp.float32), jnp.zeros(5)), jnp.zeros((2, 1))
    )
    step, rng = jax.jit(sim.step), np.random.default_rng(0)
    for _ in range(40):
        action = rng.uniform(-1, 1, 1).astype(np.float32)
        obs, *_ = real.step(action)
        state, out = step(sim.model, state, jnp.asarray(action))
        np.testing.assert_allclose(out.obs, obs, atol=1e-4)


def test_the_noise_is_added_to_what_arrives():
    """Composed, the first actions to arrive are zero and noisy: the motors tremble, not the line."""
    both = gap.apply(_listening(point_mass.make()), gap.Gap(joint_noise=0.1, action_delay=3))
    state, _ = both.reset(both.model, jax.random.key(0))
    executed = []
    for _ in range(6):
        state, out = both.step(both.model, state, jnp.ones(1))
        executed.append(float(out.reward))
    assert all(0 < abs(x) < 0.5 for x in executed[:3]) and all(x > 0.5 for x in executed[3:])


def test_the_wrapped_simulator_keeps_the_contract(cheetah):
    check_sim_env(gap.apply(cheetah, gap.Gap(gravity=2.0, joint_noise=1.0, actuator=0.5, action_delay=2)))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (gap.Gap(joint_noise=-0.5), "joint_noise=-0.5 must be a positive"),
        (gap.Gap(joint_noise=float("inf")), "joint_noise=inf must be a positive"),
        (gap.Gap(action_delay=-1), "action_delay=-1 must be whole control steps, at least 1"),
        (gap.Gap(action_delay=1.5), "action_delay=1.5 must be whole control steps"),
        (gap.Gap(action_delay=100), "fewer than the episode's 100"),
    ],
)
def test_gaps_that_make_no_sense_are_refused(part, message):
    with pytest.raises(ValueError, match=message):
        gap.apply(point_mass.make(), part)
