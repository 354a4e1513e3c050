"""Planar push against Coulomb's law, its engines against each other, and the task by the pusher that solves it."""

import functools
import importlib.util

import chex
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from envs import fetch_push, goals, push, push_scripted
from envs.push import GOAL, REAL, SIMULATED, Domain, RealPush
from hybrid_jax import physics, rollout

G = 9.81
SIMS = 8  # of every batch here, so that each engine compiles once
DOMAINS = {
    "simulated": SIMULATED,
    "real": REAL,
    "rough": Domain(1.0, 1.0),
    "ice": Domain(0.03, 0.03, puck_mass=2.0),
    "grain": Domain(1.0, 0.25, tip_friction=0.5, stiffness=600.0, damping=60.0),
}
HASTY = push_scripted.Pusher(slow=1.0, per_metre=0.0, arrived=push.THRESHOLD)


class _Engine:
    """`init` and `step` of SIMS simulations of one model, compiled once."""

    def __init__(self, name):
        self.env = push.make(engine=name, threads=1)
        bundle = self.env.physics
        self.init = jax.jit(jax.vmap(bundle.init, in_axes=(None, 0, 0)))
        self.step = jax.jit(jax.vmap(bundle.step, in_axes=(None, 0, 0)))
        self.command = jax.jit(jax.vmap(push.command, in_axes=(None, 0, 0)))

    def run(self, model, places, velocities, steps, actions=None):
        """Pucks at places [8, 2] with velocities [8, 2] -> qpos [steps, 8, 9]; actions [8, 2], else the tips rest."""
        qpos = np.stack([push.rest(place, np) for place in places]).astype(np.float32)
        qvel = np.zeros((SIMS, 8), np.float32)
        qvel[:, 2:4] = velocities
        state, seen = self.init(model, qpos, qvel), []
        ctrl = np.zeros((SIMS, 2), np.float32)
        for _ in range(steps):
            if actions is not None:
                ctrl = self.command(model, qpos[:, :2], actions)
            state, motion = self.step(model, state, ctrl)
            qpos = np.asarray(motion.qpos)
            seen.append(qpos)
        return np.stack(seen)


_engine = functools.cache(_Engine)


@pytest.fixture(params=["native", "mjx"])
def engine(request):
    return _engine(request.param)


AROUND = 0.12 * np.stack([np.cos(np.arange(SIMS)), np.sin(np.arange(SIMS))], -1)  # clear of the tip


def _record(domain):
    return physics.constants(push.build(domain))


def test_places_keep_their_bounds_and_fill_the_field():
    draws = np.random.default_rng(0).uniform(-1, 1, (5000, 2, 16, 2)).astype(np.float32)
    puck, goal = map(np.asarray, jax.jit(jax.vmap(push.places))(draws))
    assert np.abs(puck).max() <= 0.15 and np.abs(goal).max() <= 0.15
    assert np.linalg.norm(puck, axis=-1).min() >= 0.1 and np.linalg.norm(goal - puck, axis=-1).min() >= 0.1
    for place in (puck, goal):  # each in every quarter, out to the edges, without a side that is preferred
        assert np.all(np.abs(np.mean(place, 0)) < 0.005)
        assert np.all(place.max(0) > 0.148) and np.all(place.min(0) < -0.148)
    # The puck's law is uniform over the square less the disc: P(|x| > 0.1) = 2 (0.05) (0.3) / (0.3^2 - pi 0.1^2)
    expected = 0.1 * 0.3 / (0.3**2 - np.pi * 0.1**2)
    np.testing.assert_allclose(np.mean(np.abs(puck[:, 0]) > 0.1), expected, atol=0.02)
    chex.assert_trees_all_close(push.places(draws[7], np), (puck[7], goal[7]), atol=1e-7)


def test_without_a_candidate_far_enough_it_is_the_farthest_corner():
    puck, goal = push.places(jnp.full((2, 16, 2), 0.1).at[1].set(jnp.array([0.9, -0.9])))
    np.testing.assert_allclose(puck, [0.15, 0.15])
    np.testing.assert_allclose(goal, [0.135, -0.135])
    _, goal = push.places(jnp.full((2, 16, 2), 0.9))
    np.testing.assert_allclose(goal, [-0.15, -0.15])


