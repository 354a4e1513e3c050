"""The tanh-Gaussian over actions in (-1, 1)^A: sample, log-density, mode."""

import chex
import jax
import jax.numpy as jnp

from hybrid_jax.types import Array


def log_prob(pre_tanh: Array, mean: Array, log_std: Array) -> Array:
    """log pi(tanh(x)) = sum_i log N(x_i; mean_i, std_i^2) - log(1 - tanh(x_i)^2); [..., A] -> [...].

    The Jacobian is written 2 (log 2 - x - softplus(-2x)), exact for any x.
    """
    chex.assert_equal_shape([pre_tanh, mean, log_std])
    chex.assert_type([pre_tanh, mean, log_std], float)
    z = (pre_tanh - mean) * jnp.exp(-log_std)
    log_normal = -0.5 * jnp.square(z) - log_std - 0.5 * jnp.log(2 * jnp.pi)
    log_jacobian = 2 * (jnp.log(2.0) - pre_tanh - jax.nn.softplus(-2 * pre_tanh))
    return jnp.sum(log_normal - log_jacobian, axis=-1)


def sample_and_log_prob(key: Array, mean: Array, log_std: Array) -> tuple[Array, Array]:
    """A reparameterised action [..., A] and its log-density [...]."""
    chex.assert_equal_shape([mean, log_std])
    chex.assert_type([mean, log_std], float)
    pre_tanh = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
    return jnp.tanh(pre_tanh), log_prob(pre_tanh, mean, log_std)


def sample(key: Array, mean: Array, log_std: Array) -> Array:
    """A reparameterised action [..., A]."""
    chex.assert_equal_shape([mean, log_std])
    chex.assert_type([mean, log_std], float)
    return jnp.tanh(mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape))


def mode(mean: Array) -> Array:
    """tanh(mean): the action of the evaluated policy, [..., A]."""
    return jnp.tanh(mean)
