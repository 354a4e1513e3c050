"""An actor-critic with the two discriminators trained beside it: what H2O, DARC and DARC+ have in common.

Rows of a batch lie in a fixed order, which `mix` provides: `batch_real` real ones, `batch_sim` simulated ones, then
the discriminators' own, real ones first again. Every source but REAL is simulated: for several simulators replace
`mix` by one that keeps this order and these counts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax

from hybrid_jax import actor_critic, dynamics_gap
from hybrid_jax.buffers import concatenate_mixes, fixed_mix
from hybrid_jax.types import REAL, Algorithm, Array, Batch, PyTree


class State(NamedTuple):
    """The actor-critic's state and the discriminators'."""

    sac: actor_critic.State
    gap: PyTree  # dynamics_gap.GapState; () where no discriminator is in use


def make(
    config: Any, base: actor_critic.Parts, gap: dynamics_gap.DynamicsGap, learn: Callable, needed: bool = True
) -> Algorithm:
    """The algorithm whose update trains the discriminators, then the actor-critic with what they say.

    config: an actor_critic.Config that is a dynamics_gap.Config, too.
    learn: (actor-critic state, GapState, rows [batch_real + batch_sim, ...], key, key of its own) -> (state, metrics).
    needed: False leaves the discriminators out.
    """
    learned = config.batch_real + config.batch_sim
    counts = [(config.batch_real, config.batch_sim)]
    if needed:
        counts.append((config.discriminator_batch_real, config.discriminator_batch_sim))
    mix = concatenate_mixes(*map(fixed_mix, counts))

    def init(key: Array) -> State:
        sac_key, gap_key = jax.random.split(key)
        return State(base.init(sac_key), gap.init(gap_key) if needed else ())

    def update(state: State, batch: Batch, key: Array) -> tuple[State, dict]:
        chex.assert_shape(batch.source, (sum(map(sum, counts)),))
        sac_key, noise_key, own_key = jax.random.split(key, 3)
        gap_state, metrics = state.gap, {}
        if needed:
            own = rows_of(batch.rows, learned, None)
            gap_state, metrics = gap.update(state.gap, own, batch.source[learned:] == REAL, noise_key)
        sac_state, told = learn(state.sac, gap_state, rows_of(batch.rows, 0, learned), sac_key, own_key)
        return State(sac_state, gap_state), metrics | told

    def policy(state: State) -> PyTree:
        return base.policy(state.sac)

    def deployed(state: State) -> PyTree:
        return base.deployed(state.sac)

    return Algorithm(init, update, policy, deployed, base.explore, base.act, mix)


def rows_of(tree: PyTree, start: int, stop: int | None) -> PyTree:
    """A range of rows of every leaf [B, ...]."""
    return jax.tree.map(lambda leaf: leaf[start:stop], tree)


def check(config: Any, name: str, of: tuple[str, ...]) -> None:
    """Refuses a batch without rows of a world that the method named needs. Raises ValueError."""
    for field in (*of, "discriminator_batch_real", "discriminator_batch_sim"):
        if getattr(config, field) < 1:
            raise ValueError(f"{field} is {getattr(config, field)}; {name} needs rows of both worlds, give >= 1.")
