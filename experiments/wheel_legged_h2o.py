"""The default: H2O balances a 12 kg robot from a 4.6 kg simulator and a log of a poor driver.

To expect: 27,000 to 29,500 of at most 30,000 in the real environment and no fall, in about two minutes on 2 CPU cores
with both rivals (docs/results/wheel_legged.md).
"""

from experiments.experiment import DATA, Experiment
from hybrid_jax import trainer
from hybrid_jax.algorithms import h2o


def config() -> Experiment:
    return Experiment(
        name="wheel_legged_h2o",
        sim="envs.wheel_legged:make",
        real="envs.wheel_legged:make_real",
        dataset=DATA / "wheel_legged.hdf5",
        algorithm=h2o.Config(
            hidden=(64, 64),
            discriminator_hidden=(64, 64),
            actor_lr=1e-3,
            critic_lr=1e-3,
            temperature_lr=1e-3,
            tau=0.02,
            policy_average=0.9995,
            reward_scale=0.1,
            discriminator_noise=0.02,
        ),
        rates=trainer.Rates(sims=500, unroll=4, updates=200, sim_capacity=200_000),
        updates=20_000,
        evaluate_every=1_000,
        columns=((0, "displacement", "m", 1.0), (2, "tilt", "deg", 57.29578)),
    )
