"""The records and bundles that every part of hybrid_jax speaks in.

Records are NamedTuples of arrays and flow through the program; bundles are NamedTuples of pure
functions with their hyper-parameters in the closure. Shapes stand beside each field; `...` is any
batch prefix. This module imports nothing of ours.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
PyTree = Any

REAL = 0
"""Index of the real environment's store; the simulators' stores follow it as 1, 2, ..."""


class Spec(NamedTuple):
    """What the real world and its simulators agree on; static."""

    obs_size: int
    action_size: int
    episode_length: int  # control steps until the clock ends an episode
    dt: float  # [s] one control step


class Step(NamedTuple):
    """What a world answers to an action."""

    obs: Array  # [..., O] the state reached, before any reset
    reward: Array  # [...]
    terminated: Array  # [...] bool: the task ended
    truncated: Array  # [...] bool: only the clock ended


class Transition(NamedTuple):
    """One row of any store."""

    obs: Array  # [..., O]
    action: Array  # [..., A] in [-1, 1]
    reward: Array  # [...]
    discount: Array  # [...] 0 where the task terminated, 1 elsewhere (a time limit is 1)
    next_obs: Array  # [..., O] the true successor, never the first observation of the next episode
    extras: PyTree = ()  # what an algorithm declares beyond: {name: [..., *shape]}


class Batch(NamedTuple):
    """Rows drawn from the stores."""

    rows: Transition  # leaves [B, ...]
    source: Array  # [B] int32: the store that each row came from (REAL or a simulator's)


class Goal(NamedTuple):
    """Where an observation holds what was reached and what is wanted, and what reaching it is worth."""

    size: int  # G
    reward: Callable  # (achieved [..., G], desired [..., G]) -> [...]; -1 or 0
    achieved: slice  # of an observation [O]: what the state has reached
    desired: slice  # of an observation [O]: what the episode is asked to reach


class SimEnv(NamedTuple):
    """One simulated environment, pure; batched by the caller's vmap."""

    spec: Spec
    model: PyTree  # physics constants: an argument of every function, never hidden state
    reset: Callable  # (model, key) -> (sim_state, obs [O])
    step: Callable  # (model, sim_state, action [A]) -> (sim_state, Step)
    physics: Any = None  # the Physics bundle behind it; None for closed-form dynamics
    goal: Goal | None = None  # None for a task without one
    success: Callable | None = None  # (obs [O]) -> bool []: whether an episode that ends there has succeeded


class RealEnv(Protocol):
    """The real environment: the gymnasium interface, on the host, in numpy; owns the hardware."""

    observation_space: Any
    action_space: Any

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]: ...

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]: ...

    def close(self) -> None: ...


class Algorithm(NamedTuple):
    """A learner: an init/update pair, two ways to act, and the rows it asks of the stores."""

    init: Callable  # (key) -> state
    update: Callable  # (state, Batch, key) -> (state, metrics: dict of scalars)
    policy: Callable  # (state) -> the small tree that explores: the learner's current policy
    deployed: Callable  # (state) -> the like tree that is judged and exported, averaged where asked for
    explore: Callable  # (policy, obs [N, O], key) -> action [N, A]
    act: Callable  # (policy, obs [N, O]) -> action [N, A]
    mix: Callable  # (key, beta [K] = None) -> source [B] int32: which store each row of a Batch is drawn from
    extras: tuple[tuple[str, tuple[int, ...]], ...] = ()  # columns that its rows need beyond Transition's: name, shape
    episodes: bool = False  # True: a row of its stores is a whole episode, leaves [T, ...]
    mix_every: int = 1  # updates, one after the other, that share one draw of the mix
    observe: Callable | None = None  # (state, rows [C, ...], count, key) -> state: the first `count` rows are new


class BufferState(NamedTuple):
    """K replay stores in one storage."""

    data: PyTree  # leaves [sum of capacities, ...]
    head: Array  # [K] int32: next row to write, relative to the segment
    size: Array  # [K] int32: valid rows
    draws: Array  # [K] uint32: rows drawn from each store since init
    added: Array  # [K] uint32: rows written to each store since init


class Guards(NamedTuple):
    """Counts of the updates that were left out because something in them was not finite."""

    skipped: Array  # [] int32: since init
    in_a_row: Array  # [] int32: the newest ones, with no good update behind them


class Collection(NamedTuple):
    """What collecting has come to, for schedules of the rates."""

    success: Array  # [K] share of each environment's last exploring episodes, about 50, that succeeded; 0 at first
    best: Array  # [K] the highest such share so far
    newest: Array  # [] int32: the store that the newest iteration put most rows into
    q: Array  # [K] rates of collection in the newest iteration; 0 where a run knows no rates
    beta: Array  # [K] rates of use in the newest iteration, as asked for; the same


class TrainState(NamedTuple):
    """Everything that changes during a run; donated to the compiled step and saved whole."""

    algorithm: PyTree
    sim: tuple[PyTree, ...]  # one RolloutState per simulator, leaves [N, ...]
    buffers: BufferState
    key: Array
    step: Array  # [] int32: iterations done
    guards: Guards
    collection: Collection
