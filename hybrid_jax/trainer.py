"""The compiled training step: collect, insert and U updates in one donated, jitted program.

Offline data plus a simulator, the simulator alone, or several simulators are the same program with
other numbers. The trainer knows the bundles, never a particular algorithm or environment.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hybrid_jax import buffers, guards, physics, rollout
from hybrid_jax.types import REAL, Algorithm, Array, SimEnv, Spec, TrainState, Transition


@dataclass(frozen=True)
class Rates:
    """How much is collected and learned in one iteration of the compiled step."""

    sims: int = 64  # simulations stepped at once, per simulator
    unroll: int = 4  # control steps of every simulation per iteration
    updates: int = 256  # updates per iteration
    sim_capacity: int = 200_000  # rows of each simulator's store
    pool: int = 256  # first states that simulations reset from
    random: int = 0  # first iterations whose simulated actions are uniform


class Trainer(NamedTuple):
    """A run's pure functions; `jitted` and `over_seeds` compile them."""

    init: Callable  # (key, real rows [R, ...] | None) -> TrainState
    step: Callable  # (TrainState, rows [C, ...] | None, count | None) -> (TrainState, metrics); collect, then learn
    collect: Callable  # the first half of step alone, of the same form: simulate, insert
    learn: Callable  # (TrainState) -> (TrainState, metrics), the second half alone: U updates, bad ones left out
    attempt: Callable  # (TrainState) -> (TrainState, metrics, fine [] bool): U updates, no good unless `fine`
    relearn: Callable  # (TrainState) -> (TrainState, metrics): the same U updates, each left out unless finite
    capacities: tuple[int, ...]  # rows of each store: REAL, then the simulators'
    sim_steps: int  # simulated control steps per iteration
    updates: int  # updates per iteration


def example_row(spec: Spec, declared: tuple = ()) -> Transition:
    """Shapes and dtypes of one stored row, with the columns that the algorithm declares."""
    obs = jax.ShapeDtypeStruct((spec.obs_size,), jnp.float32)
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    action = jax.ShapeDtypeStruct((spec.action_size,), jnp.float32)
    extras = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in declared}
    return Transition(obs, action, scalar, scalar, obs, extras or ())


def _check(spec: Spec, rates: Rates, sims: tuple[SimEnv, ...]) -> None:
    for name, value in vars(rates).items():
        least = 0 if name == "random" else 1
        if value < least:
            raise ValueError(f"rates.{name} is {value}; it must be at least {least}")
    chunk = rates.sims * rates.unroll
    if chunk > rates.sim_capacity:
        raise ValueError(
            f"rates.sims x rates.unroll = {chunk} rows an iteration do not fit into rates.sim_capacity"
            f" {rates.sim_capacity}; enlarge the store or collect less at once"
        )
    for env in sims:
        if env.spec != spec:
            raise ValueError(f"a simulator's spec {env.spec} differs from the run's {spec}; both must be one task")
        own = None if env.physics is None else physics.batch_size(env.model, env.physics.mj_model)
        if own not in (None, rates.sims):
            raise ValueError(
                f"the simulator has physics for {own} simulations, rates.sims is {rates.sims}: set it to {own}"
            )


