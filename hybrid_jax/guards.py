"""Guards of the numbers: an update that is not finite is left out and counted, a Q beyond reach is told.

The compiled half decides by one flag per update: all its metrics and all its new parameters, moments and averages
are finite. A gradient that is not finite shows in Adam's moments. The host half reads the metrics of an iteration:

    guard/skipped   updates left out in this iteration
    guard/in_a_row  updates left out at its end without a good one since; 0 after a good update
    guard/culprit   what the newest bad update shows first, see `culprit`; -1 where none was bad
"""

import math
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from hybrid_jax.types import Array, Guards, PyTree, TrainState

SLACK = 2.0  # |Q| may be this many times the largest sum of discounted rewards
SHARED = "/"  # in every metric's name but the algorithm's own


class BadUpdates(Exception):
    """Too many updates in a row were not finite."""


def init() -> Guards:
    """No update left out yet."""
    return Guards(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def finite(tree: PyTree) -> Array:
    """[] bool: every number of every leaf is finite; keys, integers and bools always are."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    bad = jnp.array([False, *(~jnp.all(jnp.isfinite(leaf)) for leaf in leaves)])
    # A running count stays one operation; XLA would write out a plain `any` once more for each leaf it decides on.
    return jnp.cumsum(bad)[-1] == 0


def keep(good: Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` where good, else `old`, whole; good [] for leaves of any shape, [S] for leaves [S, ...]."""

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(good.reshape(good.shape + (1,) * (a.ndim - good.ndim)), a, b)

    return jax.tree.map(choose, new, old)


def names(metrics: Iterable[str]) -> list[str]:
    """The names of the algorithm's own metrics in the order that culprits are counted in: the losses first."""
    return sorted((name for name in metrics if SHARED not in name), key=lambda name: ("loss" not in name, name))


def count(state: TrainState, metrics: dict[str, Array], good: Array) -> tuple[TrainState, dict[str, Array]]:
    """The state with its counters after U updates, and the metrics of the iteration; metrics [U], good [U] bool."""
    if any(SHARED in name for name in metrics):
        raise ValueError(f"the algorithm's metrics are {sorted(metrics)}; take {SHARED!r} out of the names")
    newest_first = good[::-1]
    # a last False stands for what no metric shows
    signs = jnp.stack([*(jnp.isfinite(metrics[name]) for name in names(metrics)), jnp.zeros_like(good)])
    skipped = jnp.sum(~good, dtype=jnp.int32)
    in_a_row = jnp.where(jnp.any(good), jnp.argmax(newest_first), state.guards.in_a_row + good.size).astype(jnp.int32)
    newest_sign = jnp.argmin(signs, axis=0)[::-1][jnp.argmin(newest_first)]
    told = {
        "guard/skipped": skipped,
        "guard/in_a_row": in_a_row,
        "guard/culprit": jnp.where(skipped > 0, newest_sign, -1),
    }
    told = {name: value.astype(jnp.float32) for name, value in told.items()}
    counted = Guards(state.guards.skipped + skipped, in_a_row)
    return state._replace(guards=counted), summary(metrics, good) | told


def summary(metrics: dict[str, Array], good: Array) -> dict[str, Array]:
    """Each metric [U] over the good updates [U]: the largest where the name ends in _max, else the mean.

    NaN where no update was good: there is no loss to report.
    """

    def over(name: str, values: Array) -> Array:
        values, some = values.astype(jnp.float32), jnp.any(good)
        if name.endswith("_max"):
            return jnp.where(some, jnp.max(values, where=good, initial=-jnp.inf), jnp.nan)
        return jnp.where(some, jnp.mean(values, where=good), jnp.nan)

    return {name: over(name, values) for name, values in metrics.items()}


def culprit(metrics: Mapping[str, float]) -> str | None:
    """What the newest bad update of an iteration shows first, from the metrics of the step; None: none was bad."""
    own, index = names(metrics), int(metrics["guard/culprit"])
    if index < 0:
        return None
    return own[index] if index < len(own) else "gradients or parameters"


def check(metrics: Mapping[str, float], limit: int, updates: int) -> None:
    """Raises BadUpdates where more than `limit` updates in a row were left out.

    metrics: all that the step gave for one seed, on the host; updates: those done, for the sentence.
    """
    run = int(metrics["guard/in_a_row"])
    if run > limit:
        raise BadUpdates(
            f"{run} updates in a row were not finite, more than the {limit} allowed, at update {updates}; the first"
            f" sign is {culprit(metrics)}; the learner is as it was before them"
        )


class QAlarm:
    """Tells when |Q| leaves what the rewards allow: q_max > 2 reward_max / (1 - discount).

    reward_max is the largest one seen so far. Silent for a discount of 1 and while every reward was 0, where
    there is no bound to compare with.
    """

    def __init__(self, discount: float):
        self._horizon = math.inf if discount >= 1 else 1 / (1 - discount)
        self._reward_max = 0.0
        self._above = False

    def look(self, metrics: Mapping[str, float], updates: int) -> str | None:
        """One sentence at each crossing, from the host's q_max and reward_max; again only after Q came back."""
        q, reward = (float(metrics.get(name, math.nan)) for name in ("q_max", "reward_max"))
        if not (math.isfinite(q) and math.isfinite(reward)):  # no good update, or not an algorithm with a Q
            return None
        self._reward_max = max(self._reward_max, reward)
        bound = SLACK * self._reward_max * self._horizon if self._reward_max > 0 else math.inf
        crossed, self._above = q > bound and not self._above, q > bound
        if not crossed:
            return None
        return (
            f"Q may be exploding at update {updates}: |Q| reaches {q:.4g}, the rewards so far (up to"
            f" {self._reward_max:.4g} a step) allow {bound / SLACK:.4g}; lower critic_lr or reward_scale"
        )
