"""Judging a policy: whole episodes in the real environment (host) and in a simulator (compiled)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from hybrid_jax import physics, rollout
from hybrid_jax.real.episodes import Episode
from hybrid_jax.types import Array, RealEnv, SimEnv


def real_episode(
    env: RealEnv,
    act: Callable[[np.ndarray], np.ndarray],
    seed: int,
    limit: int,
    frame: Callable | None = None,
) -> Episode:
    """Drives the real environment from a reset until it ends, or for `limit` steps.

    act: obs [O] -> action [A]; frame, where given, is called after every step.
    """
    obs, _ = env.reset(seed=seed)
    seen, actions, rewards, terminated = [np.asarray(obs, np.float32)], [], [], False
    for _ in range(limit):
        action = act(seen[-1])
        obs, reward, terminated, truncated, _ = env.step(action)
        seen.append(np.asarray(obs, np.float32))
        actions.append(action)
        rewards.append(float(reward))
        if frame is not None:
            frame()
        if terminated or truncated:
            break
    return Episode(np.stack(seen), np.stack(actions), np.asarray(rewards), bool(terminated))


def real_episodes(env: RealEnv, act, episodes: int, seed: int, limit: int) -> list[Episode]:
    """Episodes that begin at seeds seed, seed + 1, ...: the same first states for every policy."""
    return [real_episode(env, act, seed + i, limit) for i in range(episodes)]


def sim_returns(env: SimEnv, act: Callable, sims: int) -> Callable:
    """A function (policy, key) -> returns [sims]: one episode of `act(policy, obs)` in each simulation.

    Where every simulation has its own physics, `sims` of them are taken, evenly spread.
    """
    if env.physics is not None:
        env = env._replace(model=physics.spread(env.model, env.physics.mj_model, sims))
    reset, env_step = rollout.batched(env)

    def evaluate(policy, key: Array) -> Array:
        def step(carry, _):
            state, obs, total, alive = carry
            state, out = env_step(state, act(policy, obs))
            alive_now = alive & ~rollout.diverged(out.obs, out.reward)
            total = total + jnp.where(alive_now, out.reward, 0.0)
            return (state, out.obs, total, alive_now & ~out.terminated & ~out.truncated), None

        state, obs = reset(jax.random.split(key, sims))
        carry = (state, obs, jnp.zeros(sims), jnp.ones(sims, bool))
        (_, _, total, _), _ = jax.lax.scan(step, carry, None, length=env.spec.episode_length)
        return total

    return evaluate
