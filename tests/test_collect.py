"""The collector on the point mass: what it writes is what the real environment did."""

from pathlib import Path

import numpy as np
import pytest

from envs import point_mass
from experiments import collect
from hybrid_jax.datasets import hdf5, scores

TINY = ["--training.algorithm.hidden", "8", "--training.algorithm.batch_real", "16", "--training.chunk", "50"]


def _obeys_the_real_dynamics(data):
    x, v, reward, fell = point_mass.dynamics(point_mass.make_real().constants, data.observations, data.actions)
    np.testing.assert_allclose(data.next_observations, np.stack([x, v], -1), atol=2e-3)  # 11 bits of mantissa
    np.testing.assert_allclose(data.rewards, reward, atol=2e-3)
    np.testing.assert_array_equal(data.terminals, fell)


def test_random_rows(tmp_path):
    out = tmp_path / "random.hdf5"
    arguments = ["point_mass", "--quality", "random", "--rows", "250", "--out", str(out)]
    assert collect.main(arguments) == 0
    data = hdf5.load(out, point_mass.SPEC)
    assert len(data.rewards) == 250
    _obeys_the_real_dynamics(data)
    assert np.abs(data.actions).max() <= 1 and data.actions.std() == pytest.approx(1 / np.sqrt(3), abs=0.05)
    ends = np.flatnonzero(data.terminals | data.timeouts)
    assert np.all(np.diff(np.concatenate([[-1], ends])) <= 100)
    assert collect.main(arguments) == 2  # the file exists


def test_the_replay_of_a_learner_holds_its_rows_in_order(tmp_path):
    out = tmp_path / "replay.hdf5"
    training = ["--training.steps", "300", "--training.warmup", "100", "--training.evaluate_every", "100"]
    assert collect.main(["point_mass", "--rows", "300", "--out", str(out), *training, *TINY]) == 0
    data = hdf5.load(out, point_mass.SPEC)
    assert 100 < len(data.rewards) <= 300  # an open last episode is dropped
    _obeys_the_real_dynamics(data)
    follows = np.all(data.next_observations[:-1] == data.observations[1:], axis=-1)
    np.testing.assert_array_equal(follows, ~(data.terminals | data.timeouts)[:-1])


def test_thinning_takes_whole_episodes_spread_over_the_training():
    lengths = np.full(30, 10)
    ids = np.arange(300, dtype=np.float32)
    ends = np.zeros(300, bool)
    ends[np.cumsum(lengths) - 1] = True
    column = np.stack([ids, ids], -1)
    data = hdf5.Dataset(column, ids[:, None] * 0, ids, column, np.zeros(300, bool), ends)
    thin = collect.thinned(data, 100)
    episodes = thin.rewards.reshape(-1, 10)
    assert len(episodes) == 10
    assert np.all(np.diff(episodes, axis=1) == 1) and np.all(episodes[:, 0] % 10 == 0)  # whole ones
    assert episodes[0, 0] < 60 and episodes[-1, 0] >= 240 and np.all(np.diff(episodes[:, 0]) <= 50)  # spread
    np.testing.assert_array_equal(collect.thinned(data, 1000).rewards, ids)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a task first"),
        (["no_such_task"], "is it on the Python path?"),
        (["point_mass", "--quality", "medium"], "needs --stop_return"),
        (["point_mass", "--quality", "hand_tuned"], "has no function 'hand_tuned'"),
    ],
)
def test_mistakes_end_with_exit_code_2(tmp_path, capsys, arguments, message):
    out = ["--out", str(Path(tmp_path) / "x.hdf5")] if arguments else []
    assert collect.main([*arguments, *out]) == 2
    assert message in capsys.readouterr().err


def test_the_behaviour_of_the_repositorys_sets_is_as_documented():
    readme = (collect.DATA / "README.md").read_text()
    for name in ("wheel_legged", "half_cheetah"):
        data = hdf5.load(collect.DATA / f"{name}.hdf5")
        assert f"{len(data.rewards):,}" in readme
        assert f"{scores.behaviour_return(data):,.0f}" in readme
