"""The law of what K replay stores give back (T1 to T4, T8, T11, T12 of the mixing theory), each with its closed form.

Every check is also run on an implementation that is wrong in the way it is there for, and must reject that.
"""

import itertools
from functools import partial
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import finite, mixing
from hybrid_jax.buffers import multi_buffer
from hybrid_jax.chains import Chains
from hybrid_jax.types import Transition
from tests.laws import (
    LAWS,
    TWO_STATES,
    aliased,
    assert_law,
    assert_mean,
    assert_same_law,
    rejects,
    replicas,
    table,
)

P = TWO_STATES.kernel
MOVES = LAWS[:, :, None] * P  # [j, s, s'] mu_j(s) P_j(s'|s)
BETA = np.array([0.5, 0.5])
AVERAGED = Chains(np.stack([P.mean(axis=0)] * 2), TWO_STATES.reward)
KEYS = finite.keys


def split_as(**same):
    """The five keys of a step, where some draws wrongly share one: `store="environment"`."""

    def keys(key):
        own = KEYS(key)
        return own._replace(**{name: getattr(own, other) for name, other in same.items()})

    return keys


# ------------------------------------------------------------------ T1: the window is Markov, the row drawn is not


def window_law(j):
    """nu(newest, oldest) = mu(oldest) P(newest | oldest) [2, 2] of a window of two."""
    return MOVES[j].T


def joint_windows(q):
    """The law [16] of both windows and their kernel [16, 16]: sum_i q_i (window i alone moves)."""
    law = np.einsum("ab,cd->abcd", window_law(0), window_law(1)).ravel()
    kernel = np.zeros((16, 16))
    for w, (a, b, c, d) in enumerate(itertools.product(range(2), repeat=4)):
        for new in range(2):
            kernel[w, np.ravel_multi_index((new, a, c, d), [2] * 4)] += q[0] * P[0, a, new]
            kernel[w, np.ravel_multi_index((a, b, new, c), [2] * 4)] += q[1] * P[1, c, new]
    return law, kernel


def check_windows(seen, q):
    """Three windows in a row have the law nu(w) T(w, w') T(w', w''): stationary, and Markov."""
    law, kernel = joint_windows(q)
    numbers = [np.ravel_multi_index(w.reshape(len(w), 4).T, [2] * 4) for w in seen.window]
    assert_law(table((16,) * 3, *numbers), law[:, None, None] * kernel[:, :, None] * kernel[None])


@pytest.mark.parametrize("q", [(0.3, 0.7), (0.7, 0.3)])
def test_t1_the_windows_of_the_stores_are_one_markov_chain_with_a_product_law_for_any_q(q):
    law, kernel = joint_windows(q)
    np.testing.assert_allclose(law @ kernel, law, atol=1e-15)
    assert np.sum(np.abs(np.linalg.eigvals(kernel) - 1) < 1e-9) == 1  # no other stationary law
    seen = replicas(multi_buffer((2, 2)), (q, BETA), steps=7, last=3, filled=2)
    check_windows(seen, q)
    rejects(check_windows, seen, q[::-1])
    rejects(check_windows, seen._replace(window=seen.window[..., ::-1]), q)  # oldest and newest exchanged


def test_t1_the_row_drawn_is_not_markov():
    seen = replicas(multi_buffer((2,)), ([1.0], [1.0]), 7, last=3, filled=2, world=Chains(P[:1], TWO_STATES.reward[:1]))
    law = np.zeros((2, 2, 2))
    for x in itertools.product(range(2), repeat=4):
        path = LAWS[0][x[0]] * P[0][x[0], x[1]] * P[0][x[1], x[2]] * P[0][x[2], x[3]]
        for ages in itertools.product(range(2), repeat=3):
            law[tuple(x[1 + t - age] for t, age in enumerate(ages))] += path / 8
    counts = table((2, 2, 2), *seen.there)
    assert_law(counts, law)
    pairs = law.sum(axis=2)
    rejects(assert_law, counts, pairs[:, :, None] * (pairs / pairs.sum(axis=1, keepdims=True))[None])


# --------------------------------------------------------------------------------- T2: the law of a sampled row


def check_rows(seen, q, beta=BETA, at=-1):
    """(i, j, s, s') has the law q_i beta_j mu_j(s) P_j(s'|s), and a row of store j is of environment j."""
    law = np.einsum("i,j,jst->ijst", q, beta, MOVES)
    counts = table((2,) * 5, *(column[at] for column in seen[:5]))
    assert_law(counts, np.einsum("ijst,je->ijest", law, np.eye(2)))
    return counts.sum(axis=0)


