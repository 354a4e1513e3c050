"""What further environments cost: inserts and samples as the number K of stores grows, and a whole iteration.

    python benchmarks/mixing.py

K stores share 800,000 rows of HalfCheetah's size, all full; an insert of 256 rows goes to one of them, a batch of 256
is drawn from all by quotas, row by row, or from one. The iteration is that of a reality and three simulators of
different friction, beside that of a reality and one simulator, with as many control steps and updates.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.buffers import BATCH, ROWS, microseconds, ones
from benchmarks.timing import interleaved, report
from envs import half_cheetah
from hybrid_jax import mixing, schedules, trainer
from hybrid_jax.algorithms import sac
from hybrid_jax.buffers import multi_buffer
from hybrid_jax.mixing import Mixing, Rates, Way

TOTAL = 800_000
STORES = (1, 2, 4, 8, 16)
FRICTIONS = (1.0, 0.5, 0.3, 2.0)  # of reality and three simulators, times their own


def stores(count: int, way: Way) -> tuple[Callable, Callable, Any]:
    """(insert, sample, full state) of `count` stores."""
    store, mix = multi_buffer((TOTAL // count,) * count), mixing.sources(way, BATCH)
    blank, chunk, beta = store.init(ones()), ones(ROWS), jnp.full(count, 1.0 / count)
    full = jax.tree.map(jnp.ones_like, blank)._replace(
        head=jnp.zeros(count, jnp.int32), size=jnp.full(count, TOTAL // count, jnp.int32)
    )

    def insert(state: Any) -> tuple[Any, Any]:
        return (store.add(state[0], count - 1, chunk), state[1]), None

    def sample(state: Any) -> tuple[Any, Any]:
        key, mix_key, row_key = jax.random.split(state[1], 3)
        shares = mixing.effective(beta, state[0].size)
        buffer, batch = store.sample(state[0], row_key, mix(mix_key, shares))
        return (buffer, key), batch

    return insert, sample, (full, jax.random.key(0))


def iteration(frictions: tuple[float, ...]) -> tuple[Callable, Callable]:
    """(a run of iterations of these simulators behind a reality, how often its step was traced)."""
    worlds = []
    for scale in frictions:
        env = half_cheetah.make("native", 1)
        worlds.append(env._replace(model=env.model._replace(geom_friction=scale * np.asarray(env.model.geom_friction))))
    count = len(worlds)
    algorithm = sac.make(sac.Config(hidden=(64, 64), batch_real=32, batch_sim=32, mixing="quotas"), half_cheetah.SPEC)
    amounts = trainer.Rates(sims=16, unroll=12, updates=10, sim_capacity=20_000)
    even = Rates(*(jnp.full(count, 1.0 / count),) * 2)
    made = trainer.make(
        half_cheetah.SPEC, tuple(worlds[1:]), algorithm, amounts, 20_000, Mixing(schedules.constant(*even)), worlds[0]
    )
    traced: list[int] = []

    def step(state: Any, rates: Rates) -> tuple[Any, Any]:
        traced.append(1)
        return made.step(state, None, None, rates)

    compiled, held = jax.jit(step, donate_argnums=0), [jax.jit(made.init)(jax.random.key(0), None)]
    asked = [Rates(*jnp.float32(np.random.default_rng(i).dirichlet(np.ones(count), 2))) for i in range(20)]

    def run() -> Any:
        with jax.transfer_guard("disallow"):
            for rates in asked:
                held[0], out = compiled(held[0], rates)
        return out

    return run, lambda: len(traced)


def main() -> None:
    figures: dict[str, float] = {}
    for way in ("quotas", "rows", "store"):
        figures |= microseconds({f"sample_{way}_{k}_us": (*stores(k, way)[1:], 50) for k in STORES})
    figures |= microseconds({f"insert_{k}_us": (*stores(k, "quotas")[::2], 50) for k in STORES})
    one, four = iteration(FRICTIONS[:2]), iteration(FRICTIONS)
    taken = interleaved({"one": one[0], "four": four[0]})
    figures |= {"iteration_2_ms": 1e3 * taken["one"] / 20, "iteration_4_ms": 1e3 * taken["four"] / 20}
    figures |= {"traces_2": one[1](), "traces_4": four[1]()}
    rows = [("stores K", "".join(f"{k:>9}" for k in STORES))]
    for what in ("insert", "sample_quotas", "sample_rows", "sample_store"):
        rows.append(
            (f"{what.replace('_', ' by ')} {ROWS} [us]", "".join(f"{figures[f'{what}_{k}_us']:>9.1f}" for k in STORES))
        )
    rows.append(
        (
            "an iteration, reality and 1 or 3 simulators [ms]",
            f"{figures['iteration_2_ms']:>9.1f}{figures['iteration_4_ms']:>9.1f}",
        )
    )
    rows.append(("traces of its step in 160 changes of the rates", f"{figures['traces_2']:>9}{figures['traces_4']:>9}"))
    report(rows, figures)


if __name__ == "__main__":
    main()
