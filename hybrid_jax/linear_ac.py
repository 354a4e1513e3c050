"""The linear off-policy actor-critic on rows of K stores, in average-reward and in discounted form.

Di-Castro Shashua, Di Castro and Mannor 2021 (arXiv 2110.00445), the scheme that they analyse; the update as in
Bhatnagar et al. 2009 (Natural actor-critic algorithms), with rows (s, a, r, s') of store j at rate beta_j:

    delta  = r - eta + phi(s')^T v - phi(s)^T v           (discounted: r + gamma phi(s')^T v - phi(s)^T v)
    eta   <- eta + a_eta(t) (r - eta)
    v     <- v + a_v(t) delta phi(s)
    theta <- Gamma(theta + a_theta(t) delta grad log pi_theta(a|s))

pi is a softmax of theta [S, A], Gamma the projection on |theta| <= bound. Every a(t) = scale (1 + t / knee)^-power has
sum a = inf and sum a^2 < inf by 1/2 < power <= 1; a_theta / a_v -> 0 by the actor's greater power, so that the critic
sees a policy at rest; eta is at least as fast as v.

Where it goes. For a policy at rest: eta* = sum_j beta_j eta_j and the TD fixed point of the mixture chain
(`chains.fixed_point`), whatever q is. The actor climbs the average reward of the MIXTURE environment with its weights
w_j(s) held where they are, not sum_j beta_j eta_j(theta), and not reality's: see docs/results/mixing_theory.md.

This is no `types.Algorithm` and does not live in algorithms/: its states and actions are numbers of a finite set, where
that contract has vectors of reals. Rows are `Transition`s all the same, with obs, action and next_obs int32.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from hybrid_jax.types import Array, Batch, Transition


class Step(NamedTuple):
    """a(t) = scale (1 + t / knee)^-power."""

    scale: float
    power: float
    knee: float = 1000.0

    def at(self, t: Array) -> Array:
        return self.scale * (1.0 + t / self.knee) ** -self.power


class Steps(NamedTuple):
    """Step sizes of the three parts; a scale of 0 leaves a part as it is."""

    eta: Step = Step(0.1, 0.7)
    v: Step = Step(0.3, 0.7)
    theta: Step = Step(0.1, 0.9)


class State(NamedTuple):
    """What is learned."""

    eta: Array  # [] average reward; in the discounted form an estimate beside it, which nothing uses
    v: Array  # [d] the critic's weights
    theta: Array  # [S, A] the policy's preferences
    t: Array  # [] int32: updates done


class Direction(NamedTuple):
    """One row's way for each part, before the step sizes."""

    eta: Array  # [] r - eta
    v: Array  # [d] delta phi(s)
    theta: Array  # [S, A] delta grad log pi(a|s)


class LinearActorCritic(NamedTuple):
    """Pure functions, to be jitted, scanned and vmapped by the caller."""

    init: Callable  # () -> State: all zero, the uniform policy
    update: Callable  # (State, Batch of rows [B]) -> State
    policy: Callable  # (State) -> pi [S, A]
    direction: Callable  # (State, one row) -> Direction


def make(
    features: np.ndarray, actions: int, gamma: float | None = None, steps: Steps = Steps(), bound: float = 20.0
) -> LinearActorCritic:
    """For features phi [S, d] of every state; gamma None: average reward. Numbers are of the features' type in jax.

    An update follows the mean of its rows' directions. Raises ValueError for step sizes outside of the conditions
    above, fewer than one action, or a bound that is no bound.
    """
    _check(steps, actions, gamma, bound)
    phi = jnp.asarray(features)
    chex.assert_rank(phi, 2)
    chex.assert_type(phi, float)

    def init() -> State:
        states, size = phi.shape
        eta, v, theta = (jnp.zeros(shape, phi.dtype) for shape in ((), size, (states, actions)))
        return State(eta, v, theta, jnp.int32(0))

    def policy(state: State) -> Array:
        return jax.nn.softmax(state.theta, axis=-1)

    def direction(state: State, row: Transition) -> Direction:
        chex.assert_rank([row.obs, row.action, row.reward, row.discount, row.next_obs], 0)
        chex.assert_type([row.obs, row.action, row.reward, row.discount, row.next_obs], [int, int, float, float, int])
        here, there = phi[row.obs] @ state.v, phi[row.next_obs] @ state.v
        if gamma is None:
            delta = row.reward - state.eta + there - here
        else:
            delta = row.reward + gamma * row.discount * there - here
        score = jax.grad(lambda theta: jax.nn.log_softmax(theta[row.obs])[row.action])(state.theta)
        return Direction(row.reward - state.eta, delta * phi[row.obs], delta * score)

    def update(state: State, batch: Batch) -> State:
        each = jax.vmap(direction, in_axes=(None, 0))(state, batch.rows)
        eta, v, theta = (
            old + step.at(state.t) * jnp.mean(way, axis=0)
            for old, step, way in zip(state[:3], steps, each, strict=True)
        )
        return State(eta, v, jnp.clip(theta, -bound, bound), state.t + 1)

    return LinearActorCritic(init, update, policy, direction)


def _check(steps: Steps, actions: int, gamma: float | None, bound: float) -> None:
    for name, step in steps._asdict().items():
        if not (step.scale >= 0 and step.knee > 0 and 0.5 < step.power <= 1):
            raise ValueError(f"the step of {name} is {step}; give scale >= 0, knee > 0 and 1/2 < power <= 1.")
    if steps.theta.scale > 0 and not steps.theta.power > steps.v.power:
        raise ValueError(
            f"the step of theta has power {steps.theta.power}, that of v {steps.v.power};"
            " give theta the greater one: the actor must become slower than the critic."
        )
    if steps.eta.power > steps.v.power:
        raise ValueError(
            f"the step of eta has power {steps.eta.power}, that of v {steps.v.power}; give eta no greater one."
        )
    if gamma is not None and not 0 <= gamma < 1:
        raise ValueError(f"gamma is {gamma}; give a number in [0, 1), or None for the average-reward form.")
    if actions < 1 or not bound > 0:
        raise ValueError(f"actions is {actions} and bound is {bound}; give at least 1 action and a bound above 0.")
