"""H2O: SAC on real and simulated rows, trusting the simulator only where its dynamics fit reality.

Two changes to SAC's critic loss (Niu et al. 2022, arXiv 2206.13464, in the form of the released code):

    L_j = mean_real (Q_j - y)^2 + mean_sim w (Q_j - y)^2 + beta clip(G_j - mean_real Q_j)
    G_j = T log sum_{i in sim} omega_i exp(Q_j(s_i, a_i) / T),    omega_i = u_i / sum_k u_k

with w = P_real/P_sim(s'|s,a) and u = mean log P_sim/P_real, both from discriminators that are trained
beside the critics on rows of their own.

Rows of a batch lie in a fixed order, which `mix` provides: `batch_real` real ones, `batch_sim` simulated
ones, then the discriminators' own, real ones first again. Every source but REAL is simulated: for several
simulators replace `mix` by one that keeps this order and these counts.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from hybrid_jax import dynamics_gap, losses
from hybrid_jax.algorithms import sac
from hybrid_jax.buffers import concatenate_mixes, fixed_mix
from hybrid_jax.types import REAL, Algorithm, Array, Batch, PyTree, Spec, Transition


@dataclass(frozen=True)
class Config(sac.Config):
    """Hyper-parameters of H2O: those of SAC, and the gap's."""

    batch_real: int = 128  # rows per update from the real store
    batch_sim: int = 128  # rows per update from the simulator
    entropy_in_backup: bool = False  # y holds -alpha log pi(a'|s')
    discriminator_batch_real: int = 256  # rows per discriminator update from the real store
    discriminator_batch_sim: int = 256  # rows per discriminator update from the simulator
    discriminator_hidden: tuple[int, ...] = (256, 256)  # widths of both discriminators
    discriminator_lr: float = 3e-4  # Adam, both discriminators
    discriminator_noise: float = 0.1  # std of the training noise on s, a and s'
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


class State(NamedTuple):
    """SAC's state and the discriminators'."""

    sac: sac.State
    gap: PyTree  # dynamics_gap.GapState; () where neither w nor u is in use


def make(config: Config, spec: Spec, next_obs_std: np.ndarray) -> Algorithm:
    """H2O; `next_obs_std` [O] is the scale of the s' jitter, from `dynamics_gap.next_obs_std`.

    With importance_weight off and beta 0 it is SAC on the mix, and no discriminator is trained.
    """
    check(config, spec, next_obs_std)
    base = sac.parts(config, spec)
    gap = dynamics_gap.make(spec, config.discriminator_hidden, config.discriminator_lr, config.discriminator_noise)
    needs_u = config.beta != 0 and config.adaptive_penalty
    needs_gap = config.importance_weight or needs_u
    samples = config.next_state_samples if needs_u else 0
    std = config.jitter_scale * np.asarray(next_obs_std, np.float32)
    learned = config.batch_real + config.batch_sim

    def init(key: Array) -> State:
        sac_key, gap_key = jax.random.split(key)
        return State(base.init(sac_key), gap.init(gap_key) if needs_gap else ())

    def weights(params: PyTree, sim: Transition, key: Array) -> tuple[Array, Array]:
        """w [S] and u [S] of the simulated rows."""
        noise = std[None, None] * jax.random.normal(key, (samples, *sim.next_obs.shape))
        observed, jittered = gap.log_ratio(params, sim, noise)
        w = u = jnp.ones(config.batch_sim)
        if config.importance_weight:
            w = dynamics_gap.importance_weight(observed, config.weight_clip)
        if needs_u:
            u = dynamics_gap.gap_measure(jittered, config.u_clip_max)
        return w, u

    def update(state: State, batch: Batch, key: Array) -> tuple[State, dict]:
        chex.assert_shape(batch.source, (sum(map(sum, counts)),))
        sac_key, noise_key, jitter_key = jax.random.split(key, 3)
        rows, own = _rows(batch.rows, 0, learned), _rows(batch.rows, learned, None)
        gap_state, metrics = state.gap, {}
        w = u = jnp.ones(config.batch_sim)
        if needs_gap:
            gap_state, metrics = gap.update(state.gap, own, batch.source[learned:] == REAL, noise_key)
            w, u = weights(gap_state.params, _rows(rows, config.batch_real, None), jitter_key)
            metrics |= {"weight_mean": jnp.mean(w), "weight_min": jnp.min(w)}
            metrics |= {"u_mean": jnp.mean(u), "u_positive_share": jnp.mean(u > 0)}

        def loss(q: Array, y: Array) -> tuple[Array, dict]:
            return critic_loss(config, q, y, w, u)

        sac_state, sac_metrics = base.step(state.sac, rows, loss, sac_key)
        return State(sac_state, gap_state), metrics | sac_metrics

    counts = [(config.batch_real, config.batch_sim)]
    if needs_gap:
        counts.append((config.discriminator_batch_real, config.discriminator_batch_sim))
    mix = concatenate_mixes(*map(fixed_mix, counts))

    def policy(state: State) -> PyTree:
        return base.policy(state.sac)

    def deployed(state: State) -> PyTree:
        return base.deployed(state.sac)

    return Algorithm(init, update, policy, deployed, base.explore, base.act, mix)


def critic_loss(config: Config, q: Array, y: Array, w: Array, u: Array) -> tuple[Array, dict]:
    """L_1 + L_2 of this module's head; q [2, R + S], y [R + S], w and u [S]."""
    chex.assert_rank([q, y, w, u], [2, 1, 1, 1])
    chex.assert_type([q, y, w, u], float)
    q_real, q_sim = jnp.split(q, [config.batch_real], axis=1)
    error_real, error_sim = jnp.split(sac.squared_td_errors(q, y), [config.batch_real], axis=1)
    loss = jnp.mean(error_real, axis=1) + jax.vmap(losses.weighted_mean, (0, None))(error_sim, w)
    metrics = {"q_real": jnp.mean(q_real), "q_sim": jnp.mean(q_sim)}
    if config.beta:
        regularise = partial(
            losses.value_regularisation,
            temperature=config.penalty_temperature,
            clip=config.penalty_clip,
            linear=config.linear_penalty,
        )
        penalty = jax.vmap(regularise, (0, 0, None))(q_sim, q_real, dynamics_gap.log_omega(u))
        loss += config.beta * penalty
        metrics["penalty"] = jnp.mean(penalty)
    return jnp.sum(loss), metrics


def check(config: Config, spec: Spec, next_obs_std: np.ndarray) -> None:
    """Refuses hyper-parameters that cannot work. Raises ValueError."""
    for name in ("batch_real", "batch_sim", "discriminator_batch_real", "discriminator_batch_sim"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; H2O needs rows of both worlds, give >= 1.")
    if config.next_state_samples < 1:
        raise ValueError(f"next_state_samples is {config.next_state_samples}; give at least 1.")
    if config.penalty_temperature <= 0:
        raise ValueError(f"penalty_temperature is {config.penalty_temperature}; give a positive number.")
    if np.shape(next_obs_std) != (spec.obs_size,):
        raise ValueError(
            f"next_obs_std has shape {np.shape(next_obs_std)}, the observation ({spec.obs_size},); "
            "compute it with dynamics_gap.next_obs_std from the same data."
        )


def _rows(tree: PyTree, start: int, stop: int | None) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[start:stop], tree)
