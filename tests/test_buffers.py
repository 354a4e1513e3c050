"""The stores against one Python deque each: every field of a row encodes the row's id."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import buffers, mixing
from hybrid_jax.types import BufferState, Transition

EXAMPLE = Transition(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((3,), (2,), (), (), (3,))))


def rows_of(ids) -> Transition:
    """Rows [R, ...] whose every number is another function of the id."""
    ids = np.asarray(ids, np.float32)
    column = ids[:, None]
    obs, action = column + np.float32([0, 0.25, 0.5]), -column - np.float32([1, 2])
    return Transition(obs, action, 2 * ids, ids % 7, column * np.float32([1, -1, 3]))


def ids_of(rows: Transition) -> np.ndarray:
    """The ids [R], once every field agrees on them."""
    rows = jax.device_get(rows)
    ids = rows.reward / 2
    jax.tree.map(np.testing.assert_array_equal, rows, rows_of(ids))
    return ids.astype(int)


def contents(state, capacities, k) -> list[int]:
    """The ids in store k, oldest first."""
    state = jax.device_get(state)
    head, size = state.head[k], state.size[k]
    ring = (head - size + np.arange(size)) % capacities[k]
    index = sum(capacities[:k]) + ring
    return list(ids_of(jax.tree.map(lambda leaf: leaf[index], state.data)))


def filled(capacities, *ids_per_store) -> BufferState:
    """A state that holds these ids, oldest first, laid out by numpy."""
    ids = np.zeros(sum(capacities))
    for k, own in enumerate(ids_per_store):
        ids[sum(capacities[:k]) :][: len(own)] = own
    size = np.int32([len(own) for own in ids_per_store])
    drawn = np.zeros(len(size), np.uint32)
    state = BufferState(rows_of(ids), size % np.int32(capacities), size, drawn, size.astype(np.uint32))
    return jax.tree.map(jnp.asarray, state)


@pytest.mark.parametrize(("capacities", "chunk"), [((7,), 3), ((5, 11), 5), ((4, 9, 6), 4), ((8, 3, 5, 16), 3)])
def test_random_operations_match_a_deque_per_store(capacities, chunk):
    rng = np.random.default_rng(len(capacities))
    store = buffers.multi_buffer(capacities)
    traces = []

    def add(state, k, rows, count):
        traces.append(k)
        return store.add(state, k, rows, count)

    def sample(state, key, source):
        traces.append("sample")
        return store.sample(state, key, source)

    add, sample = jax.jit(add, static_argnums=1, donate_argnums=0), jax.jit(sample, donate_argnums=0)
    model = [deque(maxlen=capacity) for capacity in capacities]
    added = np.zeros(len(capacities), int)
    state, draws, next_id = jax.jit(store.init, static_argnums=0)(EXAMPLE), np.zeros(len(capacities), int), 1
    for step in range(150):
        k, count = int(rng.integers(len(capacities))), int(rng.integers(chunk + 1))
        ids = np.arange(next_id, next_id + chunk)
        next_id += chunk
        state = add(state, k, rows_of(ids), jnp.int32(count))
        model[k].extend(ids[:count])
        added[k] += count
        np.testing.assert_array_equal(state.added, added)
        assert [contents(state, capacities, j) for j in range(len(capacities))] == [list(ring) for ring in model]
        usable = [j for j, ring in enumerate(model) if ring]
        if usable and step % 3 == 0:
            source = rng.choice(usable, size=6).astype(np.int32)
            state, batch = sample(state, jax.random.key(step), source)
            np.testing.assert_array_equal(batch.source, source)
            assert all(row in model[j] for row, j in zip(ids_of(batch.rows), source, strict=True))
            draws += np.bincount(source, minlength=len(capacities))
            np.testing.assert_array_equal(state.draws, draws)
    assert sorted(map(str, traces)) == sorted([*map(str, range(len(capacities))), "sample"])  # one trace each


def test_a_count_beyond_the_rows_is_clipped_and_no_count_means_all():
    store = buffers.multi_buffer((5, 4))
    add = jax.jit(store.add, static_argnums=1)
    state = add(store.init(EXAMPLE), 1, rows_of([1, 2, 3]), jnp.int32(9))
    assert contents(state, store.capacities, 1) == [1, 2, 3]
    state = add(state, 1, rows_of([4, 5, 6]), jnp.int32(-2))
    assert contents(state, store.capacities, 1) == [1, 2, 3]
    state = add(state, 1, rows_of([7, 8, 9]))
    assert contents(state, store.capacities, 1) == [3, 7, 8, 9]
    assert contents(state, store.capacities, 0) == []


def test_rows_are_drawn_uniformly_from_full_and_part_full_stores():
    store = buffers.multi_buffer((40, 30))
    state = filled(store.capacities, range(40), range(100, 120))
    source = np.repeat(np.int32([0, 1]), [40_000, 20_000])
    _, batch = jax.jit(store.sample)(state, jax.random.key(3), source)
    counts = np.bincount(ids_of(batch.rows), minlength=120)
    assert counts[40:100].sum() == 0
    for cells in (counts[:40], counts[100:120]):
        # chi-square with n - 1 degrees of freedom: mean n - 1, variance 2 (n - 1); expected 1,000 a cell
        statistic, freedom = np.sum((cells - 1_000.0) ** 2) / 1_000, len(cells) - 1
        assert abs(statistic - freedom) < 4 * np.sqrt(2 * freedom)


def test_every_row_of_a_store_beyond_float32_can_be_drawn():
    size = 2**25  # a float32 in [0, 1) times this is always a multiple of 2
    store = buffers.multi_buffer((size,))
    parity = np.tile(np.uint8([0, 1]), size // 2)
    state = BufferState(parity, np.zeros(1, np.int32), np.int32([size]), *(np.zeros(1, np.uint32) for _ in range(2)))
    _, batch = jax.jit(store.sample)(state, jax.random.key(0), np.zeros(1_000, np.int32))
    assert abs(np.mean(batch.rows) - 0.5) < 0.07


def test_a_donated_insert_works_in_place():
    store = buffers.multi_buffer((1_000, 20_000))
    state = jax.jit(store.init, static_argnums=0)(EXAMPLE)
    add = jax.jit(store.add, static_argnums=1, donate_argnums=0)
    rows = jax.tree.map(jnp.asarray, rows_of(range(64)))
    compiled = add.lower(state, 1, rows, jnp.int32(64)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.02 * buffers.memory_bytes(store.capacities, EXAMPLE)
    assert compiled.cost_analysis()["flops"] < 20_000  # fewer than one for each row of the store
    before = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state.data)]
    for count in (64, 3):
        state = add(state, 1, rows, jnp.int32(count))
    assert [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state.data)] == before


def test_a_scan_of_inserts_and_samples_works_in_place_and_as_the_loop_does():
    store = buffers.multi_buffer((4_000, 6_000))
    source = jnp.array([0, 1, 1], jnp.int32)

    def step(state, inputs):
        ids, key = inputs
        state = store.add(state, 1, jax.tree.map(lambda x: x[ids], table))
        state, batch = store.sample(state, key, source)
        return state, batch.rows.reward

    table = jax.tree.map(jnp.asarray, rows_of(range(100)))
    inputs = np.arange(12).reshape(4, 3), jax.random.split(jax.random.key(1), 4)
    state = filled(store.capacities, [90, 91], [])
    loop, looped, once = state, [], jax.jit(step)
    for ids, key in zip(*inputs, strict=True):
        loop, reward = once(loop, (ids, key))
        looped.append(reward)
    scan = jax.jit(lambda state: jax.lax.scan(step, state, inputs), donate_argnums=0)
    temporary = scan.lower(state).compile().memory_analysis().temp_size_in_bytes
    assert temporary < 0.1 * buffers.memory_bytes(store.capacities, EXAMPLE)
    scanned, rewards = scan(state)
    jax.tree.map(np.testing.assert_array_equal, scanned, loop)
    np.testing.assert_array_equal(rewards, looped)


def test_seeds_are_a_vmap_axis():
    store = buffers.multi_buffer((4, 6))
    start = filled(store.capacities, [1, 2, 3], [4])
    ids, counts = np.arange(9).reshape(3, 3) + 10, np.int32([3, 1, 0])
    keys = jax.random.split(jax.random.key(5), 3)

    def one(rows, count, key):
        state = store.add(store.add(start, 0, rows, count), 1, rows)
        return store.sample(state, key, np.int32([0, 1, 0, 0]))

    rows = jax.tree.map(lambda *leaves: np.stack(leaves), *map(rows_of, ids))
    states, batches = jax.jit(jax.vmap(one))(rows, counts, keys)
    alone = jax.jit(one)
    for i in range(3):
        seed, batch = jax.tree.map(lambda leaf: leaf[i], jax.device_get((states, batches)))  # noqa: B023
        assert contents(seed, store.capacities, 0) == [1, 2, 3, *ids[i][: counts[i]]][-4:]
        assert contents(seed, store.capacities, 1) == [4, *ids[i]]
        jax.tree.map(np.testing.assert_array_equal, alone(rows_of(ids[i]), counts[i], keys[i]), (seed, batch))


def test_a_fixed_mix_has_exact_counts_in_store_order(key):
    mix = buffers.fixed_mix((3, 0, 2))
    np.testing.assert_array_equal(mix(key), [0, 0, 0, 2, 2])
    assert mix(key).dtype == jnp.int32


def test_rows_drawn_one_by_one_follow_beta_without_a_new_trace(key):
    mix, traces = mixing.sources("rows", 20_000), []

    @jax.jit
    def draw(key, beta):
        traces.append(beta)
        return mix(key, beta)

    for i, beta in enumerate(([0.2, 0.3, 0.5], [0.0, 0.9, 0.1], [2.0, 0.0, 6.0], [0.0, 0.0, 1.0])):
        source = draw(jax.random.fold_in(key, i), jnp.array(beta))
        share = np.bincount(source, minlength=3) / 20_000
        expected = np.array(beta) / np.sum(beta)
        assert source.dtype == jnp.int32
        assert np.all(share[expected == 0] == 0)
        np.testing.assert_allclose(share, expected, atol=4 * np.sqrt(0.25 / 20_000))
    assert len(traces) == 1


def test_concatenated_mixes_draw_with_keys_of_their_own(key):
    mix = buffers.concatenate_mixes(buffers.fixed_mix((2, 1)), *[mixing.sources("rows", 64)] * 2)
    source = np.asarray(mix(key, jnp.array([0.5, 0.5])))
    np.testing.assert_array_equal(source[:3], [0, 0, 1])
    assert source.shape == (131,) and np.any(source[3:67] != source[67:])


def test_memory_is_counted_to_the_byte():
    state = buffers.multi_buffer((3, 9)).init(EXAMPLE)
    assert buffers.memory_bytes((3, 9), EXAMPLE) == sum(leaf.nbytes for leaf in jax.tree.leaves(state.data))


@pytest.mark.parametrize(
    ("k", "rows", "count", "message"),
    [
        (
            0,
            rows_of([1])._replace(obs=np.zeros((1, 4), np.float32)),
            1,
            r"\.obs is float32\[1, 4\], .* float32\[1, 3\]",
        ),
        (0, rows_of([1, 2])._replace(reward=np.zeros((2, 1), np.float32)), 1, r"\.reward is float32\[2, 1\]"),
        (0, rows_of([1, 2])._replace(reward=np.zeros(2, np.int32)), 1, r"\.reward is int32\[2\], .* float32\[2\]"),
        (0, rows_of([1, 2])._replace(reward=np.zeros(3, np.float32)), 1, r"\.reward is float32\[3\]"),
        (0, tuple(rows_of([1])), 1, "give the same tree"),
        (0, rows_of(range(5)), 5, "5 rows at once do not fit into store 0 of capacity 4"),
        (2, rows_of([1]), 1, "store 2 does not exist; there are 2"),
        (-1, rows_of([1]), 1, "store -1 does not exist"),
        (0, rows_of([1]), 2, "count 2 of valid rows is not in 0 to 1"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_name(k, rows, count, message):
    store = buffers.multi_buffer((4, 8))
    state = jax.eval_shape(lambda: store.init(EXAMPLE))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda state, rows: store.add(state, k, rows, count), state, rows)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: buffers.multi_buffer(()), "at least one store"),
        (lambda: buffers.multi_buffer((4, 0)), "at least 1 row"),
        (lambda: buffers.multi_buffer((2**29, 2**29)), "stay below"),
        (lambda: buffers.fixed_mix((0, 0)), "add up to at least 1 row"),
        (lambda: buffers.fixed_mix((3, -1)), "must not be negative"),
        (lambda: mixing.sources("rows", 0), "at least 1"),
    ],
)
def test_impossible_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
