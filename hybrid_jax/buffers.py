"""K replay stores in one storage: ring insert in place, and one gather for a batch mixed from all of them.

Store k is the segment [offset_k, offset_k + capacity_k) of every leaf; offsets and capacities are static, heads
and sizes are arrays. A mix says from which store each row of a batch comes, so neither the shares nor a
schedule of them shapes the program.

Donate the state: without `donate_argnums` the compiler must keep the old storage, and each insert copies it.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from hybrid_jax import mixing
from hybrid_jax.types import Array, Batch, BufferState, PyTree


class MultiBuffer(NamedTuple):
    """Replay stores with one row type; pure functions, to be jitted, scanned and vmapped by the caller."""

    init: Callable  # (one row: arrays or ShapeDtypeStructs without a batch axis) -> empty BufferState
    add: Callable  # (BufferState, k, rows [R, ...], count = R) -> BufferState
    sample: Callable  # (BufferState, key, source [B] int32) -> (BufferState, Batch)
    capacities: tuple[int, ...]  # [K] rows that each store can hold


def multi_buffer(capacities: Sequence[int]) -> MultiBuffer:
    """K stores of the given capacities, oldest rows overwritten first. Raises ValueError for a capacity below 1."""
    capacities = tuple(operator.index(capacity) for capacity in capacities)
    if not capacities or min(capacities) < 1:
        raise ValueError(f"capacities {capacities}: give at least one store, each of at least 1 row")
    stores, total = len(capacities), sum(capacities)
    if total >= 2**30:  # add numbers dropped rows from `total` on, in int32
        raise ValueError(f"capacities {capacities} hold {total} rows together; stay below 2**30 = {2**30}")
    offsets = np.cumsum((0, *capacities[:-1]), dtype=np.int32)

    def init(example: PyTree) -> BufferState:
        """Empty stores for rows like `example`."""
        data = jax.tree.map(lambda leaf: jnp.zeros((total, *leaf.shape), leaf.dtype), example)
        head, size = jnp.zeros(stores, jnp.int32), jnp.zeros(stores, jnp.int32)
        return BufferState(data, head, size, *(jnp.zeros(stores, jnp.uint32) for _ in range(2)))

    def add(state: BufferState, k: int, rows: PyTree, count: Array | int | None = None) -> BufferState:
        """Writes the first `count` of the rows [R, ...] over the oldest of store k, in place where donated.

        k is static; count may be a traced integer (clipped to [0, R]), so a chunk that is part full needs no
        other program. Raises ValueError while tracing for rows that are not like the stored ones, R above the
        capacity, or a k or Python-int count out of range.
        """
        if not 0 <= operator.index(k) < stores:
            raise ValueError(f"store {k} does not exist; there are {stores}, counted from 0")
        chunk = _check_rows(state.data, rows)
        if chunk > capacities[k]:
            raise ValueError(f"{chunk} rows at once do not fit into store {k} of capacity {capacities[k]}; add fewer")
        valid = _valid_rows(count, chunk)
        lane = jnp.arange(chunk, dtype=jnp.int32)
        ring = offsets[k] + (state.head[k] + lane) % capacities[k]
        # A dropped row gets an index of its own past the end, which keeps the promise of unique indices.
        index = jnp.where(lane < valid, ring, total + lane)
        data = jax.tree.map(
            lambda stored, new: stored.at[index].set(new, mode="drop", unique_indices=True), state.data, rows
        )
        head = state.head.at[k].set((state.head[k] + valid) % capacities[k])
        size = state.size.at[k].set(jnp.minimum(state.size[k] + valid, capacities[k]))
        return BufferState(data, head, size, state.draws, state.added.at[k].add(valid.astype(jnp.uint32)))

    def sample(state: BufferState, key: Array, source: Array) -> tuple[BufferState, Batch]:
        """Row i is uniform over the valid rows of store source[i], with replacement; counted in `draws`.

        Every source must lie in [0, K) and name a store with rows.
        """
        chex.assert_rank(source, 1)
        chex.assert_type(source, jnp.int32)
        # randint with an array bound is uniform for stores of any size; a float32 draw times the size is not.
        row = jax.random.randint(key, source.shape, 0, state.size[source])
        index = jnp.asarray(offsets)[source] + row
        rows = jax.tree.map(lambda stored: stored.at[index].get(mode="promise_in_bounds"), state.data)
        drawn = mixing.counts(source, stores).astype(jnp.uint32)
        total = state.draws + drawn  # where it would begin anew it stays at the most that it can say
        total = jnp.where(total < drawn, np.uint32(2**32 - 1), total)
        return state._replace(draws=total), Batch(rows, source)

    return MultiBuffer(init, add, sample, capacities)


def fixed_mix(counts: Sequence[int]) -> Callable[..., Array]:
    """(key, beta = None) -> source [sum of counts] int32: exactly counts[k] rows of store k, in store order.

    There is no randomness, and no beta changes it.
    """
    counts = tuple(operator.index(count) for count in counts)
    if min(counts, default=0) < 0 or sum(counts) < 1:
        raise ValueError(f"counts {counts} of a mix must not be negative and must add up to at least 1 row")
    source = np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    def mix(key: Array, beta: Array | None = None) -> Array:
        del key, beta
        return jnp.asarray(source)

    return mix


def concatenate_mixes(*mixes: Callable[..., Array]) -> Callable[..., Array]:
    """(key, beta = None) -> the sources of all the mixes, one after the other, each drawn with a key of its own."""

    def mix(key: Array, beta: Array | None = None) -> Array:
        keys = jax.random.split(key, len(mixes))
        return jnp.concatenate([part(own, beta) for part, own in zip(mixes, keys, strict=True)])

    return mix


def memory_bytes(capacities: Sequence[int], example: PyTree) -> int:
    """Bytes of the storage for rows like `example` (arrays or ShapeDtypeStructs without a batch axis)."""
    row = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(example))
    return sum(capacities) * row


def _check_rows(data: PyTree, rows: PyTree) -> int:
    """R, once every leaf of the rows is [R, ...] with the stored shape and dtype; raises ValueError otherwise."""
    stored, structure = jax.tree_util.tree_flatten_with_path(data)
    if jax.tree.structure(rows) != structure:
        raise ValueError(f"the rows are {jax.tree.structure(rows)}, the stores hold {structure}; give the same tree")
    new = jax.tree.leaves(rows)
    chunk = next((leaf.shape[0] for leaf in new if leaf.ndim), 0)
    for (path, old), leaf in zip(stored, new, strict=True):
        want = (chunk, *old.shape[1:])
        if leaf.shape != want or leaf.dtype != old.dtype:
            raise ValueError(
                f"rows{jax.tree_util.keystr(path)} is {leaf.dtype}{list(leaf.shape)},"
                f" the stores need {old.dtype}{list(want)}; reshape or cast it"
            )
    return chunk


def _valid_rows(count: Array | int | None, chunk: int) -> Array:
    """The number of rows to write [] int32."""
    if count is None:
        return jnp.int32(chunk)
    if isinstance(count, int):
        if not 0 <= count <= chunk:
            raise ValueError(f"count {count} of valid rows is not in 0 to {chunk}, the rows given")
        return jnp.int32(count)
    chex.assert_rank(count, 0)
    chex.assert_type(count, int)
    return jnp.clip(jnp.asarray(count).astype(jnp.int32), 0, chunk)
