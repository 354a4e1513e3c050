"""The engines against gymnasium, against each other, and against MuJoCo C stepped by hand."""

from concurrent.futures import ThreadPoolExecutor

import chex
import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from envs import half_cheetah
from hybrid_jax import physics
from hybrid_jax.physics import cholesky, native
from hybrid_jax.physics import model as physics_model

STEPS = 1000


@pytest.fixture(scope="module")
def cheetah():
    return half_cheetah.make(engine="native", threads=2)


@pytest.fixture(scope="module")
def visited():
    """States that gymnasium's HalfCheetah-v5 visits, with the actions taken and what they led to."""
    env = gymnasium.make("HalfCheetah-v5").unwrapped
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    states, actions, observations, rewards = [], [], [], []
    for _ in range(STEPS):
        state = np.empty(mujoco.mj_stateSize(env.model, native.STATE))
        mujoco.mj_getState(env.model, env.data, state, native.STATE)
        action = rng.uniform(-1, 1, 6).astype(np.float32)
        obs, reward, *_ = env.step(action)
        for store, value in zip((states, actions, observations, rewards), (state, action, obs, reward), strict=True):
            store.append(value)
    env.close()
    return tuple(map(np.array, (states, actions, observations, rewards)))


def test_native_step_equals_gymnasium_from_1000_visited_states(cheetah, visited):
    states, actions, observations, rewards = visited
    step = jax.jit(jax.vmap(cheetah.step, in_axes=(None, 0, 0)))
    _, out = step(cheetah.model, jnp.asarray(native.from_float64(states)), jnp.asarray(actions))
    np.testing.assert_allclose(out.obs, observations, rtol=0, atol=1e-5)
    np.testing.assert_allclose(out.reward, rewards, rtol=0, atol=1e-5)


def test_native_runs_200_free_steps_with_gymnasium(cheetah, visited):
    states, actions, *_ = visited
    step = jax.jit(cheetah.step)
    state = jnp.asarray(native.from_float64(states[0]))
    for t in range(200):
        state, _ = step(cheetah.model, state, jnp.asarray(actions[t]))
        np.testing.assert_allclose(native.to_float64(state, cheetah.physics.mj_model), states[t + 1], rtol=0, atol=1e-6)


def test_the_free_run_would_notice_a_dropped_warm_start(cheetah, visited):
    """Without it the states leave gymnasium's by more than the bound above, within its 200 steps."""
    states, actions, *_ = visited
    step = jax.jit(cheetah.step)
    state, worst = native.from_float64(states[0]), 0.0
    for t in range(200):
        packed = np.array(native.to_float64(state, cheetah.physics.mj_model))
        packed[-cheetah.physics.mj_model.nv :] = 0.0
        state, _ = step(cheetah.model, jnp.asarray(native.from_float64(packed)), jnp.asarray(actions[t]))
        reached = native.to_float64(state, cheetah.physics.mj_model)
        moving = slice(0, 1 + cheetah.physics.mj_model.nq + cheetah.physics.mj_model.nv)
        worst = max(worst, np.abs(reached - states[t + 1])[moving].max())
    assert worst > 1e-6


def _random_cheetahs(env, count):
    """States that random actions lead to, spread over falls, flips and jumps; with the next actions."""
    step = jax.jit(jax.vmap(env.step, in_axes=(None, 0, 0)))
    reset = jax.jit(jax.vmap(env.reset, in_axes=(None, 0)))
    state, _ = reset(env.model, jax.random.split(jax.random.key(0), count))
    for t in range(20):
        action = jax.random.uniform(jax.random.key(t), (count, 6), minval=-1.0, maxval=1.0)
        state, _ = step(env.model, state, action)
    packed = native.to_float64(state, env.physics.mj_model)
    columns = native.state_columns(env.physics.mj_model)
    return (
        jnp.asarray(packed[:, columns["qpos"]], jnp.float32),
        jnp.asarray(packed[:, columns["qvel"]], jnp.float32),
        action,
    )


