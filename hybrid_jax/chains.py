"""K finite Markov chains side by side, and what learning from a mix of their rows must find: exact, on the host.

Under one policy environment j has the state kernel P_j, expected rewards r_j(s) and the stationary law mu_j; a row is
drawn from its store with probability beta_j (Di-Castro Shashua, Di Castro and Mannor 2021, arXiv 2110.00445).

    mu_b = sum_j beta_j mu_j,   w_j(s) = beta_j mu_j(s) / mu_b(s),   P_b = sum_j w_j P_j,   r_b = sum_j w_j r_j

The rows drawn are those of ONE chain: mu_b P_b = mu_b, and linear TD finds what it would find in P_b alone. P_b is not
sum_j beta_j P_j: its weights depend on the state. The paper's proofs were not at hand; these are derived anew from its
setting and checked in tests/test_linear_ac.py. All is float64 numpy.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Environments(NamedTuple):
    """K finite decision processes over the same states and actions; the real one is number 0."""

    kernel: np.ndarray  # [K, S, A, S] P_j(s'|s, a)
    reward: np.ndarray  # [K, S, A]


class Chains(NamedTuple):
    """What K environments are under one policy."""

    kernel: np.ndarray  # [K, S, S] P_j(s'|s)
    reward: np.ndarray  # [K, S] expected reward


class Mixture(NamedTuple):
    """The one chain whose rows a mix draws."""

    law: np.ndarray  # [S] mu_b, its stationary law
    weight: np.ndarray  # [K, S] w_j(s): where a row at s comes from
    kernel: np.ndarray  # [S, S] P_b
    reward: np.ndarray  # [S] r_b


class FixedPoint(NamedTuple):
    """Where the linear critic's expected update is zero: eta = sum_j beta_j eta_j and A v + b = 0."""

    eta: float  # average reward
    v: np.ndarray  # [d] weights of the features
    A: np.ndarray  # [d, d]
    b: np.ndarray  # [d]


def under(environments: Environments, policy: np.ndarray) -> Chains:
    """The chains under pi(a|s) [S, A]: P_j(s'|s) = sum_a pi(a|s) P_j(s'|s, a), and the like for the rewards."""
    kernel = np.einsum("sa,ksat->kst", policy, environments.kernel)
    return Chains(kernel, np.einsum("sa,ksa->ks", policy, environments.reward))


def without_actions(chains: Chains) -> Environments:
    """The chains as environments of one action."""
    return Environments(chains.kernel[:, :, None, :], chains.reward[:, :, None])


def stationary(kernel: np.ndarray) -> np.ndarray:
    """mu [..., S] with mu P = mu and sum 1, of irreducible kernels [..., S, S]."""
    states = kernel.shape[-1]
    # I - P + 1 1^T is regular where P is irreducible, and mu (I - P + 1 1^T) = 1^T.
    ones = np.ones((*kernel.shape[:-1], 1), kernel.dtype)
    return np.linalg.solve(np.swapaxes(np.eye(states) - kernel + 1.0, -1, -2), ones)[..., 0]


def mixture(chains: Chains, beta: Sequence[float] | np.ndarray) -> Mixture:
    """The mixture chain for shares beta [K]."""
    each = np.asarray(beta)[:, None] * stationary(chains.kernel)
    law = each.sum(axis=0)
    weight = each / law
    kernel = np.einsum("ks,kst->st", weight, chains.kernel)
    return Mixture(law, weight, kernel, np.sum(weight * chains.reward, axis=0))


def fixed_point(
    chains: Chains, beta: Sequence[float] | np.ndarray, features: np.ndarray, gamma: float | None = None
) -> FixedPoint:
    """Of TD on rows of law sum_j beta_j mu_j(s) P_j(s'|s), with features Phi [S, d]; gamma None: average reward.

    A = sum_j beta_j Phi^T D_j (P_j - I) Phi and b = sum_j beta_j Phi^T D_j (r_j - eta 1); discounted, with gamma P_j
    and without eta. (A + A^T) / 2 is negative definite for every beta, so that the critic is stable.
    """
    laws, shares = stationary(chains.kernel), np.asarray(beta)
    eta = float(np.einsum("k,ks,ks", shares, laws, chains.reward))
    change = (1.0 if gamma is None else gamma) * chains.kernel - np.eye(laws.shape[1])
    A = np.einsum("k,si,ks,kst,tj->ij", shares, features, laws, change, features)
    reward = chains.reward - (eta if gamma is None else 0.0)
    b = np.einsum("k,si,ks,ks->i", shares, features, laws, reward)
    return FixedPoint(eta, np.linalg.solve(A, -b), A, b)


