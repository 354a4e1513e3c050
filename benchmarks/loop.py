"""The whole compiled step of the default experiment: where its time goes, and how long a start takes.

    python benchmarks/loop.py

Start-up is measured in fresh processes: once with an empty compile cache, then with the one it left.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

START = """
import time; begun = time.monotonic()
from pathlib import Path
from experiments import experiment, preflight
chosen = experiment.load("wheel_legged_h2o")
ready = preflight.prepare(chosen, None)
import jax
from hybrid_jax import trainer
(settings, algorithm), worlds = ready.learners["h2o"], ready.worlds
made = trainer.jitted(trainer.make(worlds.spec, (worlds.sim,), algorithm, settings.rates, len(worlds.rows.reward)))
state = made.init(jax.random.key(0), worlds.rows)
jax.block_until_ready(made.step(state))
print(time.monotonic() - begun)
"""


def start_seconds(cache: str) -> float:
    """Seconds from the interpreter's start to the end of the first iteration of the default run."""
    begun = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", START], check=True, stdout=subprocess.DEVNULL, env=os.environ | {"XDG_CACHE_HOME": cache}
    )
    return time.monotonic() - begun


def parts() -> dict[str, float]:
    """Seconds per iteration of the whole step, and of collect, insert and update alone."""
    import jax

    from benchmarks import timing
    from experiments import experiment, preflight
    from hybrid_jax import buffers, rollout, trainer

    chosen = experiment.load("wheel_legged_h2o")
    ready = preflight.prepare(chosen, None)
    (settings, algorithm), worlds = ready.learners["h2o"], ready.worlds
    rows = len(worlds.rows.reward)
    made = trainer.jitted(trainer.make(worlds.spec, (worlds.sim,), algorithm, settings.rates, rows))
    state, _ = made.step(made.init(jax.random.key(0), worlds.rows))
    held = {"state": state}

    def whole():
        held["state"], metrics = made.step(held["state"])
        return metrics

    seconds = {"iteration": timing.seconds(whole)}
    few = replace(settings.rates, updates=1)
    short = trainer.jitted(trainer.make(worlds.spec, (worlds.sim,), algorithm, few, rows))

    def one_update():
        held["state"], metrics = short.step(held["state"])
        return metrics

    single = timing.seconds(one_update)
    seconds["update"] = (seconds["iteration"] - single) / (settings.rates.updates - 1) * settings.rates.updates

    policy = algorithm.policy(held["state"].algorithm)
    explore = jax.jit(
        lambda world, key: rollout.rollout(
            worlds.sim, lambda obs, key: algorithm.explore(policy, obs, key), world, key, settings.rates.unroll
        )
    )
    world = held["state"].sim[0]
    seconds["collect"] = timing.seconds(lambda: explore(world, jax.random.key(0)))
    _, seen, valid, _ = explore(world, jax.random.key(0))
    store = buffers.multi_buffer(made.capacities)
    insert = jax.jit(lambda stores, rows, valid: store.add(stores, 1, *rollout.compact(rows, valid)), donate_argnums=0)
    stores = {"now": held["state"].buffers}

    def add():
        stores["now"] = insert(stores["now"], seen, valid)
        return stores["now"]

    seconds["insert"] = timing.seconds(add)
    return seconds | {"updates_per_s": settings.rates.updates / seconds["update"]}


def main() -> None:
    """Measures and prints."""
    from benchmarks import timing

    with tempfile.TemporaryDirectory() as cache:
        cold, cached = start_seconds(cache), start_seconds(cache)
    taken = parts()
    rows = [(f"{name} per iteration", f"{1e3 * taken[name]:9.2f} ms") for name in ("iteration", "collect", "insert")]
    rows += [
        ("update per iteration", f"{1e3 * taken['update']:9.2f} ms"),
        ("first update, cold", f"{cold:9.2f} s"),
        ("first update, compile cache", f"{cached:9.2f} s"),
    ]
    timing.report(
        rows,
        {f"{name}_ms": 1e3 * taken[name] for name in ("iteration", "collect", "insert", "update")}
        | {"updates_per_s": taken["updates_per_s"]}
        | {"first_update_s_cold": cold, "first_update_s_cached": cached},
    )


if __name__ == "__main__":
    main()
