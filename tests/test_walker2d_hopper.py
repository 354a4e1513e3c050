"""Hopper and Walker2d against gymnasium's own v5 classes: same state and action, same step."""

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from envs import half_cheetah, hopper, walker2d
from hybrid_jax.physics import native

TASKS = {"Hopper-v5": hopper, "Walker2d-v5": walker2d}
FREE_STEPS = 300


@pytest.fixture(scope="module", params=TASKS)
def pair(request):
    """The task, its simulator and gymnasium's class without the clock."""
    real = TASKS[request.param].make_real().unwrapped
    yield TASKS[request.param], TASKS[request.param].make(engine="native", threads=1), real
    real.close()


def _packed(real) -> np.ndarray:
    state = np.empty(mujoco.mj_stateSize(real.model, native.STATE))
    mujoco.mj_getState(real.model, real.data, state, native.STATE)
    return state


def _random_state(task, real, rng):
    """(qpos, qvel) about the limits of health: in the air, on and in the ground, upright and falling."""
    qpos = real.init_qpos + rng.uniform(-0.3, 0.3, real.model.nq)
    qpos[0] = rng.uniform(-2, 2)
    qpos[1] = rng.uniform(0.5, 2.2)
    qpos[2] = rng.uniform(-0.35, 0.35) * (1 if task is hopper else 5)
    qvel = rng.choice([1.0, 8.0, 60.0], p=[0.5, 0.4, 0.1]) * rng.normal(size=real.model.nv)
    if rng.random() < 0.1:
        qvel[0] = 150.0  # past Hopper's bound on every velocity, with the pose as it is
    return qpos, qvel


def test_one_step_from_600_random_states_is_gymnasiums(pair):
    """Observation, reward and end; half of the states are unhealthy, some only by a velocity beyond 100."""
    task, env, real = pair
    rng = np.random.default_rng(0)
    real.reset(seed=0)
    states, actions, expected = [], [], []
    for _ in range(600):
        real.set_state(*_random_state(task, real, rng))
        states.append(_packed(real))
        actions.append(rng.uniform(-1, 1, task.SPEC.action_size).astype(np.float32))
        expected.append((*real.step(actions[-1])[:3], real.state_vector()))
    observations, rewards, ends, reached = map(np.array, zip(*expected, strict=True))
    step = jax.jit(jax.vmap(env.step, in_axes=(None, 0, 0)))
    _, out = step(env.model, jnp.asarray(native.from_float64(np.array(states))), jnp.asarray(np.array(actions)))
    np.testing.assert_allclose(out.obs, observations, rtol=0, atol=2e-5)
    np.testing.assert_allclose(out.reward, rewards, rtol=1e-5, atol=2e-5)
    np.testing.assert_array_equal(out.terminated, ends)
    assert not np.any(out.truncated)
    assert 100 < ends.sum() < 500 and np.sum(np.abs(observations[:, -real.model.nv :]) == 10) > 100
    if task is hopper:
        upright = (reached[:, 1] > 0.7) & (np.abs(reached[:, 2]) < 0.2)
        assert np.sum(ends & upright) > 10  # by velocity alone


def test_a_free_run_is_gymnasiums_through_and_beyond_the_fall(pair):
    task, env, real = pair
    rng = np.random.default_rng(1)
    real.reset(seed=1)
    step = jax.jit(env.step)
    state, ends, rewards = jnp.asarray(native.from_float64(_packed(real))), [], []
    for _ in range(FREE_STEPS):
        action = rng.uniform(-1, 1, task.SPEC.action_size).astype(np.float32)
        obs, reward, end, *_ = real.step(action)
        state, out = step(env.model, state, jnp.asarray(action))
        np.testing.assert_allclose(native.to_float64(state, real.model), _packed(real), rtol=0, atol=1e-6)
        np.testing.assert_allclose(out.obs, obs, rtol=0, atol=2e-5)
        rewards.append((float(out.reward), reward))
        ends.append((bool(out.terminated), end))
    np.testing.assert_allclose(*zip(*rewards, strict=True), rtol=0, atol=2e-5)
    assert all(ours == theirs for ours, theirs in ends) and not ends[0][1] and ends[-1][1]


def test_whole_episodes_end_when_gymnasiums_do(pair):
    """Ten episodes from gymnasium's first states to the first unhealthy one."""
    task, env, real = pair
    step = jax.jit(env.step)
    lengths = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        real.reset(seed=seed)
        state, end, theirs, ours, length = native.from_float64(_packed(real)), False, 0.0, 0.0, 0
        while not end:
            action = rng.uniform(-1, 1, task.SPEC.action_size).astype(np.float32)
            _, reward, end, *_ = real.step(action)
            state, out = step(env.model, jnp.asarray(state), jnp.asarray(action))
            assert bool(out.terminated) == end
            theirs, ours, length = theirs + reward, ours + float(out.reward), length + 1
        assert ours == pytest.approx(theirs, abs=1e-3)
        lengths.append(length)
    assert min(lengths) > 3 and max(lengths) < 1000


def test_real_and_simulated_side_agree_on_the_task(pair):
    task, env, real = pair
    assert real.observation_space.shape == (task.SPEC.obs_size,)
    assert real.action_space.shape == (task.SPEC.action_size,)
    assert real.dt == pytest.approx(task.SPEC.dt)
    assert gymnasium.spec(task.make_real().spec.id).max_episode_steps == task.SPEC.episode_length
    np.testing.assert_array_equal(real.model.geom_friction, env.physics.mj_model.geom_friction)


def test_first_states_are_spread_as_gymnasium_spreads_them(pair):
    """U(-0.005, 0.005) about the home pose, on positions and velocities alike."""
    _, env, real = pair
    _, obs = jax.vmap(env.reset, in_axes=(None, 0))(env.model, jax.random.split(jax.random.key(0), 2000))
    noise = np.asarray(obs) - np.concatenate([real.init_qpos[1:], real.init_qvel])
    assert np.abs(noise).max(axis=0).max() <= 0.005 + 1e-6 and np.abs(noise).max(axis=0).min() > 0.0049
    np.testing.assert_allclose(noise.std(axis=0), 0.005 / np.sqrt(3), rtol=0.05)


def test_the_runner_that_cannot_fall_never_terminates():
    env = half_cheetah.make(engine="native", threads=1)
    qpos = jnp.asarray(env.physics.mj_model.qpos0, jnp.float32).at[2].set(np.pi)
    _, out = env.step(env.model, env.physics.init(env.model, qpos, jnp.zeros(9)), jnp.zeros(6))
    assert not out.terminated and abs(out.reward) < 1  # and no bonus for being alive


@pytest.mark.slow  # compiles for half a minute each
def test_mjx_takes_the_same_step(pair):
    """Float32 on any accelerator against MuJoCo C: 20 states about the start."""
    task, env, _ = pair
    mjx = task.make(engine="mjx")
    keys, rng = jax.random.split(jax.random.key(2), 20), np.random.default_rng(2)
    actions = jnp.asarray(rng.uniform(-1, 1, (20, task.SPEC.action_size)), jnp.float32)
    results = []
    for each in (env, mjx):
        state, _ = jax.jit(jax.vmap(each.reset, in_axes=(None, 0)))(each.model, keys)
        results.append(jax.jit(jax.vmap(each.step, in_axes=(None, 0, 0)))(each.model, state, actions)[1])
    np.testing.assert_allclose(results[1].obs, results[0].obs, rtol=0, atol=2e-3)
    np.testing.assert_allclose(results[1].reward, results[0].reward, rtol=0, atol=2e-3)
    np.testing.assert_array_equal(results[1].terminated, results[0].terminated)
