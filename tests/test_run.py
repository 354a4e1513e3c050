"""The run command on the point mass, as a user would call it: a whole run, refusals, Ctrl-C and resume."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from envs import point_mass
from experiments import experiment as experiments
from experiments import online, run, training
from hybrid_jax.datasets import hdf5
from hybrid_jax.export import NumpyPolicy

ROOT = Path(__file__).resolve().parent.parent

MINE = """
from pathlib import Path

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder: an experiment file and a log of random actions on the real point mass."""
    home = tmp_path_factory.mktemp("user")
    rng = np.random.default_rng(0)
    data = online.record(point_mass.make_real(), point_mass.SPEC, lambda obs: rng.uniform(-1, 1, 1), 300, 0)
    hdf5.save(home / "log.hdf5", data, {})
    (home / "mine.py").write_text(MINE)
    return home


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


def test_the_kept_policy_gives_the_reported_return(finished):
    """The policy folder alone, driven by hand in the real environment, repeats the first test episode."""
    policy = NumpyPolicy.load(finished / "seed0" / "policy")
    env = point_mass.make_real()
    obs, total, done = env.reset(seed=training.TEST_SEED)[0], 0.0, False
    while not done:
        obs, reward, fell, timeout, _ = env.step(policy(np.asarray(obs, np.float32)))
        total, done = total + reward, fell or timeout
    result = json.loads((finished / "seed0" / "result.json").read_text())
    assert total == pytest.approx(result["real_returns"][0], rel=1e-6)


def test_resuming_a_finished_run_trains_nothing_again(finished):
    before = (finished / "seed0" / "result.json").stat().st_mtime_ns
    assert run.main(["--resume", str(finished)]) == 0
    assert (finished / "seed0" / "result.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "3"], "start a new run for it"),
        (["--algorithm.hidden", "4", "--updates", "90"], "resume with the fields in the run's config.json"),
        (["--algorithm.discount", "0.5", "--updates", "90"], "config or data differ"),
    ],
)
def test_a_run_is_not_resumed_as_another(finished, capsys, arguments, message):
    before = (finished / "run.json").read_text()
    assert run.main(["--resume", str(finished), *arguments]) == 2
    assert message in capsys.readouterr().err
    (finished / "run.json").write_text(before)


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
        (["--real", "envs.wheel_legged"], "is not of the form module:factory"),
        (["--real", "envs.wheel_legged:make_reel"], "has no function 'make_reel'"),
        (["--real", "no_such_module:make"], "is it on the Python path?"),
        (["--real", "envs.wheel_legged:make_real"], "observation space"),
        (["--dataset", "none"], "give it a log with --dataset"),
        (["--dataset", "nowhere.hdf5"], "nowhere.hdf5"),
        (["--rivals", "magic"], "'magic' is not known"),
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
    assert "half_cheetah_gravity_h2o, wheel_legged_h2o" in capsys.readouterr().err


@pytest.mark.parametrize("name", experiments.names())
def test_every_experiment_builds(name):
    chosen = experiments.load(name)
    for rival in ("sim_only", "mix"):
        assert experiments.rival(chosen, rival).updates == chosen.updates


def test_help_lists_every_field():
    done = subprocess.run(
        [sys.executable, "experiments/run.py", "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    for field in ("--updates", "--algorithm.beta", "--gap.gravity", "--rates.sims", "--seeds", "--resume"):
        assert field in done.stdout
