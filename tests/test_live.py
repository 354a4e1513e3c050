"""A robot beside the training, through the run command: what it did is learned once, and a run repeats exactly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from envs import point_mass
from experiments import run
from hybrid_jax.export import NumpyPolicy
from hybrid_jax.metrics import read_csv
from hybrid_jax.real import segments
from hybrid_jax.real.record import Flag
from tests.test_run import user_folder

ROOT = Path(__file__).resolve().parent.parent
SYNCHRONOUS = ["--rivals", "", "--live.feed", "synchronous", "--live.steps", "5", "--live.capacity", "200"]
LIVE = [*SYNCHRONOUS, "--live.judge", "instance"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return user_folder(tmp_path_factory.mktemp("live"))


def called(folder: Path, name: str, *arguments: str) -> Path:
    """A run of that name; its folder."""
    assert run.main([str(folder / "mine.py"), "--name", name, *LIVE, *arguments]) == 0
    (made,) = (folder / "runs").glob(f"{name}-*")
    return made


def leaves(made: Path) -> dict[str, str]:
    """SHA-256 of every leaf of the newest checkpoint."""
    newest = max((made / "checkpoints").iterdir(), key=lambda path: int(path.name) if path.name.isdigit() else -1)
    manifest = json.loads((newest / "manifest.json").read_text())
    return {leaf["path"]: leaf["sha256"] for leaf in manifest["leaves"]}


@pytest.fixture(scope="module")
def whole(folder):
    """An unbroken run of 6 iterations, beside which the robot did 30 steps."""
    return called(folder, "whole")


def test_every_step_of_the_robot_is_learned_once(whole):
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["real_steps"] == 300 + 30 and summary["updates"] == 60
    steps = list(segments.read(whole / "robot" / "journal"))
    assert [step.sequence for step in steps] == list(range(30))
    assert [step.policy for step in steps] == [10 * (n // 5) for n in range(30)]  # each chunk by the newest policy
    table = read_csv(whole / "metrics.csv")
    np.testing.assert_array_equal(table["robot/rows"], [15, 15])  # sums over three iterations
    np.testing.assert_array_equal(table["store0/size"], [300 + 10, 300 + 25])  # means over three iterations


@pytest.mark.parametrize("cut", [10, 40])
def test_a_stopped_run_goes_on_exactly_where_it_was(folder, whole, cut):
    """N iterations, a new call, M more, on the unbroken run's recorded steps: every leaf has the same bits."""
    recorded = ["--live.recorded", str(whole / "robot" / "journal")]
    made = called(folder, f"broken{cut}", "--updates", str(cut), *recorded)
    assert leaves(made) != leaves(whole)
    assert run.main(["--resume", str(made), "--updates", "60"]) == 0
    assert leaves(made) == leaves(whole)
    assert not (made / "robot").exists()  # no robot moved


def test_threaded_feeds_what_the_robot_did_meanwhile(folder):
    arguments = ["--live.feed", "threaded", "--live.rate", "100", "--live.max_updates_without_real", "10"]
    made = called(folder, "threaded", *arguments)
    table = read_csv(made / "metrics.csv")
    steps = [step for step in segments.read(made / "robot" / "journal")]
    taken = json.loads((made / "summary.json").read_text())["real_steps"] - 300
    assert 5 <= taken <= len(steps)
    assert np.all(table["robot/staleness"] >= 0) and np.all(np.isfinite(table["critic_loss"]))


def test_a_robot_that_stops_leaves_a_checkpoint_and_the_way_on(folder, capsys):
    made = [str(folder / "mine.py"), "--name", "stops", *LIVE, "--real", "tests.test_live:dying", "--live.retries", "1"]
    assert run.main(made) == 3
    assert "the robot stopped: RuntimeError: no motor" in capsys.readouterr().out
    (home,) = (folder / "runs").glob("stops-*")
    assert list(home.glob("checkpoints/*/manifest.json"))
    assert len([step for step in segments.read(home / "robot" / "journal") if hasattr(step, "obs")]) == 12


def test_a_robot_that_judges_itself_is_opened_once_and_h2o_needs_no_log(folder, tmp_path, monkeypatch):
    """As on hardware: no second instance, first data from the robot; ten test episodes under gate and journal."""
    monkeypatch.setenv(OPENED, str(tmp_path / "opened"))
    arguments = ["--name", "hardware", "--real", "tests.test_live:alone", "--dataset", "None", "--live.judge", "robot"]
    assert run.main([str(folder / "mine.py"), *SYNCHRONOUS, "--live.steps", "60", *arguments]) == 0
    assert (tmp_path / "opened").read_text() == "opened closed " * 3  # looked at, learned from, judged
    (made,) = (folder / "runs").glob("hardware-*")
    steps = [step for step in segments.read(made / "robot" / "journal") if hasattr(step, "obs")]
    learned, judged = steps[: 6 * 60], steps[6 * 60 :]
    assert not any(step.flags & Flag.GREEDY for step in learned) and all(step.flags & Flag.GREEDY for step in judged)
    result = json.loads((made / "result.json").read_text())
    totals = [sum(step.reward for step in judged if step.episode == n) for n in sorted({s.episode for s in judged})]
    assert result["lengths"] == [100] * 3
    np.testing.assert_allclose(result["real_returns"], totals, rtol=1e-6)
    policy = NumpyPolicy.load(made / "policy")
    np.testing.assert_allclose([step.sent for step in judged], [policy(step.obs) for step in judged], atol=1e-6)
    table = read_csv(made / "metrics.csv")
    whole = [sum(s.reward for s in learned if s.episode == n) for n in range(3)]
    assert table["robot/return"][1] == table["real_return"][1] == pytest.approx(np.mean(whole[1:]), rel=1e-5)
    assert table["robot/episodes"].tolist() == [1, 2]


