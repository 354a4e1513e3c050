"""ReBRAC: TD3 on logged rows, drawn to the logged actions both in the policy's loss and in the critics' target.

Tarasov et al. 2023 (arXiv 2305.09836), equations 4 and 5, with critics normalised after each ReLU:

    y   = r + gamma (1 - terminated) (min_j Q'_j(s', a') - beta_critic |a' - a'_log|^2)
    a'  = clip(pi'(s') + clip(N(0, 0.2^2), -0.5, 0.5), -1, 1)
    L_pi = mean(beta_actor |pi(s) - a|^2 - Q(s, pi(s)) / mean |Q|)

SAC with a deterministic policy tanh(mean), no temperature, a target policy pi', and policy and targets moved every
second update. a'_log is the log's next action; where the recording of an episode ends there is none, and no penalty
(the authors drop such rows). The coefficients are the paper's for half-cheetah medium-replay; layers start as those of
all networks here, not with the authors' biases of 0.1.

To expect: normalised 51.2 on D4RL's half-cheetah medium-replay; with coefficients (actor, critic) of 0.001, 0.01 64.0
on medium, of 0.01, 0.1 103.8 on medium-expert (CORL's table).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from hybrid_jax import actor_critic, distributions, exploration, ranges
from hybrid_jax.actor_critic import Here
from hybrid_jax.scaling import Moments
from hybrid_jax.types import Algorithm, Array, PyTree, Spec


@dataclass(frozen=True)
class Config(actor_critic.Config):
    """Hyper-parameters of ReBRAC: those of the actor-critic, other numbers, and the two penalties'."""

    batch_real: int = 1024  # rows per update from the real store
    batch_sim: int = 0  # rows per update from the simulator
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of actor and critics
    layer_norm: actor_critic.LayerNorm = "after"  # LayerNorm in the critics, before or after each ReLU
    actor_lr: float = 1e-3  # Adam, policy
    critic_lr: float = 1e-3  # Adam, both critics
    temperature_lr: float = 0.0  # there is no temperature
    entropy_in_backup: bool = False  # and no entropy
    actor_period: int = 2  # critic updates per update of the policy, and of the targets with delayed_targets
    delayed_targets: bool = True  # the targets move with the policy
    actor_penalty: float = 0.01  # beta_actor
    critic_penalty: float = 0.001  # beta_critic
    target_noise: float = 0.2  # std of the noise on the target policy's action
    target_noise_clip: float = 0.5  # bound on that noise
    exploration_noise: float = 0.1  # std of the noise on the policy's action where it explores


def make(config: Config, spec: Spec, moments: Moments | None = None) -> Algorithm:
    """ReBRAC; moments: for normalise_states. Raises ValueError where simulated rows are asked for."""
    check(config)

    def next_value(here: Here) -> tuple[Array, Array]:
        rows, known = here.rows, here.rows.extras
        mean, _ = here.actor(here.state.target_actor, rows.next_obs)
        noise = config.target_noise * jax.random.normal(here.key, mean.shape)
        noise = jnp.clip(noise, -config.target_noise_clip, config.target_noise_clip)
        action = jnp.clip(distributions.mode(mean) + noise, -1.0, 1.0)
        penalty = config.critic_penalty * known["next_action_known"] * _distance(action, known["next_action"])
        return actor_critic.smallest_target(here, action) - penalty, penalty

    def actor_loss(params: PyTree, here: Here) -> tuple[Array, Array]:
        mean, _ = here.actor(params, here.rows.obs)
        action = distributions.mode(mean)
        q = actor_critic.smallest(here.q(here.rows.obs, action))
        scale = jax.lax.stop_gradient(1 / jnp.mean(jnp.abs(q)))
        loss = config.actor_penalty * _distance(action, here.rows.action) - scale * q
        return jnp.mean(loss), jnp.zeros_like(q)  # it has no entropy

    base = actor_critic.parts(config, spec, moments, next_value=next_value, actor_loss=actor_loss, target_actor=True)

    def explore(params: PyTree, obs: Array, key: Array) -> Array:
        return exploration.around(key, base.act(params, obs), config.exploration_noise, uniform=0.0)

    extras = (("next_action", (spec.action_size,)), ("next_action_known", ()))
    return actor_critic.algorithm(config, base)._replace(explore=explore, extras=extras)


def check(config: Config) -> None:
    """Refuses hyper-parameters that cannot work. Raises ValueError."""
    actor_critic.check(config)
    if config.batch_sim:
        raise ValueError(f"batch_sim is {config.batch_sim}; ReBRAC needs each row's next logged action, give 0.")
    if config.temperature_lr or config.entropy_in_backup:
        raise ValueError(
            f"temperature_lr is {config.temperature_lr} and entropy_in_backup is {config.entropy_in_backup};"
            " ReBRAC's policy is deterministic, give 0 and False."
        )
    ranges.at_least(
        config, 0, "actor_penalty", "critic_penalty", "target_noise", "target_noise_clip", "exploration_noise"
    )


def _distance(a: Array, b: Array) -> Array:
    """|a - b|^2 [B] of actions [B, A]."""
    return jnp.sum(jnp.square(a - b), axis=-1)