def test_an_observation_by_hand():
    turn, tilt, turned = 0.3, np.array([0.6, 0.0, 0.8, 0.0]), np.zeros(4)  # a turn, and before it a tilt about y
    mujoco.mju_mulQuat(turned, np.array([np.cos(turn / 2), 0.0, 0.0, np.sin(turn / 2)]), tilt)
    qpos = np.array([0.01, 0.02, 0.11, -0.08, 0.01, *turned])
    obs = push.observe(qpos, np.arange(8.0), np.array([0.05, 0.06]), np)
    x_axis = (0.6**2 - 0.8**2) * np.array([np.sin(turn), np.cos(turn)])  # cos of the tilt, 2 atan(4/3), by the turn
    by_hand = [0.01, 0.02, 0.11, -0.08, 0.10, -0.10, *x_axis, 0, 1, 2, 3, 7, 0.11, -0.08, 0.05, 0.06]
    np.testing.assert_allclose(obs, by_hand, atol=1e-12)
    chex.assert_trees_all_close(push.observe(*map(jnp.float32, (qpos, np.arange(8.0), [0.05, 0.06]))), obs, atol=1e-6)


@pytest.mark.parametrize("xp", [np, jnp])
def test_the_reward_is_0_within_5_cm_and_minus_1_elsewhere(xp):
    desired = xp.asarray([[0.0, 0.0], [0.0, 0.0], [0.1, -0.1], [0.1, -0.1]], xp.float32)
    achieved = xp.asarray([[0.03, 0.039], [0.03, 0.041], [0.1, -0.1], [0.06, -0.06]], xp.float32)
    for judged in (push.reward(achieved, desired, xp), [push.reward(a, d, xp) for a, d in zip(achieved, desired)]):  # noqa: B905
        np.testing.assert_array_equal(judged, [0, -1, 0, -1])
    obs = xp.concatenate([xp.zeros((4, 13)), achieved, desired], -1)
    np.testing.assert_array_equal(push.success(obs, xp), [True, False, True, False])
    assert GOAL.reward is push.reward and obs[0, GOAL.achieved][1] == achieved[0, 1]


@pytest.mark.parametrize("name", DOMAINS)
def test_a_puck_at_rest_stays_at_rest_for_2_seconds(engine, name):
    qpos = engine.run(_record(DOMAINS[name]), AROUND, 0.0, 50)
    np.testing.assert_allclose(qpos[..., 2:4], np.broadcast_to(AROUND, (50, SIMS, 2)), atol=5e-4)
    np.testing.assert_allclose(qpos[..., 4], push.HEIGHT, atol=1e-5)
    np.testing.assert_allclose(qpos[..., 5], 1.0, atol=1e-6)


@pytest.mark.parametrize("name", DOMAINS)
def test_a_sliding_puck_stops_where_coulomb_says(engine, name):
    """v^2 / (2 mu g), less v dt / 2 for steps of 5 ms; along x, along y, and backwards."""
    domain = DOMAINS[name]
    slow, fast = (0.3, 0.5) if name != "ice" else (0.15, 0.25)
    speeds = np.array([[fast, 0], [0, fast], [-fast, 0], [0, -fast], [slow, 0], [0, slow], [-slow, 0], [0, -slow]])
    travelled = engine.run(_record(domain), AROUND * 3, speeds, 40)[-1, :, 2:4] - AROUND * 3
    friction = np.where(speeds[:, 0] != 0, domain.friction_x, domain.friction_y)
    speed = np.abs(speeds).sum(-1)
    expected = speed**2 / (2 * friction * G) - speed * 0.005 / 2
    np.testing.assert_allclose((travelled * np.sign(speeds)).sum(-1), expected, rtol=0.03, atol=1e-3)
    np.testing.assert_allclose(travelled[speeds == 0], 0.0, atol=1e-3)


def test_even_friction_knows_no_direction(engine):
    """Eight ways, Coulomb's distance on each: a pyramid of friction would let the diagonals go half as far again."""
    way = np.stack([np.cos(np.arange(SIMS) * np.pi / 4), np.sin(np.arange(SIMS) * np.pi / 4)], -1)
    travelled = engine.run(_record(Domain(0.2, 0.2)), AROUND * 3, 0.5 * way, 20)[-1, :, 2:4] - AROUND * 3
    np.testing.assert_allclose(travelled, (0.25 / (2 * 0.2 * G) - 0.00125) * way, rtol=0.03, atol=1e-3)


@pytest.mark.parametrize("friction", [0.03, 0.3])
def test_a_pull_of_a_tenth_of_the_weight_moves_the_puck_or_does_not(engine, friction):
    """On a slope of 1 in 10: (0.1 - mu) g t (t + dt) / 2 where that is positive, and not at all elsewhere."""
    model = _record(Domain(friction, friction))._replace(gravity=np.float32([0, 0.1 * G, -G]))
    travelled = engine.run(model, AROUND * 3, 0.0, 12)[-1, :, 2:4] - AROUND * 3
    expected = max(0.1 - friction, 0.0) * G * 0.48 * 0.485 / 2
    np.testing.assert_allclose(travelled[:, 1], expected, rtol=0.03, atol=1e-3)
    np.testing.assert_allclose(travelled[:, 0], 0.0, atol=5e-4)


