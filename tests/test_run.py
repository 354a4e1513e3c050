"""The run command on the point mass, as a user would call it: a whole run, refusals, Ctrl-C and resume."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from envs import point_mass
from experiments import experiment as experiments
from experiments import methods, online, preflight, run, training
from experiments.judging import TEST_SEED
from experiments.stopping import Stop
from experiments.worlds import check_video
from hybrid_jax.config import json_diff, to_json
from hybrid_jax.datasets import hdf5
from hybrid_jax.export import NumpyPolicy
from hybrid_jax.metrics import read_csv

ROOT = Path(__file__).resolve().parent.parent

MINE = """
from pathlib import Path

from experiments.judging import TEST_SEED
from experiments.experiment import Experiment
from hybrid_jax import trainer
from hybrid_jax.algorithms import h2o


def config():
    return Experiment(
        name="mine",
        sim="envs.point_mass:make",
        real="envs.point_mass:make_real",
        dataset=Path(__file__).with_name("log.hdf5"),
        algorithm=h2o.Config(
            hidden=(8,),
            discriminator_hidden=(8,),
            batch_real=8,
            batch_sim=8,
            discriminator_batch_real=8,
            discriminator_batch_sim=8,
        ),
        rates=trainer.Rates(sims=4, unroll=5, updates=10, sim_capacity=400, pool=8),
        updates=60,
        evaluate_every=30,
        episodes=1,
        test_episodes=3,
        runs=Path(__file__).with_name("runs"),
        compile_cache=False,
        tensorboard=False,
        columns=((0, "position", "m", 1.0),),
    )
"""


SIM_ONLY = """
from pathlib import Path

from experiments.experiment import Experiment
from hybrid_jax import trainer
from hybrid_jax.algorithms import sac


def config():
    return Experiment(
        name="sim_only",
        sim="own_worlds:sims",
        real="own_worlds:robot",
        dataset=None,
        algorithm=sac.Config(hidden=(8,), batch_real=0, batch_sim=8),
        rates=trainer.Rates(unroll=5, updates=10, sim_capacity=400),
        updates=20,
        evaluate_every=20,
        episodes=1,
        test_episodes=1,
        rivals=(),
        runs=Path(__file__).with_name("runs"),
        compile_cache=False,
        tensorboard=False,
    )
"""


def user_folder(home: Path) -> Path:
    """A user's folder: an experiment file and a log of random actions on the real point mass."""
    rng = np.random.default_rng(0)
    data = online.record(point_mass.make_real(), point_mass.SPEC, lambda obs: rng.uniform(-1, 1, 1), 300, 0)
    hdf5.save(home / "log.hdf5", data, {})
    (home / "mine.py").write_text(MINE)
    return home


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return user_folder(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="module")
def finished(folder):
    """The folder of one whole run, with both rivals and two seeds."""
    assert run.main([str(folder / "mine.py"), "--seeds", "2", "--name", "whole"]) == 0
    (made,) = (folder / "runs").glob("whole-*")
    return made


def test_a_run_leaves_everything_it_promises(finished):
    for name in ("config.json", "run.json", "curve.png", "episodes.png", "summary.json"):
        assert (finished / name).stat().st_size > 0, name
    for place in ("seed0", "seed1", "rivals/mix/seed0", "rivals/sim_only/seed1"):
        for name in ("metrics.csv", "metrics.jsonl", "policy/policy.npz", "policy/contract.json", "checkpoints"):
            assert (finished / place / name).exists(), f"{place}/{name}"
    record = json.loads((finished / "run.json").read_text())
    assert record["versions"]["jax"] and "commit" in record["git"]


