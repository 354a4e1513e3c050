"""One simulated step against the recorded one, where gymnasium's own environments say what the step should give."""

import json
import sys
from types import ModuleType

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from envs import action_gap, gap, half_cheetah, hopper, wheel_legged, wheel_legged_straight
from experiments import experiment, one_step_error
from experiments.one_step_error import STATES, Measurement, before, errors
from hybrid_jax.datasets import hdf5
from hybrid_jax.datasets.hdf5 import Dataset
from hybrid_jax.datasets.load import load

CHEETAH = STATES["envs.half_cheetah"]
FILE = experiment.DATA / "half_cheetah.hdf5"


@pytest.fixture(scope="module")
def cheetah():
    return half_cheetah.make(engine="native", threads=1)


@pytest.fixture(scope="module")
def logged() -> Dataset:
    return load(FILE, half_cheetah.SPEC)


@pytest.fixture(scope="module")
def exact(logged) -> Dataset:
    """What gymnasium's environment answers near 300 rows of the log; nothing is rounded but to float32."""
    rng = np.random.default_rng(3)
    rows = np.sort(rng.permutation(len(logged.rewards))[:300])
    # the log is rounded to 11 bits: somewhere within that lay the values
    near = lambda values: (values * (1 + 2.0**-12 * rng.uniform(-1, 1, values.shape))).astype(np.float32)  # noqa: E731
    obs, actions = near(logged.observations[rows]), np.clip(near(logged.actions[rows]), -1, 1)
    real = half_cheetah.make_real().unwrapped
    answers = []
    for state, action in zip(obs.astype(np.float64), actions, strict=True):
        real.reset()
        real.set_state(np.concatenate([[0.0], state[:8]]), state[8:])
        following, reward, *_ = real.step(action)
        answers.append((following.astype(np.float32), reward))
    real.close()
    following, rewards = map(np.array, zip(*answers, strict=True))
    never = np.zeros(len(rows), bool)
    return Dataset(obs, actions, rewards.astype(np.float32), following, never, ~never)


def everything(data: Dataset) -> np.ndarray:
    return np.arange(len(data.rewards))


def test_the_same_physics_have_no_error(cheetah, exact):
    found = errors(cheetah, CHEETAH, exact, everything(exact))
    assert found.overall < 1e-5 and found.relative.max() < 2e-5
    assert (found.ends, found.diverged) == (0, 0)


def test_our_log_is_off_by_its_rounding_and_the_gap_by_far_more(cheetah, exact, logged):
    """11 bits of mantissa, laid on what gymnasium answers exactly, are as far off as the log is."""
    rounded = Dataset(*(hdf5.rounded(column, 11) for column in exact[:4]), exact.terminals, exact.timeouts)
    by_rounding = errors(cheetah, CHEETAH, rounded, everything(rounded))
    rows = np.sort(np.random.default_rng(4).permutation(len(logged.rewards))[:300])
    found = errors(cheetah, CHEETAH, logged, rows)
    assert found.overall < 3 * by_rounding.overall < 0.01  # the few rows that just touch the ground decide
    np.testing.assert_allclose(np.log(found.median), np.log(by_rounding.median), atol=np.log(1.5))
    heavy = errors(gap.gravity(cheetah, 2.0), CHEETAH, logged, rows)
    assert heavy.overall > 20 * found.overall and heavy.overall > 0.1
    assert heavy.rms[-1] > 5 * found.rms[-1]
    # most rows are in the air: there the vertical speed is off by g dt
    np.testing.assert_allclose(heavy.median[9], 9.81 * 0.05, rtol=0.1)


def test_the_numbers_are_those_of_a_known_error(cheetah, exact):
    """Successors moved by hand: 0.25 in dimension 2 everywhere; 5 in three rows of dimension 4; rewards by 2 in all."""
    following, rows = exact.next_observations.copy(), everything(exact)
    following[:, 2] += 0.25
    following[:3, 4] += 5.0
    moved = exact._replace(next_observations=following, rewards=exact.rewards + 2)
    found = errors(cheetah, CHEETAH, moved, rows)
    change = np.sqrt(np.mean((following - exact.observations).astype(np.float64) ** 2, axis=0))
    wanted = np.zeros(18)
    wanted[[2, 4, 17]] = 0.25, 5 * np.sqrt(3 / 300), 2
    np.testing.assert_allclose(found.rms, wanted, atol=1e-3)
    np.testing.assert_allclose(found.relative[:-1], wanted[:-1] / change, atol=1e-4)
    np.testing.assert_allclose(found.relative[-1], 2 / exact.rewards.std(), rtol=1e-3)
    np.testing.assert_allclose(found.overall, np.sqrt(np.mean((wanted[:-1] / change) ** 2)), rtol=1e-4)
    np.testing.assert_allclose(found.median[[2, 4, 17]], [0.25, 0, 2], atol=1e-4)
    np.testing.assert_allclose(found.p99[[2, 17]], [0.25, 2], atol=1e-3)
    assert 0 < found.p99[4] <= 5  # three rows are 1 %


