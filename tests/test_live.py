"""A robot beside the training, through the run command: what it did is learned once, and a run repeats exactly."""

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from envs import point_mass
from experiments import run
from hybrid_jax.metrics import read_csv
from hybrid_jax.real import segments
from tests.test_run import user_folder

LIVE = ["--rivals", "", "--live.feed", "synchronous", "--live.steps", "5", "--live.capacity", "200"]


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
    np.testing.assert_array_equal(table["robot/rows"], 5)
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
    ],
)
def test_robots_that_cannot_take_part_are_refused(folder, capsys, arguments, said):
    assert run.main([str(folder / "mine.py"), *LIVE, *arguments]) == 2
    assert said in capsys.readouterr().err


class Undeclared(gymnasium.Wrapper):
    """gymnasium's wrappers show spaces, and nothing of what else a robot declares."""


def undeclared() -> Undeclared:
    return Undeclared(point_mass.make_real())
