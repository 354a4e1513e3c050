"""An actor-critic with the two discriminators trained beside it: what H2O, DARC and DARC+ have in common.

A batch holds the learner's `batch_real + batch_sim` rows, then the discriminators' own, real ones first. With `mixing`
"counts" the learner's rows lie in that order, too; else they come from the stores at the rates beta, in any order, and
the discriminators' simulated ones from the simulators at theirs. Every source but REAL is simulated.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from hybrid_jax import actor_critic, dynamics_gap
from hybrid_jax.buffers import concatenate_mixes, fixed_mix
from hybrid_jax.mixing import sources
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
    learn: (actor-critic state, GapState, rows [batch_real + batch_sim, ...], which of them are real [.] bool, key,
    key of its own) -> (state, metrics).
    needed: False leaves the discriminators out.
    """
    learned = config.batch_real + config.batch_sim
    mixes, drawn = [actor_critic.mix_of(config)], learned
    if needed:
        mixes.append(_mix_for_discriminators(config))
        drawn += config.discriminator_batch_real + config.discriminator_batch_sim

    def init(key: Array) -> State:
        sac_key, gap_key = jax.random.split(key)
        return State(base.init(sac_key), gap.init(gap_key) if needed else ())

    def update(state: State, batch: Batch, key: Array) -> tuple[State, dict]:
        chex.assert_shape(batch.source, (drawn,))
        sac_key, noise_key, own_key = jax.random.split(key, 3)
        gap_state, metrics = state.gap, {}
        real = batch.source == REAL
        if needed:
            own = rows_of(batch.rows, learned, None)
            gap_state, metrics = gap.update(state.gap, own, real[learned:], noise_key)
        sac_state, told = learn(state.sac, gap_state, rows_of(batch.rows, 0, learned), real[:learned], sac_key, own_key)
        return State(sac_state, gap_state), metrics | told

    def policy(state: State) -> PyTree:
        return base.policy(state.sac)

    def deployed(state: State) -> PyTree:
        return base.deployed(state.sac)

    return Algorithm(init, update, policy, deployed, base.explore, base.act, concatenate_mixes(*mixes))


def _mix_for_discriminators(config: Any) -> Callable[..., Array]:
    """(key, beta) -> source: their real rows, then their simulated ones from the simulators at the rates beta.

    Where one of the two worlds has no rows, beta 0, its half comes from the other.
    """
    real, simulated = config.discriminator_batch_real, config.discriminator_batch_sim
    if config.mixing == "counts":
        return fixed_mix((real, simulated))

    def mix(key: Array, beta: Array) -> Array:
        keys = jax.random.split(key)
        is_real = jnp.arange(beta.shape[0]) == REAL
        halves = jnp.where(is_real, beta, 0.0), jnp.where(is_real, 0.0, beta)
        chosen = [jnp.where(jnp.sum(half) > 0, half, beta) for half in halves]
        draws = [sources("quotas", rows)(key, p) for rows, key, p in zip((real, simulated), keys, chosen, strict=True)]
        return jnp.concatenate(draws)

    return mix


def simulated_rows(config: Any, rows: PyTree) -> PyTree:
    """The rows that the gap is asked about: those that may be simulated. By counts they stand behind the real ones."""
    return rows_of(rows, config.batch_real, None) if config.mixing == "counts" else rows


def rows_of(tree: PyTree, start: int, stop: int | None) -> PyTree:
    """A range of rows of every leaf [B, ...]."""
    return jax.tree.map(lambda leaf: leaf[start:stop], tree)


def check(config: Any, name: str, of: tuple[str, ...]) -> None:
    """Refuses a batch without rows of a world that the method named needs. Raises ValueError."""
    for field in (*of, "discriminator_batch_real", "discriminator_batch_sim"):
        if getattr(config, field) < 1:
            raise ValueError(f"{field} is {getattr(config, field)}; {name} needs rows of both worlds, give >= 1.")
