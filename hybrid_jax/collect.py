"""Collecting: the environments that stand in the program are stepped, and what they gave goes to their stores.

Without rates every simulator runs its whole rollout in every iteration. With them an iteration's control steps are
spread over the environments by q: what the simulators and a pretended reality do not get, they do not run.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hybrid_jax import mixing, rollout
from hybrid_jax.buffers import MultiBuffer
from hybrid_jax.mixing import Mixing, Progress, Rates
from hybrid_jax.types import REAL, Algorithm, Array, BufferState, Collection, PyTree, SimEnv, TrainState, Transition


class Collector(NamedTuple):
    """The environments of a run as pure functions."""

    init: Callable  # (key) -> worlds: one RolloutState per environment
    collect: Callable  # (TrainState, explore, stores, Rates | None, key) -> (worlds, BufferState, Collection, metrics)
    rates: Callable  # (TrainState) -> Rates | None: what the schedule says of the next iteration


def make(
    envs: Mapping[int, SimEnv],
    algorithm: Algorithm,
    store: MultiBuffer,
    sizes: tuple[int, int, int],
    mixed: Mixing | None,
) -> Collector:
    """envs: by their stores, REAL a pretended reality; sizes: simulations, control steps and first states of each."""
    sims, unroll, pool = sizes
    stores = len(store.capacities)
    length = next(iter(envs.values())).spec.episode_length if envs else 1
    unit = length if algorithm.episodes else 1  # control steps that are spent together

    def init(key: Array) -> tuple[PyTree, ...]:
        return tuple(
            rollout.init(env, jax.random.fold_in(key, k), sims, pool, spread=not algorithm.episodes)
            for k, env in envs.items()
        )

    def rates(state: TrainState) -> Rates | None:
        if mixed is None:
            return None
        seen = state.collection
        return mixed.schedule(Progress(state.step, state.buffers.added, state.buffers.draws, seen.success, seen.best))

    def collect(state: TrainState, explore: Callable, filled: BufferState, asked: Rates | None, key: Array):
        steps, worlds, metrics, before = None, [], {}, state.buffers.added
        seen = state.collection
        if asked is not None and mixed is not None:
            visit = mixing.sources(mixed.visits, unroll // unit)
            steps = unit * mixing.counts(visit(jax.random.fold_in(key, 0), asked.q), stores)
            seen = seen._replace(q=asked.q, beta=asked.beta)
        for (k, env), world in zip(envs.items(), state.sim, strict=True):
            own = jax.random.fold_in(key, k or stores)  # 0 is the key of the visits
            world, rows, valid, stats = rollout.rollout(
                env, explore, world, own, unroll, None if steps is None else steps[k]
            )
            rows, count = _episodes(rows, valid, length) if algorithm.episodes else rollout.compact(rows, valid)
            filled = store.add(filled, k, rows, count)
            worlds.append(world)
            seen = _with_success(seen, k, stats) if env.success is not None else seen
            told = {name: value for name, value in stats._asdict().items() if name != "succeeded" or env.success}
            metrics |= {f"{'real' if k == REAL else f'sim{k}'}/{name}": value for name, value in told.items()}
        new = filled.added - before
        seen = seen._replace(newest=jnp.argmax(new).astype(jnp.int32))
        share = new.astype(jnp.float32) / jnp.maximum(jnp.sum(new), 1).astype(jnp.float32)
        for k in range(stores):
            metrics |= {f"store{k}/size": filled.size[k].astype(jnp.float32), f"store{k}/collected": share[k]}
        return tuple(worlds), filled, seen, metrics

    return Collector(init, collect, rates)


def nothing(stores: int) -> Collection:
    """Before the first iteration."""
    zeros = jnp.zeros(stores)
    return Collection(zeros, jnp.copy(zeros), jnp.int32(0), jnp.copy(zeros), jnp.copy(zeros))


def shares(mixed: Mixing, seen: Collection, size: Array) -> Array:
    """The rates beta [K] that rows are drawn at now: those asked for, over the stores that hold rows.

    A store with rows keeps at least 1e-12, which draws none of them but tells a discriminator that there are some.
    """
    own = mixing.effective(seen.beta, size, seen.newest if mixed.newest_instead else None)
    return jnp.where(size > 0, jnp.maximum(own, 1e-12), 0.0)


def used(before: BufferState, after: BufferState) -> dict[str, Array]:
    """What an iteration drew of each store: its share of the draws, and draws for each row ever added."""
    new = (after.draws - before.draws).astype(jnp.float32)
    share = new / jnp.maximum(jnp.sum(new), 1.0)
    reuse = after.draws.astype(jnp.float32) / jnp.maximum(after.added, 1).astype(jnp.float32)
    return {f"store{k}/drawn": share[k] for k in range(len(share))} | {
        f"store{k}/reuse": reuse[k] for k in range(len(share))
    }


def _with_success(seen: Collection, k: int, stats: rollout.Stats) -> Collection:
    share = jnp.where(stats.episodes > 0, stats.succeeded / jnp.maximum(stats.episodes, 1.0), seen.success[k])
    return seen._replace(success=seen.success.at[k].set(share), best=seen.best.at[k].max(share))


def _episodes(rows: Transition, valid: Array, length: int) -> tuple[Transition, Array]:
    """Rows [m T, N, ...] whose simulations all began an episode as whole episodes [m N, T, ...], and their count.

    An episode with an invalid row, or one that ended before its time, is left out.
    """

    def blocks(leaf: Array) -> Array:
        return jnp.moveaxis(leaf.reshape(-1, length, *leaf.shape[1:]), 2, 1).reshape(1, -1, length, *leaf.shape[2:])

    rows, valid = jax.tree.map(blocks, rows), blocks(valid)
    follows = jnp.all(rows.obs[:, :, 1:] == rows.next_obs[:, :, :-1], axis=(-1, -2))
    return rollout.compact(rows, jnp.all(valid, axis=-1) & follows)
