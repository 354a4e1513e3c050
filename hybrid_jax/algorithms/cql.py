"""CQL: SAC on logged rows whose critics value no action above those that were taken.

Kumar et al. 2020 (arXiv 2006.04779), CQL(H), equation 4, with the log-sum-exp by importance sampling:

    L_j = mean (Q_j - y)^2 + weight mean (log sum_k exp(Q_j(s, a_k) - log mu(a_k)) - Q_j(s, a))

over N uniform actions, N of pi(.|s) and N of pi(.|s'), all valued at s. `Config()` has the defaults of the code of
H2O's authors (weight 2); `tuned()` is the recipe that reaches the scores known today.

To expect: on D4RL's half-cheetah medium 6,066 (the table of Niu et al. 2022, whose weight is not told); normalised 47
(tuned, CORL's table). On 20,000 rows and small networks: docs/results/half_cheetah.md.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from hybrid_jax import actor_critic, distributions, losses, ranges
from hybrid_jax.actor_critic import Here
from hybrid_jax.scaling import Moments
from hybrid_jax.types import Algorithm, Array, Spec


@dataclass(frozen=True)
class Config(actor_critic.Config):
    """Hyper-parameters of CQL: those of SAC on the log, and the penalty's."""

    batch_real: int = 256  # rows per update from the real store
    batch_sim: int = 0  # rows per update from the simulator
    entropy_in_backup: bool = False  # y holds -alpha log pi(a'|s')
    penalty_weight: float = 2.0  # of the conservative penalty, beside the squared errors
    penalty_actions: int = 10  # N: actions of each of the three kinds per row
    penalty_temperature: float = 1.0  # of the log-sum-exp


def tuned() -> Config:
    """The recipe of CORL for half-cheetah: heavier penalty, slow policy, three layers, normalised states."""
    return Config(
        penalty_weight=10.0,
        actor_lr=3e-5,
        temperature_lr=3e-5,
        hidden=(256, 256, 256),
        orthogonal_init=True,
        normalise_states=True,
    )


def make(config: Config, spec: Spec, moments: Moments | None = None) -> Algorithm:
    """CQL; moments: for normalise_states. Raises ValueError for a penalty that cannot be drawn."""
    ranges.at_least(config, 1, "penalty_actions")
    ranges.at_least(config, 0, "penalty_weight")
    ranges.positive(config, "penalty_temperature")
    base = actor_critic.parts(config, spec, moments)

    def critic_loss(q: Array, y: Array, here: Here) -> tuple[Array, dict]:
        loss, metrics = actor_critic.mean_squared_error(q, y)
        actions, log_density = proposals(here, config.penalty_actions)
        penalise = partial(losses.conservative_penalty, temperature=config.penalty_temperature)
        over_rows = jax.vmap(penalise, in_axes=(0, 0, 1))
        over_critics = jax.vmap(over_rows, in_axes=(0, 0, None))
        penalty = jnp.mean(over_critics(q, valued(here, actions), log_density), axis=1)
        return loss + config.penalty_weight * jnp.sum(penalty), metrics | {"penalty": jnp.mean(penalty)}

    return actor_critic.algorithm(config, base, critic_loss)


def proposals(here: Here, count: int) -> tuple[Array, Array]:
    """Actions [3 N, B, A], uniform, of pi(.|s), of pi(.|s'), and their log densities [3 N, B]."""
    rows = here.rows
    shape = (count, *rows.action.shape)
    uniform_key, *keys = jax.random.split(here.key, 3)
    actions = [jax.random.uniform(uniform_key, shape, minval=-1.0, maxval=1.0)]
    densities = [jnp.full(shape[:2], -shape[2] * jnp.log(2.0))]
    for key, obs in zip(keys, (rows.obs, rows.next_obs), strict=True):
        mean, log_std = (jnp.broadcast_to(x[None], shape) for x in here.actor(here.state.actor, obs))
        action, log_prob = distributions.sample_and_log_prob(key, mean, log_std)
        actions.append(action)
        densities.append(log_prob)
    return jnp.concatenate(actions), jnp.concatenate(densities)


def valued(here: Here, actions: Array) -> Array:
    """Q_j(s_i, a_ki) [M, B, K] of actions [K, B, A]."""
    count, batch, size = actions.shape
    obs = jnp.broadcast_to(here.rows.obs[None], (count, *here.rows.obs.shape))
    q = here.q(obs.reshape(count * batch, -1), actions.reshape(count * batch, size))
    return jnp.swapaxes(q.reshape(-1, count, batch), 1, 2)