def _motion(engine, qpos, qvel, ctrl):
    env = half_cheetah.make(engine=engine)

    @jax.jit
    def advance(qpos, qvel, ctrl):
        state = jax.vmap(env.physics.init, in_axes=(None, 0, 0))(env.model, qpos, qvel)
        return jax.vmap(env.physics.step, in_axes=(None, 0, 0))(env.model, state, ctrl)[1]

    return jax.device_get(advance(qpos, qvel, ctrl))


def test_mjx_agrees_with_native_in_one_step_on_1000_random_states(cheetah):
    """Bounds: 1e-4 in positions, 1e-2 in velocities of up to 25 rad/s (float32 against float64)."""
    states = _random_cheetahs(cheetah, 1000)
    ours, theirs = _motion("mjx", *states), _motion("native", *states)
    np.testing.assert_allclose(ours.qpos, theirs.qpos, rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours.displacement, theirs.displacement, rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours.qvel, theirs.qvel, rtol=0, atol=1e-2)


def test_our_cholesky_solves_as_numpy_does_and_gives_lapack_its_place_back():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(20, 7, 7))
    matrices, sides = root @ root.swapaxes(1, 2) + np.eye(7), rng.normal(size=(20, 7))
    theirs = jax.scipy.linalg.cho_factor
    with cholesky.in_place_of_lapack():
        assert (jax.scipy.linalg.cho_factor is cholesky.cho_factor) == cholesky.needed()
    assert jax.scipy.linalg.cho_factor is theirs
    factors = jax.vmap(lambda a: cholesky.cho_factor(a)[0])(jnp.float32(matrices))
    np.testing.assert_allclose(factors, np.linalg.cholesky(matrices).swapaxes(1, 2), atol=1e-5)
    solved = jax.vmap(lambda u, b: cholesky.cho_solve((u, False), b))(factors, jnp.float32(sides))
    np.testing.assert_allclose(solved, np.linalg.solve(matrices, sides[..., None])[..., 0], atol=1e-4)
    assert np.isnan(cholesky.cho_factor(-jnp.eye(3))[0]).any()  # as LAPACK: a failure is seen


def test_a_model_per_simulation_equals_one_model_at_a_time(cheetah):
    base = physics.constants(cheetah.physics.mj_model)
    scales = (0.5, 1.0, 2.0)
    records = [base._replace(gravity=base.gravity * np.float32(s)) for s in scales]
    batch = physics.stack(records)
    axes = physics.batch_axes(batch, cheetah.physics.mj_model)
    assert axes.gravity == 0 and physics.batch_axes(base, cheetah.physics.mj_model) is None
    qpos, qvel, ctrl = (leaf[:3] for leaf in _random_cheetahs(cheetah, 8))
    bundle = cheetah.physics

    def advance(model, qpos, qvel, ctrl):
        return bundle.step(model, bundle.init(model, qpos, qvel), ctrl)[1]

    together = jax.jit(jax.vmap(advance, in_axes=(axes, 0, 0, 0)))(batch, qpos, qvel, ctrl)
    single = jax.jit(advance)
    for i, record in enumerate(records):
        alone = single(record, qpos[i], qvel[i], ctrl[i])
        chex.assert_trees_all_equal(jax.tree.map(lambda leaf, i=i: leaf[i], together), alone)
    assert np.abs(together.qvel[0] - together.qvel[2]).max() > 1e-3  # the gravity reached the engine


PENDULUM = """
<mujoco><option timestep="0.01" integrator="{integrator}"/><worldbody><body>
  <joint name="hinge" axis="0 1 0"/><geom type="capsule" size="0.05" fromto="0 0 0 0 0 -0.5" mass="1"/>
</body></worldbody><actuator><motor joint="hinge"/></actuator></mujoco>
"""


