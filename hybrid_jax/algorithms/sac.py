"""Soft actor-critic: in the simulator alone, on real rows alone, or on the plain mix of both.

Haarnoja et al. 2018 (arXiv 1812.05905), in the form of H2O's released code; the step is `actor_critic.parts`.

    y = r + gamma (1 - terminated) (min_j Q'_j(s', a') - alpha log pi(a'|s')),   L_j = mean (Q_j - y)^2

To expect: in H2O's simulators of HalfCheetah 4,513, 2,684, 4,137 in reality (gravity, friction, joint noise; Niu et al.
2022); in reality alone 9,849 on HalfCheetah-v5 after 720,000 steps (docs/results/half_cheetah.md).
"""

from dataclasses import dataclass

from hybrid_jax import actor_critic
from hybrid_jax.scaling import Moments
from hybrid_jax.types import Algorithm, Spec


@dataclass(frozen=True)
class Config(actor_critic.Config):
    """Hyper-parameters of SAC: those of the actor-critic."""


def make(config: Config, spec: Spec, moments: Moments | None = None) -> Algorithm:
    """SAC on `batch_real` + `batch_sim` rows, all of equal weight; moments: for normalise_states."""
    base = actor_critic.parts(config, spec, moments)

    return actor_critic.algorithm(config, base)
