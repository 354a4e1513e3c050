"""Gaps of the physics against MuJoCo C run with the changed constants, and the refusals of gaps that change nothing."""

from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from envs import gap, half_cheetah, hopper, point_mass, walker2d, wheel_legged
from hybrid_jax import physics
from hybrid_jax.types import SimEnv

RUNNERS = {"half_cheetah": half_cheetah, "hopper": hopper, "walker2d": walker2d}
STEPS = 8  # into ground contact


@pytest.fixture(scope="module")
def runners():
    return {name: task.make(engine="native", threads=1) for name, task in RUNNERS.items()}


@pytest.fixture(scope="module")
def cheetah(runners):
    return runners["half_cheetah"]


def _start(model):
    """A first state in float32's numbers, a little off the home pose."""
    rng = np.random.default_rng(3)
    noise = 0.01 * rng.normal(size=(2, model.nv))
    return (model.qpos0 + noise[0]).astype(np.float32), noise[1].astype(np.float32)


def _ours(env):
    state = env.physics.init(env.model, *map(jnp.asarray, _start(env.physics.mj_model)))
    step = jax.jit(env.physics.step)
    for _ in range(STEPS):
        state, motion = step(env.model, state, jnp.full(env.spec.action_size, 0.5))
    return np.concatenate([motion.qpos, motion.qvel])


def _by_hand(env, change):
    """The same steps in MuJoCo C on a model that was changed directly."""
    model = env.physics.mj_model.__copy__()
    change(model)
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = _start(model)
    mujoco.mj_forward(model, data)
    data.ctrl[:] = 0.5
    mujoco.mj_step(model, data, STEPS * env.physics.frame_skip)
    return np.concatenate([data.qpos, data.qvel])


def _double_gravity(model):
    model.opt.gravity[:] *= 2


def _less_friction(model):
    model.geom_friction[:] *= np.float32(0.3)


def _denser(model):
    model.body_mass[:] *= 1.5
    model.body_inertia[:] *= 1.5
    mujoco.mj_setConst(model, mujoco.MjData(model))


def _weaker(model):
    model.actuator_gear[:] *= 0.5


CHANGES = [
    (gap.Gap(gravity=2.0), _double_gravity),
    (gap.Gap(friction=0.3), _less_friction),
    (gap.Gap(density=1.5), _denser),
    (gap.Gap(actuator=0.5), _weaker),
]


@pytest.mark.parametrize("name", RUNNERS)
@pytest.mark.parametrize(("part", "change"), CHANGES, ids=("gravity", "friction", "density", "actuator"))
def test_each_gap_is_the_changed_model(runners, name, part, change):
    env = runners[name]
    ours = _ours(gap.apply(env, part))
    np.testing.assert_allclose(ours, _by_hand(env, change), atol=2e-4)
    assert np.abs(ours - _ours(env)).max() > 1e-3


SLED = """
<mujoco><option timestep="0.01"/><default><geom {geom}/></default><worldbody>
  <geom type="plane" size="9 9 1"/>
  <body pos="0 0 0.1"><joint name="x" type="slide" axis="1 0 0" {limit}/><joint type="slide" axis="0 0 1"/>
    <inertial mass="1" pos="0.01 0 0" diaginertia="0.004 0.004 0.004"/><geom type="sphere" size="0.1"/></body>
</worldbody><actuator>{actuator}</actuator></mujoco>
"""
MOTOR = '<motor joint="x" gear="12" ctrllimited="true" ctrlrange="-1 1"/>'


def _sled(actuator=MOTOR, limit="", geom='friction="0.5"', engine="native"):
    xml = SLED.format(actuator=actuator, limit=limit, geom=geom)
    bundle = physics.make(mujoco.MjModel.from_xml_string(xml), frame_skip=40, engine=engine)
    return SimEnv(half_cheetah.SPEC._replace(action_size=1), bundle.model, None, None, bundle)


def test_mjx_takes_each_gap_too():
    """A sled of 1 kg, pushed with 12 N against friction, against MuJoCo C; one program for all constants."""
    env = _sled(engine="mjx")

    @jax.jit
    def reached(model):
        state = env.physics.init(model, jnp.zeros(2), jnp.zeros(2))
        return env.physics.step(model, state, jnp.ones(1))[1].qvel[0]

    speeds = [float(reached(env.model))]
    for part, change in CHANGES:
        model = env.physics.mj_model.__copy__()
        change(model)
        data = mujoco.MjData(model)
        data.ctrl[:] = 1.0
        mujoco.mj_step(model, data, env.physics.frame_skip)
        speeds.append(float(reached(gap.apply(env, part).model)))
        assert speeds[-1] == pytest.approx(data.qvel[0], rel=1e-3)
    assert np.diff(np.sort(speeds)).min() > 0.05  # m/s: each gap tells


def test_gaps_compose(cheetah):
    both = gap.apply(cheetah, gap.Gap(gravity=2.0, friction=0.3, density=1.5, actuator=0.5))
    np.testing.assert_allclose(both.model.gravity, [0, 0, -19.62], rtol=1e-6)
    np.testing.assert_allclose(both.model.geom_friction, 0.3 * cheetah.model.geom_friction, rtol=1e-6)
    np.testing.assert_allclose(both.model.body_mass.sum(), 21.0, rtol=1e-5)
    np.testing.assert_allclose(both.model.actuator_gear[:, 0], [60, 45, 30, 60, 30, 15])
    np.testing.assert_allclose(cheetah.model.gravity, [0, 0, -9.81], rtol=1e-6)  # the original is untouched


