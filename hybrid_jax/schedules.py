"""Schedules of the rates q and beta: pure functions of an iteration's number and of what was collected and drawn.

Strategies: Di-Castro Shashua et al. 2021 (arXiv 2110.00445), as in the authors' code.
"""

import jax.numpy as jnp

from hybrid_jax.mixing import Progress, Rates, Schedule
from hybrid_jax.types import Array


def constant(q: Array, beta: Array) -> Schedule:
    """The same rates for ever."""
    return lambda progress: Rates(q, beta)


def linear(first: Rates, last: Rates, steps: int) -> Schedule:
    """From the first rates to the last ones in so many iterations, and the last ones from there on."""
    if steps < 1:
        raise ValueError(f"steps is {steps}; a schedule needs at least 1 iteration.")

    def at(progress: Progress) -> Rates:
        done = jnp.minimum(progress.step / steps, 1.0)
        return Rates(*((1 - done) * a + done * b for a, b in zip(first, last, strict=True)))

    return at


def after_success(before: Schedule, after: Schedule, environments: Array, threshold: float = 0.7) -> Schedule:
    """`before` until one of the environments [K] bool has had that share of successes, then `after` for ever."""

    def at(progress: Progress) -> Rates:
        reached = jnp.any(jnp.asarray(environments) & (progress.best >= threshold))
        pairs = zip(before(progress), after(progress), strict=True)
        return Rates(*(jnp.where(reached, late, early) for early, late in pairs))

    return at


def strategy(name: str, q: Array, beta: Array, threshold: float = 0.7) -> Schedule:
    """The authors' strategies, index 0 the real environment: when its collection begins. beta is the same in all.

    mixed: q from the start. sim_dependent: simulators alone, as q stands to q among them or else alike, until one has
    succeeded in `threshold` of its episodes, then q. sim_first: the same, then reality alone. q and beta may be traced.
    Raises ValueError for another name.
    """
    known = ("mixed", "sim_dependent", "sim_first")
    if name not in known:
        raise ValueError(f"the strategy {name!r} is none of {', '.join(known)}.")
    if name == "mixed":
        return constant(q, beta)
    simulated = jnp.arange(q.shape[0]) > 0
    alone = jnp.where(simulated, q, 0.0)
    alone = jnp.where(jnp.sum(alone) > 0, alone, simulated.astype(q.dtype))
    alone = alone / jnp.maximum(jnp.sum(alone), jnp.finfo(q.dtype).tiny)
    then = q if name == "sim_dependent" else jnp.where(simulated, 0.0, 1.0)
    return after_success(constant(alone, beta), constant(then, beta), simulated, threshold)


def capped(schedule: Schedule, reuse: float, draws: int) -> Schedule:
    """The schedule with beta lowered where a row of a store would be drawn more than `reuse` times on average.

    beta_j <= (reuse added_j - drawn_j) / draws, with `draws` = updates x batch of an iteration; what is taken away goes
    to the stores below their bounds, in proportion to their beta, in K rounds. Where all stores are at their bounds the
    bounds cannot hold: then the bounds' proportions are kept, or beta's where all bounds are 0.
    """
    if not reuse > 0 or draws < 1:
        raise ValueError(f"reuse is {reuse} and draws is {draws}; give a bound above 0 and at least 1 draw.")

    def at(progress: Progress) -> Rates:
        q, beta = schedule(progress)
        left = (reuse * progress.added.astype(jnp.float32) - progress.draws.astype(jnp.float32)) / draws
        bound = jnp.maximum(left, 0.0)
        kept = jnp.minimum(beta, bound)
        for _ in range(beta.shape[0]):
            room = jnp.where(kept < bound, kept, 0.0)
            more = (1.0 - jnp.sum(kept)) * room / jnp.maximum(jnp.sum(room), 1e-9)
            kept = jnp.minimum(kept + more, bound)
        total = jnp.sum(kept)
        return Rates(q, jnp.where(total > 0, kept / jnp.maximum(total, 1e-9), beta))

    return at
