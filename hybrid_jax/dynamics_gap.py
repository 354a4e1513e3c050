"""The dynamics gap between reality and simulator, read off two discriminators.

    log P_sim(s'|s,a) / P_real(s'|s,a) = log (1-D_sas)/D_sas - log (1-D_sa)/D_sa

D_sa = softmax(l_sa), D_sas = softmax(l_sas + l_sa), so the l_sa terms cancel and the log-ratio is the
difference of l_sas' two logits. Label index 0 is real, 1 is sim.
Niu et al. 2022 (arXiv 2206.13464); Eysenbach et al. 2021 (arXiv 2006.13916).
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hybrid_jax import losses, networks
from hybrid_jax.types import Array, PyTree, Spec, Transition


class GapState(NamedTuple):
    """The discriminators' parameters and optimiser."""

    params: PyTree  # {"sa", "sas"}
    optimiser: PyTree


class DynamicsGap(NamedTuple):
    """The two discriminators as an init/update pair, and what is read off them."""

    init: Callable  # (key) -> GapState
    update: Callable  # (GapState, rows [B, ...], real [B] bool, key) -> (GapState, metrics)
    log_ratio: Callable  # (params, rows [B, ...], noise [N, B, O]) -> observed [B], jittered [N, B]


def make(spec: Spec, hidden: tuple[int, ...], learning_rate: float, noise: float) -> DynamicsGap:
    """Discriminators trained with N(0, noise^2) on their inputs (one draw for both), in [-4, 4] log-ratio."""
    known = spec.obs_size + spec.action_size  # inputs (s, a) come first, s' last
    net_sa = networks.discriminator(known, hidden)
    net_sas = networks.discriminator(known + spec.obs_size, hidden)
    adam = optax.adam(learning_rate)

    def init(key: Array) -> GapState:
        sa_key, sas_key = jax.random.split(key)
        params = {"sa": net_sa.init(sa_key), "sas": net_sas.init(sas_key)}
        return GapState(params, adam.init(params))

    def loss(params: PyTree, x: Array, real: Array) -> tuple[Array, dict]:
        logit_sa = _margin(net_sa.apply(params["sa"], x[:, :known]))
        logit_sas = _margin(net_sas.apply(params["sas"], x)) + logit_sa
        cross_entropy = jax.vmap(losses.binary_cross_entropy)(logit_sa, real)
        cross_entropy += jax.vmap(losses.binary_cross_entropy)(logit_sas, real)
        total = losses.masked_mean(cross_entropy, real) + losses.masked_mean(cross_entropy, ~real)
        return total, {
            "discriminator_loss": total,
            "discriminator_accuracy_sa": jnp.mean((logit_sa > 0) == real),
            "discriminator_accuracy_sas": jnp.mean((logit_sas > 0) == real),
        }

    def update(state: GapState, rows: Transition, real: Array, key: Array) -> tuple[GapState, dict]:
        x = _inputs(rows)
        x += noise * jax.random.normal(key, x.shape)
        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params, x, real)
        updates, optimiser = adam.update(grads, state.optimiser)
        return GapState(optax.apply_updates(state.params, updates), optimiser), metrics

    def log_ratio(params: PyTree, rows: Transition, jitter: Array) -> tuple[Array, Array]:
        """log P_real/P_sim(s'|s,a) at the rows' own s' and at s' + jitter; no training noise."""
        ratio = _margin(net_sas.apply(params["sas"], _inputs(rows), jitter))
        return ratio[0], ratio[1:]

    return DynamicsGap(init, update, log_ratio)


def importance_weight(log_ratio: Array, clip: tuple[float, float]) -> Array:
    """w = clip(P_real/P_sim, *clip) from log P_real/P_sim, without gradient; any shape."""
    return jax.lax.stop_gradient(jnp.clip(jnp.exp(log_ratio), *clip))


def gap_measure(jittered_log_ratio: Array, clip_max: float) -> Array:
    """u = min(mean_n log P_sim/P_real(s, a, s'_n), clip_max) [B] from log P_real/P_sim [N, B]."""
    chex.assert_rank(jittered_log_ratio, 2)
    return jax.lax.stop_gradient(jnp.minimum(-jnp.mean(jittered_log_ratio, axis=0), clip_max))


def log_omega(u: Array) -> Array:
    """log(u_i / sum of the positive u) [B]; -inf where u <= 0, so that such a row has no weight."""
    chex.assert_rank(u, 1)
    positive = u > 0
    kept = jnp.where(positive, u, 1.0)
    total = jnp.sum(jnp.where(positive, u, 0.0))
    return jnp.where(positive, jnp.log(kept) - jnp.log(jnp.where(total > 0, total, 1.0)), -jnp.inf)


def next_obs_std(next_obs: np.ndarray, jitter: str) -> np.ndarray:
    """The scale [O] of the s' jitter, from real successors [D, O].

    "full": their standard deviation. "diluted": that of the released code, whose array also holds ten
    empty rows for each real one, sqrt((v + m^2)/11 - (m/11)^2). Both plus 1e-3.
    """
    mean, variance = next_obs.mean(axis=0, dtype=np.float64), next_obs.var(axis=0, dtype=np.float64)
    if jitter == "full":
        std = np.sqrt(variance)
    elif jitter == "diluted":
        std = np.sqrt((variance + mean**2) / 11 - (mean / 11) ** 2)
    else:
        raise ValueError(f"next_state_jitter is {jitter!r}; use 'diluted' or 'full'.")
    return (std + 1e-3).astype(np.float32)


def _inputs(rows: Transition) -> Array:
    return jnp.concatenate([rows.obs, rows.action, rows.next_obs], axis=-1)


def _margin(logits: Array) -> Array:
    return logits[..., 0] - logits[..., 1]
