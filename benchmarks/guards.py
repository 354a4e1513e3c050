"""What the guards over losses, gradients and parameters cost, next to the same updates without them.

    python benchmarks/guards.py

H2O at HalfCheetah's size, 100 updates an iteration, from a filled store of real rows alone (the mix names no
other), so that an iteration is its updates. Then 1,000 iterations of a small one, every fourth with a bad update
in it, in which nothing may be compiled or cross between host and device.
"""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import report
from hybrid_jax import trainer
from hybrid_jax.algorithms import h2o
from hybrid_jax.buffers import multi_buffer
from hybrid_jax.testing import random_rows
from hybrid_jax.types import Algorithm, Spec

SPEC = Spec(obs_size=17, action_size=6, episode_length=1000, dt=0.05)
ROWS = 100_000
UPDATES = 100  # per iteration
PAIRS = 30
ITERATIONS = 1000
ALARM = ("q_max", "reward_max")  # metrics that the Q alarm alone needs
COMPILED = "/jax/core/compile/backend_compile_duration"


def learner(**sizes) -> Algorithm:
    """H2O that draws every row from the real store: the discriminators' work is the same."""
    algorithm = h2o.make(h2o.Config(**sizes), SPEC, np.ones(SPEC.obs_size, np.float32))
    rows = len(algorithm.mix(jax.random.key(0)))
    return algorithm._replace(mix=lambda key, beta=None: jnp.zeros(rows, jnp.int32))


def unguarded(algorithm: Algorithm) -> Callable:
    """The trainer's second half as it would be without guards: the same keys, rows and means."""
    store = multi_buffer((ROWS,))

    def learn(state):
        learn_key, next_key = jax.random.split(state.key)
        stores = state.buffers

        def update(carry, key):
            learner, draws = carry
            mix_key, sample_key, update_key = jax.random.split(key, 3)
            drawn, batch = store.sample(stores._replace(draws=draws), sample_key, algorithm.mix(mix_key))
            learner, metrics = algorithm.update(learner, batch, update_key)
            return (learner, drawn.draws), {name: metrics[name] for name in metrics if name not in ALARM}

        keys = jax.random.split(learn_key, UPDATES)
        (learner, draws), metrics = jax.lax.scan(update, (state.algorithm, stores.draws), keys)
        stores = stores._replace(draws=draws)
        state = state._replace(algorithm=learner, buffers=stores, key=next_key, step=state.step + 1)
        return state, jax.tree.map(jnp.mean, metrics)

    return learn


def cost() -> dict[str, float]:
    """Seconds per iteration with and without guards, and seconds to compile either."""
    algorithm = learner()
    made = trainer.make(SPEC, (), algorithm, trainer.Rates(updates=UPDATES), ROWS)
    rows = random_rows(jax.random.key(0), ROWS, SPEC)
    calls, figures = {}, {}
    for name, learn in {"bare": unguarded(algorithm), "guarded": made.learn}.items():
        held = [jax.jit(made.init)(jax.random.key(1), rows)]
        begun = time.perf_counter()
        program = jax.jit(learn, donate_argnums=0).lower(held[0]).compile()
        figures[f"compile_{name}_s"] = time.perf_counter() - begun

        def call(program=program, held=held) -> dict:
            held[0], metrics = program(held[0])
            return metrics

        calls[name] = call
    return figures | in_pairs(calls)


def in_pairs(calls: dict[str, Callable]) -> dict[str, float]:
    """Median seconds of either call, and the median over the pairs of guarded to bare; each goes first in turn."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    for pair in range(PAIRS):
        for name in sorted(calls, reverse=pair % 2 == 0):
            begun = time.perf_counter()
            jax.block_until_ready(calls[name]())
            taken[name].append(time.perf_counter() - begun)
    ratios = [with_guards / without for with_guards, without in zip(taken["guarded"], taken["bare"], strict=True)]
    seconds = {f"{name}_s": statistics.median(values) for name, values in taken.items()}
    return seconds | {"guards_percent": 100 * (statistics.median(ratios) - 1)}


def quiet_iterations() -> dict[str, float]:
    """A thousand iterations: compilations in them, transfers between host and device, updates left out.

    A transfer raises, and is counted once: what follows it is not told apart.
    """
    sizes = {"batch_real": 4, "batch_sim": 4, "discriminator_batch_real": 4, "discriminator_batch_sim": 4}
    algorithm = learner(hidden=(8,), discriminator_hidden=(8,), **sizes)
    rows = random_rows(jax.random.key(0), 256, SPEC)
    # One bad row of 256, 8 of them learned from in each of 10 updates: an iteration in four meets it.
    rows = rows._replace(reward=rows.reward.at[0].set(jnp.nan))
    run = trainer.jitted(trainer.make(SPEC, (), algorithm, trainer.Rates(updates=10), 256))
    state, _ = run.step(run.init(jax.random.key(1), rows))
    compiled: list[float] = []

    def listen(event: str, duration: float, **_) -> None:
        compiled.extend([duration] * (event == COMPILED))

    jax.block_until_ready(state)
    jax.monitoring.register_event_duration_secs_listener(listen)
    transfers = 0
    try:
        with jax.transfer_guard("disallow"):
            for _ in range(ITERATIONS):
                state, metrics = run.step(state)
            jax.block_until_ready(metrics)
    except jax.errors.JaxRuntimeError as crossing:
        print(crossing)
        transfers = 1
    jax.monitoring.unregister_event_duration_listener(listen)
    return {"recompilations": len(compiled), "transfers": transfers, "skipped": int(state.guards.skipped)}


def main() -> None:
    figures = cost() | quiet_iterations()
    added = figures["compile_guarded_s"] - figures["compile_bare_s"]
    report(
        [
            ("an iteration without guards", f"{1e3 * figures['bare_s']:9.2f} ms"),
            ("with guards", f"{1e3 * figures['guarded_s']:9.2f} ms"),
            ("cost of the guards", f"{figures['guards_percent']:9.2f} %"),
            ("time to compile without guards", f"{figures['compile_bare_s']:9.2f} s"),
            ("added by the guards", f"{added:9.2f} s"),
            (f"compilations in {ITERATIONS} iterations", f"{figures['recompilations']:9.0f}"),
            ("transfers between host and device", f"{figures['transfers']:9.0f}"),
            ("bad updates left out of them", f"{figures['skipped']:9.0f}"),
        ],
        figures,
    )


if __name__ == "__main__":
    main()