def test_the_summary_follows_from_the_episodes(finished):
    summary = json.loads((finished / "summary.json").read_text())
    seeds = [json.loads((finished / f"seed{s}" / "result.json").read_text()) for s in (0, 1)]
    means = [np.mean(seed["real_returns"]) for seed in seeds]
    assert summary["real_return_mean"] == pytest.approx(np.mean(means))
    assert summary["real_return_std"] == pytest.approx(np.std(means, ddof=1))
    low, high = summary["real_return_ci95"]
    assert min(means) - 1e-6 <= low <= high <= max(means) + 1e-6
    assert summary["updates"] == 60 and summary["sim_steps"] == 120 and summary["real_steps"] == 300
    assert set(summary["rivals"]) == {"sim_only", "mix"}
    rival = json.loads((finished / "rivals" / "mix" / "seed0" / "result.json").read_text())
    assert len(rival["real_returns"]) == 3


def test_the_worst_test_episode_is_shown(finished):
    result = json.loads((finished / "seed1" / "result.json").read_text())
    with np.load(finished / "seed1" / "worst_episode.npz") as episode:
        assert episode["rewards"].sum() == pytest.approx(min(result["real_returns"]), rel=1e-6)
        assert len(episode["obs"]) == len(episode["rewards"]) + 1


def test_the_kept_policy_gives_the_reported_return(finished):
    """The policy folder alone, driven by hand in the real environment, repeats the first test episode."""
    policy = NumpyPolicy.load(finished / "seed0" / "policy")
    env = point_mass.make_real()
    obs, total, done = env.reset(seed=TEST_SEED)[0], 0.0, False
    while not done:
        obs, reward, fell, timeout, _ = env.step(policy(np.asarray(obs, np.float32)))
        total, done = total + reward, fell or timeout
    result = json.loads((finished / "seed0" / "result.json").read_text())
    assert total == pytest.approx(result["real_returns"][0], rel=1e-6)


def test_seeds_in_one_program_end_as_one_after_the_other(finished, folder, tmp_path):
    """What an accelerator does with --seeds, here on the CPU."""
    chosen = replace(experiments.load(str(folder / "mine.py")), seeds=2)
    worlds, learners = preflight.prepare(chosen, None)
    settings, algorithm = learners["h2o"]
    places = [tmp_path / "seed0", tmp_path / "seed1"]
    with Stop() as stop:
        outcomes = training.train(settings, worlds, algorithm, [0, 1], places, "h2o", stop)
    for outcome, name in zip(outcomes, ("seed0", "seed1"), strict=True):
        theirs = NumpyPolicy.load(finished / name / "policy")
        obs = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
        mine = NumpyPolicy.from_params(outcome.actor)
        np.testing.assert_allclose([mine(o) for o in obs], [theirs(o) for o in obs], atol=1e-4)
        table, alone = (read_csv(place / name / "metrics.csv") for place in (tmp_path, finished))
        for column in ("real_return", "sim_return", "critic_loss"):
            np.testing.assert_allclose(table[column], alone[column], rtol=1e-3)


class Filmed(point_mass.RealPointMass):
    """A point mass in front of a camera whose picture grows brighter with every step."""

    steps = 0

    def step(self, action):
        self.steps += 1
        return super().step(action)

    def render(self):
        return np.full((48, 64, 3), self.steps, np.uint8)


FILM = """
import sys
from pathlib import Path
import imageio.v2 as imageio
from envs import point_mass
from experiments import results
from experiments.worlds import Worlds
from tests.test_run import Filmed
worlds = Worlds(point_mass.SPEC, point_mass.make(), Filmed(), None, None, None)
results._video(worlds, Path(sys.argv[1]), Path(sys.argv[2]))
print(*(frame.mean() for frame in imageio.mimread(sys.argv[2], memtest=False)))
"""


