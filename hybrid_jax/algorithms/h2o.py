"""H2O: SAC on real and simulated rows, trusting the simulator only where its dynamics fit reality.

Two changes to SAC's critic loss (Niu et al. 2022, arXiv 2206.13464, in the form of the released code):

    L_j = mean_real (Q_j - y)^2 + mean_sim w (Q_j - y)^2 + beta clip(G_j - mean_real Q_j)
    G_j = T log sum_{i in sim} omega_i exp(Q_j(s_i, a_i) / T),    omega_i = u_i / sum_k u_k

with w = P_real/P_sim(s'|s,a) and u = mean log P_sim/P_real, both from discriminators that are trained
beside the critics on rows of their own (`gap_learner`, which also says how the rows of a batch lie). The code's
Lagrange multiplier for beta, off there, is left out.

To expect: on HalfCheetah 4,707 to 7,212 (the table of Niu et al. 2022), ours about 6,200 on 150,000 rows under gravity
x2 and 760 to 1,032 on 20,000; 27,000 to 29,500 of 30,000 on the balancer (docs/results).
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import chex
import jax
import jax.numpy as jnp

from hybrid_jax import actor_critic, dynamics_gap, gap_learner, losses, ranges, scaling
from hybrid_jax.actor_critic import squared_td_errors
from hybrid_jax.gap_learner import simulated_rows
from hybrid_jax.scaling import Moments
from hybrid_jax.types import Algorithm, Array, Spec, Transition


@dataclass(frozen=True)
class Config(actor_critic.Config, dynamics_gap.Config):
    """Hyper-parameters of H2O: those of SAC and of the discriminators, and its own."""

    batch_real: int = 128  # rows per update from the real store
    batch_sim: int = 128  # rows per update from the simulator
    entropy_in_backup: bool = False  # y holds -alpha log pi(a'|s')
    beta: float = 0.01  # weight of the value regularisation; 0 leaves it out; tied to the reward scale
    penalty_temperature: float = 1.0  # T
    penalty_clip: float = 1000.0  # bound on |G - mean_real Q|
    weight_clip: tuple[float, float] = (1e-5, 1.0)  # bounds on w
    u_clip_max: float = 10.0  # upper bound on u
    next_state_samples: int = 10  # N: perturbed s' per row behind u
    next_state_jitter: Literal["diluted", "full"] = (
        "diluted"  # whose std perturbs s': "diluted" (released code) or "full"
    )
    jitter_scale: float = 1.0  # multiplies that std
    importance_weight: bool = True  # False: w = 1
    adaptive_penalty: bool = True  # False: u = 1, so G is a plain log-mean-exp
    linear_penalty: bool = False  # True: G = sum omega Q


def make(config: Config, spec: Spec, moments: Moments) -> Algorithm:
    """H2O; `moments` of the real rows give the scale of the s' jitter.

    With importance_weight off and beta 0 it is SAC on the mix, and no discriminator is trained.
    """
    check(config, spec, moments)
    base, gap = actor_critic.parts(config, spec, moments), dynamics_gap.make(config, spec)
    needs_u = config.beta != 0 and config.adaptive_penalty
    needs_gap = config.importance_weight or needs_u
    samples = config.next_state_samples if needs_u else 0
    std = config.jitter_scale * dynamics_gap.next_obs_std(moments, config.next_state_jitter)

    def weights(params, sim: Transition, key: Array) -> tuple[Array, Array]:
        """w [S] and u [S] of rows taken for simulated ones."""
        noise = std[None, None] * jax.random.normal(key, (samples, *sim.next_obs.shape))
        observed, jittered = gap.log_ratio(params, sim, noise)
        w = u = jnp.ones(sim.reward.shape)
        if config.importance_weight:
            w = dynamics_gap.importance_weight(observed, config.weight_clip)
        if needs_u:
            u = dynamics_gap.gap_measure(jittered, config.u_clip_max)
        return w, u

    def learn(sac, gap_state, rows: Transition, real: Array, key: Array, jitter_key: Array):
        metrics, sim = {}, simulated_rows(config, rows)
        w = u = jnp.ones(sim.reward.shape)
        if needs_gap:
            w, u = weights(gap_state.params, sim, jitter_key)
            simulated = ~real[-w.shape[0] :]
            over = partial(losses.masked_mean, mask=simulated)
            least = jnp.min(w, where=simulated, initial=config.weight_clip[1])
            metrics |= {"weight_mean": over(w), "weight_min": least}
            metrics |= {"u_mean": over(u), "u_positive_share": over((u > 0).astype(u.dtype))}

        def loss(q: Array, y: Array, here: actor_critic.Here) -> tuple[Array, dict]:
            return critic_loss(config, q, y, w, u, None if config.mixing == "counts" else real)

        sac, told = base.step(sac, rows, loss, key)
        return sac, metrics | told

    return gap_learner.make(config, base, gap, learn, needs_gap)


def critic_loss(
    config: Config, q: Array, y: Array, w: Array, u: Array, real: Array | None = None
) -> tuple[Array, dict]:
    """L_1 + L_2 of this module's head; q [2, R + S], y [R + S], w and u [S] of rows that lie real ones first.

    With real [B] bool they lie mixed, at any rates, and w and u are [B], not looked at where real. All rows weigh alike
    then, so the rates decide how much each world counts; halves of equal size give back the loss above:

        2 mean_i (w_i or 1 where real) (Q_j - y)^2
    """
    chex.assert_rank([q, y, w, u], [2, 1, 1, 1])
    chex.assert_type([q, y, w, u], float)
    error, over = squared_td_errors(q, y), jax.vmap(losses.masked_mean, (0, None))
    if real is None:
        q_real, q_sim = jnp.split(q, [config.batch_real], axis=1)
        error_real, error_sim = jnp.split(error, [config.batch_real], axis=1)
        loss = jnp.mean(error_real, axis=1) + jax.vmap(losses.weighted_mean, (0, None))(error_sim, w)
        metrics = {"q_real": jnp.mean(q_real), "q_sim": jnp.mean(q_sim)}
    else:
        q_real = q_sim = q
        u = jnp.where(real, 0.0, u)
        loss = 2 * jax.vmap(losses.weighted_mean, (0, None))(error, jnp.where(real, 1.0, w))
        metrics = {"q_real": jnp.mean(over(q, real)), "q_sim": jnp.mean(over(q, ~real))}
    if config.beta:
        regularise = partial(
            losses.value_regularisation,
            temperature=config.penalty_temperature,
            clip=config.penalty_clip,
            linear=config.linear_penalty,
            real=real,
        )
        penalty = jax.vmap(regularise, (0, 0, None))(q_sim, q_real, dynamics_gap.log_omega(u))
        loss += config.beta * penalty
        metrics["penalty"] = jnp.mean(penalty)
    return jnp.sum(loss), metrics


def check(config: Config, spec: Spec, moments: Moments) -> None:
    """Refuses hyper-parameters that cannot work. Raises ValueError."""
    gap_learner.check(config, "H2O", ("batch_real", "batch_sim"))
    ranges.at_least(config, 1, "next_state_samples")
    ranges.at_least(config, 0, "beta", "jitter_scale")
    ranges.positive(config, "penalty_temperature", "penalty_clip", "u_clip_max")
    if config.mixing == "store" and config.beta:
        raise ValueError("mixing is 'store'; H2O's penalty needs rows of both worlds in a batch, give quotas or rows.")
    if not 0 <= config.weight_clip[0] <= config.weight_clip[1]:
        raise ValueError(f"weight_clip is {config.weight_clip}; give the lower bound, >= 0, before the upper one.")
    scaling.check(moments, spec.obs_size)
