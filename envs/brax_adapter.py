"""Any brax environment as a SimEnv, without brax's auto-reset, so the true successor survives.

brax's AutoResetWrapper writes the next episode's first observation over the successor; this adapter steps
the bare environment and leaves resets to the rollout.
"""

import jax
import jax.numpy as jnp
from brax.envs.base import Env

from hybrid_jax.physics import cholesky
from hybrid_jax.types import SimEnv, Spec, Step


def make(env: Env, episode_length: int = 1000) -> SimEnv:
    """Wraps a bare brax environment (from `brax.envs.get_environment`, not `brax.envs.create`).

    Raises ValueError for an environment inside brax's training wrappers, or with dict observations.
    """
    if env.unwrapped is not env:
        raise ValueError(
            f"{type(env).__name__} is a brax wrapper: pass the bare environment of brax.envs.get_environment"
        )
    if not isinstance(env.observation_size, int):
        raise ValueError(f"observations of {type(env).__name__} are a dict; only one vector is supported")
    spec = Spec(env.observation_size, env.action_size, episode_length, float(env.dt))

    def reset(model, key):
        del model  # brax keeps its physics inside the environment
        # brax calls jax.random with raw keys
        with cholesky.in_place_of_lapack():
            state = env.reset(jax.random.key_data(key))
        return state, state.obs

    def step(model, state, action):
        del model
        with cholesky.in_place_of_lapack():
            state = env.step(state, action)
        never = jnp.zeros((), bool)
        return state, Step(state.obs, state.reward, state.done.astype(bool), never)

    return SimEnv(spec, (), reset, step)