def make(spec: Spec, sims: tuple[SimEnv, ...], algorithm: Algorithm, rates: Rates, real_capacity: int) -> Trainer:
    """Builds the run's functions for one real store and K simulators (K = 0: the real world alone).

    real_capacity: rows of the real store (0 where there are no real data).
    Raises ValueError for rates or simulators that do not fit together.
    """
    _check(spec, rates, sims)
    capacities = (max(real_capacity, 1), *(rates.sim_capacity,) * len(sims))
    drawn = int(np.max(algorithm.mix(jax.random.key(0))))
    if drawn >= len(capacities):
        raise ValueError(f"the algorithm draws rows of store {drawn}; there are {len(sims)} simulators behind store 0")
    if algorithm.extras and sims:
        named = ", ".join(name for name, _ in algorithm.extras)
        raise ValueError(
            f"the algorithm's rows hold {named}, which no simulator gives; make the run without simulators"
        )
    store = buffers.multi_buffer(capacities)

    def init(key: Array, rows: Transition | None) -> TrainState:
        algorithm_key, sim_key, run_key = jax.random.split(key, 3)
        state = store.init(example_row(spec, algorithm.extras))
        if rows is not None:
            state = store.add(state, REAL, rows)
        worlds = tuple(
            rollout.init(env, jax.random.fold_in(sim_key, k), rates.sims, rates.pool)
            for k, env in enumerate(sims, start=1)
        )
        return TrainState(
            algorithm.init(algorithm_key), worlds, state, run_key, jnp.zeros((), jnp.int32), guards.init()
        )

    def collect(state: TrainState, rows: Transition | None = None, count: Array | None = None):
        collect_key, next_key = jax.random.split(state.key)
        explore = _exploring(algorithm, rates, state)
        stores, worlds, metrics = state.buffers, [], {}
        if rows is not None:
            stores = store.add(stores, REAL, rows, count)
        for k, (env, world) in enumerate(zip(sims, state.sim, strict=True), start=1):
            sim_key = jax.random.fold_in(collect_key, k)
            world, seen, valid, stats = rollout.rollout(env, explore, world, sim_key, rates.unroll)
            stores = store.add(stores, k, *rollout.compact(seen, valid))
            worlds.append(world)
            metrics |= {f"sim{k}/{name}": value for name, value in stats._asdict().items()}
        metrics |= {f"store{k}/size": stores.size[k].astype(jnp.float32) for k in range(len(capacities))}
        return state._replace(sim=tuple(worlds), buffers=stores, key=next_key), metrics

    def updates(state: TrainState, guarded: bool):
        """U updates from one state -> (TrainState, metrics [U], good [U]; None unless guarded)."""
        learn_key, next_key = jax.random.split(state.key)
        stores = state.buffers

        def update(carry, key):
            old, draws = carry  # the rows stay outside the carry: the loop only reads them
            mix_key, sample_key, update_key = jax.random.split(key, 3)
            drawn, batch = store.sample(stores._replace(draws=draws), sample_key, algorithm.mix(mix_key))
            new, metrics = algorithm.update(old, batch, update_key)
            good = guards.finite((new, metrics)) if guarded else None
            learner = guards.keep(good, new, old) if guarded else new
            return (learner, drawn.draws), (metrics, good)

        keys = jax.random.split(learn_key, rates.updates)
        (learner, draws), (metrics, good) = jax.lax.scan(update, (state.algorithm, stores.draws), keys)
        stores = stores._replace(draws=draws)
        return state._replace(algorithm=learner, buffers=stores, key=next_key, step=state.step + 1), metrics, good

    def attempt(state: TrainState):
        state, metrics, _ = updates(state, guarded=False)
        # Parameters, Adam's moments and averages never become finite again: the last learner tells of all.
        fine = guards.finite((state.algorithm, metrics))
        return *guards.count(state, metrics, jnp.ones(rates.updates, bool)), fine

    def relearn(state: TrainState):
        return guards.count(*updates(state, guarded=True))

    learn = _guarded(attempt, relearn)
    sim_steps = len(sims) * rates.sims * rates.unroll
    return Trainer(init, _then(collect, learn), collect, learn, attempt, relearn, capacities, sim_steps, rates.updates)


def _exploring(algorithm: Algorithm, rates: Rates, state: TrainState) -> Callable:
    """(obs [N, O], key) -> action [N, A] of the policy; uniform in the first `rates.random` iterations."""
    explore = partial(algorithm.explore, algorithm.policy(state.algorithm))
    if rates.random == 0:
        return explore

    def at_first(obs: Array, key: Array) -> Array:
        action = explore(obs, key)
        uniform = jax.random.uniform(key, action.shape, minval=-1.0, maxval=1.0)
        return jnp.where(state.step < rates.random, uniform, action)

    return at_first


def _guarded(attempt: Callable, relearn: Callable) -> Callable:
    """learn: the updates as tried, and once more, one by one, where something in them was not finite.

    A choice after each update would cost a fifth of it; this one costs once per iteration. The stores are read
    by either way and changed by none, so only the learner, the counters and the metrics are chosen between.
    """

    def learn(state: TrainState):
        tried, metrics, fine = attempt(state)
        outcome = tried.algorithm, tried.guards, metrics

        def again(carry):
            outcome, _ = carry
            sorted_out, metrics = relearn(state)
            return guards.keep(fine, outcome, (sorted_out.algorithm, sorted_out.guards, metrics)), jnp.bool_(True)

        # A loop of no or one turn: with `cond` XLA keeps the learner of `attempt` in scratch memory, 5 % slower.
        (learner, counted, metrics), _ = jax.lax.while_loop(lambda carry: ~carry[1], again, (outcome, jnp.all(fine)))
        return tried._replace(algorithm=learner, guards=counted), metrics

    return learn


def _then(collect: Callable, learn: Callable) -> Callable:
    """step: collect, then learn."""

    def step(state: TrainState, rows: Transition | None = None, count: Array | None = None):
        state, collected = collect(state, rows, count)
        state, learned = learn(state)
        return state, learned | collected

    return step


def jitted(trainer: Trainer) -> Trainer:
    """One run: init and step compiled, the state donated."""
    return trainer._replace(init=jax.jit(trainer.init), step=jax.jit(trainer.step, donate_argnums=0))


def over_seeds(trainer: Trainer) -> Trainer:
    """S runs in one program: keys [S], every leaf of the state [S, ...], a store of its own for each seed."""
    collect = jax.vmap(trainer.collect, in_axes=(0, None, None))
    # One choice for all seeds, outside of vmap, which would take both ways every time.
    learn = _guarded(jax.vmap(trainer.attempt), jax.vmap(trainer.relearn))
    step = jax.jit(_then(collect, learn), donate_argnums=0)
    return trainer._replace(
        init=jax.jit(jax.vmap(trainer.init, in_axes=(0, None))),
        step=lambda state, rows=None, count=None: step(state, rows, count),
    )
