"""The main job, whole: about three minutes on two cores (`pytest -m slow`)."""

import json

import pytest

from experiments import run


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_h2o_balances_the_robot_that_the_simulator_alone_lets_fall(tmp_path):
    assert run.main(["--rivals", "sim_only", "--runs", str(tmp_path), "--tensorboard", "false"]) == 0
    (folder,) = tmp_path.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["real_falls"] == 0
    assert summary["real_return_mean"] > max(20_000, summary["behaviour_return"])
    alone = summary["rivals"]["sim_only"]
    assert alone["real_falls"] >= 5 and alone["sim_return_mean"] > 20_000  # good in its own world