@pytest.mark.parametrize("integrator", ["Euler", "RK4"])
def test_mjx_takes_a_model_per_simulation_and_tells_the_true_displacement(integrator):
    mj_model = mujoco.MjModel.from_xml_string(PENDULUM.format(integrator=integrator))
    bundle = physics.make(mj_model, frame_skip=5, engine="mjx")
    pulls = np.array([0.0, 1.0, 2.0], np.float32)
    batch = physics.stack([bundle.model._replace(gravity=bundle.model.gravity * g) for g in pulls])
    start = np.full((3, 1), 0.5, np.float32)

    def advance(model, qpos):
        return bundle.step(model, bundle.init(model, qpos, 0 * qpos), 0 * qpos)[1]

    axes = physics.batch_axes(batch, mj_model)
    seen = jax.device_get(jax.jit(jax.vmap(advance, in_axes=(axes, 0)))(batch, start))
    for n, record in enumerate(physics.with_constants(mj_model, bundle.model._replace(
        gravity=bundle.model.gravity * g)) for g in pulls):  # fmt: skip
        data = mujoco.MjData(record)
        data.qpos[:] = start[n]
        mujoco.mj_step(record, data, 5)
        np.testing.assert_allclose(seen.qpos[n], data.qpos, atol=1e-5)
        np.testing.assert_allclose(seen.displacement[n], data.qpos - start[n], atol=1e-6)
    assert seen.displacement[0] == 0 and seen.displacement[2] < 1.5 * seen.displacement[1] < 0


def test_native_gives_the_same_bits_for_any_threads_and_any_vmap():
    qpos, qvel, ctrl = _random_cheetahs(half_cheetah.make(engine="native", threads=1), 48)
    motions = []
    for threads in (1, 3):
        bundle = half_cheetah.make(engine="native", threads=threads).physics

        def advance(qpos, qvel, ctrl, bundle=bundle):
            return bundle.step(bundle.model, bundle.init(bundle.model, qpos, qvel), ctrl)[1]

        motions.append(jax.jit(jax.vmap(advance))(qpos, qvel, ctrl))
    seeds = jax.tree.map(lambda leaf: leaf.reshape(4, 12, -1), (qpos, qvel, ctrl))
    nested = jax.jit(jax.vmap(jax.vmap(advance)))(*seeds)
    motions.append(jax.tree.map(lambda leaf: leaf.reshape(48, -1), nested))
    chex.assert_trees_all_equal(*motions)


def test_a_diverged_simulation_stays_bad_and_alone(cheetah):
    qpos, qvel, ctrl = _random_cheetahs(cheetah, 4)
    clean = _motion("native", qpos, qvel, ctrl)
    sick = _motion("native", qpos, qvel.at[1].set(1e30), ctrl)
    assert not np.all(np.isfinite(sick.qvel[1]) & (np.abs(sick.qvel[1]) < 1e10))
    for i in (0, 2, 3):
        np.testing.assert_array_equal(sick.qvel[i], clean.qvel[i])


def test_mass_constants_follow_mujoco(cheetah):
    mj_model = cheetah.physics.mj_model
    record = physics.rescaled_mass(mj_model, 2.0)
    np.testing.assert_allclose(record.body_mass, 2 * mj_model.body_mass, rtol=1e-6)
    lighter = np.asarray(record.body_invweight0)[1:] / np.asarray(mj_model.body_invweight0)[1:]
    assert np.all((lighter > 0.45) & (lighter < 0.9))  # armature keeps it from halving exactly


BOX = """<mujoco><option gravity="0 0 0"/><worldbody><body pos="0 0 1"><freejoint/>
<geom type="box" size=".1 .1 .1" mass="2"/></body><body pos="1 0 1"><joint name="slide" type="slide" axis="1 0 0"/>
<geom type="sphere" size=".1" mass="1"/></body></worldbody><actuator><motor joint="slide"/></actuator></mujoco>"""


@pytest.mark.parametrize("engine", ["native", "mjx"])
def test_free_bodies_of_another_mass_have_its_inertia(engine):
    """v = F t / m: MuJoCo C reads the inertia of such bodies from a derived constant."""
    mj_model = mujoco.MjModel.from_xml_string(BOX)
    bundle = physics.make(mj_model, frame_skip=10, engine=engine, threads=1)
    for scale in (1.0, 3.0):
        record = physics.rescaled_mass(mj_model, scale)
        state = bundle.init(record, jnp.float32(mj_model.qpos0), jnp.zeros(mj_model.nv))
        _, motion = bundle.step(record, state, jnp.float32([1.5]))
        np.testing.assert_allclose(motion.qvel[6], 1.5 * 10 * mj_model.opt.timestep / scale, rtol=1e-4)


