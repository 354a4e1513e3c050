"""The guide's own robot, taken out of the guide, goes through the guide's own commands."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import run
from hybrid_jax import command
from hybrid_jax.datasets import hdf5
from hybrid_jax.real.settings import Settings
from hybrid_jax.real.supervisor import Supervisor

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "your_robot.md"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The reader's folder, with both files of the guide."""
    codes = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    for name, code in zip(("my_robot", "my_simulator"), codes, strict=True):
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_guides_command_trains_beside_the_robot(folder, capsys):
    """As written but for a smaller budget and a faster clock."""
    (words,) = re.findall(r"```\npython experiments/run.py (--name mine --sim .*?)```", GUIDE.read_text(), re.DOTALL)
    given = shlex.split(words.replace("--real.rate 50", "--real.rate 500"))
    small = ["--updates", "400", "--evaluate_every", "400", "--test_episodes", "2", "--rates.sims", "50"]
    assert run.main([*given, *small]) == 0, capsys.readouterr().err
    (made,) = (folder / "runs").glob("mine-*")
    status = json.loads((made / "robot" / "status.json").read_text())
    assert status["state"] == "hold" and status["faults"] == {}
    assert json.loads((made / "summary.json").read_text())["test_episodes"] == 2


def test_the_guides_robot_keeps_the_contract(folder, capsys):
    assert command.main(["check-real", "my_robot:make", "50"]) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert "100 steps in 2 episodes" in said and "!" not in said
    with Supervisor(Settings("my_robot:make", episode_length=30), folder / "robot") as robot:
        robot.collect(100)
    assert command.main(["journal", "export", str(folder / "robot" / "journal"), "my_log.hdf5"]) == 0
    data = hdf5.load("my_log.hdf5")
    assert len(data.rewards) == 100 and data.timeouts.sum() == 4  # three whole episodes and what was left
    assert np.abs(np.diff(data.actions[:29, 0])).max() <= 0.5 + 1e-6  # max_action_step