OPENED = "OPENED"


class Alone(point_mass.RealPointMass):
    """Stands for a device that only one program may open at a time."""

    def __init__(self):
        super().__init__()
        self._tell("opened ")

    def close(self):
        self._tell("closed ")

    @staticmethod
    def _tell(word):
        path = Path(os.environ[OPENED])
        before = path.read_text() if path.exists() else ""
        if before.count("opened") != before.count("closed") + (word == "closed "):
            raise OSError("device busy")
        path.write_text(before + word)


def alone() -> Alone:
    return Alone()


def test_numbers_that_go_bad_for_good_end_the_run_with_a_good_checkpoint(folder, capsys):
    """A temperature without bounds: with learning rates of 1e30 every update after the first ones is not finite."""
    rates = [f"--algorithm.{name}_lr=1e30" for name in ("actor", "critic", "temperature")]
    arguments = ["--rivals", "", "--name", "bad", "--updates", "600", "--evaluate_every", "300", *rates]
    assert run.main([str(folder / "mine.py"), *arguments, "--max_bad_updates", "100"]) == 4
    said = capsys.readouterr().out
    assert "updates in a row were not finite, more than the 100 allowed" in said and "the first sign is" in said
    (made,) = (folder / "runs").glob("bad-*")
    assert list(made.glob("checkpoints/*/manifest.json"))


@pytest.mark.slow
def test_ten_stops_in_new_processes_change_no_bit(folder, tmp_path):
    """20 iterations with a wrap of the simulator's store, and the same from ten processes on the recorded steps."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    common = ["--rates.sim_capacity", "100", "--updates", "200", "--evaluate_every", "100", "--compile_cache", "True"]

    def process(*arguments: str) -> None:
        command = [sys.executable, str(ROOT / "experiments" / "run.py"), *arguments]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)

    process(str(folder / "mine.py"), *LIVE, *common, "--name", "long")
    (long,) = (folder / "runs").glob("long-*")
    recorded = ["--live.recorded", str(long / "robot" / "journal")]
    process(str(folder / "mine.py"), *LIVE, *common, *recorded, "--name", "pieces", "--updates", "10")
    (pieces,) = (folder / "runs").glob("pieces-*")
    seen = [leaves(pieces)]
    for until in (20, 40, 50, 70, 80, 100, 130, 160, 190, 200):
        process("--resume", str(pieces), "--updates", str(until))
        seen.append(leaves(pieces))
    assert seen[-1] == leaves(long) and len(seen[-1]) > 50
    assert len({json.dumps(each) for each in seen}) == len(seen)


def test_where_the_robot_stopped_learning_goes_on_and_no_test_moves_it(folder, capsys):
    """Threaded and without caps nothing waits for it; a person is needed before it is tested."""
    made = [str(folder / "mine.py"), "--name", "goes_on", *SYNCHRONOUS, "--live.feed", "threaded"]
    assert run.main([*made, "--real", "tests.test_live:dying", "--live.retries", "1"]) == 3
    assert "the robot stopped: RuntimeError: no motor" in capsys.readouterr().out
    (home,) = (folder / "runs").glob("goes_on-*")
    assert (home / "checkpoints" / "6" / "manifest.json").exists() and not (home / "result.json").exists()
    assert not any(step.flags & Flag.GREEDY for step in segments.read(home / "robot" / "journal"))


class Dying(point_mass.RealPointMass):
    """Fails at its thirteenth step and at every later one."""

    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps > 12:
            raise RuntimeError("no motor")
        return super().step(action)


def dying() -> Dying:
    return Dying()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seeds", "2"], "one robot trains one policy"),
        (["--rivals", "mix"], "one robot trains one policy"),
        (["--live.steps", "0"], "--live.steps 0 must be at least 1"),
        (["--live.steps", "500"], "do not fit into --live.capacity 200"),
        (["--live.recorded", "nowhere"], "needs a folder with a journal"),
        (["--real", "tests.test_live:undeclared"], "declares no max_action_step"),
        (["--log_rows", "301"], "must lie between 1 and the log's 300"),
        (["--live.rate", "0"], "--live.rate 0 must be steps a second"),
        (["--real.rate=-1"], "--live.rate -1 must be steps a second"),
        (["--live.judge", "robot", "--video"], "--live.judge instance"),
        (["--live.judge", "robot", "--real", "tests.test_live:undeclared"], "declares no max_action_step"),
        (["--live.judge", "robot", "--real", "envs.wheel_legged:make_real"], "has (observations, actions) (4, 1)"),
    ],
)
def test_robots_that_cannot_take_part_are_refused(folder, capsys, arguments, said):
    assert run.main([str(folder / "mine.py"), *LIVE, *arguments]) == 2
    assert said in capsys.readouterr().err


class Undeclared(gymnasium.Wrapper):
    """gymnasium's wrappers show spaces, and nothing of what else a robot declares."""


def undeclared() -> Undeclared:
    return Undeclared(point_mass.make_real())
