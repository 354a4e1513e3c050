"""The networks: a plain MLP, the Gaussian actor, the twin critics and the two-logit discriminator.

Each is a NamedTuple of pure functions over a plain tree of parameters. Initialisation follows H2O's
released code: PyTorch's default for hidden layers, a nearly silent last layer.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from hybrid_jax.types import Array, PyTree

LOG_STD_RANGE = (-20.0, 2.0)
LOGIT_BOUND = 2.0  # the discriminators' logits lie in [-2, 2]

fan_in_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # +-1/sqrt(fan_in)
near_zero = nn.initializers.variance_scaling(1e-4, "fan_avg", "uniform")  # Xavier uniform, gain 1e-2
orthogonal = nn.initializers.orthogonal(2**0.5)
nearly_silent = nn.initializers.orthogonal(1e-2)


class Network(NamedTuple):
    """A function with trainable parameters."""

    init: Callable  # (key) -> params
    apply: Callable  # (params, *inputs [..., .]) -> outputs


class MLP(nn.Module):
    """ReLU layers and a linear last one: x [..., I] -> [..., outputs]."""

    hidden: tuple[int, ...]
    outputs: int
    layer_norm: str = "none"  # LayerNorm "before" or "after" each ReLU
    orthogonal: bool = False  # all layers start orthogonal, the hidden ones with gain sqrt 2

    @nn.compact
    def __call__(self, x: Array, noise: Array | None = None) -> Array:
        """With noise [N, B, J], x [B, I]: the outputs [1 + N, B, outputs] at x and, N times, at x with the
        noise added to its last J entries. The first layer is linear, so x passes it only once."""
        for i, width in enumerate(self.hidden):
            bias_init = nn.initializers.zeros if self.orthogonal else _bias_init(x.shape[-1])
            dense = nn.Dense(width, kernel_init=orthogonal if self.orthogonal else fan_in_uniform, bias_init=bias_init)
            x = dense(x)
            if i == 0 and noise is not None:
                kernel = dense.variables["params"]["kernel"]
                x = jnp.concatenate([x[None], x[None] + noise @ kernel[-noise.shape[-1] :]])
            x = nn.LayerNorm()(x) if self.layer_norm == "before" else x
            x = nn.relu(x)
            x = nn.LayerNorm()(x) if self.layer_norm == "after" else x
        return nn.Dense(self.outputs, kernel_init=nearly_silent if self.orthogonal else near_zero)(x)


class _Actor(nn.Module):
    hidden: tuple[int, ...]
    action_size: int

    @nn.compact
    def __call__(self, obs: Array) -> tuple[Array, Array]:
        mean, raw = jnp.split(MLP(self.hidden, 2 * self.action_size)(obs), 2, axis=-1)
        multiplier = self.param("log_std_multiplier", nn.initializers.ones, ())
        offset = self.param("log_std_offset", nn.initializers.constant(-1.0), ())
        return mean, jnp.clip(multiplier * raw + offset, *LOG_STD_RANGE)


def actor(obs_size: int, action_size: int, hidden: tuple[int, ...]) -> Network:
    """obs [..., O] -> (mean, log_std) [..., A] before the tanh; log_std has a trained gain and offset."""
    module = _Actor(hidden, action_size)

    def apply(params: PyTree, obs: Array) -> tuple[Array, Array]:
        chex.assert_axis_dimension(obs, -1, obs_size)
        return _evaluate(module, params, obs)

    return Network(lambda key: module.init(key, jnp.zeros(obs_size)), apply)


def with_std(params: PyTree, std: float) -> PyTree:
    """An actor's params with this spread before the tanh, whatever the observation; leading axes are kept."""
    none = jnp.zeros_like(params["params"]["log_std_offset"])
    return {"params": params["params"] | {"log_std_multiplier": none, "log_std_offset": none + jnp.log(std)}}


def critics(
    obs_size: int,
    action_size: int,
    hidden: tuple[int, ...],
    members: int = 2,
    layer_norm: str = "none",
    orthogonal: bool = False,
) -> Network:
    """(obs [B, O], action [B, A]) -> Q [members, B]; parameter leaves [members, ...], or those of some members.

    The members are evaluated one after the other; on CPU a vmap over the two took the same time.
    """
    module = MLP(hidden, 1, layer_norm, orthogonal)

    def init(key: Array) -> PyTree:
        return jax.vmap(lambda k: module.init(k, jnp.zeros(obs_size + action_size)))(jax.random.split(key, members))

    def apply(params: PyTree, obs: Array, action: Array) -> Array:
        chex.assert_axis_dimension(obs, -1, obs_size)
        chex.assert_axis_dimension(action, -1, action_size)
        x = jnp.concatenate([obs, action], axis=-1)
        given = jax.tree.leaves(params)[0].shape[0]
        member = [jax.tree.map(lambda leaf, j=j: leaf[j], params) for j in range(given)]
        return jnp.stack([_evaluate(module, p, x)[..., 0] for p in member])

    return Network(init, apply)


def discriminator(inputs: int, hidden: tuple[int, ...], bound: float | None = LOGIT_BOUND) -> Network:
    """x [..., I] -> logits [..., 2] in [-bound, bound]: index 0 says "real", index 1 "sim"; `noise` as in MLP."""
    module = MLP(hidden, 2)

    def apply(params: PyTree, x: Array, noise: Array | None = None) -> Array:
        chex.assert_axis_dimension(x, -1, inputs)
        logits = _evaluate(module, params, x, noise)
        return logits if bound is None else bound * jnp.tanh(logits)

    return Network(lambda key: module.init(key, jnp.zeros(inputs)), apply)


def _evaluate(module: nn.Module, params: PyTree, *inputs: Array | None) -> Any:
    return module.apply(params, *inputs)  # flax types it as a union, with the variables that we never mutate


def _bias_init(fan_in: int) -> Callable:
    def init(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
