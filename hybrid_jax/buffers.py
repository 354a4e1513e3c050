"""K replay stores in one storage: ring insert in place, one gather for a mixed batch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hybrid_jax.types import Array, Batch, BufferState, PyTree


class MultiBuffer(NamedTuple):
    init: Callable
    add: Callable
    sample: Callable
    capacities: tuple[int, ...]


def multi_buffer(capacities: tuple[int, ...]) -> MultiBuffer:
    offsets = np.concatenate([[0], np.cumsum(capacities)]).astype(np.int32)

    def init(example: PyTree) -> BufferState:
        data = jax.tree.map(lambda x: jnp.zeros((int(offsets[-1]), *x.shape), x.dtype), example)
        k = len(capacities)
        return BufferState(data, jnp.zeros(k, jnp.int32), jnp.zeros(k, jnp.int32), jnp.zeros(k, jnp.uint32))

    def add(state: BufferState, k: int, rows: PyTree, count=None) -> BufferState:
        r = jax.tree.leaves(rows)[0].shape[0]
        count = jnp.int32(r if count is None else count)
        lane = jnp.arange(r, dtype=jnp.int32)
        index = int(offsets[k]) + (state.head[k] + lane) % capacities[k]
        index = jnp.where(lane < count, index, int(offsets[-1]))
        data = jax.tree.map(lambda d, x: d.at[index].set(x, mode="drop", unique_indices=True), state.data, rows)
        head = state.head.at[k].set((state.head[k] + count) % capacities[k])
        size = state.size.at[k].set(jnp.minimum(state.size[k] + count, capacities[k]))
        return BufferState(data, head, size, state.draws)

    def sample(state: BufferState, key: Array, source: Array) -> tuple[BufferState, Batch]:
        row = jax.random.randint(key, source.shape, 0, state.size[source])
        index = jnp.asarray(offsets[:-1])[source] + row
        rows = jax.tree.map(lambda d: d[index], state.data)
        return state._replace(draws=state.draws.at[source].add(jnp.uint32(1))), Batch(rows, source)

    return MultiBuffer(init, add, sample, capacities)


def fixed_mix(counts: tuple[int, ...]) -> Callable[[Array], Array]:
    source = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    return lambda key: jnp.asarray(source)


def memory_bytes(capacities, example) -> int:
    return sum(capacities) * sum(int(np.prod(x.shape)) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(example))
