"""Soft actor-critic: in the simulator alone, on real rows alone, or on the plain mix of both.

Haarnoja et al. 2018 (arXiv 1812.05905), in the form of H2O's released code; the step is `actor_critic.parts`.

    y = r + gamma (1 - terminated) (min_j Q'_j(s', a') - alpha log pi(a'|s')),   L_j = mean (Q_j - y)^2

To expect: 20,560 to 29,747 of 30,000 on the real balancer after 40,000 real steps (docs/results/wheel_legged.md).
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
