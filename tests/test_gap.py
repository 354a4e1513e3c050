"""Gaps against MuJoCo C run with the changed constants, and the refusals of gaps that change nothing."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from envs import gap, half_cheetah, point_mass, wheel_legged
from hybrid_jax import physics


@pytest.fixture(scope="module")
def cheetah():
    return half_cheetah.make(engine="native", threads=1)


def _one_step(env, action):
    state, _ = env.reset(env.model, jax.random.key(3))
    for _ in range(4):  # into ground contact
        state, out = env.step(env.model, state, action)
    return np.asarray(out.obs)


def _by_hand(change):
    """The same four steps in MuJoCo C on a model that was changed directly."""
    model = half_cheetah.mj_model()
    change(model)
    data = mujoco.MjData(model)
    position_key, velocity_key = jax.random.split(jax.random.key(3))
    data.qpos[:] = jnp.asarray(model.qpos0, jnp.float32) + jax.random.uniform(
        position_key, (9,), minval=-0.1, maxval=0.1
    )
    data.qvel[:] = 0.1 * jax.random.normal(velocity_key, (9,))
    mujoco.mj_forward(model, data)
    data.ctrl[:] = 0.5
    for _ in range(4):
        mujoco.mj_step(model, data, 5)
    return np.concatenate([data.qpos[1:], data.qvel])


def _double_gravity(model):
    model.opt.gravity[:] *= 2


def _less_friction(model):
    model.geom_friction[:] *= np.float32(0.3)


def _denser(model):
    model.body_mass[:] *= 1.5
    model.body_inertia[:] *= 1.5
    mujoco.mj_setConst(model, mujoco.MjData(model))


@pytest.mark.parametrize(
    ("part", "change"),
    [
        (gap.Gap(gravity=2.0), _double_gravity),
        (gap.Gap(friction=0.3), _less_friction),
        (gap.Gap(density=1.5), _denser),
    ],
)
def test_each_gap_is_the_changed_model(cheetah, part, change):
    action = jnp.full(6, 0.5)
    ours = _one_step(gap.apply(cheetah, part), action)
    np.testing.assert_allclose(ours, _by_hand(change), atol=2e-4)
    assert np.abs(ours - _one_step(cheetah, action)).max() > 1e-3


def test_gaps_compose(cheetah):
    both = gap.apply(cheetah, gap.Gap(gravity=2.0, friction=0.3, density=1.5))
    np.testing.assert_allclose(both.model.gravity, [0, 0, -19.62], rtol=1e-6)
    np.testing.assert_allclose(both.model.geom_friction, 0.3 * cheetah.model.geom_friction, rtol=1e-6)
    np.testing.assert_allclose(both.model.body_mass.sum(), 21.0, rtol=1e-5)
    np.testing.assert_allclose(cheetah.model.gravity, [0, 0, -9.81], rtol=1e-6)  # the original is untouched


def test_friction_acts_on_the_contact_itself(cheetah):
    """MuJoCo takes the larger of two geoms' friction: scaling the feet alone changes nothing."""
    slippery = physics.with_constants(cheetah.physics.mj_model, gap.friction(cheetah, 0.3).model)
    np.testing.assert_allclose(gap.contact_friction(slippery), 0.12, rtol=1e-5)
    feet_only = cheetah.physics.mj_model.__copy__()
    feet_only.geom_friction[1:] *= 0.3
    np.testing.assert_allclose(gap.contact_friction(feet_only), 0.4, rtol=1e-5)


def test_joint_noise_executes_the_noised_and_clipped_action(cheetah):
    """Mean executed action at a = 0.9 with unit noise is 0.56; the control cost is that of the executed one."""
    executed = []

    def record(model, state, action):
        executed.append(action)
        return cheetah.step(model, state, action)

    noisy = gap.joint_noise(cheetah._replace(step=record), 1.0)
    state, _ = noisy.reset(noisy.model, jax.random.key(0))
    intended = jnp.full(6, 0.9)
    for _ in range(60):
        state, _ = noisy.step(noisy.model, state, intended)
    actions = np.array(executed)
    assert actions.min() >= -1 and actions.max() <= 1
    np.testing.assert_allclose(actions.mean(), 0.56, atol=0.08)
    assert len(np.unique(actions)) > 100  # a fresh draw each step and joint


@pytest.mark.parametrize(
    ("env", "part", "message"),
    [
        ("point", gap.Gap(gravity=2.0), "closed-form dynamics"),
        ("cheetah", gap.Gap(gravity=-1.0), "gravity=-1.0 must be a positive factor"),
        ("cheetah", gap.Gap(joint_noise=-0.5), "joint_noise=-0.5 must be a positive"),
        ("weightless", gap.Gap(gravity=2.0), "changed nothing in the engine"),
        ("airborne", gap.Gap(friction=0.3), "no contact within"),
    ],
)
def test_gaps_that_do_not_take_are_refused(cheetah, env, part, message):
    env = {
        "point": point_mass.make(),
        "cheetah": cheetah,
        "weightless": cheetah._replace(model=cheetah.model._replace(gravity=np.zeros(3, np.float32))),
        "airborne": cheetah._replace(model=cheetah.model._replace(gravity=np.array([0, 0, 9.81], np.float32))),
    }[env]
    with pytest.raises(ValueError, match=message):
        gap.apply(env, part)


def test_the_wheel_legged_robot_takes_all_gaps():
    env = wheel_legged.make(engine="native", threads=1)
    changed = gap.apply(env, gap.Gap(gravity=1.5, friction=0.5, density=2.0))
    np.testing.assert_allclose(changed.model.body_mass.sum(), 9.2, rtol=1e-5)