def test_t2_the_law_of_a_row_is_that_of_beta_alone_whatever_q_sizes_and_fill_levels():
    run = partial(replicas, multi_buffer((3, 5)), steps=12, last=12, filled=1)
    qs = ((0.1, 0.9), (0.5, 0.5))
    seen = [run((q, BETA), seed=seed) for seed, q in enumerate(qs)]
    for at in (0, 1, 4, 11):  # from stores of one or two rows to full ones
        assert_same_law(*(check_rows(each, q, at=at) for each, q in zip(seen, qs, strict=True)))
    other = check_rows(run((qs[0], (0.8, 0.2)), seed=2), qs[0], (0.8, 0.2))
    rejects(assert_same_law, check_rows(seen[0], qs[0]), other)  # another beta is another law


def test_t2_from_another_start_the_law_is_reached():
    start = np.array([[0.0, 1.0], [0.0, 1.0]])
    seen = replicas(multi_buffer((3, 5)), ((0.3, 0.7), BETA), 40, last=40, filled=1, first=start, count=20_000)
    rejects(check_rows, seen, (0.3, 0.7), at=0)
    check_rows(seen, (0.3, 0.7))


@pytest.mark.parametrize("wrong", ["averaged kernels", "one store for all", "beta is q", "aliased observations"])
def test_t2_rejects(wrong):
    store, rates = multi_buffer((4, 4)), ((0.1, 0.9), BETA)
    run = partial(replicas, steps=8, filled=1, count=10_000)
    check_rows(run(store, rates), rates[0])
    if wrong == "averaged kernels":
        seen = run(store, rates, world=AVERAGED)
    elif wrong == "one store for all":  # beta as a share of it is nothing that can be asked for
        seen = run(multi_buffer((8,)), rates)
        seen = seen._replace(source=seen.environment)
    elif wrong == "beta is q":
        seen = run(store, (rates[0], rates[0]))
    else:
        seen = run(aliased(store), rates)
    rejects(check_rows, seen, rates[0])


@pytest.mark.parametrize("same", [{"store": "environment"}, {"successor": "environment"}])
def test_t2_rejects_shared_keys(monkeypatch, same):
    monkeypatch.setattr(finite, "keys", split_as(**same))
    rejects(check_rows, replicas(multi_buffer((2, 2)), ((0.1, 0.9), BETA), steps=8, filled=2), (0.1, 0.9))


def check_read_back(store):
    """Rows of constants come back from each store as they were written, in all fields."""
    state = store.init(Transition(*(jax.ShapeDtypeStruct((), jnp.float32) for _ in range(5))))
    for k, constant in ((1, 7.0), (0, 3.0), (1, 7.0), (1, 7.0), (0, 3.0)):
        row = Transition(*(jnp.full(1, constant) + i for i in range(5)))
        state = store.add(state, k, row)
    for k, constant in ((0, 3.0), (1, 7.0)):
        _, batch = store.sample(state, jax.random.key(k), jnp.full(20, k, jnp.int32))
        for i, leaf in enumerate(batch.rows[:5]):
            np.testing.assert_array_equal(leaf, constant + i)


def test_each_store_keeps_its_own_observations():
    check_read_back(multi_buffer((4, 4)))
    rejects(check_read_back, aliased(multi_buffer((4, 4))))


# -------------------------------------------------------------------- T3: before all stores hold something

T3 = {1: 0.1, 2: 0.1, 5: 0.20476, 10: 0.32566, 50: 0.49742}


def real_share(q, beta, t):
    return beta * (1 - (1 - q) ** t) + (1 - beta) * q**t


def test_t3_with_the_authors_fallback_exactly():
    for t, known in T3.items():
        assert real_share(0.1, 0.5, t) == pytest.approx(known, abs=5e-6)
        cases = {  # sizes -> {last visited: probability} after t collections
            (t, 0): {0: 0.1**t},
            (0, t): {1: 0.9**t},
            (1, 1): {0: 0.1 - 0.1**t, 1: 0.9 - 0.9**t},
        }
        share = sum(
            p * float(mixing.effective(jnp.float32(BETA), jnp.array(size), instead=jnp.int32(i))[0])
            for size, last in cases.items()
            for i, p in last.items()
        )
        assert share == pytest.approx(known, abs=5e-6)


