"""H2O with the robot itself beside the simulations: from 2,000 rows of the poor driver's log and what the robot does.

The robot is the pretend one of `envs/wheel_legged.py`, in a process of its own behind gate and journal.

Seen once (seed 0, commit ecb0fbc, 2 CPU cores): 29,495 in the real environment, no fall, after 5,000 live steps; 72 s.
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
