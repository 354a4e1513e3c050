"""HalfCheetah: H2O's table on a medium-replay log of 20,000 rows, its rivals and its ablations, sized for a CPU.

CPU is one preset for all methods: networks of 128-128, batches of 64 + 64, learning rates of 1e-3 (3e-4 for the
discriminators), 50,000 updates with one simulated step each. The paper's runs have 256-256, 128 + 128, 3e-4 and a
million updates: only the order of the methods can be compared. The log is of three policies, whose greedy returns are
1,883, 3,942 and 5,094, in equal parts (data/README.md).
"""

from dataclasses import replace

from envs.gap import Gap
from experiments import half_cheetah_gravity_h2o
from experiments.experiment import DATA
from experiments.study_grid import Study, Task
from hybrid_jax import trainer
from hybrid_jax.datasets.normalised import D4RL

METHODS = (
    "sim_only", "cql", "cql_recipe", "rebrac", "rlpd_utd1", "mix", "darc", "darc_plus", "h2o",
    "h2o_no_penalty", "h2o_no_weight",
)  # fmt: skip
CPU = {
    "hidden": (128, 128),
    "discriminator_hidden": (128, 128),
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "temperature_lr": 1e-3,
    "batch_real": 64,
    "batch_sim": 64,
    "discriminator_batch_real": 64,
    "discriminator_batch_sim": 64,
}
GAPS = {
    "gravity": {"gap": Gap(gravity=2.0)},
    "friction": {"gap": Gap(friction=0.3)},
    "joint noise": {"gap": Gap(joint_noise=1.0)},
}


def study() -> Study:
    table = half_cheetah_gravity_h2o.config()
    base = replace(
        table,
        algorithm=replace(table.algorithm, **CPU),
        rates=trainer.Rates(sims=10, unroll=10, updates=100, sim_capacity=100_000),
        updates=50_000,
        threads=1,
    )
    log = {"medium-replay": {"dataset": DATA / "half_cheetah_medium_replay.hdf5"}}
    return Study(
        name="half_cheetah",
        title="HalfCheetah: three gaps, a medium-replay log of 20,000 rows",
        tasks={"half_cheetah": Task(base, GAPS, log, D4RL["halfcheetah"])},
        methods=METHODS,
        seeds=3,
    )
