"""SAC on the plain mix of simulated and real rows with the robot itself beside: H2O's yardstick in the same place."""

from dataclasses import replace

from experiments import wheel_legged_live
from experiments.experiment import Experiment


def config() -> Experiment:
    live = wheel_legged_live.config()
    return replace(
        live,
        name="wheel_legged_live_mix",
        algorithm=replace(live.algorithm, importance_weight=False, beta=0.0),
    )
