"""H2O with the robot itself beside the simulations: from 2,000 rows of the poor driver's log and what the robot does.

The robot is the pretend one of `envs/wheel_legged.py`, in a process of its own behind gate and journal.

Seen with ten test episodes of seeds 0, 1, 2 (commit 07d439f, 2 CPU cores): 25,816, 24,770 and 25,469 of at most 30,000,
no fall, after 5,000 live steps; about 90 s each. docs/results/robot_seconds.md compares.
"""

from dataclasses import replace

from experiments import wheel_legged_h2o
from experiments.experiment import Experiment
from experiments.live import Live
from hybrid_jax.trainer import Rates


def config() -> Experiment:
    return replace(
        wheel_legged_h2o.config(),
        name="wheel_legged_live",
        log_rows=2_000,
        rates=Rates(sims=2_000, unroll=1, updates=200, sim_capacity=200_000),
        live=Live(feed="synchronous", judge="instance", steps=50),
        rivals=(),
    )
