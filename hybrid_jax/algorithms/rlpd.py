"""RLPD: SAC on real and simulated rows, half and half, with an ensemble of normalised critics; no word of the gap.

Ball et al. 2023 (arXiv 2302.02948): LayerNorm before each ReLU of M = 10 critics, the target is the smallest of
two members drawn anew for each update, the policy climbs their mean and moves once in twenty updates:

    y = r + gamma (1 - terminated) (min_{j in Z} Q'_j(s', a') - alpha log pi(a'|s')),   Z a random pair

"Half and half" was made for a log beside the robot's own new rows; here the simulator's rows take their place. The
update-to-data ratio of twenty is a matter of `rates`: twenty updates a simulated step.

To expect: 2,099, 5,057, 3,785 on HalfCheetah under gravity x2, friction x0.3 and joint noise, with a policy update each
(actor_period 1) and 20,000 real rows (docs/results/half_cheetah.md); 15,322 of 30,000 on the balancer, which falls
(docs/results/wheel_legged.md).
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from hybrid_jax import actor_critic
from hybrid_jax.actor_critic import Here
from hybrid_jax.scaling import Moments
from hybrid_jax.types import Algorithm, Array, Spec

RATIO = 20  # updates for each policy update, and for each simulated step


@dataclass(frozen=True)
class Config(actor_critic.Config):
    """Hyper-parameters of RLPD: those of SAC, other numbers, and the size of the subset."""

    batch_real: int = 128  # rows per update from the real store
    batch_sim: int = 128  # rows per update from the simulator
    critics: int = 10  # members of the ensemble of critics
    target_critics: int = 2  # members, drawn anew for each update, whose smallest value is the target
    layer_norm: actor_critic.LayerNorm = "before"  # LayerNorm in the critics, before or after each ReLU
    actor_period: int = RATIO  # critic updates per policy update
    target_entropy: float | None = None  # [nats]; None: -dim(A) / 2


def make(config: Config, spec: Spec, moments: Moments | None = None) -> Algorithm:
    """RLPD; moments: for normalise_states. Raises ValueError for a subset that is no part of the ensemble."""
    actor_critic.check(config)
    if not 1 <= config.target_critics <= config.critics:
        raise ValueError(f"target_critics is {config.target_critics}; give 1 to {config.critics}, as critics has it.")
    entropy = -spec.action_size / 2 if config.target_entropy is None else config.target_entropy
    config = replace(config, target_entropy=entropy)

    def smallest_of_some(here: Here, action: Array) -> Array:
        some = jax.random.choice(jax.random.fold_in(here.key, 2), config.critics, (config.target_critics,), False)
        return jnp.min(here.target_q(here.rows.next_obs, action, some), axis=0)

    def mean_of_all(q: Array) -> Array:
        return jnp.mean(q, axis=0)

    base = actor_critic.parts(config, spec, moments, target_value=smallest_of_some, policy_value=mean_of_all)

    return actor_critic.algorithm(config, base)
