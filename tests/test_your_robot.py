"""The guide's own robot, taken out of the guide, goes through the guide's own commands."""

import re
from pathlib import Path

import numpy as np

from hybrid_jax import command
from hybrid_jax.datasets import hdf5
from hybrid_jax.real.settings import Settings
from hybrid_jax.real.supervisor import Supervisor

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "your_robot.md"


def test_the_guides_robot_keeps_the_contract(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "my_robot.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert command.main(["check-real", "my_robot:make", "50"]) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert "100 steps in 1 episodes" in said and "!" not in said
    with Supervisor(Settings("my_robot:make", episode_length=30), tmp_path / "robot") as robot:
        robot.collect(100)
    assert command.main(["journal", "export", str(tmp_path / "robot" / "journal"), "my_log.hdf5"]) == 0
    data = hdf5.load("my_log.hdf5")
    assert len(data.rewards) == 100 and data.timeouts.sum() == 4  # three whole episodes and what was left
    assert np.abs(np.diff(data.actions[:29, 0])).max() <= 0.5 + 1e-6  # max_action_step
