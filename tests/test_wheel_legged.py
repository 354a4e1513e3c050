"""The balancer against hand-written physics, and the ways its reality differs."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import wheel_legged
from envs.wheel_legged import Reality, RealWheelLegged
from hybrid_jax import evaluate, physics

IDEAL = Reality(
    chassis_mass=4.0,
    centre_of_mass=0.18,
    ahead=0.0,
    inertia_scale=1.0,
    friction_scale=1.0,
    wheel_damping=0.002,
    motor_delay=0,
    sensor_noise=(0.0, 0.0, 0.0, 0.0),
)


@pytest.fixture(scope="module")
def sim():
    return wheel_legged.make(engine="native", threads=1)


def test_the_simulator_weighs_4_6_kg_and_reality_12():
    assert wheel_legged.mj_model().body_mass.sum() == pytest.approx(4.6)
    assert RealWheelLegged().model.body_mass.sum() == pytest.approx(12.0)


def test_reward_is_thirty_less_torque_and_state_squared():
    reward = wheel_legged.reward(jnp.array([0.5]), jnp.array([0.1, -0.2, 0.3, 1.0]))
    assert reward == pytest.approx(30 - 1.5**2 - (0.01 + 0.04 + 0.09 + 1.0), abs=1e-5)


NOISE_FREE = Reality(motor_delay=0, sensor_noise=(0.0, 0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("strength", "reality", "ahead"),
    [(1.0, IDEAL, 0.0), (0.0, NOISE_FREE, np.arctan2(0.02, 0.30))],
    ids=("simulator", "real_robot"),
)
def test_host_class_and_simulator_agree_on_the_same_robot(strength, reality, ahead):
    """No delay, no noise: 200 steps of balancing, with the simulator's constants and with the real robot's."""
    sim = wheel_legged.make(engine="native", threads=1, gap_strength=strength)
    real = RealWheelLegged(reality)
    obs, _ = real.reset(seed=0)
    real.data.qpos[:3] = [0.0, real.data.qpos[1], 0.04]
    real.data.qvel[:] = 0.0
    obs = wheel_legged.observe(real.data.qpos, real.data.qvel, np)
    state = sim.physics.init(sim.model, jnp.array([0, 0, 0.04, 0, 0.0]), jnp.zeros(5))
    step = jax.jit(sim.step)
    for _ in range(200):
        action = np.clip([6.0 * (obs[2] + ahead) + 0.8 * obs[3]], -1, 1).astype(np.float32)
        obs, reward, fallen, *_ = real.step(action)
        state, out = step(sim.model, state, jnp.asarray(action))
        np.testing.assert_allclose(out.obs, obs, atol=1e-4)
        assert float(out.reward) == pytest.approx(reward, abs=1e-3)
        assert bool(out.terminated) == fallen is False


def test_strength_1_is_the_simulator_to_the_bit(sim):
    xml = physics.constants(wheel_legged.mj_model())
    for model in (sim.model, wheel_legged.at_strength(1.0)(engine="native", threads=1).model):
        chex.assert_trees_all_equal(model, xml)
        chex.assert_trees_all_equal_shapes_and_dtypes(model, xml)
    assert wheel_legged.SIMULATED == IDEAL


@pytest.mark.parametrize(
    ("strength", "mass", "height", "ahead", "inertia", "friction", "damping"),
    [  # geometric: the square root of the product, and as far again beyond the simulator; `ahead` in proportion
        (0.0, 11.4, 0.30, 0.02, 6.0, 1.0, 0.02),
        (0.5, 6.7528, 0.23238, 0.01, 2.4495, 0.89443, 0.0063246),
        (1.0, 4.0, 0.18, 0.0, 1.0, 0.8, 0.002),
        (1.5, 2.3694, 0.13943, -0.01, 0.40825, 0.71554, 0.00063246),
    ],
)
def test_strength_lies_between_the_real_robot_and_the_simulator(
    strength, mass, height, ahead, inertia, friction, damping
):
    env = wheel_legged.at_strength(strength)(engine="native", threads=1)
    model = physics.with_constants(env.physics.mj_model, env.model)
    chassis, floor = model.body("chassis"), model.geom("floor")
    np.testing.assert_allclose(chassis.mass, mass, rtol=1e-4)
    np.testing.assert_allclose(chassis.ipos, [ahead, 0, height], rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(chassis.inertia, np.array([0.05, 0.045, 0.03]) * inertia, rtol=1e-4)
    np.testing.assert_allclose(floor.friction[0], friction, rtol=1e-4)
    np.testing.assert_allclose(model.dof_damping[3:], damping, rtol=1e-4)
    np.testing.assert_allclose(model.body_subtreemass[0], mass + 0.6, rtol=1e-4)  # what follows from the mass, too


@pytest.mark.parametrize("strength", [-0.1, np.nan, np.inf])
def test_a_strength_without_meaning_is_refused(strength):
    with pytest.raises(ValueError, match="must be a number from 0 on"):
        wheel_legged.make(gap_strength=strength)


def test_wheels_roll_and_push_the_chassis_back(sim):
    """Forward torque: the axle moves forward by radius x turn, the chassis tilts backward."""
    state = sim.physics.init(sim.model, jnp.zeros(5), jnp.zeros(5))
    for _ in range(10):
        state, motion = sim.physics.step(sim.model, state, jnp.array([0.5, 0.5]))
    assert motion.qpos[0] > 0.005
    np.testing.assert_allclose(motion.qpos[0], 0.065 * (motion.qpos[3] + motion.qpos[2]), rtol=0.1)  # soft tyres
    assert motion.qpos[2] < 0


def test_a_fall_terminates_and_only_a_fall(sim):
    state, obs = sim.reset(sim.model, jax.random.key(0))
    step = jax.jit(sim.step)
    for _ in range(1000):
        state, out = step(sim.model, state, jnp.zeros(1))
        if out.terminated:
            break
    assert abs(out.obs[2]) > np.pi / 6 and not out.truncated
    assert abs(obs[2]) <= wheel_legged.START_TILT and abs(obs[0]) <= wheel_legged.START_PLACE


def test_the_motor_delay_holds_the_torque_back():
    """Two robots, one driven one step later than the other with a delay shorter by one: the same motion."""
    noiseless = IDEAL._replace(motor_delay=2)
    late, prompt = RealWheelLegged(noiseless), RealWheelLegged(noiseless._replace(motor_delay=0))
    for env in (late, prompt):
        env.reset(seed=1)
    torque = [[0.0], [0.0], [0.8], [-0.3], [0.5]]
    delayed = [late.step(a)[0] for a in [*torque[2:], [0.0], [0.0]]]
    direct = [prompt.step(a)[0] for a in torque]
    np.testing.assert_array_equal(delayed, direct)


def test_sensor_noise_has_the_stated_spread_and_seeds_repeat():
    env = RealWheelLegged()
    exact = env._sense
    readings = []
    env.reset(seed=2)
    for _ in range(2000):
        readings.append(exact() - wheel_legged.observe(env.data.qpos, env.data.qvel, np))
    np.testing.assert_allclose(np.std(readings, axis=0), env.reality.sensor_noise, rtol=0.1)
    first = env.reset(seed=7)[0]
    np.testing.assert_array_equal(first, env.reset(seed=7)[0])


def test_the_clock_truncates_after_1000_steps():
    env = RealWheelLegged()
    obs, _ = env.reset(seed=0)
    for t in range(1000):
        obs, _, fallen, timeout, _ = env.step(np.clip([np.dot((0.3, 0.5, 8.0, 1.0), obs)], -1, 1))
        assert not fallen and timeout == (t == 999)


def test_the_hand_tuned_driver_is_mediocre():
    """It stands for a while and falls often: between 100 and 1,000 steps, falls in most episodes."""
    rng = np.random.default_rng(0)
    env = RealWheelLegged()
    episodes = [
        evaluate.real_episode(env, wheel_legged.hand_tuned(rng), seed, wheel_legged.SPEC.episode_length)
        for seed in range(10)
    ]
    lengths = [len(episode.rewards) for episode in episodes]
    assert 100 < np.mean(lengths) < 950 and sum(episode.terminated for episode in episodes) >= 5
