"""Collecting: the environments that stand in the program are stepped, and what they gave goes to their stores.

Without rates every simulator runs its whole rollout in every iteration. With them an iteration's control steps are
spread over the environments by q: what the simulators and a pretended reality do not get, they do not run.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hybrid_jax import mixing, rollout
from hybrid_jax.buffers import MultiBuffer
from hybrid_jax.mixing import Mixing, Progress, Rates
from hybrid_jax.types import REAL, Algorithm, Array, BufferState, Collection, PyTree, SimEnv, TrainState, Transition

REMEMBERED = 50  # episodes that an environment's share of successes is averaged over, about


class Collector(NamedTuple):
    """The environments of a run as pure functions."""

    init: Callable  # (key) -> worlds: one RolloutState per environment
    collect: Callable  # (TrainState, explore, stores, Rates | None, key) -> see `make`
    rates: Callable  # (TrainState) -> Rates | None: what the schedule says of the next iteration
    used: Callable  # (BufferState, BufferState, beta [K] | None) -> metrics of what was drawn between the two


def make(
    envs: Mapping[int, SimEnv],
    algorithm: Algorithm,
    store: MultiBuffer,
    amounts: Any,
    mixed: Mixing | None,
) -> Collector:
    """envs: by their stores, REAL a pretended reality; amounts: a trainer.Rates.

    `collect` gives (worlds, BufferState, Collection, fresh, metrics); fresh: of each environment its new rows [C, ...]
    and how many of them count.
    """
    stores = len(store.capacities)
    length = next(iter(envs.values())).spec.episode_length if envs else 1
    unit = length if algorithm.episodes else 1  # control steps that are spent together

    def init(key: Array) -> tuple[PyTree, ...]:
        return tuple(
            rollout.init(env, jax.random.fold_in(key, k), amounts.sims, amounts.pool, spread=not algorithm.episodes)
            for k, env in envs.items()
        )

    def rates(state: TrainState) -> Rates | None:
        if mixed is None:
            return None
        seen = state.collection
        added = unit * state.buffers.added.astype(jnp.float32)  # in control steps
        return mixed.schedule(Progress(state.step, added, state.buffers.draws, seen.success, seen.best))

    def collect(state: TrainState, explore: Callable, filled: BufferState, asked: Rates | None, key: Array):
        steps, worlds, fresh, metrics, before = None, [], [], {}, state.buffers.added
        seen = state.collection
        if asked is not None and mixed is not None:
            visit = mixing.sources(mixed.visits, amounts.unroll // unit)
            steps = unit * mixing.counts(visit(jax.random.fold_in(key, 0), asked.q), stores)
            seen = seen._replace(q=asked.q, beta=asked.beta)
        for (k, env), world in zip(envs.items(), state.sim, strict=True):
            own = jax.random.fold_in(key, k or stores)  # 0 is the key of the visits
            world, rows, valid, stats = rollout.rollout(
                env, explore, world, own, amounts.unroll, None if steps is None else steps[k], algorithm.episodes
            )
            rows, count = _episodes(rows, valid, length) if algorithm.episodes else rollout.compact(rows, valid)
            filled = store.add(filled, k, rows, count)
            worlds.append(world)
            fresh.append((rows, count))
            seen = _with_success(seen, k, stats) if env.success is not None else seen
            told = {name: value for name, value in stats._asdict().items() if name != "succeeded" or env.success}
            metrics |= {f"{'real' if k == REAL else f'sim{k}'}/{name}": value for name, value in told.items()}
        new = filled.added - before
        newest = jnp.where(jnp.sum(new) > 0, jnp.argmax(new), seen.newest)
        seen = seen._replace(newest=newest.astype(jnp.int32))
        share = new.astype(jnp.float32) / jnp.maximum(jnp.sum(new), 1).astype(jnp.float32)
        for k in range(stores):
            metrics |= {f"store{k}/size": filled.size[k].astype(jnp.float32), f"store{k}/collected": share[k]}
        return tuple(worlds), filled, seen, fresh, metrics

    def used(before: BufferState, after: BufferState, beta: Array | None) -> dict[str, Array]:
        """Of each store: its share of the draws, all draws so far, and how many those are for each control step."""
        new, total = (x.astype(jnp.float32) for x in (after.draws - before.draws, after.draws))
        share = new / jnp.maximum(jnp.sum(new), 1.0)
        reuse = total / (unit * jnp.maximum(after.added, 1).astype(jnp.float32))
        told = {"drawn": share, "draws": total, "reuse": reuse} | ({} if beta is None else {"beta": beta})
        return {f"store{k}/{name}": values[k] for k in range(stores) for name, values in told.items()}

    return Collector(init, collect, rates, used)


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


def _with_success(seen: Collection, k: int, stats: rollout.Stats) -> Collection:
    """The share of successes moves by the weight of the new episodes, so one lucky iteration is no success."""
    step = jnp.minimum(stats.episodes / REMEMBERED, 1.0)
    share = seen.success[k] + step * (stats.succeeded / jnp.maximum(stats.episodes, 1.0) - seen.success[k])
    return seen._replace(success=seen.success.at[k].set(share), best=seen.best.at[k].max(share))


def _episodes(rows: Transition, valid: Array, length: int) -> tuple[Transition, Array]:
    """Rows [m T, N, ...] whose simulations all began an episode as whole episodes [m N, T, ...], and their count.

    An episode with an invalid row, or one that ended before its time, is left out, and no other: the clocks of such
    rollouts run in phase.
    """

    def blocks(leaf: Array) -> Array:
        return jnp.moveaxis(leaf.reshape(-1, length, *leaf.shape[1:]), 2, 1).reshape(1, -1, length, *leaf.shape[2:])

    rows, valid = jax.tree.map(blocks, rows), blocks(valid)
    follows = jnp.all(rows.obs[:, :, 1:] == rows.next_obs[:, :, :-1], axis=(-1, -2))
    return rollout.compact(rows, jnp.all(valid, axis=-1) & follows)
