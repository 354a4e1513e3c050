"""Finite environments visited at rates q, learned from at rates beta: the paper's scheme, one move and one draw a step.

Di-Castro Shashua, Di Castro and Mannor 2021 (arXiv 2110.00445), Figure 1, with the stores and the mix of every run:

    i ~ q;  a ~ pi(.|s_i);  (r, s') from environment i;  the row into store i, over its oldest;  s_i <- s'
    j ~ beta, or i where store j is empty;  a row uniform over store j

An environment waits where it is while the others move. Five independent draws, five keys: one key for the choice of i
and that of j couples them. Law of the row drawn, where each first state has law mu_j: sum_j beta_j mu_j pi P_j at EVERY
step at which no store with a share is empty, whatever q, the capacities and how full they are; for the index is
independent of the environments' paths. With one store for all, which is beta = q, it is sum_j q_j mu_j pi P_j.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hybrid_jax import mixing
from hybrid_jax.buffers import MultiBuffer
from hybrid_jax.chains import Environments
from hybrid_jax.mixing import Rates
from hybrid_jax.types import Array, BufferState, Transition


class State(NamedTuple):
    """Where the agent is everywhere, and what it remembers."""

    place: Array  # [K] int32: its state in each environment
    buffers: BufferState


class Keys(NamedTuple):
    """One key for each draw of a step."""

    environment: Array
    action: Array
    successor: Array
    store: Array
    row: Array


class Scheme(NamedTuple):
    """Pure functions, to be jitted, scanned and vmapped by the caller."""

    init: Callable  # (key, law [K, S] of the first states) -> State with empty stores
    fill: Callable  # (State, key, policy [S, A], rows) -> State after so many (static) moves in every environment
    step: Callable  # (State, key, policy [S, A], Rates) -> (State, visited [] int32, Batch of rows [draws])


def keys(key: Array) -> Keys:
    """The keys of one step."""
    return Keys(*jax.random.split(key, len(Keys._fields)))


def make(environments: Environments, store: MultiBuffer, draws: int = 1) -> Scheme:
    """The scheme with a store for each environment, or with one store for all; rows carry extras["environment"].

    Each of the draws of a step chooses its store by itself. Raises ValueError for another number of stores.
    """
    kernel, reward = jnp.asarray(environments.kernel, jnp.float32), jnp.asarray(environments.reward, jnp.float32)
    count, stores = kernel.shape[0], len(store.capacities)
    if stores not in (1, count):
        raise ValueError(f"{stores} stores for {count} environments; give one for each, or one for all.")
    visit, choose = mixing.sources("rows", 1), mixing.sources("rows", draws)

    def init(key: Array, law: Array) -> State:
        place = jax.random.categorical(key, jnp.log(law)).astype(jnp.int32)
        whole, real = jnp.int32(0), jnp.float32(0)
        return State(place, store.init(Transition(whole, whole, real, real, whole, {"environment": whole})))

    def move(state: State, i: Array, action_key: Array, successor_key: Array, policy: Array) -> State:
        here = state.place[i]
        action = jax.random.categorical(action_key, jnp.log(jnp.asarray(policy)[here])).astype(jnp.int32)
        there = jax.random.categorical(successor_key, jnp.log(kernel[i, here, action])).astype(jnp.int32)
        one = Transition(here, action, reward[i, here, action], jnp.float32(1), there, {"environment": i})
        rows = jax.tree.map(lambda leaf: leaf[None], one)
        buffers = state.buffers
        for k in range(stores):  # the number of a store is static, whether it gets the row is not
            buffers = store.add(buffers, k, rows, jnp.int32(i == k) if stores > 1 else 1)
        return State(state.place.at[i].set(there), buffers)

    def fill(state: State, key: Array, policy: Array, rows: int) -> State:
        def one(state: State, pair: tuple[Array, Array]) -> tuple[State, None]:
            i, key = pair
            action_key, successor_key = jax.random.split(key)
            return move(state, i, action_key, successor_key, policy), None

        visits = jnp.tile(jnp.arange(count, dtype=jnp.int32), rows)
        return jax.lax.scan(one, state, (visits, jax.random.split(key, rows * count)))[0]

    def step(state: State, key: Array, policy: Array, rates: Rates):
        own = keys(key)
        i = visit(own.environment, rates.q)[0]
        state = move(state, i, own.action, own.successor, policy)
        source = jnp.zeros(draws, jnp.int32)
        if stores > 1:
            source = choose(own.store, mixing.effective(rates.beta, state.buffers.size, instead=i))
        buffers, batch = store.sample(state.buffers, own.row, source)
        return state._replace(buffers=buffers), i, batch

    return Scheme(init, fill, step)
