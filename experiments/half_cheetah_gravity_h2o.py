"""H2O's table, row "gravity x2": HalfCheetah learned in doubled gravity and from a medium-replay log.

To expect: about 6,200 in the real environment after 300,000 updates, 45 minutes on 2 CPU cores; unsteady before
200,000 (docs/results/half_cheetah.md).
"""

from envs.gap import Gap
from experiments.experiment import DATA, Experiment
from hybrid_jax import trainer
from hybrid_jax.algorithms import h2o


def config() -> Experiment:
    return Experiment(
        name="half_cheetah_gravity_h2o",
        sim="envs.half_cheetah:make",
        real="envs.half_cheetah:make_real",
        gap=Gap(gravity=2.0),
        dataset=DATA / "half_cheetah.hdf5",
        algorithm=h2o.Config(),
        rates=trainer.Rates(sims=10, unroll=10, updates=100, sim_capacity=1_000_000),
        updates=300_000,
        evaluate_every=10_000,
        rivals=(),
    )