def test_other_tables_and_pucks_are_no_other_program(engine):
    for domain in DOMAINS.values():
        engine.run(_record(domain), AROUND, 0.1, 1)
    assert engine.step._cache_size() == 1 and engine.init._cache_size() == 1


def test_simulations_of_different_tables_run_in_one_program():
    env = push.make("native", threads=1)
    models = [_record(domain) for domain in DOMAINS.values()]
    reset, step = map(jax.jit, rollout.batched(env._replace(model=physics.stack(models))))
    state, _ = reset(jnp.stack([jax.random.key(5)] * len(models)))  # the same first state on each
    single_step = jax.jit(env.step)
    way = state.obs[0, 2:4] / jnp.linalg.norm(state.obs[0, 2:4])
    for _ in range(12):
        state, out = step(state, jnp.stack([way] * len(models)))
    for i, model in enumerate(models):
        alone, obs = jax.jit(env.reset)(model, jax.random.key(5))
        for _ in range(12):
            alone, single = single_step(model, alone, way)
        chex.assert_trees_all_close(out.obs[i], single.obs, atol=1e-6)
    moved = np.linalg.norm(np.asarray(out.obs - obs[None])[:, GOAL.achieved], axis=-1)
    assert len(np.unique(np.round(moved, 3))) == len(models) and moved.min() > 0.02


@pytest.mark.parametrize("name", ["simulated", "real"])
def test_the_engines_agree_over_a_push(name):
    """0.6 s at full action, off the puck's middle by up to 2 cm: a contact that comes and goes tells float32 apart."""
    offsets = np.stack([np.full(SIMS, 0.1), np.linspace(-0.02, 0.02, SIMS)], -1)
    actions = np.tile(np.float32([1.0, 0.0]), (SIMS, 1))
    native, mjx = (
        _engine(each).run(_record(DOMAINS[name]), offsets, 0.0, 15, actions)[..., 2:4] for each in ("native", "mjx")
    )
    assert np.all(native[-1, :, 0] - 0.1 > 0.06)  # it is a push
    apart = np.linalg.norm(native[-1] - mjx[-1], axis=-1)
    assert np.median(apart) < 5e-3 and np.max(apart) < 2e-2


@pytest.mark.parametrize("name", DOMAINS)
def test_the_constants_reach_the_engine_through_the_record(name):
    """Through the arrays alone: friction on MuJoCo's contacts, mass in its inertia, stiffness in the servos' force."""
    domain = DOMAINS[name]
    model = physics.with_constants(push.mj_model(), _record(domain))
    data = mujoco.MjData(model)
    data.qpos[:] = push.rest(np.array([0.044, 0.0]), np)  # the tip touches it
    data.ctrl[:] = push.command(_record(domain), data.qpos[:2], np.array([1.0, -0.5]), np)
    mujoco.mj_forward(model, data)
    contacts = {tuple(sorted(model.geom(int(g)).name for g in c.geom)): c.friction[:2] for c in data.contact}
    assert set(contacts) == {("puck", "table"), ("puck", "tip")}
    np.testing.assert_allclose(contacts["puck", "table"], [domain.friction_y, domain.friction_x], rtol=1e-6)
    np.testing.assert_allclose(contacts["puck", "tip"], domain.tip_friction, rtol=1e-6)
    inertia = np.empty((model.nv, model.nv))
    mujoco.mj_resetData(model, data)
    mujoco.mj_forward(model, data)
    mujoco.mj_fullM(model, data, inertia)
    box = domain.puck_mass / 3 * np.array([0.035**2 + 0.01**2, 0.035**2 + 0.01**2, 2 * 0.035**2])
    np.testing.assert_allclose(np.diag(inertia)[2:], [*[domain.puck_mass] * 3, *box], rtol=1e-5)
    data.ctrl[:] = push.command(_record(domain), np.zeros(2), np.array([1.0, -0.5]), np)
    data.qvel[:2] = 0.1
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.qfrc_passive[:2], -0.1 * domain.damping, rtol=1e-6)
    np.testing.assert_allclose(data.qfrc_actuator[:2], domain.stiffness * np.array([0.05, -0.025]), rtol=1e-5)


def test_the_simulated_domain_is_the_xml_to_the_bit():
    chex.assert_trees_all_equal(_record(SIMULATED), physics.constants(push.mj_model()))


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        (Domain(friction_x=0.0), "friction_x 0.0 must be positive"),
        (Domain(puck_mass=-1.0), "puck_mass -1.0 must be positive"),
        (Domain(friction_x=0.03), "friction 0.4 and 0.03 differ by more than 5"),
    ],
)
def test_a_table_that_cannot_be_is_refused(domain, message):
    with pytest.raises(ValueError, match=message):
        push.build(domain)


