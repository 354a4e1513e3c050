"""Gaps between the intended action and the executed one: pure wrappers around any simulator.

The stores keep the intended action; the reward, a control cost included, is that of the executed one, as in the
H2O paper's simulators.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hybrid_jax.types import Array, PyTree, SimEnv


class NoisyState(NamedTuple):
    """A simulation with its own stream of action noise."""

    inner: PyTree
    key: Array


def joint_noise(env: SimEnv, std: float) -> SimEnv:
    """The engine executes clip(a + N(0, std^2), -1, 1)."""
    if not 0.0 < std < jnp.inf:
        raise ValueError(f"gap joint_noise={std} must be a positive standard deviation")

    def reset(model, key):
        noise_key, inner_key = jax.random.split(key)
        inner, obs = env.reset(model, inner_key)
        return NoisyState(inner, noise_key), obs

    def step(model, state, action):
        noise_key, next_key = jax.random.split(state.key)
        noise = std * jax.random.normal(noise_key, action.shape, action.dtype)
        executed = jnp.clip(action + noise, -1.0, 1.0)
        inner, out = env.step(model, state.inner, executed)
        return NoisyState(inner, next_key), out

    return env._replace(reset=reset, step=step)


class DelayedState(NamedTuple):
    """A simulation with the actions that are still on their way to its motors."""

    inner: PyTree
    pending: Array  # [k, A] the oldest first


def action_delay(env: SimEnv, steps: int) -> SimEnv:
    """The engine executes the action of `steps` control steps ago; zeros before there is one."""
    if steps != int(steps) or not 0 < steps < env.spec.episode_length:
        raise ValueError(
            f"gap action_delay={steps} must be whole control steps, at least 1 and fewer than the episode's"
            f" {env.spec.episode_length}"
        )
    blank = (int(steps), env.spec.action_size)

    def reset(model, key):
        inner, obs = env.reset(model, key)
        return DelayedState(inner, jnp.zeros(blank)), obs

    def step(model, state, action):
        inner, out = env.step(model, state.inner, state.pending[0])
        return DelayedState(inner, jnp.concatenate([state.pending[1:], action[None]])), out

    return env._replace(reset=reset, step=step)
