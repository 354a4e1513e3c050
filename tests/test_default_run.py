"""The main job, whole, on three seeds: about two minutes each on two cores (`pytest -m slow`)."""

import json

import pytest

from experiments import run

BEST_REAL_SAC = 29_747  # `python experiments/real_sac.py wheel_legged_h2o --seed 2 --updates 40000`


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_h2o_balances_the_robot_that_the_simulator_alone_lets_fall(tmp_path, seed):
    assert run.main(["--seed", str(seed), "--runs", str(tmp_path), "--tensorboard", "false"]) == 0
    (folder,) = tmp_path.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["real_falls"] == 0
    assert summary["real_return_mean"] > max(0.9 * BEST_REAL_SAC, summary["behaviour_return"])
    alone = summary["rivals"]["sim_only"]
    assert alone["real_falls"] >= 1 and alone["sim_return_mean"] > 20_000  # good in its own world
    assert summary["wall_seconds"] < 240
