"""The original DARC: SAC in doubled gravity that drives the real half-cheetah too, one step for ten simulated ones.

Starts from 10,000 random steps in each world; the real ones are the log. No weight for the robot's side beyond the
reward's correction, which sets in after 100,000 updates; unlike there the robot takes part before that, and the first
10,000 updates fall into the random steps (Eysenbach et al. 2021, arXiv 2006.13916). Not run to its end yet: no figure.
"""

from dataclasses import replace

from experiments import half_cheetah_gravity_h2o, methods
from experiments.experiment import DATA, Experiment
from experiments.live import Live
from hybrid_jax.trainer import Rates


def config() -> Experiment:
    run = replace(
        half_cheetah_gravity_h2o.config(),
        name="half_cheetah_darc_online",
        dataset=DATA / "half_cheetah_random.hdf5",
        rates=Rates(sims=10, unroll=10, updates=100, sim_capacity=1_000_000, random=100),
        live=Live(feed="synchronous", judge="instance", steps=10, capacity=200_000),
        updates=1_000_000,
    )
    run = methods.chosen(run, "darc_online")
    return replace(run, algorithm=replace(run.algorithm, target_entropy=-3.0))  # -dim(A) / 2, as its agent's
