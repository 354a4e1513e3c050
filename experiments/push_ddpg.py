"""Planar push, "Sim and Real: Better Together": DDPG with hindsight on a simulator and a pretended reality.

One of ten control steps is spent in reality (q), half of each batch comes from there (beta); reality is MuJoCo C with a
heavier puck on a table with a grain. `experiments/push_study.py` varies the rates.

Not the authors' numbers, each found by runs of one or two seeds to come to a success sooner: weight on the squared
actions 0.1 (1), noise 0.5 (0.2), discount 0.95 (0.98), tau 0.02 with every update (0.05 with every fortieth); networks
of 64 and batches of 128 are the size that one core of a CPU carries. Two hidden layers did not learn it.

To expect: see docs/results/push_mixing.md.
"""

from experiments.experiment import Experiment
from hybrid_jax import trainer
from hybrid_jax.algorithms import ddpg


def config() -> Experiment:
    return Experiment(
        name="push_ddpg",
        sim="envs.push:make",
        real="envs.push:make_real",
        pretended="envs.push:make_pretended",
        dataset=None,
        algorithm=ddpg.Config(
            hidden=(64, 64, 64),
            batch_real=64,
            batch_sim=64,
            discount=0.95,
            tau=0.02,
            action_l2=0.1,
            exploration_noise=0.5,
        ),
        rates=trainer.Rates(sims=8, unroll=50, updates=80, sim_capacity=400_000, pool=256),
        q=(0.1, 0.9),
        beta=(0.5, 0.5),
        visits="store",
        updates=72_000,
        evaluate_every=8_000,
        episodes=20,
        test_episodes=50,
        rivals=(),
    )
