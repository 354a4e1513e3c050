"""The collector on the point mass: what it writes is what the real environment did."""

import importlib
import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from envs import point_mass
from experiments import collect, stages, worlds
from experiments.experiment import Experiment
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


def test_a_set_too_small_for_a_whole_episode_has_no_behaviour_return(tmp_path, capsys):
    """The point mass' episodes have 100 steps, and nothing falls in the first few."""
    archive = tmp_path / "point_mass.npz"
    stages.save(archive, [stages.Stage(i, float(i), _constant(0.0)) for i in range(2)])
    for quality, rows in (("random", 7), ("medium_expert", 150)):  # the latter 75 of each policy
        out = tmp_path / f"{quality}.hdf5"
        words = ["--quality", quality, "--rows", str(rows), "--policies", str(archive), "--out", str(out)]
        assert collect.main(["point_mass", *words]) == 0
        assert capsys.readouterr().out == f"{out}: {rows} rows, no whole episode, so no behaviour return\n"
        assert len(hdf5.load(out, point_mass.SPEC).rewards) == rows
        with h5py.File(out) as file:
            assert np.isnan(file.attrs["behaviour_return"])


def test_the_behaviour_return_is_that_of_whole_episodes(tmp_path, capsys):
    """Two policies, 250 rows each: two episodes to the clock, then 50 rows that are cut."""
    archive, out = tmp_path / "point_mass.npz", tmp_path / "x.hdf5"
    stages.save(archive, [stages.Stage(i, float(i), _constant(0.0)) for i in range(2)])
    words = ["--quality", "medium_expert", "--rows", "500", "--policies", str(archive), "--out", str(out)]
    assert collect.main(["point_mass", *words]) == 0
    data = hdf5.load(out, point_mass.SPEC)
    np.testing.assert_array_equal(np.flatnonzero(data.timeouts), [99, 199, 249, 349, 449, 499])
    whole = data.rewards[np.r_[:200, 250:450]].sum() / 4
    with h5py.File(out) as file:
        assert file.attrs["behaviour_return"] == pytest.approx(whole, rel=1e-3)  # 11 bits of mantissa
    assert data.rewards.sum() / 6 != pytest.approx(whole, rel=0.1)
    assert capsys.readouterr().out == f"{out}: 500 rows, behaviour return {whole:,.0f}\n"
    run = Experiment(sim="envs.point_mass:make", real="envs.point_mass:make_real", dataset=out)
    with ExitStack() as undo:
        assert worlds.build(run, undo).behaviour_return == pytest.approx(whole, rel=1e-3)
        assert worlds.build(replace(run, log_rows=99), undo).behaviour_return is None


def test_the_replay_of_a_learner_holds_its_rows_in_order(tmp_path):
    out = tmp_path / "replay.hdf5"
    training = ["--training.steps", "300", "--training.warmup", "100", "--training.evaluate_every", "100"]
    assert (
        collect.main(["point_mass", "--quality", "replay", "--rows", "300", "--out", str(out), *training, *TINY]) == 0
    )
    data = hdf5.load(out, point_mass.SPEC)
    assert 100 < len(data.rewards) <= 300  # an open last episode is dropped
    _obeys_the_real_dynamics(data)
    follows = np.all(data.next_observations[:-1] == data.observations[1:], axis=-1)
    np.testing.assert_array_equal(follows, ~(data.terminals | data.timeouts)[:-1])