def test_what_diverges_and_what_never_changes_is_told_apart(cheetah, exact):
    """An infinite speed is no error of the dynamics; a column without change has no relative error."""

    def step(model, state, action):
        state, out = cheetah.step(model, state, action)
        return state, out._replace(obs=jnp.where(action[0] > 1, jnp.nan, out.obs).at[0].set(0.0))

    actions = np.clip(exact.actions, -1, 1)
    actions[:7, 0] = 1.5
    still = {"observations": exact.observations.copy(), "next_observations": exact.next_observations.copy()}
    for column in still.values():
        column[:, 0] = 0
    found = errors(cheetah._replace(step=step), CHEETAH, exact._replace(actions=actions, **still), everything(exact))
    assert found.diverged == 7 and np.isnan(found.relative[0]) and found.rms[0] == 0
    assert np.isfinite(found.overall)


def _played(real, policy, steps: int, late: int = 0) -> Dataset:
    """A recording of gymnasium's environment; late: steps that an action needs to the motors."""
    rows, rng = [], np.random.default_rng(0)
    obs, _ = real.reset(seed=0)
    queue = [np.zeros(real.action_space.shape)] * late
    for _ in range(steps):
        action = policy(rng).astype(np.float32)
        queue.append(action)
        following, reward, terminated, truncated, _ = real.step(queue.pop(0))
        rows.append((obs, action, reward, following, terminated, truncated and not terminated))
        obs = following
        if terminated or truncated:
            obs, _ = real.reset()
            queue = [np.zeros(real.action_space.shape)] * late
    real.close()
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Dataset(*(column.astype(np.float32) for column in columns[:4]), *columns[4:])


def test_falls_and_time_limits_are_rows_like_all_others(tmp_path):
    """Every end of the hopper's recording has its true successor and the simulator ends there, too."""
    real = hopper.make_real(max_episode_steps=20)
    data = _played(real, lambda rng: rng.uniform(-1, 1, 3), 300)
    assert data.terminals.sum() > 3 and data.timeouts.sum() > 3
    hdf5.save(tmp_path / "hopper.hdf5", data, {}, next_observations=False)
    data = load(tmp_path / "hopper.hdf5", hopper.SPEC)
    env, states = hopper.make(engine="native", threads=1), STATES["envs.hopper"]
    ends = np.flatnonzero(data.terminals | data.timeouts)
    found = errors(env, states, data, ends)
    assert found.overall < 1e-3 and (found.ends, found.diverged) == (0, 0)
    other = data.terminals.copy()
    other[ends[:4]] ^= True
    assert errors(env, states, data._replace(terminals=other), ends).ends == 4


def test_rows_of_clipped_speeds_are_left_out(tmp_path):
    real = hopper.make_real(terminate_when_unhealthy=False)
    data = _played(real, lambda rng: rng.choice([-1.0, 1.0], 3), 200)
    clipped = (np.abs(data.observations[:, 5:]) >= 10).any(axis=1)
    assert 5 < clipped.sum() < 100
    hdf5.save(tmp_path / "a.hdf5", data._replace(timeouts=np.arange(200) == 199), {}, next_observations=False)
    lines = one_step_error.report(Measurement(tmp_path / "a.hdf5", "envs.hopper:make"))
    last = json.loads(lines[-1])
    assert last["rows"] == 200 - clipped.sum() and f"note: {clipped.sum()} rows have speeds clipped at 10" in lines[1]
    assert last["worlds"]["as it is"]["overall"] < 1e-3


