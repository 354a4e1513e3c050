"""The losses: numbers in, numbers out; no networks, no optimisers, no configs.

Subscripts follow the papers: Q at (s, a), next_q at (s', a'). SAC: Haarnoja et al. 2018
(arXiv 1812.05905). H2O: Niu et al. 2022 (arXiv 2206.13464).
"""

import chex
import jax
import jax.numpy as jnp

from hybrid_jax.types import Array


def masked_mean(x: Array, mask: Array) -> Array:
    """Mean of x [B] over the rows where mask [B] holds; 0 where none does."""
    chex.assert_rank([x, mask], 1)
    chex.assert_type([x, mask], [float, bool])
    return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def td_target(reward: Array, discount: Array, next_value: Array) -> Array:
    """y = r + gamma V(s') for one row [], without gradient; `discount` holds gamma (1 - terminated)."""
    chex.assert_rank([reward, discount, next_value], 0)
    chex.assert_type([reward, discount, next_value], float)
    return jax.lax.stop_gradient(reward + discount * next_value)


def squared_td_error(q: Array, target: Array) -> Array:
    """(Q(s, a) - y)^2 for one row []; no factor 1/2."""
    chex.assert_rank([q, target], 0)
    chex.assert_type([q, target], float)
    return jnp.square(q - jax.lax.stop_gradient(target))


def actor_loss(log_prob: Array, min_q: Array, temperature: Array) -> Array:
    """alpha log pi(a|s) - min_j Q_j(s, a) for one row []; no gradient reaches alpha."""
    chex.assert_rank([log_prob, min_q, temperature], 0)
    chex.assert_type([log_prob, min_q, temperature], float)
    return jax.lax.stop_gradient(temperature) * log_prob - min_q


def temperature_loss(log_alpha: Array, log_prob: Array, target_entropy: float) -> Array:
    """-log alpha (log pi(a|s) + target entropy) for one row []; the multiplier is log alpha, not alpha."""
    chex.assert_rank([log_alpha, log_prob], 0)
    chex.assert_type([log_alpha, log_prob], float)
    return -log_alpha * jax.lax.stop_gradient(log_prob + target_entropy)


def value_regularisation(
    q_sim: Array,
    q_real: Array,
    log_omega: Array,
    temperature: float,
    clip: float,
    linear: bool = False,
    real: Array | None = None,
) -> Array:
    """clip(G - mean Q_real, -clip, clip), G = T log sum_i exp((Q_i + log omega_i) / T) over the sim rows.

    q_sim [S], q_real [R], log_omega [S] with -inf where omega is 0; 0 if every omega is. `linear`: G =
    sum_i omega_i Q_i. `real` [R] bool: the mean is over those rows of q_real alone, and 0 follows where there is none.
    The value regularisation of H2O, in the form of the released code (omega inside T).
    """
    chex.assert_rank([q_sim, q_real, log_omega], 1)
    chex.assert_type([q_sim, q_real, log_omega], float)
    log_omega = jax.lax.stop_gradient(log_omega)
    some = jnp.any(jnp.isfinite(log_omega))
    log_omega = jnp.where(some, log_omega, 0.0)  # keeps the unused branch free of NaN gradients
    if linear:
        pushed = jnp.sum(jnp.exp(log_omega) * q_sim)
    else:
        pushed = temperature * jax.nn.logsumexp((q_sim + log_omega) / temperature)
    lifted = jnp.mean(q_real) if real is None else masked_mean(q_real, real)
    some = some if real is None else some & jnp.any(real)
    return jnp.where(some, jnp.clip(pushed - lifted, -clip, clip), 0.0)


def conservative_penalty(q: Array, q_proposed: Array, log_density: Array, temperature: float) -> Array:
    """T log sum_k exp((Q(s, a_k) - log mu(a_k)) / T) - Q(s, a) for one row: q [], q_proposed and log_density [K].

    The value regularisation of CQL(H), Kumar et al. 2020 (arXiv 2006.04779), equation 4, by importance sampling.
    """
    chex.assert_rank([q, q_proposed, log_density], [0, 1, 1])
    chex.assert_type([q, q_proposed, log_density], float)
    scaled = (q_proposed - jax.lax.stop_gradient(log_density)) / temperature
    return temperature * jax.nn.logsumexp(scaled) - q


def weighted_mean(x: Array, weight: Array) -> Array:
    """sum_i w_i x_i / B over a batch [B]; the weights are not normalised and carry no gradient."""
    chex.assert_rank([x, weight], 1)
    chex.assert_type([x, weight], float)
    return jnp.mean(jax.lax.stop_gradient(weight) * x)


def binary_cross_entropy(logit: Array, real: Array) -> Array:
    """-log p(label) for one row [], p(real) = sigmoid(logit); `real` is a bool."""
    chex.assert_rank([logit, real], 0)
    chex.assert_type([logit, real], [float, bool])
    return jax.nn.softplus(jnp.where(real, -logit, logit))