def test_data_sets_of_every_quality_come_from_one_archive_of_policies(tmp_path):
    """The point mass' policies push with a known, constant mean: each row tells whose it is."""
    pushes = (-0.8, 0.1, 0.3, 0.9)
    archive = tmp_path / "point_mass.npz"
    kept = [stages.Stage(i, score, _constant(pushes[i])) for i, score in enumerate((0.0, 3.0, 5.0, 9.0))]
    stages.save(archive, kept)
    expected = {"medium": [0.3], "expert": [0.9], "medium_expert": [0.3, 0.9], "medium_replay": [-0.8, 0.1, 0.3]}
    for quality, means in expected.items():
        out = tmp_path / f"{quality}.hdf5"
        words = ["--quality", quality, "--rows", "301", "--policies", str(archive), "--out", str(out)]
        assert collect.main(["point_mass", *words]) == 0
        data = hdf5.load(out, point_mass.SPEC)
        assert len(data.rewards) == 301
        _obeys_the_real_dynamics(data)
        parts = np.array_split(
            data.actions[:, 0], np.cumsum(np.diff(np.arange(len(means) + 1) * 301 // len(means)))[:-1]
        )
        np.testing.assert_allclose([np.mean(part) for part in parts], means, atol=0.01)


def _constant(push):
    """A policy whose action is tanh(atanh(push) + 0.01 noise) everywhere."""
    layers = {"Dense_0": {"kernel": np.zeros((2, 4)), "bias": np.zeros(4)}}
    layers["Dense_1"] = {"kernel": np.zeros((4, 2)), "bias": np.array([np.arctanh(push), np.log(0.01) + 1.0])}
    return {"params": {"MLP_0": layers, "log_std_multiplier": np.ones(()), "log_std_offset": -np.ones(())}}


def test_too_few_rows_for_the_policies_are_refused(tmp_path, capsys):
    archive = tmp_path / "point_mass.npz"
    stages.save(archive, [stages.Stage(i, float(i), _constant(0.1)) for i in range(4)])
    words = ["--quality", "medium_replay", "--rows", "2", "--policies", str(archive), "--out", str(tmp_path / "x.hdf5")]
    assert collect.main(["point_mass", *words]) == 2
    assert "--rows 2 are too few for the 3 policies" in capsys.readouterr().err


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
        (["point_mass", "--quality", "medium"], "make it with train_policies.py point_mass"),
        (["point_mass", "--quality", "replay", "--rows", "50"], "must each hold a whole episode"),
        (["point_mass", "--quality", "hand_tuned"], "has no function 'hand_tuned'"),
    ],
)
def test_mistakes_end_with_exit_code_2(tmp_path, capsys, arguments, message):
    out = ["--out", str(Path(tmp_path) / "x.hdf5")] if arguments else []
    assert collect.main([*arguments, *out]) == 2
    assert message in capsys.readouterr().err


SETS = {  # -> rows, whole episodes, cut ones, behaviour return
    "wheel_legged": (20_000, 36, 0, 12_851),
    "wheel_legged_straight": (20_000, 43, 0, 5_044),
    "half_cheetah": (150_000, 150, 0, 3_485),
    "half_cheetah_medium_replay": (20_000, 18, 3, 3_549),
    "half_cheetah_random": (10_000, 10, 0, -249),
    "hopper_medium_replay": (20_000, 228, 3, 98),
    "walker2d_medium_replay": (20_000, 34, 5, 1_047),
}


def test_the_documented_sets_are_those_that_are_looked_at():
    assert {*re.findall(r"\| `(\w+)\.hdf5` \|", (collect.DATA / "README.md").read_text())} == SETS.keys()


@pytest.mark.parametrize("name", SETS)
def test_the_behaviour_of_the_repositorys_sets_is_as_documented(name):
    path = collect.DATA / f"{name}.hdf5"
    with h5py.File(path) as file:
        made = {key: file.attrs[key].decode() for key in ("task", "command")}
    spec = importlib.import_module(made["task"]).SPEC
    data = hdf5.load(path, spec)
    returns = scores.episode_returns(data, spec.episode_length)
    cut = int((data.terminals | data.timeouts).sum()) - len(returns)
    found = (len(data.rewards), len(returns), cut, round(scores.behaviour_return(data, spec.episode_length)))
    assert found == SETS[name]
    (line,) = [line for line in (collect.DATA / "README.md").read_text().splitlines() if f"| `{name}.hdf5` |" in line]
    _, rows, episodes, earned, command = [cell.strip() for cell in line.strip("|").split("|")]
    assert rows.split(" ")[0] == f"{found[0]:,}"
    assert episodes == f"{found[1]}" + (f", {cut} more cut" if cut else "")
    assert earned.split(" ")[0] == f"{found[3]:,}"
    if "from" in earned:
        assert earned.endswith(f"(from {returns.min():,.0f} to {returns.max():,.0f})")
    assert made["command"].removesuffix(" --overwrite true") == command.strip("`")
