"""Two independent rates: q says where the agent collects, beta whose rows it learns from.

Di-Castro Shashua, Di Castro and Mannor 2021 (arXiv 2110.00445): environment i is visited at rate q_i, a row of store j
is drawn at rate beta_j, and the two need not agree. Both are arrays [K], so no schedule of them shapes a program.

    P(row) = beta_j / n_j for each of the n_j rows of store j

A way of drawing turns a distribution p [K] into a source for each of B draws; E[draws of j] = B p_j in all of them.
The variance of a batch's mean differs (V_b between the stores' means, V_w within the stores):

    quotas  V_w / B where every B p_j is whole: floor(B p_j) or ceil(B p_j) draws of j (RLPD's way)
    rows    (V_b + V_w) / B: every draw by itself
    store   V_b + V_w / B: one store for all draws; V_b / R + V_w / B for R parts with a store each (the authors' way)
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp

from hybrid_jax.types import Array

Way = Literal["quotas", "rows", "store"]


class Rates(NamedTuple):
    """The two distributions over environments and their stores."""

    q: Array  # [K] of collection
    beta: Array  # [K] of use


class Progress(NamedTuple):
    """What a schedule may look at, before an iteration."""

    step: Array  # [] int32: iterations done
    added: Array  # [K] float32: control steps ever added to each store
    draws: Array  # [K] uint32: rows ever drawn from each store
    success: Array  # [K] share of each environment's last exploring episodes, about 50, that succeeded; 0 at first
    best: Array  # [K] the highest such share so far


Schedule = Callable[[Progress], Rates]


class Mixing(NamedTuple):
    """How a run goes by the two rates."""

    schedule: Schedule
    visits: Way = "quotas"  # how an iteration's rollout is spread over the environments; "store": one for all of it
    newest_instead: bool = False  # an empty store's share goes to the store filled last; False: to all, see `effective`


def simplex(p: object, name: str) -> Array:
    """p as float32 [K]. Raises ValueError unless it is a distribution: numbers >= 0 that add up to 1."""
    given = [float(x) for x in p]  # type: ignore[attr-defined]
    if not given or not all(x >= 0 for x in given) or abs(sum(given) - 1.0) > 1e-5:
        raise ValueError(f"{name} is {given}; give numbers >= 0, one for each environment, that add up to 1.")
    return jnp.asarray(given, jnp.float32)


# ------------------------------------------------------------------------------------------------ ways of drawing


def sources(way: Way, draws: int, parts: int = 1) -> Callable[[Array, Array], Array]:
    """(key, p [K]) -> source [draws] int32 with E[number of j] = draws p_j; p need not add up to 1.

    A store with p_j = 0 is never drawn. parts: equal parts of the draws, one after the other, each of which goes its
    own way. Raises ValueError for an unknown way, no draws, or parts that do not divide them.
    """
    ways = {"quotas": _quotas, "rows": _rows, "store": _store}
    if way not in ways:
        raise ValueError(f"the way {way!r} of mixing is none of {', '.join(ways)}.")
    if draws < 1:
        raise ValueError(f"a mix of {draws} rows cannot be learned from; the batch must be at least 1.")
    if parts < 1 or draws % parts:
        raise ValueError(f"mix_parts is {parts}, which does not divide a batch of {draws} rows; give one that does.")

    def mix(key: Array, p: Array | None = None) -> Array:
        if p is None:
            raise ValueError("rows are drawn at the rates beta, and the run has none; give it rates, or mix by counts.")
        chex.assert_rank(p, 1)
        chex.assert_type(p, float)
        if parts == 1:
            return ways[way](key, p, draws).astype(jnp.int32)
        of_each = jax.vmap(lambda own: ways[way](own, p, draws // parts))(jax.random.split(key, parts))
        return of_each.reshape(draws).astype(jnp.int32)

    return mix


def _quotas(key: Array, p: Array, draws: int) -> Array:
    """Systematic sampling: one uniform number u, draw i goes where i + u falls among c_j = B (p_1 + ... + p_j).

    That is below floor(c_j) + [u < c_j - floor(c_j)], which a u that rounds i + u up cannot move.
    """
    exact = draws * _upto(p)
    whole = jnp.floor(exact)
    ends = whole + (jax.random.uniform(key) < exact - whole)
    return _place(ends.astype(jnp.int32), jnp.arange(draws) + 1)


def _rows(key: Array, p: Array, draws: int) -> Array:
    """By the inverse of the distribution function; a Gumbel number for each store and draw would cost K times more."""
    return _place(_upto(p), 1.0 - jax.random.uniform(key, (draws,)))


def _store(key: Array, p: Array, draws: int) -> Array:
    return jnp.full(draws, jax.random.categorical(key, jnp.log(p)))


def _upto(p: Array) -> Array:
    """p_1 + ... + p_j as shares of the whole [K]; the last share is 1, unless there is none."""
    # An accelerator may add in another order for each sum: p_j = 0 must not end an ulp behind its neighbour.
    upto = jax.lax.cummax(jnp.where(p > 0, jnp.cumsum(p), 0.0))
    return upto / jnp.maximum(upto[-1], jnp.finfo(p.dtype).tiny)


def _place(ends: Array, points: Array) -> Array:
    """The first j with points <= ends_j, for points above 0; the last where there is none: it is at least a store."""
    return jnp.minimum(jnp.searchsorted(ends, points, side="left"), ends.shape[0] - 1)


def counts(source: Array, stores: int) -> Array:
    """How often each store stands in source [B]: [K] int32."""
    return jnp.sum(source[None, :] == jnp.arange(stores)[:, None], axis=1, dtype=jnp.int32)


def effective(beta: Array, size: Array, instead: Array | None = None) -> Array:
    """beta [K] over the stores that hold rows, size [K]: what empty ones would have had goes to the others.

    In proportion to their own beta; with `instead` [] int32, all of it to that store (the authors': the one collected
    into last). Where every store with a share is empty, all with rows are alike. Adds up to 1 unless all are empty.
    """
    chex.assert_rank([beta, size], 1)
    full = size > 0
    kept = jnp.where(full, beta, 0.0)
    if instead is not None:
        return kept.at[instead].add(jnp.sum(jnp.where(full, 0.0, beta)))
    kept = jnp.where(jnp.sum(kept) > 0, kept, full.astype(beta.dtype))
    return kept / jnp.maximum(jnp.sum(kept), jnp.finfo(beta.dtype).tiny)


def probabilities(beta: Array, size: Array) -> Array:
    """beta_j / n_j [K]: the probability of each single row of store j; 0 for an empty one."""
    return jnp.where(size > 0, effective(beta, size) / jnp.maximum(size, 1), 0.0)
