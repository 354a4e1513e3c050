"""The runs of the push study: one compiled step for every cell, whose rates are arguments; a CSV of their curves."""

import hashlib
import platform
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs import push
from experiments import push_ddpg
from experiments.csv_table import Table
from experiments.experiment import ROOT
from experiments.study_grid import settings_of
from hybrid_jax import rollout, schedules, trainer
from hybrid_jax.algorithms import ddpg
from hybrid_jax.mixing import Mixing, Progress, Rates, Schedule
from hybrid_jax.provenance import git_state
from hybrid_jax.types import REAL, SimEnv, TrainState

ITERATIONS = 900  # of a run: 80 updates and eight episodes each
EVERY = 50  # iterations between two evaluations
EPISODES = 100, 50  # greedy ones behind a success rate, in reality and in simulation
STRATEGIES = ("mixed", "sim_dependent", "sim_first")
LEARNED = 0.7  # success in the simulator that "late", "sim_dependent" and "sim_first" wait for
RISE = 0.5, 600  # "rising": beta at the start, and iterations until it is what is asked for


def _rising(rates: Rates) -> Schedule:
    """beta from 0.5 to what is asked for, linearly."""
    start, iterations = RISE
    return schedules.linear(Rates(rates.q, jnp.float32([start, 1 - start])), rates, iterations)


def _late(rates: Rates) -> Schedule:
    """beta = q until the simulator is learned, then what is asked for."""
    before, after = schedules.constant(rates.q, rates.q), schedules.constant(*rates)
    return schedules.after_success(before, after, jnp.array([False, True]), LEARNED)


SCHEDULES: dict[str, Callable[[Rates], Schedule]] = {"rising": _rising, "late": _late}  # of beta, else as "mixed"


class Cell(NamedTuple):
    """A run: the rates of reality, the strategy of collection or the schedule of beta, the seed."""

    q: float
    beta: float
    strategy: str
    seed: int


class Point(NamedTuple):
    """One evaluation of a run."""

    q: float
    beta: float
    strategy: str
    seed: int
    updates: int
    real_episodes: int
    sim_episodes: int
    real_success: float  # share of greedy episodes
    sim_success: float
    reuse: float  # draws for each step ever collected in reality
    seconds: float  # of wall clock since the run began
    origin: str  # commit, device, versions
    settings: str  # of what settings the run is


def grid(seeds: int) -> list[Cell]:
    """q x beta x strategy, either world alone, and the schedules of beta; seed by seed.

    sim_first visits the simulator alone and then reality alone, whatever q is: it stands once for each beta.
    """
    cells = [(1.0, 1.0, "mixed"), (0.0, 0.0, "mixed")]
    rates = [(q, beta) for q in (0.05, 0.1, 0.3) for beta in (q, 0.5, 0.9)]
    cells += [(q, beta, name) for name in STRATEGIES for q, beta in rates if name != "sim_first" or q in (0.1, beta)]
    scheduled = [(q, 0.9, name) for name in SCHEDULES for q in (0.1, 0.3)]
    return [Cell(*cell, seed) for part in (cells, scheduled) for seed in range(seeds) for cell in part]


class Program(NamedTuple):
    """What all runs share, compiled once."""

    run: trainer.Trainer
    schedules: dict[str, Callable]  # strategy or schedule -> (Progress, Rates) -> Rates
    judge: Callable  # (deployed actor, key) -> successes in reality and in the simulator [2]
    deployed: Callable


def program() -> Program:
    """Reality is MuJoCo C with `push.REAL`, the simulator the same with `push.SIMULATED`."""
    settings = push_ddpg.config()
    worlds = push.make_pretended(threads=1), push.make(threads=1)
    assert isinstance(settings.algorithm, ddpg.Config)
    algorithm = ddpg.make(settings.algorithm, push.SPEC, goal=push.GOAL)
    none = Rates(*(jnp.zeros(2),) * 2)  # every step is told its own
    made = trainer.make(
        push.SPEC, worlds[1:], algorithm, settings.rates, settings.rates.sim_capacity,
        Mixing(schedules.constant(*none), settings.visits), worlds[REAL],
    )  # fmt: skip

    def judge(actor: Any, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key)
        return jnp.stack([_success(algorithm.act, actor, *of) for of in zip(worlds, EPISODES, keys, strict=True)])

    def scheduled(rule: Callable[[Rates], Schedule]) -> Callable:
        return jax.jit(lambda seen, rates: rule(rates)(seen))

    strategies = {name: lambda rates, name=name: schedules.strategy(name, *rates, LEARNED) for name in STRATEGIES}
    by_name = {name: scheduled(rule) for name, rule in (strategies | SCHEDULES).items()}
    return Program(trainer.jitted(made), by_name, jax.jit(judge), jax.jit(algorithm.deployed))


