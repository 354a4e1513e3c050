"""The dynamics gap between reality and simulator, read off two discriminators.

    log P_sim(s'|s,a) / P_real(s'|s,a) = log (1-D_sas)/D_sas - log (1-D_sa)/D_sa

D_sa = softmax(l_sa), D_sas = softmax(l_sas + l_sa), so the l_sa terms cancel and the log-ratio is the
difference of l_sas' two logits. Label index 0 is real, 1 is sim.
Niu et al. 2022 (arXiv 2206.13464); Eysenbach et al. 2021 (arXiv 2006.13916).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hybrid_jax import losses, networks, ranges
from hybrid_jax.scaling import FLOOR, Moments
from hybrid_jax.types import Array, PyTree, Spec, Transition


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of the discriminators."""

    discriminator_batch_real: int = 256  # rows per discriminator update from the real store
    discriminator_batch_sim: int = 256  # rows per discriminator update from the simulator
    discriminator_hidden: tuple[int, ...] = (256, 256)  # widths of both discriminators
    discriminator_lr: float = 3e-4  # Adam, both discriminators
    discriminator_noise: float = 0.1  # std of the training noise on s, a and s'
    discriminator_shared_noise: bool = True  # one draw of that noise for both networks; False: a draw each
    discriminator_bound: float | None = networks.LOGIT_BOUND  # logits lie in +- this, by tanh; None: anywhere


class GapState(NamedTuple):
    """The discriminators' parameters and optimiser."""

    params: PyTree  # {"sa", "sas"}
    optimiser: PyTree


class DynamicsGap(NamedTuple):
    """The two discriminators as an init/update pair, and what is read off them."""

    init: Callable  # (key) -> GapState
    update: Callable  # (GapState, rows [B, ...], real [B] bool, key) -> (GapState, metrics)
    log_ratio: Callable  # (params, rows [B, ...], noise [N, B, O]) -> observed [B], jittered [N, B]


def make(config: Config, spec: Spec) -> DynamicsGap:
    """Discriminators trained with N(0, noise^2) on their inputs; the log-ratio lies in [-2 bound, 2 bound]."""
    check(config)
    known = spec.obs_size + spec.action_size  # inputs (s, a) come first, s' last
    net_sa = networks.discriminator(known, config.discriminator_hidden, config.discriminator_bound)
    net_sas = networks.discriminator(known + spec.obs_size, config.discriminator_hidden, config.discriminator_bound)
    adam = optax.adam(config.discriminator_lr)

    def init(key: Array) -> GapState:
        sa_key, sas_key = jax.random.split(key)
        params = {"sa": net_sa.init(sa_key), "sas": net_sas.init(sas_key)}
        return GapState(params, adam.init(params))

    def loss(params: PyTree, x: Array, other: Array, real: Array) -> tuple[Array, dict]:
        """x, other: the inputs with noise, for l_sas and for l_sa, which both heads hold."""
        logit_sa = _margin(net_sa.apply(params["sa"], other[:, :known]))
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
        plain = _inputs(rows)
        x = plain + config.discriminator_noise * jax.random.normal(key, plain.shape)
        other = x
        if not config.discriminator_shared_noise:
            other = plain + config.discriminator_noise * jax.random.normal(jax.random.fold_in(key, 1), plain.shape)
        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params, x, other, real)
        updates, optimiser = adam.update(grads, state.optimiser)
        return GapState(optax.apply_updates(state.params, updates), optimiser), metrics

    def log_ratio(params: PyTree, rows: Transition, jitter: Array) -> tuple[Array, Array]:
        """log P_real/P_sim(s'|s,a) at the rows' own s' and at s' + jitter; no training noise."""
        ratio = _margin(net_sas.apply(params["sas"], _inputs(rows), jitter))
        return ratio[0], ratio[1:]

    return DynamicsGap(init, update, log_ratio)


def check(config: Config) -> None:
    """Refuses hyper-parameters that cannot work. Raises ValueError."""
    ranges.widths(config, "discriminator_hidden")
    ranges.at_least(config, 0, "discriminator_lr", "discriminator_noise")
    ranges.positive(config, "discriminator_bound", none="no bound")


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


def next_obs_std(moments: Moments, jitter: str) -> np.ndarray:
    """The scale [O] of the s' jitter, from the moments of real successors.

    "full": their standard deviation. "diluted": that of the released code, whose array also holds ten
    empty rows for each real one, sqrt((v + m^2)/11 - (m/11)^2). Both plus 1e-3.
    """
    mean, std = moments.next_mean, moments.next_std
    if jitter == "diluted":
        std = np.sqrt((std**2 + mean**2) / 11 - (mean / 11) ** 2)
    elif jitter != "full":
        raise ValueError(f"next_state_jitter is {jitter!r}; use 'diluted' or 'full'.")
    return (std + FLOOR).astype(np.float32)


def _inputs(rows: Transition) -> Array:
    return jnp.concatenate([rows.obs, rows.action, rows.next_obs], axis=-1)


def _margin(logits: Array) -> Array:
    return logits[..., 0] - logits[..., 1]