def values(chain: Mixture, gamma: float | None = None) -> np.ndarray:
    """V [S] of one chain; in the average-reward form the solution of V = r - eta 1 + P V with mu V = 0."""
    identity = np.eye(chain.law.size)
    if gamma is not None:
        return np.linalg.solve(identity - gamma * chain.kernel, chain.reward)
    centred = chain.reward - chain.law @ chain.reward
    return np.linalg.solve(identity - chain.kernel + chain.law, centred)


# ------------------------------------------------------------------------------- the assumptions, one sentence each


def check(
    chains: Chains,
    features: np.ndarray,
    beta: np.ndarray,
    q: np.ndarray,
    gamma: float | None,
    name: str = "transitions",
) -> None:
    """Raises ValueError, with a name, a value and a cure, unless the theory's assumptions hold.

    Every kernel irreducible and aperiodic; beta and q distributions, q_j > 0 where beta_j > 0; features of full column
    rank, without the constant in their span in the average-reward form.
    """
    if chains.kernel.ndim != 3 or 0 in chains.kernel.shape or chains.kernel.shape[1] != chains.kernel.shape[2]:
        raise ValueError(f"{name} has shape {list(chains.kernel.shape)}; give K square matrices of one size [K, S, S].")
    environments, states = chains.kernel.shape[:2]
    for k, kernel in enumerate(chains.kernel):
        _check_kernel(f"{name}[{k}]", kernel)
    _check_shape("rewards", chains.reward, (environments, states), "a number for each environment and state")
    for key, p in (("beta", beta), ("q", q)):
        _check_shape(key, p, (environments,), "a number for each environment")
        if not (np.all(p >= 0) and abs(p.sum() - 1) < 1e-6):
            raise ValueError(f"{key} is {p.tolist()}; give numbers >= 0 that add up to 1.")
    for k in np.flatnonzero((beta > 0) & ~(q > 0)):
        raise ValueError(f"q[{k}] is 0 and beta[{k}] is {beta[k]:g}; visit what is learned from, or set its beta to 0.")
    if gamma is not None and not 0 <= gamma < 1:
        raise ValueError(f"gamma is {gamma}; give a number in [0, 1), or null for the average-reward form.")
    _check_features(features, states, gamma is None)


def _check_shape(name: str, given: np.ndarray, shape: tuple[int, ...], words: str) -> None:
    if given.shape != shape or not np.all(np.isfinite(given)):
        what = f"has shape {list(given.shape)}" if given.shape != shape else f"is {given.tolist()}"
        raise ValueError(f"{name} {what}; give {words}, shape {list(shape)}, all finite.")


def _check_kernel(name: str, kernel: np.ndarray) -> None:
    for s, row in enumerate(kernel):
        if not (np.all(row >= 0) and abs(row.sum() - 1) < 1e-6):
            raise ValueError(f"{name}[{s}] is {row.tolist()}, sum {row.sum():g}; give numbers >= 0 that add up to 1.")
    distance = _distances(kernel > 0)
    back = _distances(kernel.T > 0)
    for s in np.flatnonzero(distance < 0):
        raise ValueError(f"{name} is reducible: state {s} is never reached from state 0; give it a way there.")
    for s in np.flatnonzero(back < 0):
        raise ValueError(f"{name} is reducible: state 0 is never reached from state {s}; give it a way there.")
    period = math.gcd(*(int(distance[s] + 1 - distance[t]) for s, t in np.argwhere(kernel > 0)))
    if period != 1:
        raise ValueError(f"{name} is periodic with period {period}; let one of its states stay, e.g. {name}[0][0] > 0.")


def _distances(edges: np.ndarray) -> np.ndarray:
    """Steps from state 0 to each state along edges [S, S] bool; -1 where there is no way."""
    distance = np.full(len(edges), -1)
    distance[0], front, steps = 0, edges[0], 1
    while np.any(new := front & (distance < 0)):
        distance[new] = steps
        front, steps = np.any(edges[new], axis=0), steps + 1
    return distance


def _check_features(features: np.ndarray, states: int, average: bool) -> None:
    if features.ndim != 2 or features.shape[0] != states or features.shape[1] < 1:
        raise ValueError(
            f"features has shape {list(features.shape)}; give a row of d numbers for each of {states} states."
        )
    _check_shape("features", features, features.shape, "a row for each state")
    rank = np.linalg.matrix_rank(features)
    if rank < features.shape[1]:
        raise ValueError(f"features has {features.shape[1]} columns of rank {rank}; leave out those that others span.")
    if average and np.linalg.matrix_rank(np.column_stack([features, np.ones(states)])) == rank:
        raise ValueError(
            "features spans the constant, which the average-reward form cannot tell from 0;"
            " leave out a column (of one-hot features: one state), or give a gamma."
        )
