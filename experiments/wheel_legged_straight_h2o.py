"""The second task of H2O's robot: the same 12 kg balancer drives straight at 0.2 m/s; at most 15,000.

Seen with seed 0, ten test episodes (2 CPU cores, 117 s with both rivals): H2O 14,928, no fall; the simulator alone
2,326, ten falls; the plain mix 14,367, no fall. The driver of the log earns 5,044.
"""

from dataclasses import replace

from experiments import wheel_legged_h2o
from experiments.experiment import DATA, Experiment


def config() -> Experiment:
    return replace(
        wheel_legged_h2o.config(),
        name="wheel_legged_straight_h2o",
        sim="envs.wheel_legged_straight:make",
        real="envs.wheel_legged_straight:make_real",
        dataset=DATA / "wheel_legged_straight.hdf5",
        columns=((0, "displacement", "m", 1.0), (1, "speed", "m/s", 1.0), (2, "tilt", "deg", 57.29578)),
    )
