"""SAC's networks and policy in numpy, float64: what the algorithms' losses are checked against."""

import jax
import jax.numpy as jnp
import numpy as np


def spread(tree, seed=0):
    """Parameters with an entry of order 1/2 everywhere, so that no layer is silent."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + jnp.float32(0.5) * rng.standard_normal(x.shape, np.float32), tree)


def mlp(params, x):
    layers = [params[f"Dense_{i}"] for i in range(3)]
    for i, layer in enumerate(layers):
        x = x @ np.float64(layer["kernel"]) + np.float64(layer["bias"])
        x = np.maximum(x, 0) if i < 2 else x
    return x


def twin_q(params, obs, action):
    x = np.concatenate([obs, action], axis=1)
    return np.stack([mlp(jax.tree.map(lambda p, j=j: p[j], params)["params"], x)[:, 0] for j in range(2)])


def policy(params, obs, draw):
    p = params["params"]
    mean, raw = np.split(mlp(p["MLP_0"], obs), 2, axis=1)
    log_std = np.clip(np.float64(p["log_std_multiplier"]) * raw + np.float64(p["log_std_offset"]), -20, 2)
    x = mean + np.exp(log_std) * draw
    log_prob = -0.5 * draw**2 - log_std - 0.5 * np.log(2 * np.pi) - np.log(1 - np.tanh(x) ** 2)
    return np.tanh(x), log_prob.sum(axis=1)
