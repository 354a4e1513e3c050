"""DARC+: DARC that also learns from the logged real rows, half of each batch, with their own rewards.

The second baseline of Niu et al. 2022 (arXiv 2206.13464), whose authors published no code for it: the simulated half
is DARC's (`darc`), the real half is plain.

To expect: 72 to 7,989 on HalfCheetah (the table of Niu et al. 2022), behind H2O in eight cells of nine.
"""

from dataclasses import dataclass

from hybrid_jax import gap_learner
from hybrid_jax.algorithms import darc
from hybrid_jax.scaling import Moments
from hybrid_jax.types import Algorithm, Spec


@dataclass(frozen=True)
class Config(darc.Config):
    """Hyper-parameters of DARC+: those of DARC with real rows in the batch."""

    batch_real: int = 128  # rows per update from the real store
    batch_sim: int = 128  # rows per update from the simulator


def make(config: Config, spec: Spec, moments: Moments | None = None) -> Algorithm:
    """DARC+; moments: for normalise_states."""
    gap_learner.check(config, "DARC+", ("batch_real", "batch_sim"))
    return darc.make(config, spec, moments)