def _success(act: Callable, actor: Any, env: SimEnv, episodes: int, key: jax.Array) -> jax.Array:
    """The share of whole greedy episodes that succeed."""
    start, go = jax.random.split(key)
    state = rollout.init(env, start, episodes, episodes, spread=False)
    greedy = lambda obs, key: act(actor, obs)  # noqa: E731
    *_, stats = rollout.rollout(env, greedy, state, go, env.spec.episode_length)
    return stats.succeeded / episodes


def run(made: Program, cell: Cell) -> Iterator[Point]:
    """Trains a cell and gives its points, one after the other."""
    started, told = time.monotonic(), (_origin(), settings(cell.strategy))
    rates = Rates(*(jnp.float32([x, 1 - x]) for x in (cell.q, cell.beta)))
    state = made.run.init(jax.random.key(cell.seed), None)
    success = best = np.zeros(2, np.float32)  # of greedy episodes: a third of the exploring actions are blind
    for iteration in range(1, ITERATIONS + 1):
        progress = _progress(state, success, best)
        state, _ = made.run.step(state, None, None, made.schedules[cell.strategy](progress, rates))
        if iteration % EVERY == 0:
            success = np.asarray(made.judge(made.deployed(state.algorithm), jax.random.key(10_000 + iteration)))
            best = np.maximum(best, success)
            added, draws = (np.asarray(x, np.float64) for x in (state.buffers.added, state.buffers.draws))
            yield Point(
                *cell,
                iteration * made.run.updates,
                *map(int, added),
                *map(float, success),
                float(draws[REAL] / max(added[REAL] * push.SPEC.episode_length, 1)),
                time.monotonic() - started,
                *told,
            )


def _progress(state: TrainState, success: np.ndarray, best: np.ndarray) -> Progress:
    """What a schedule sees, its successes those of greedy episodes; the stores count episodes, a schedule steps."""
    steps = push.SPEC.episode_length * state.buffers.added.astype(jnp.float32)
    return Progress(state.step, steps, state.buffers.draws, success, best)


def _origin() -> str:
    git = git_state(ROOT)
    packages = " ".join(f"{name} {version(name)}" for name in ("jax", "mujoco"))
    changed = " and changes" if git["changed"] else ""
    return f"{str(git['commit'])[:12]}{changed} {jax.default_backend()} python {platform.python_version()} {packages}"


def settings(strategy: str = "mixed") -> str:
    """Twelve digits that tell runs of other settings, on other tables or by another schedule of that name apart."""
    scene = hashlib.sha256((ROOT / "envs" / "assets" / "push.xml").read_bytes()).hexdigest()
    told = (
        f"{settings_of(push_ddpg.config())} {ITERATIONS} {EVERY} {EPISODES} {push.SIMULATED} {push.REAL}"
        f" {push.FRAME_SKIP} {push.REACH} {push.APART} {push.FIELD} {push.THRESHOLD} {scene}"
    )
    told += f" {RISE} {LEARNED}" if strategy in SCHEDULES else ""
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def _today() -> dict[str, str]:
    """`settings` of every strategy and schedule, for tables of thousands of points."""
    return {name: settings(name) for name in (*STRATEGIES, *SCHEDULES)}


def table(path: Path) -> Table[Point]:
    """The file of the runs' curves."""
    return Table(path, Point, digits=4)


def other_settings(points: list[Point]) -> int:
    """How many points of a table are of other settings than today's."""
    today = _today()
    return sum(point.settings != today.get(point.strategy) for point in points)


def finished(points: list[Point]) -> dict[Cell, list[Point]]:
    """The whole runs among a table's points with today's settings, of two the later one."""
    found: dict[Cell, list[Point]] = {}
    under_way, today = list[Point](), _today()
    for point in points:
        if point.settings != today.get(point.strategy):
            under_way = []
            continue
        goes_on = under_way and under_way[-1][:4] == point[:4] and under_way[-1].updates < point.updates
        under_way = [*under_way, point] if goes_on else [point]
        if len(under_way) == ITERATIONS // EVERY:
            found[Cell(*point[:4])] = under_way
    return found
