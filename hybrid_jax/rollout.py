"""Simulated experience: N simulations stepped T times, with the true successor in every row.

Episodes that end are reset from a pool of first states after their last row is written, so the stored
successor is never the first observation of the next episode. Diverged simulations are masked out,
counted and reset.
"""

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from hybrid_jax import physics
from hybrid_jax.types import Array, PyTree, SimEnv, Transition

HUGE = 1e10  # MuJoCo's own bound for a diverged state


class Pool(NamedTuple):
    """First states to reset from."""

    env: PyTree  # [P, ...]
    obs: Array  # [P, O]


class RolloutState(NamedTuple):
    """N simulations under way."""

    env: PyTree  # [N, ...]
    obs: Array  # [N, O]
    time: Array  # [N] int32: control steps since the episode's start
    episode_return: Array  # [N] since the episode's start
    pool: Pool


class Stats(NamedTuple):
    """Counts over one rollout."""

    episodes: Array  # [] ended by the task or the clock
    terminated: Array  # [] ended by the task
    diverged: Array  # [] non-finite or huge: masked out
    return_sum: Array  # [] over the ended episodes; a simulation's first one is cut short by its staggered clock
    succeeded: Array  # [] of the ended episodes; 0 where the environment does not tell


def batched(env: SimEnv):
    """(reset over keys [N], step over states [N]) with one shared model or one model per simulation."""
    axes = None if env.physics is None else physics.batch_axes(env.model, env.physics.mj_model)
    reset = jax.vmap(env.reset, in_axes=(axes, 0))
    step = jax.vmap(env.step, in_axes=(axes, 0, 0))
    return lambda keys: reset(env.model, keys), lambda state, action: step(env.model, state, action)


def init(env: SimEnv, key: Array, sims: int, pool_size: int, spread: bool = True) -> RolloutState:
    """N simulations at first states, with their clocks spread evenly over the episode, or all at its start.

    Spread clocks keep time limits from cutting all simulations at once. With a model per simulation the
    pool is made of the simulations' first states; a first state depends on the model by its warm start alone.
    """
    reset, _ = batched(env)
    shared = env.physics is None or physics.batch_axes(env.model, env.physics.mj_model) is None
    # One reset for both: host callbacks of one program that run side by side can starve the CPU's few threads.
    first = reset(jax.random.split(key, sims + pool_size if shared else sims))
    state, obs = jax.tree.map(lambda leaf: leaf[:sims], first)
    pool = Pool(*jax.tree.map(lambda leaf: leaf[sims:] if shared else leaf, first))
    time = jnp.arange(sims) * env.spec.episode_length // sims * spread
    time = time.astype(jnp.int32)
    return jax.tree.map(jnp.copy, RolloutState(state, obs, time, jnp.zeros(sims), pool))


def _is_key(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _where(mask: Array, new: PyTree, old: PyTree) -> PyTree:
    """Leaves of `new` where mask [N], else of `old`; random streams are never rewound by a reset."""

    def choose(a, b):
        return b if _is_key(b) else jnp.where(mask.reshape(mask.shape + (1,) * (b.ndim - 1)), a, b)

    return jax.tree.map(choose, new, old)


def diverged(obs: Array, reward: Array) -> Array:
    """[N] bool: an observation [N, O] or a reward [N] that is not finite or beyond `HUGE`."""
    return ~(jnp.all(_sane(obs), axis=-1) & _sane(reward))


def _sane(x: Array) -> Array:
    return jnp.isfinite(x) & (jnp.abs(x) < HUGE)


def rollout(
    env: SimEnv,
    explore,
    state: RolloutState,
    key: Array,
    length: int,
    steps: Array | None = None,
    in_phase: bool = False,
):
    """Steps every simulation `length` times under `explore(obs [N, O], key) -> action [N, A]`.

    steps: [] int32, so many times instead, at most `length`; the program is the same for all of them, its time is not.

    in_phase: clocks run on where an episode ends early, so that all simulations begin their next one together.

    Returns (state, rows: Transition [T, N, ...], valid [T, N] bool, Stats); rows beyond `steps` are zero and not valid.
    """
    chex.assert_rank(state.obs, 2)
    _, env_step = batched(env)
    sims = state.obs.shape[0]

    def step(state: RolloutState, key):
        action_key, reset_key = jax.random.split(key)
        action = explore(state.obs, action_key)
        reached, out = env_step(state.env, action)
        bad = diverged(out.obs, out.reward)
        time = state.time + 1
        terminated = out.terminated & ~bad
        ended = terminated | out.truncated | (time >= env.spec.episode_length) | bad
        row = Transition(state.obs, action, out.reward, 1.0 - terminated.astype(jnp.float32), out.obs)
        episode_return = state.episode_return + jnp.where(bad, 0.0, out.reward)

        fresh = jax.random.randint(reset_key, (sims,), 0, state.pool.obs.shape[0])
        first = jax.tree.map(lambda leaf: leaf[fresh], (state.pool.env, state.pool.obs))
        next_env, next_obs = _where(ended, first, (reached, out.obs))
        whole = ended & ~bad
        succeeded = jnp.zeros_like(whole) if env.success is None else whole & jax.vmap(env.success)(out.obs)
        stats = Stats(
            jnp.sum(whole), jnp.sum(terminated), jnp.sum(bad), jnp.sum(episode_return * whole), jnp.sum(succeeded)
        )
        carry = RolloutState(
            next_env,
            next_obs,
            jnp.where(time >= env.spec.episode_length if in_phase else ended, 0, time),
            jnp.where(ended, 0.0, episode_return),
            state.pool,
        )
        return carry, (row, ~bad, stats)

    keys = jax.random.split(key, length)
    scan = jax.lax.scan if steps is None else partial(_scan_some, steps=steps)
    state, (rows, valid, stats) = scan(step, state, keys)
    return state, rows, valid, jax.tree.map(lambda leaf: jnp.sum(leaf).astype(jnp.float32), stats)


def _scan_some(step, carry: PyTree, keys: Array, steps: Array):
    """`scan` over the first `steps` [] of the keys [T]: outputs [T, ...] that are zero from there on."""
    shapes = jax.eval_shape(lambda carry, key: step(carry, key)[1], carry, keys[0])
    blank = jax.tree.map(lambda leaf: jnp.zeros((keys.shape[0], *leaf.shape), leaf.dtype), shapes)

    def turn(t: Array, both: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        carry, out = step(both[0], keys[t])
        return carry, jax.tree.map(lambda all_, one: all_.at[t].set(one), both[1], out)

    return jax.lax.fori_loop(0, jnp.minimum(steps, keys.shape[0]), turn, (carry, blank))


def compact(rows: Transition, valid: Array) -> tuple[Transition, Array]:
    """Rows [T, N, ...] as one chunk [T * N, ...] with the valid ones first, and their count.

    Invalid rows are zeroed: what a diverged simulation computed goes nowhere.
    """
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows)
    keep = valid.reshape(-1)
    order = jnp.argsort(~keep, stable=True)
    count = jnp.sum(keep).astype(jnp.int32)
    kept = jnp.arange(keep.size) < count
    return _where(kept, jax.tree.map(lambda leaf: leaf[order], flat), jax.tree.map(jnp.zeros_like, flat)), count
