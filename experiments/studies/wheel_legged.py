"""The wheel-legged robot: does H2O earn its name over gaps of three strengths and logs of three sizes?

Networks of 64-64, batches of 32 + 32; H2O's authors took 32-32 and 32 for their robot. Strength 1 is the simulator as
it stands, 4.6 kg against 12 kg; 0.5 and 1.5 have other constants (envs/wheel_legged.py, `between`), but the real
robot's late motors and noisy sensors stay whole at every strength. Rewards are scaled by 0.1 as in the task's own
experiment, so CQL's weight of 2 and H2O's beta of 0.01 weigh ten times what they would at the authors' scale.
"""

from dataclasses import replace

from envs import wheel_legged, wheel_legged_straight
from experiments import wheel_legged_h2o
from experiments.experiment import DATA
from experiments.study_grid import Study, Task
from hybrid_jax.datasets.normalised import Reference

METHODS = ("sim_only", "cql", "rebrac", "rlpd_utd1", "mix", "darc", "darc_plus", "h2o")
STRENGTHS = {"0.5": "half", "1.0": "whole", "1.5": "more"}

standing_half, standing_whole, standing_more = (wheel_legged.at_strength(float(s)) for s in STRENGTHS)
straight_half, straight_whole, straight_more = (wheel_legged_straight.at_strength(float(s)) for s in STRENGTHS)


def _task(name: str, real: str, log: str, most: float) -> Task:
    shown = wheel_legged_h2o.config()
    sizes = {"batch_real": 32, "batch_sim": 32, "discriminator_batch_real": 32, "discriminator_batch_sim": 32}
    base = replace(shown, real=real, algorithm=replace(shown.algorithm, **sizes), updates=40_000, threads=1)
    gaps = {label: {"sim": f"{__name__}:{name}_{word}"} for label, word in STRENGTHS.items()}
    return Task(base, gaps, {"poor driver": {"dataset": DATA / log}}, Reference(0.0, most))


def study() -> Study:
    return Study(
        name="wheel_legged",
        title="Wheel-legged robot: gaps, shares of the log, methods",
        tasks={
            "standing": _task("standing", "envs.wheel_legged:make_real", "wheel_legged.hdf5", 30_000.0),
            "straight": _task(
                "straight", "envs.wheel_legged_straight:make_real", "wheel_legged_straight.hdf5", 15_000.0
            ),
        },
        methods=METHODS,
        shares=(1.0, 0.1, 0.01),
        seeds=5,
        words={"gap": "gap strength"},
        episodes_of=("1.0", "1"),
    )