@pytest.mark.parametrize("task", [wheel_legged, wheel_legged_straight])
def test_a_balancers_wheels_roll_and_rest_on_the_ground(task):
    model, rng = wheel_legged.mj_model(), np.random.default_rng(0)
    data, drive, rows = mujoco.MjData(model), wheel_legged.hand_tuned(rng), []
    data.qpos[2] = 0.03
    for n in range(300):
        obs = wheel_legged.observe(data.qpos, data.qvel, np)
        action = drive(obs)
        data.ctrl[:] = wheel_legged.TORQUE_LIMIT * action[0] / 2
        mujoco.mj_step(model, data, wheel_legged.FRAME_SKIP)
        following = wheel_legged.observe(data.qpos, data.qvel, np)
        seen = (obs, action) if task is wheel_legged_straight else (action, following)  # of s or of s'
        rows.append((obs, action, float(task.reward(*seen, np)), following, False, n == 299))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    log = Dataset(*(column.astype(np.float32) for column in columns[:4]), *columns[4:])
    env, landed = task.make(engine="native", threads=1), np.arange(20, 300)
    found = errors(env, STATES[task.__name__], log, landed)
    assert found.overall < 0.02 and found.relative[-1] < 0.02
    in_the_air = one_step_error.States(
        lambda obs, model: (np.pad(obs[:, :1], ((0, 0), (0, 4))), np.zeros((len(obs), 5)))
    )
    assert errors(env, in_the_air, log, landed).overall > 0.5


def test_actions_on_their_way_are_those_recorded_before():
    ends = np.array([0, 0, 1, 0, 0, 0], bool)
    ids = np.arange(6, dtype=np.float32)
    data = Dataset(ids[:, None], ids[:, None] + 10, ids, ids[:, None], ends, ~ends & (ids == 4))
    found = before(data, np.array([0, 2, 3, 4, 5]), 2)[..., 0]
    np.testing.assert_array_equal(found, [[0, 0], [10, 11], [0, 0], [0, 13], [0, 0]])


def test_a_late_robot_has_no_error_against_a_late_simulator(cheetah):
    data = _played(half_cheetah.make_real(max_episode_steps=10), lambda rng: rng.uniform(-1, 1, 6), 300, late=2)
    late = action_gap.joint_noise(action_gap.action_delay(cheetah, 2), 1e-6)  # one gap around the other
    assert errors(late, CHEETAH, data, everything(data)).overall < 1e-4
    assert errors(cheetah, CHEETAH, data, everything(data)).overall > 0.1


def test_an_experiment_shows_both_worlds(capsys):
    assert one_step_error.main(["half_cheetah_gravity_h2o", "--rows", "300", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "300 of 150,000 rows" in lines[0] and lines[1].split() == ["as", "it", "is", "gravity", "2"]
    table = {line.split()[0]: line.split()[1:] for line in lines[3:22]}
    last = json.loads(lines[-1])
    plain, heavy = last["worlds"]["as it is"], last["worlds"]["gravity 2"]
    assert plain["overall"] < 0.1 * heavy["overall"] and len(plain["rms"]) == 18
    for name, at in (("0", 0), ("16", 16), ("reward", 17)):
        wanted = [world[key][at] for world in (plain, heavy) for key in ("rms", "relative", "median", "p99")]
        np.testing.assert_allclose(list(map(float, table[name])), wanted, rtol=0.01)
    assert table["all"] == [f"{plain['overall']:.3g}", f"{heavy['overall']:.3g}"]


def test_a_module_may_say_itself_what_its_observations_mean(monkeypatch, tmp_path, exact):
    module = ModuleType("mine")
    module.make, module.state_from_obs = half_cheetah.make, one_step_error.runner
    monkeypatch.setitem(sys.modules, "mine", module)
    hdf5.save(tmp_path / "a.hdf5", exact, {})
    last = json.loads(one_step_error.report(Measurement(tmp_path / "a.hdf5", "mine:make", threads=1))[-1])
    assert last["worlds"]["as it is"]["overall"] < 1e-5
    del module.state_from_obs
    with pytest.raises(experiment.Refused, match="mine cannot be set to an observation; give it a function state_from"):
        one_step_error.report(Measurement(tmp_path / "a.hdf5", "mine:make", threads=1))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name an experiment with a data set, or give --dataset FILE and --sim"),
        (["--dataset", "nowhere.hdf5", "--sim", "envs.hopper:make"], "nowhere.hdf5: file: is not there"),
        (["--dataset", str(FILE), "--sim", "envs.point_mass:make"], "the environment has 2"),
        (["--dataset", str(FILE), "--sim", "envs.nowhere:make"], "is it on the Python path?"),
        (["half_cheetah_gravity_h2o", "--rows", "0"], "--rows 0 must be at least 1"),
        (["no_such_experiment"], "no experiment 'no_such_experiment'"),
    ],
)
def test_mistakes_end_with_exit_code_2(capsys, arguments, said):
    assert one_step_error.main(arguments) == 2
    assert said in capsys.readouterr().err
