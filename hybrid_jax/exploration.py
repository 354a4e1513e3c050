"""How a deterministic policy explores."""

import chex
import jax
import jax.numpy as jnp

from hybrid_jax.types import Array


def around(key: Array, action: Array, std: float, uniform: float) -> Array:
    """Actions [N, A] -> clip(a + N(0, std^2), -1, 1), and of a share of the rows, `uniform`, U(-1, 1)^A instead."""
    chex.assert_rank(action, 2)
    noise_key, uniform_key, which_key = jax.random.split(key, 3)
    noisy = jnp.clip(action + std * jax.random.normal(noise_key, action.shape), -1.0, 1.0)
    anyhow = jax.random.uniform(uniform_key, action.shape, minval=-1.0)
    return jnp.where(jax.random.bernoulli(which_key, uniform, action[:, :1].shape), anyhow, noisy)