def test_unchanged_constants_give_back_the_float64_model(cheetah):
    mj_model = cheetah.physics.mj_model
    again = physics.with_constants(mj_model, physics.constants(mj_model))
    for name in ("geom_friction", "body_mass", "body_inertia", "actuator_gear"):
        np.testing.assert_array_equal(getattr(again, name), getattr(mj_model, name))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"engine": "mjx-warp"}, "needs an NVIDIA GPU"),
        ({"engine": "bullet"}, "is not known; use one of auto, mjx, mjx-warp, native"),
        ({"frame_skip": 0}, "frame_skip 0 must be at least 1"),
    ],
)
def test_engines_that_cannot_run_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        physics.make(half_cheetah.mj_model(), **{"frame_skip": 1, **kwargs})


def test_constants_of_another_model_are_refused(cheetah):
    base = physics.constants(cheetah.physics.mj_model)
    with pytest.raises(ValueError, match=r"geom_friction has shape \(2, 3\)"):
        physics.with_constants(cheetah.physics.mj_model, base._replace(geom_friction=np.ones((2, 3))))
    with pytest.raises(ValueError, match="dof_damping has shape"):
        physics.batch_axes(base._replace(dof_damping=np.ones((4, 3, 9))), cheetah.physics.mj_model)
    uneven = base._replace(dof_damping=np.ones((4, 9)), gravity=np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"are given for \[3, 4\] simulations"):
        physics.batch_size(uneven, cheetah.physics.mj_model)


def test_a_spread_takes_whole_simulations_evenly(cheetah):
    base = physics.constants(cheetah.physics.mj_model)
    batch = physics.stack([base._replace(gravity=np.full(3, n), dof_damping=np.full(9, -n)) for n in range(10)])
    few = physics.spread(batch, cheetah.physics.mj_model, 4)
    np.testing.assert_array_equal(few.gravity[:, 0], [0, 2, 5, 7])
    np.testing.assert_array_equal(few.dof_damping[:, 0], [0, -2, -5, -7])
    assert physics.spread(base, cheetah.physics.mj_model, 4) is base


def test_callbacks_that_overlap_do_not_share_a_simulation(cheetah, monkeypatch):
    """XLA may run independent callbacks of one program at the same time; every state must still be its own."""
    monkeypatch.setattr(native, "_MODEL_SETS", 2)  # so that models are dropped and made again meanwhile
    engine = native._Engine(cheetah.physics.mj_model, 5, threads=2)
    base, count = cheetah.model, 6
    constants = [
        np.asarray(physics_model.pack(base._replace(gravity=base.gravity * np.float32(1 + n))))[None]
        for n in range(count)
    ]
    rng = np.random.default_rng(0)
    qpos = cheetah.physics.mj_model.qpos0 + rng.uniform(-0.1, 0.1, (count, 50, 9))
    states = [
        engine.init(c, *start)[0] for c, *start in zip(constants, qpos, rng.normal(size=(count, 50, 9)), strict=True)
    ]
    ctrl = rng.uniform(-1, 1, (count, 50, 6)).astype(np.float32)
    expected = [engine.step(*each)[0] for each in zip(constants, states, ctrl, strict=True)]
    assert len({each.tobytes() for each in expected}) == count
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            overlapping = pool.map(lambda *each: engine.step(*each)[0], constants, states, ctrl)
            np.testing.assert_array_equal(list(overlapping), expected)


def test_states_that_the_native_engine_would_lose_are_refused():
    mocap = '<mujoco><worldbody><body mocap="true"><geom size="0.1"/></body></worldbody></mujoco>'
    with pytest.raises(ValueError, match=r"no mocap bodies\s+\(1\)"):
        physics.make(mujoco.MjModel.from_xml_string(mocap), frame_skip=1, engine="native")


def test_a_state_beyond_float32_is_no_error(cheetah):
    """Warnings are errors here: a diverged state must come out as one, to be masked and counted."""
    engine = native._Engine(cheetah.physics.mj_model, 5, threads=1)
    constants = np.asarray(physics_model.pack(cheetah.model))[None]
    (state,) = engine.init(constants, cheetah.physics.mj_model.qpos0[None], np.full((1, 9), 1e200))
    _, qpos, qvel, _ = engine.step(constants, state, np.zeros((1, 6), np.float32))
    assert not np.all(np.isfinite([qpos, qvel]))