def test_the_video_shows_one_episode_of_the_kept_policy(finished, tmp_path):
    command = [sys.executable, "-c", FILM, str(finished / "seed0" / "policy"), str(tmp_path / "video.mp4")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # a process of its own: imageio leaves its pipes open
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    brightness = [float(word) for word in done.stdout.split()]
    lasted = json.loads((finished / "seed0" / "result.json").read_text())["lengths"][0]
    np.testing.assert_allclose(brightness, np.arange(1, lasted + 1), atol=4)  # pictures lose a little


@pytest.mark.parametrize(
    ("real", "message"),
    [(Filmed, None), (point_mass.RealPointMass, "needs a real environment with render"), (None, "needs the extra")],
)
def test_a_video_that_cannot_be_made_is_refused(monkeypatch, real, message):
    if real is None:
        monkeypatch.setattr("experiments.worlds.find_spec", lambda name: None)
    if message is None:
        check_video(real())
        return
    with pytest.raises(experiments.Refused, match=message):
        check_video((real or Filmed)())


def test_resuming_a_finished_run_trains_nothing_again(finished):
    before = (finished / "seed0" / "result.json").stat().st_mtime_ns
    seconds = json.loads((finished / "summary.json").read_text())["wall_seconds"]
    assert run.main(["--resume", str(finished)]) == 0
    assert json.loads((finished / "summary.json").read_text())["wall_seconds"] > seconds > 0
    assert (finished / "seed0" / "result.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "3"], "--seeds 3 was 2; start a new run for it"),
        (["--algorithm.hidden", "4", "--updates", "90"], "--algorithm.hidden [4] was [8]"),
        (["--algorithm.discount", "0.5"], "--algorithm.discount 0.5 was 0.99"),
        (["--test_episodes", "4"], "--test_episodes 4 was 3"),
        (["--dataset", "data/wheel_legged.hdf5"], "is not the log that"),
    ],
)
def test_a_run_is_not_resumed_as_another(finished, capsys, arguments, message):
    files = [finished / "config.json", finished / "run.json", finished / "summary.json"]
    before = [file.read_text() for file in files]
    assert run.main(["--resume", str(finished), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert [file.read_text() for file in files] == before


@pytest.mark.parametrize("name", ["config.json", "run.json"])
def test_a_damaged_run_is_refused(finished, capsys, name):
    whole = (finished / name).read_text()
    (finished / name).write_text(whole[:20])
    assert run.main(["--resume", str(finished)]) == 2
    assert "is damaged" in capsys.readouterr().err
    (finished / name).write_text(whole)


def test_a_larger_budget_trains_a_finished_run_further(finished):
    assert run.main(["--resume", str(finished), "--updates", "90"]) == 0
    for place in ("seed0", "rivals/mix/seed1"):
        assert json.loads((finished / place / "result.json").read_text())["updates"] == 90


def test_ctrl_c_leaves_a_checkpoint_and_resume_ends_as_an_unbroken_run(folder):
    common = [str(folder / "mine.py"), "--rivals", "", "--evaluate_every", "1000", "--updates"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "experiments.run", *common, "400000", "--name", "broken"]
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    lines = []
    while time.monotonic() < deadline:  # until the first iterations are done
        lines.append(child.stdout.readline())
        if "updates/s" in lines[-1]:
            break
    child.send_signal(signal.SIGINT)
    rest, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert "--resume" in rest and "Traceback" not in errors
    (made,) = (folder / "runs").glob("broken-*")
    done = 10 * max(int(path.name) for path in (made / "checkpoints").iterdir() if path.name.isdigit())

    target = str(done + 40)
    assert run.main(["--resume", str(made), "--updates", target]) == 0
    assert run.main([*common, target, "--name", "unbroken"]) == 0
    (whole,) = (folder / "runs").glob("unbroken-*")
    for name in ("policy.npz",):
        with np.load(made / "policy" / name) as ours, np.load(whole / "policy" / name) as theirs:
            for key in theirs.files:
                np.testing.assert_array_equal(ours[key], theirs[key])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--updatez", "5"], "did you mean --updates?"),
        (["--updates", "many"], "--updates takes an int"),
        (["--updates", "0"], "--updates 0 must be at least 1"),
        (["--updates", "55"], "--updates 55 is no multiple of --rates.updates 10; take 60"),
        (["--sim", "envs.point_mass:make_real"], "it must return a hybrid_jax.types.SimEnv"),
        (["--real", "envs.point_mass:make"], "has no observation_space, action_space, close"),
        (["--real", "envs.wheel_legged"], "is not of the form module:factory"),
        (["--real", "envs.wheel_legged:make_reel"], "has no function 'make_reel'"),
        (["--real", "no_such_module:make"], "is it on the Python path?"),
        (["--real", "envs.wheel_legged:make_real"], "observation space"),
        (["--dataset", "none"], "give it a log with --dataset"),
        (["--dataset", "nowhere.hdf5"], "nowhere.hdf5"),
        (["--rivals", "magic"], "no method 'magic'"),
        (["--gap.gravity", "2"], "closed-form dynamics"),
        (["--rates.sims", "1000"], "do not fit into rates.sim_capacity 400"),
        (["--rates.sim_capacity", "1000000000"], "GiB"),
        (["--runs", "/proc/none"], "cannot be written"),
        (["--algorithm.batch_real", "0"], "batch_real is 0"),
        (["--resume", "nowhere"], "there is no run.json"),
    ],
)
def test_mistakes_end_with_one_sentence_before_anything_is_compiled(folder, capsys, arguments, message):
    try:
        code = run.main([str(folder / "mine.py"), *arguments])
    except SystemExit as error:  # the command line's own refusals
        code = error.code
    said = capsys.readouterr().err.strip()
    assert code == 2 and message in said, said
    assert len(said.splitlines()) == 1
    assert not list((folder / "runs").glob("mine-*"))