def check_before_full(seen, t):
    share = real_share(0.1, 0.5, t)
    np.testing.assert_array_equal(seen.source, seen.environment)
    assert_law(table((2,), seen.source[t - 1]), [share, 1 - share])


def beginning(steps):
    return replicas(multi_buffer((60, 61)), ((0.1, 0.9), BETA), steps, last=steps)


def test_t3_in_the_scheme():
    seen = beginning(50)
    for t in T3:
        check_before_full(seen, t)


def test_t3_rejects_a_key_shared_by_environment_and_store(monkeypatch):
    monkeypatch.setattr(finite, "keys", split_as(store="environment"))
    rejects(check_before_full, beginning(2), 2)


def test_t3_rejects_draws_from_a_store_that_is_empty(monkeypatch):
    monkeypatch.setattr(finite.mixing, "effective", lambda beta, size, instead: beta)
    rejects(check_before_full, beginning(2), 2)


# ------------------------------------------------------------------------------------ T4: one store is beta = q


def check_shared(q):
    seen = replicas(multi_buffer((6,)), (q, BETA), steps=9)
    assert_law(
        table((2,) * 3, seen.environment[-1], seen.here[-1], seen.there[-1]), np.asarray(q)[:, None, None] * MOVES
    )
    return seen


def test_t4_one_store_for_all_is_beta_equal_to_q_and_weights_undo_it():
    q = np.array([0.1, 0.9])
    seen = check_shared(q)
    rejects(assert_law, table((2,), seen.environment[-1]), BETA)
    reward, weight = TWO_STATES.reward[0][seen.here[-1]], (BETA / q)[seen.environment[-1]]
    assert_mean(weight * reward, 7 / 20)
    assert_mean(reward, 47 / 100)
    rejects(assert_mean, reward, 7 / 20)
    separate = replicas(multi_buffer((6, 6)), (q, q), steps=9, filled=1, seed=3)
    columns = (separate.environment[-1], separate.here[-1], separate.there[-1])
    assert_same_law(table((2,) * 3, *columns), table((2,) * 3, *(c[-1] for c in seen[2:5])))


# ------------------------------------------------------------ T8: the probability of each single row, exactly


def row_counts(store, state, p, draws=200_000):
    source = mixing.sources("rows", draws)(jax.random.key(3), p)
    _, batch = jax.jit(store.sample)(state, jax.random.key(4), source)
    return np.bincount(np.asarray(batch.rows), minlength=sum(store.capacities))


def test_t8_each_row_of_store_j_has_probability_beta_over_n():
    store = multi_buffer((4, 9, 6))
    state = store.init(jax.ShapeDtypeStruct((), jnp.int32))
    written = {0: [0, 1, 2], 1: list(range(4, 13)), 2: [13, 14]}  # each row holds its place in the storage
    for k, ids in written.items():
        state = store.add(state, k, jnp.array(ids, jnp.int32)[: store.capacities[k]])
    beta = jnp.array([0.5, 0.2, 0.3], jnp.float32)
    law = np.zeros(19)
    for k, ids in written.items():
        law[ids] = [0.5, 0.2, 0.3][k] / len(ids)
        np.testing.assert_allclose(mixing.probabilities(beta, state.size)[k], law[ids[0]], rtol=1e-6)
    assert_law(row_counts(store, state, mixing.effective(beta, state.size)), law)
    rejects(assert_law, row_counts(store, state, state.size / jnp.sum(state.size)), law)  # one store of all rows


# --------------------------------------------------------------------------------------- T11: decorrelation


def autocovariance(j, lag):
    """C_j of the two-state chain: mu(0) mu(1) lambda^|lag|, lambda = 1 - a - b."""
    return LAWS[j].prod() * (1 - P[j, 0, 1] - P[j, 1, 0]) ** np.abs(lag)


def one_store_covariance(n, tau):
    """sum_{|d| < N} (N - |d|) / N^2 C(tau + d); C(0) at no lag."""
    d = np.arange(1 - n, n)
    return autocovariance(0, 0) if tau == 0 else np.sum((n - np.abs(d)) / n**2 * autocovariance(0, tau + d))


