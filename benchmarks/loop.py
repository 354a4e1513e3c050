"""The whole compiled step of the default experiment: where its time goes, and how long a start takes.

    python benchmarks/loop.py

Start-up is measured in fresh processes: once with an empty compile cache, then with the one it left.
"""

import os
import subprocess
import sys
import tempfile
import time
from functools import partial

START = """
from experiments import experiment, preflight
chosen = experiment.load("wheel_legged_h2o")
ready = preflight.prepare(chosen, None)
import jax
from hybrid_jax import trainer
(settings, algorithm), worlds = ready.learners["h2o"], ready.worlds
made = trainer.jitted(trainer.make(worlds.spec, (worlds.sim,), algorithm, settings.rates, len(worlds.rows.reward)))
state = made.init(jax.random.key(0), worlds.rows)
jax.block_until_ready(made.step(state))
"""


def start_seconds(cache: str) -> float:
    """Seconds from the interpreter's start to the end of the first iteration of the default run."""
    begun = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", START], check=True, stdout=subprocess.DEVNULL, env=os.environ | {"XDG_CACHE_HOME": cache}
    )
    return time.monotonic() - begun


def parts() -> dict[str, float]:
    """Seconds per iteration of the whole step, and of its parts compiled alone."""
    import jax

    from benchmarks import timing
    from experiments import experiment, preflight
    from hybrid_jax import buffers, rollout, trainer

    settings, worlds, algorithm = _default(experiment, preflight)
    made = trainer.make(worlds.spec, (worlds.sim,), algorithm, settings.rates, len(worlds.rows.reward))
    run = trainer.jitted(made)
    store = buffers.multi_buffer(made.capacities)

    def simulate(state):
        explore = partial(algorithm.explore, algorithm.policy(state.algorithm))
        return rollout.rollout(worlds.sim, explore, state.sim[0], state.key, settings.rates.unroll)[1:3]

    chunk = jax.jit(simulate)(run.init(jax.random.key(0), worlds.rows))
    programs = {
        "step": run.step,
        "collect": jax.jit(lambda state: (state, simulate(state))),
        "insert": jax.jit(
            lambda state: (state._replace(buffers=store.add(state.buffers, 1, *rollout.compact(*chunk))), state.step),
            donate_argnums=0,
        ),
        "update": jax.jit(made.learn, donate_argnums=0),
    }
    calls = {}
    for name, program in programs.items():
        held = {"state": run.init(jax.random.key(0), worlds.rows)}

        def call(program=program, held=held):
            held["state"], result = program(held["state"])
            return result

        calls[name] = call
    seconds = timing.interleaved(calls)
    return seconds | {"updates_per_s": settings.rates.updates / seconds["update"]}


def _default(experiment, preflight):
    chosen = experiment.load("wheel_legged_h2o")
    ready = preflight.prepare(chosen, None)
    settings, algorithm = ready.learners["h2o"]
    return settings, ready.worlds, algorithm


def main() -> None:
    """Measures and prints."""
    from benchmarks import timing

    with tempfile.TemporaryDirectory() as cache:
        cold, cached = start_seconds(cache), start_seconds(cache)
    taken = parts()
    names = ("step", "collect", "insert", "update")
    rows = [(f"{name}, one iteration", f"{1e3 * taken[name]:9.2f} ms") for name in names]
    rows += [
        ("first update, cold", f"{cold:9.2f} s"),
        ("first update, compile cache", f"{cached:9.2f} s"),
    ]
    timing.report(
        rows,
        {f"{name}_ms": 1e3 * taken[name] for name in names}
        | {"updates_per_s": taken["updates_per_s"]}
        | {"first_update_s_cold": cold, "first_update_s_cached": cached},
    )


if __name__ == "__main__":
    main()