def test_unknown_experiments_are_refused_with_the_known_ones(capsys):
    assert run.main(["wheel_leged"]) == 2
    assert "half_cheetah_gravity_h2o, push_ddpg, push_ddpg_authors, wheel_legged_h2o" in capsys.readouterr().err


@pytest.mark.parametrize("name", experiments.names())
def test_every_experiment_builds(name):
    chosen = experiments.load(name)
    for name in methods.METHODS:
        assert methods.chosen(chosen, name).updates == chosen.updates


OWN_WORLDS = """
import numpy as np

from envs import wheel_legged
from hybrid_jax import physics

closed = []


def sims():
    env = wheel_legged.make()
    pulls = [env.model._replace(gravity=env.model.gravity * np.float32(g)) for g in (0.5, 0.8, 1.0, 1.2, 1.5, 2.0)]
    return env._replace(model=physics.stack(pulls))


def robot():
    env = wheel_legged.make_real()
    inner = env.close
    env.close = lambda: (closed.append(True), inner())
    return env
"""


def test_every_simulation_may_have_its_own_physics_and_the_robot_is_always_closed(folder, capsys, monkeypatch):
    (folder / "own_worlds.py").write_text(OWN_WORLDS)
    monkeypatch.syspath_prepend(str(folder))
    import own_worlds

    (folder / "sim_only.py").write_text(SIM_ONLY)
    command = [str(folder / "sim_only.py"), "--rates.sims"]
    assert run.main([*command, "7"]) == 2
    assert "physics for 6 simulations, rates.sims is 7: set it to 6" in capsys.readouterr().err
    assert len(own_worlds.closed) == 1  # a refused run has opened it, too
    assert run.main([*command, "6"]) == 0
    assert len(own_worlds.closed) == 2
    (made,) = (folder / "runs").glob("sim_only-*")
    summary = json.loads((made / "summary.json").read_text())
    assert summary["method"] == "sac" and summary["sim_steps"] == 6 * 5 * 2 and np.isfinite(summary["sim_return_mean"])


def test_help_lists_every_field():
    done = subprocess.run(
        [sys.executable, "experiments/run.py", "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    for field in [*json_diff(to_json(experiments.load(run.DEFAULT)), {}), "resume"]:
        assert f"--{field}".replace("_", "-") in done.stdout  # either is understood
