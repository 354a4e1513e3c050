"""Planar push as the authors of "Sim and Real: Better Together" ran FetchPush: their DDPG, sizes and numbers.

An iteration is one of their cycles on eight ranks: each picks its environment by q, plays two episodes there, and makes
40 updates on 256 rows of one store that it picks by beta; the stores never fill. 7,500 cycles of 16 episodes, 300,000
updates: a run for an accelerator. `push_ddpg` is the same in the project's own form, sized for a CPU.

To expect: not run to its end yet.
"""

from dataclasses import replace

from experiments import push_ddpg
from experiments.experiment import Experiment
from hybrid_jax import trainer
from hybrid_jax.algorithms import ddpg


def config() -> Experiment:
    return replace(
        push_ddpg.config(),
        name="push_ddpg_authors",
        algorithm=ddpg.authors(),
        rates=trainer.Rates(sims=2, unroll=400, updates=40, sim_capacity=6_000_000, pool=256),
        visits="rows",
        fallback="newest",
        strategy="sim_dependent",
        updates=300_000,
        evaluate_every=10_000,
    )