def test_friction_acts_on_the_contact_itself(cheetah):
    """MuJoCo takes the larger of two geoms' friction: scaling the feet alone changes nothing."""
    slippery = physics.with_constants(cheetah.physics.mj_model, gap.friction(cheetah, 0.3).model)
    np.testing.assert_allclose(gap.contact_friction(slippery), 0.12, rtol=1e-5)
    feet_only = cheetah.physics.mj_model.__copy__()
    feet_only.geom_friction[1:] *= 0.3
    np.testing.assert_allclose(gap.contact_friction(feet_only), 0.4, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "foot", "body"),
    # The foot's 2.0 (walker: 1.9) and, below the body's 0.9, the floor's 1.0 (walker: 0.7, so the body's counts).
    [("hopper", 0.6, 0.3), ("walker2d", 0.57, 0.27), ("half_cheetah", 0.12, 0.12)],
)
def test_friction_acts_on_every_part_that_may_touch_the_floor(runners, name, foot, body):
    env = runners[name]
    model = physics.with_constants(env.physics.mj_model, gap.friction(env, 0.3).model)
    floor, seen = model.geom("floor").id, {}
    for turn in (0.0, np.pi):  # let fall on its feet and on its head
        data = mujoco.MjData(model)
        data.qpos[2] = turn
        while data.time < 2.0:
            mujoco.mj_step(model, data)
            for contact in data.contact:
                if floor in contact.geom:
                    part = model.geom(contact.geom[contact.geom != floor][0]).name
                    seen.setdefault("foot" if "foot" in part else "body", []).append(contact.friction[0])
    np.testing.assert_allclose(seen["foot"], foot, rtol=1e-5)
    np.testing.assert_allclose(seen["body"], body, rtol=1e-5)


@pytest.mark.parametrize(("name", "file"), [("hopper", "hopper.xml"), ("walker2d", "walker2d_v5.xml")])
def test_gravity_takes_in_models_whose_file_names_none(runners, name, file):
    """Free fall from 3 m, all bodies alike: v = 2 g t after the 0.008 s of one step."""
    assert "gravity" not in (Path(gymnasium.__file__).parent / "envs/mujoco/assets" / file).read_text()
    env = runners[name]
    model = gap.gravity(env, 2.0).model
    qpos = jnp.asarray(env.physics.mj_model.qpos0, jnp.float32).at[1].add(3.0)
    state = env.physics.init(model, qpos, jnp.zeros(env.physics.mj_model.nv))
    _, motion = env.physics.step(model, state, jnp.zeros(env.spec.action_size))
    np.testing.assert_allclose(motion.qvel[1], -19.62 * 0.008, rtol=1e-4)


@pytest.mark.parametrize(
    ("env", "part", "message"),
    [
        ("point", gap.Gap(gravity=2.0), "closed-form dynamics"),
        ("cheetah", gap.Gap(gravity=-1.0), "gravity=-1.0 must be a positive factor"),
        ("cheetah", gap.Gap(actuator=0.0), "actuator=0.0 must be a positive factor"),
        ("cheetah", gap.Gap(friction=np.inf), "friction=inf must be a positive factor"),
        ("weightless", gap.Gap(gravity=2.0), "changed nothing in the engine"),
        ("airborne", gap.Gap(friction=0.3), "no contact within"),
        ("ice", gap.Gap(friction=0.3), "friction=0.3 changed nothing in the engine"),
        ("normal", gap.Gap(friction=0.3), "no contact within 4.0 s that has friction"),
        ("limp", gap.Gap(actuator=0.5), "actuator=0.5 changed nothing in the engine"),
        ("limited", gap.Gap(actuator=2.0), "actuator=2.0 changed nothing in the engine"),
        ("servo", gap.Gap(actuator=0.5), "changed nothing in the engine, or not by that factor"),
    ],
)
def test_gaps_that_do_not_take_are_refused(cheetah, env, part, message):
    env = {
        "point": point_mass.make,
        "cheetah": lambda: cheetah,
        "weightless": lambda: cheetah._replace(model=cheetah.model._replace(gravity=np.zeros(3, np.float32))),
        "airborne": lambda: cheetah._replace(model=cheetah.model._replace(gravity=np.array([0, 0, 9.81], np.float32))),
        "ice": lambda: _sled(geom='friction="0"'),  # MuJoCo lifts it to its smallest friction, before and after
        "normal": lambda: _sled(geom='friction="0.5" condim="1"'),  # contacts push, and never rub
        "limp": lambda: _sled(actuator=""),
        "servo": lambda: _sled(actuator='<position joint="x" kp="5"/>'),
        "limited": lambda: _sled(limit='actuatorfrclimited="true" actuatorfrcrange="-1 1"'),
    }[env]()
    with pytest.raises(ValueError, match=message):
        gap.apply(env, part)


def test_the_wheel_legged_robot_takes_all_gaps():
    env = wheel_legged.make(engine="native", threads=1)
    changed = gap.apply(env, gap.Gap(gravity=1.5, friction=0.5, density=2.0, actuator=0.8))
    np.testing.assert_allclose(changed.model.body_mass.sum(), 9.2, rtol=1e-5)
    np.testing.assert_allclose(changed.model.actuator_gear[:, 0], 0.8)