@pytest.mark.parametrize("name", ["simulated", "real"])
def test_the_host_class_steps_the_native_engine_s_physics(name):
    """A whole episode of the same actions from the same start; only the targets' rounding to float32 differs."""
    sim, real = push.make("native", threads=1, domain=DOMAINS[name]), RealPush(DOMAINS[name])
    seen, _ = real.reset(seed=1)
    qpos = push.rest(jnp.asarray(seen[GOAL.achieved], jnp.float32))
    state = push.Pushing(sim.physics.init(sim.model, qpos, jnp.zeros(8)), jnp.asarray(seen, jnp.float32))
    step, worst = jax.jit(sim.step), 0.0
    for t in range(50):
        action = push_scripted.act(seen).astype(np.float32)
        state, out = step(sim.model, state, action)
        seen, reward, terminated, truncated, info = real.step(action)
        worst = max(worst, np.abs(out.obs - seen)[[0, 1, 2, 3, 13, 14]].max())
        assert out.reward == reward
        assert info["is_success"] == bool(sim.success(out.obs)) == (reward == 0.0)
        assert not terminated and not out.terminated and truncated == (t == 49)
    assert worst < 1e-4 and reward == 0.0


def _solved_in_simulation(pusher, episodes):
    env = push.make("native", threads=1)
    keys = jax.random.split(jax.random.key(3), episodes)
    state, obs = jax.jit(jax.vmap(env.reset, in_axes=(None, 0)))(env.model, keys)
    step = jax.jit(jax.vmap(env.step, in_axes=(None, 0, 0)))
    for _ in range(push.SPEC.episode_length):
        actions = np.stack([push_scripted.act(row, pusher) for row in np.asarray(obs)])
        state, out = step(env.model, state, actions.astype(np.float32))
        obs = out.obs
    return float(np.mean(jax.vmap(env.success)(obs)))


def _solved_in_reality(pusher, episodes):
    env, solved = push.make_real(), 0
    for seed in range(episodes):
        obs, _ = env.reset(seed=seed)
        for _ in range(push.SPEC.episode_length):
            obs, *_, info = env.step(push_scripted.act(obs, pusher))
        solved += info["is_success"]
    return solved / episodes


def test_the_task_can_be_solved_and_what_the_simulator_forgives_reality_does_not():
    careful = push_scripted.Pusher()
    assert _solved_in_simulation(careful, 40) >= 0.95 and _solved_in_reality(careful, 40) >= 0.85
    assert _solved_in_simulation(HASTY, 40) >= 0.95 and _solved_in_reality(HASTY, 40) <= 0.7


def test_goals_by_name_and_flat_again():
    env = goals.ByName(push.make_real(), GOAL)
    seen, _ = env.reset(seed=0)
    assert env.observation_space.contains(seen) and {k: v.shape for k, v in seen.items()} == {
        "observation": (13,), "achieved_goal": (2,), "desired_goal": (2,)
    }  # fmt: skip
    np.testing.assert_array_equal(seen["achieved_goal"], env.unwrapped.data.qpos[2:4])
    reached, reward, *_, info = env.step(np.ones(2, np.float32))
    assert env.compute_reward(reached["achieved_goal"], reached["desired_goal"], info) == reward == -1
    batch = np.stack([reached["desired_goal"], reached["desired_goal"] + 0.06])
    np.testing.assert_array_equal(env.compute_reward(batch, np.stack([reached["desired_goal"]] * 2), {}), [0, -1])
    flat, plain = goals.Flat(env), push.make_real()
    np.testing.assert_array_equal(flat.reset(seed=4)[0], plain.reset(seed=4)[0])
    assert flat.observation_space == plain.observation_space


def test_fetch_push_is_a_real_side():
    pytest.importorskip("gymnasium_robotics", reason="needs the extra fetch: pip install -e '.[fetch]'")
    env = fetch_push.make_real()
    obs, _ = env.reset(seed=0)
    assert obs.shape == env.observation_space.shape == (31,) and env.action_space.shape == (4,)
    np.testing.assert_array_equal(obs[fetch_push.GOAL.achieved], obs[3:6])  # the cube's place
    for _ in range(50):
        obs, reward, terminated, truncated, _ = env.step(np.zeros(4, np.float32))
        assert reward == fetch_push.GOAL.reward(obs[fetch_push.GOAL.achieved], obs[fetch_push.GOAL.desired])
    assert truncated and not terminated
    env.close()


@pytest.mark.skipif(importlib.util.find_spec("gymnasium_robotics") is not None, reason="it is installed here")
def test_without_gymnasium_robotics_fetch_push_says_what_to_do():
    with pytest.raises(ValueError, match=r"needs the package gymnasium-robotics; pip install -e '\.\[fetch\]'"):
        fetch_push.make_real()
