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

from hybrid_jax import buffers, collect, guards
from hybrid_jax.mixing import Mixing
from hybrid_jax.sizes import capacities_of, check, check_draws, example_row
from hybrid_jax.types import REAL, Algorithm, Array, PyTree, SimEnv, Spec, TrainState, Transition


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
    step: Callable  # (TrainState, rows [C, ...], count, mixing.Rates | None; None each) -> (TrainState, metrics)
    collect: Callable  # the first half of step alone, of the same form: simulate, insert
    learn: Callable  # (TrainState) -> (TrainState, metrics), the second half alone: U updates, bad ones left out
    attempt: Callable  # (TrainState) -> (TrainState, metrics, fine [] bool): U updates, no good unless `fine`
    relearn: Callable  # (TrainState) -> (TrainState, metrics): the same U updates, each left out unless finite
    capacities: tuple[int, ...]  # rows of each store: REAL, then the simulators'
    sim_steps: int  # control steps per iteration in the program; with rates, those of a pretended reality among them
    updates: int  # updates per iteration


def make(
    spec: Spec,
    sims: tuple[SimEnv, ...],
    algorithm: Algorithm,
    rates: Rates,
    real_capacity: int,
    mixed: Mixing | None = None,
    pretended: SimEnv | None = None,
) -> Trainer:
    """Builds the run's functions for one real store and K simulators (K = 0: the real world alone).

    real_capacity: rows of the real store (0 where there are no real data).
    mixed: where to collect and whose rows to use, by rates over the stores REAL, 1, ... K; None: every simulator runs
    in every iteration and the algorithm draws by its counts.
    pretended: an environment that plays reality inside the program; its rows go to the store REAL.

    Raises ValueError for rates or simulators that do not fit together.
    """
    envs = ({} if pretended is None else {REAL: pretended}) | dict(enumerate(sims, start=1))
    check(spec, rates, tuple(envs.values()))
    capacities = capacities_of(spec, algorithm, rates, real_capacity, len(sims))
    check_draws(algorithm, capacities, mixed, bool(sims), rates.updates)
    store = buffers.multi_buffer(capacities)
    collector = collect.make(envs, algorithm, store, rates, mixed)

    def init(key: Array, rows: Transition | None) -> TrainState:
        algorithm_key, sim_key, run_key = jax.random.split(key, 3)
        state = store.init(example_row(spec, algorithm.extras, algorithm.episodes))
        if rows is not None:
            state = store.add(state, REAL, rows)
        learner = algorithm.init(algorithm_key)
        if rows is not None:
            learner = observed(learner, [(rows, jax.tree.leaves(rows)[0].shape[0])], jax.random.fold_in(key, 3))
        return TrainState(
            learner,
            collector.init(sim_key),
            state,
            run_key,
            jnp.zeros((), jnp.int32),
            guards.init(),
            collect.nothing(len(capacities)),
        )

    def gather(state: TrainState, rows: Transition | None = None, count: Array | None = None, asked=None):
        collect_key, next_key = jax.random.split(state.key)
        stores = state.buffers if rows is None else store.add(state.buffers, REAL, rows, count)
        asked = collector.rates(state) if asked is None else asked
        explore = _exploring(algorithm, rates, state)
        worlds, stores, seen, fresh, metrics = collector.collect(state, explore, stores, asked, collect_key)
        given = [] if rows is None else [(rows, jax.tree.leaves(rows)[0].shape[0] if count is None else count)]
        state = state._replace(algorithm=observed(state.algorithm, [*given, *fresh], collect_key))
        return state._replace(sim=worlds, buffers=stores, key=next_key, collection=seen), metrics

    def observed(learner: PyTree, fresh: list[tuple[Transition, Array | int]], key: Array) -> PyTree:
        """The learner that was told of rows which the stores have just got; rollouts and feeds let finite ones pass."""
        if algorithm.observe is None:
            return learner
        taken = 2 * len(capacities)  # the numbers below are the collector's
        for turn, (rows, count) in enumerate(fresh, taken):
            learner = algorithm.observe(learner, rows, count, jax.random.fold_in(key, turn))
        return learner

    def updates(state: TrainState, guarded: bool):
        """U updates from one state -> (TrainState, metrics [U], good [U]; None unless guarded)."""
        learn_key, next_key = jax.random.split(state.key)
        stores, beta = state.buffers, None
        if mixed is not None:
            beta = collect.shares(mixed, state.collection, stores.size)

        def update(carry, turn):
            (old, draws), (key, i) = carry, turn  # the rows stay outside the carry: the loop only reads them
            mix_key, sample_key, update_key = jax.random.split(key, 3)
            if algorithm.mix_every > 1:  # a whole group of updates goes by one draw
                mix_key = jax.random.fold_in(learn_key, rates.updates + i // algorithm.mix_every)
            drawn, batch = store.sample(stores._replace(draws=draws), sample_key, algorithm.mix(mix_key, beta))
            new, metrics = algorithm.update(old, batch, update_key)
            good = guards.finite((new, metrics)) if guarded else None
            learner = guards.keep(good, new, old) if guarded else new
            return (learner, drawn.draws), (metrics, good)

        keys = jax.random.split(learn_key, rates.updates)
        turns = keys, jnp.arange(rates.updates)
        (learner, draws), (metrics, good) = jax.lax.scan(update, (state.algorithm, stores.draws), turns)
        stores = stores._replace(draws=draws)
        return state._replace(algorithm=learner, buffers=stores, key=next_key, step=state.step + 1), metrics, good

    def counted(before: TrainState, after: TrainState, metrics: dict, good: Array):
        state, told = guards.count(after, metrics, good)
        beta = None if mixed is None else collect.shares(mixed, before.collection, before.buffers.size)
        return state, told | collector.used(before.buffers, after.buffers, beta)

    def attempt(state: TrainState):
        tried, metrics, _ = updates(state, guarded=False)
        # Parameters, Adam's moments and averages never become finite again: the last learner tells of all.
        fine = guards.finite((tried.algorithm, metrics))
        return *counted(state, tried, metrics, jnp.ones(rates.updates, bool)), fine

    def relearn(state: TrainState):
        return counted(state, *updates(state, guarded=True))

    learn = _guarded(attempt, relearn)
    step = _then(gather, learn)
    steps = rates.sims * rates.unroll * (len(sims) if mixed is None else 1)
    return Trainer(init, step, gather, learn, attempt, relearn, capacities, steps, rates.updates)


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

    def step(state: TrainState, rows: Transition | None = None, count: Array | None = None, asked=None):
        state, collected = collect(state, rows, count, asked)
        state, learned = learn(state)
        return state, learned | collected

    return step


def jitted(trainer: Trainer) -> Trainer:
    """One run: init and step compiled, the state donated."""
    return trainer._replace(init=jax.jit(trainer.init), step=jax.jit(trainer.step, donate_argnums=0))


def over_seeds(trainer: Trainer) -> Trainer:
    """S runs in one program: keys [S], every leaf of the state [S, ...], a store of its own for each seed."""
    collect = jax.vmap(trainer.collect, in_axes=(0, None, None, None))
    # One choice for all seeds, outside of vmap, which would take both ways every time.
    learn = _guarded(jax.vmap(trainer.attempt), jax.vmap(trainer.relearn))
    step = jax.jit(_then(collect, learn), donate_argnums=0)
    return trainer._replace(
        init=jax.jit(jax.vmap(trainer.init, in_axes=(0, None))),
        step=lambda state, rows=None, count=None, asked=None: step(state, rows, count, asked),
    )