def mixed_covariance(n, q, beta, tau):
    """sum_j beta_j^2 E C_j(B + J - J'), B ~ Binomial(tau, q_j), J and J' uniform ages."""
    ages = np.arange(n)
    lag = ages[:, None] - ages[None, :]
    moved = lambda j, m: comb(tau, m) * q[j] ** m * (1 - q[j]) ** (tau - m) * autocovariance(j, m + lag).mean()  # noqa: E731
    return sum(beta[j] ** 2 * moved(j, m) for j in range(2) for m in range(tau + 1))


def centred(seen):
    """The state drawn less its environment's mean [last, R]."""
    return seen.there - LAWS[:, 1][seen.environment]


def check_one_store(seen):
    y = centred(seen)
    for tau in (0, 1, 2, 5):
        assert_mean(y[0] * y[tau], one_store_covariance(5, tau))


ALONE = Chains(P[:1], TWO_STATES.reward[:1])


def test_t11_a_store_lowers_short_correlations_and_raises_long_ones():
    for tau, known in ((1, 0.0650), (2, 0.0529), (5, 0.0120)):
        assert one_store_covariance(5, tau) == pytest.approx(known, abs=5e-5)
    seen = replicas(multi_buffer((5,)), ([1.0], [1.0]), 6, last=6, filled=5, world=ALONE)
    check_one_store(seen)
    rejects(assert_mean, centred(seen)[0] * centred(seen)[1], autocovariance(0, 1))
    rejects(assert_mean, centred(seen)[0] * centred(seen)[5], autocovariance(0, 5))


def test_t11_rejects_one_index_for_all_steps(monkeypatch):
    monkeypatch.setattr(finite, "keys", lambda key: KEYS(key)._replace(row=jax.random.key(9)))
    rejects(check_one_store, replicas(multi_buffer((5,)), ([1.0], [1.0]), 6, last=6, filled=5, world=ALONE))


def check_mixed(seen, q):
    y = centred(seen)
    for tau in (1, 2, 5):
        assert_mean(y[0] * y[tau], mixed_covariance(3, q, BETA, tau))


def test_t11_mixed_stores(monkeypatch):
    q = (0.3, 0.7)
    run = partial(replicas, multi_buffer((3, 3)), (q, BETA), 6, last=6, filled=3)
    seen = run()
    check_mixed(seen, q)
    y = centred(seen)
    rejects(
        assert_mean, y[0] * y[1], sum(BETA[j] ** 2 * autocovariance(j, 1) for j in range(2))
    )  # as if without stores
    monkeypatch.setattr(finite, "keys", lambda key: KEYS(key)._replace(row=jax.random.key(9)))
    rejects(check_mixed, run(), q)


# --------------------------------------------------------- T12: one mean, three variances of a batch

MEANS, SPREADS, SHARES, B = np.array([1.0, -0.5, 0.0]), np.array([0.5, 1.0, 0.2]), np.array([0.25, 0.5, 0.25]), 8
MEAN = SHARES @ MEANS
BETWEEN, WITHIN = SHARES @ (MEANS - MEAN) ** 2, SHARES @ SPREADS**2
VARIANCE = {  # of a way and a number of parts
    ("quotas", 1): WITHIN / B,
    ("rows", 1): (BETWEEN + WITHIN) / B,
    ("store", 1): BETWEEN + WITHIN / B,
    ("store", 4): BETWEEN / 4 + WITHIN / B,
}


def batch_means(way, parts, count=20_000):
    """Means of `count` batches of 8 rows from stores of two values each, mean_j - spread_j and mean_j + spread_j."""
    store = multi_buffer((2, 2, 2))
    state = store.init(jax.ShapeDtypeStruct((), jnp.float32))
    for k in range(3):
        state = store.add(state, k, jnp.float32(MEANS[k] + SPREADS[k] * np.array([-1, 1])))
    mix = mixing.sources(way, B, parts)

    def one(key):
        mix_key, row_key = jax.random.split(key)
        return jnp.mean(store.sample(state, row_key, mix(mix_key, jnp.float32(SHARES)))[1].rows)

    return np.float64(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(5), count)))


def check_batches(means, way):
    assert_mean(means, MEAN)
    assert_mean((means - MEAN) ** 2, VARIANCE[way])


def test_t12_the_ways_of_drawing_share_a_mean_and_differ_in_variance():
    drawn = {way: batch_means(*way) for way in VARIANCE}
    for way, means in drawn.items():
        check_batches(means, way)
        for other in VARIANCE.keys() - {way}:
            rejects(check_batches, means, other)
