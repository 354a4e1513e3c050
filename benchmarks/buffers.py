"""What a replay store costs: insert into a full one at three capacities and sample, beside brax and flashbax.

    python benchmarks/buffers.py

Rows are HalfCheetah transitions of 42 float32. Every store is full and touched in memory before the clock
starts; every function is jitted, donates its state and is called from Python, so dispatch is part of each figure.
"""

from collections.abc import Callable
from typing import Any

import flashbax
import jax
import jax.numpy as jnp
from brax.training.replay_buffers import UniformSamplingQueue

from benchmarks.timing import interleaved, report
from hybrid_jax.buffers import fixed_mix, multi_buffer
from hybrid_jax.types import Transition

ROWS, BATCH = 256, 256  # rows of one insert, of one sample
CHUNKS = (64, 2048)  # other sizes of an insert
CAPACITIES = {"10k": 10_000, "100k": 100_000, "1m": 1_000_000}
SHAPES = Transition((17,), (6,), (), (), (17,))


def ones(*prefix: int) -> Transition:
    return Transition(*(jnp.ones((*prefix, *shape)) for shape in SHAPES[:5]))


def calls(step: Callable, state: Any, count: int) -> Callable:
    """A function that calls the donating `step` so often, state to state; all of it is returned to be waited for."""
    step, held = jax.jit(step, donate_argnums=0), [state]

    def run() -> Any:
        for _ in range(count):
            held[0], out = step(held[0])
        return held[0], out

    return run


def ours(capacity: int, rows: int = ROWS) -> tuple[Callable, Callable, Any]:
    """(insert, sample, full state); a state carries the key of its samples."""
    store, mix = multi_buffer((capacity,)), fixed_mix((BATCH,))
    state = jax.tree.map(jnp.ones_like, store.init(ones()))._replace(
        head=jnp.int32([capacity - rows // 2]), size=jnp.int32([capacity])
    )
    chunk = ones(rows)

    def insert(state: Any) -> tuple[Any, Any]:
        return (store.add(state[0], 0, chunk), state[1]), None

    def sample(state: Any) -> tuple[Any, Any]:
        key, own = jax.random.split(state[1])
        buffer, batch = store.sample(state[0], own, mix(own))
        return (buffer, key), batch

    return insert, sample, (state, jax.random.key(0))


def brax_queue(capacity: int) -> tuple[Callable, Callable, Any]:
    queue = UniformSamplingQueue(capacity, ones(), BATCH)
    state, chunk = queue.init(jax.random.PRNGKey(0)), ones(ROWS)
    state = state.replace(data=state.data + 1, insert_position=jnp.int32(capacity))
    return lambda state: (queue.insert_internal(state, chunk), None), queue.sample_internal, state


def flashbax_items(capacity: int) -> tuple[Callable, Callable, Any]:
    items = flashbax.make_item_buffer(capacity, 1, BATCH, add_batches=True)
    state, chunk = items.init(ones()), ones(ROWS)
    state = state.replace(experience=jax.tree.map(lambda x: x + 1, state.experience), is_full=jnp.array(True))

    def sample(state: Any) -> tuple[Any, Any]:
        key, own = jax.random.split(state[1])
        return (state[0], key), items.sample(state[0], own)

    return lambda state: ((items.add(state[0], chunk), state[1]), None), sample, (state, jax.random.key(0))


def microseconds(steps: dict[str, tuple[Callable, Any, int]]) -> dict[str, float]:
    """Of one call of each step, in turn; the number says how many calls are timed together."""
    taken = interleaved({name: calls(*step) for name, step in steps.items()}, repeats=15)
    return {name: 1e6 * taken[name] / steps[name][2] for name in steps}


def main() -> None:
    large = CAPACITIES["1m"]
    brax_insert, brax_sample, brax_state = brax_queue(large)
    flashbax_insert, flashbax_sample, flashbax_state = flashbax_items(large)
    insert, sample, state = ours(large)
    figures = microseconds(
        {
            "insert_full_us": (insert, state, 50),
            "flashbax_insert_us": (flashbax_insert, flashbax_state, 50),
        }
    )
    # Not in turn with the others: it moves the whole store and would leave them a cold cache.
    figures |= microseconds({"brax_insert_full_us": (brax_insert, brax_state, 1)})
    del state, flashbax_state, brax_state  # donated
    figures |= microseconds(
        {
            "sample_us": (sample, ours(large)[2], 50),
            "flashbax_sample_us": (flashbax_sample, flashbax_items(large)[2], 50),
            "brax_sample_us": (brax_sample, brax_queue(large)[2], 50),
        }
    )
    figures |= microseconds({f"insert_full_{name}_us": (*ours(c)[::2], 50) for name, c in CAPACITIES.items()})
    figures |= microseconds({f"insert_full_{n}_rows_us": (*ours(large, n)[::2], 50) for n in CHUNKS})
    figures["insert_speedup_over_brax"] = figures["brax_insert_full_us"] / figures["insert_full_us"]
    rows = [("", f"insert {ROWS} rows, 1M full [us]   sample {BATCH} rows [us]")]
    for name, prefix in (("hybrid_jax", ""), ("flashbax item buffer", "flashbax_"), ("brax queue", "brax_")):
        took = figures.get(f"{prefix}insert_full_us", figures.get(f"{prefix}insert_us"))
        rows.append((name, f"{took:>31.1f}   {figures[f'{prefix}sample_us']:>20.1f}"))
    rows += [
        (f"hybrid_jax, {name} rows capacity", f"{figures[f'insert_full_{name}_us']:>31.1f}") for name in CAPACITIES
    ]
    rows += [(f"hybrid_jax, {n} rows an insert", f"{figures[f'insert_full_{n}_rows_us']:>31.1f}") for n in CHUNKS]
    rows.append(("insert, times faster than brax", f"{figures['insert_speedup_over_brax']:>31.0f}"))
    report(rows, figures)


if __name__ == "__main__":
    main()
