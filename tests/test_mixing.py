"""Ways of drawing, effective shares and schedules, against numbers by hand and grids of draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import mixing, schedules
from hybrid_jax.mixing import Progress, Rates
from tests.laws import assert_law, rejects

WAYS = ("quotas", "rows", "store")
GRID = 1000


def array(*numbers):
    return jnp.float32(numbers)


def quotas_on_grid(monkeypatch, p, draws):
    """Counts [GRID, K] of the quotas for evenly spread values of their one uniform number."""
    u = (np.arange(GRID, dtype=np.float32) + 0.5) / GRID
    monkeypatch.setattr(mixing.jax.random, "uniform", lambda key: key)
    mix = mixing.sources("quotas", draws)
    return np.asarray(jax.vmap(lambda u: mixing.counts(mix(u, p), p.shape[0]))(u))


# ------------------------------------------------------------------------------------------------ ways of drawing

SHARES = [(0.5, 0.5), (0.1, 0.9), (0.003, 0.997), (0.25, 0.5, 0.25), (0.1, 0.0, 0.65, 0.25), (1.0, 0.0), (0.0, 1.0)]


def check_quotas(counts, p, draws):
    """floor or ceil of B p_j in every draw, B in sum, and B p_j on the grid's average."""
    wanted = draws * np.asarray(p, float)
    np.testing.assert_array_equal(counts.sum(axis=1), draws)
    assert np.all(counts >= np.floor(wanted - 1e-5)), "less than the floor"
    assert np.all(counts <= np.ceil(wanted + 1e-5)), "more than the ceiling"
    np.testing.assert_allclose(counts.mean(axis=0), wanted, atol=1.01 / GRID + draws * 1e-6)


@pytest.mark.parametrize("p", SHARES)
@pytest.mark.parametrize("draws", [1, 7, 256])
def test_quotas_are_floor_or_ceiling_and_exact_on_average(monkeypatch, p, draws):
    counts = quotas_on_grid(monkeypatch, array(*p), draws)
    check_quotas(counts, p, draws)
    if p == (0.25, 0.5, 0.25) and draws == 256:
        np.testing.assert_array_equal(counts, np.tile([64, 128, 64], (GRID, 1)))
    floored = np.floor(draws * np.asarray(p) + 1e-5).astype(int)  # the trap: each side floored, the rest to the last
    floored[-1] += draws - floored.sum()
    if np.any(np.abs(draws * np.asarray(p) - floored) > 0.01):
        rejects(check_quotas, np.tile(floored, (GRID, 1)), p, draws)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_draws_store_j_in_proportion_to_p(way):
    p, keys = np.array([0.1, 0.0, 0.6, 0.3]), jax.random.split(jax.random.key(0), 20_000)
    mix = mixing.sources(way, 3)
    source = np.asarray(jax.jit(jax.vmap(mix, (0, None)))(keys, array(*p)))
    # the first draw of a batch of quotas is the store of the smallest place: any draw's law is told by a random one
    position = np.random.default_rng(0).integers(0, 3, len(source))
    counts = np.bincount(source[np.arange(len(source)), position], minlength=4)
    assert_law(counts, p)
    rejects(assert_law, counts, [0.25] * 4)
    alike = np.mean(source[:, 0] == source[:, 2])
    assert (alike == 1) == (way == "store")
    assert source.dtype == np.int32


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("p", [(0.7, 0.3, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.1, 0.0, 0.9), (1.0, 0.0, 0.0)])
def test_a_store_without_a_share_is_never_drawn(way, p):
    keys = jax.random.split(jax.random.key(1), 3000)
    source = np.asarray(jax.jit(jax.vmap(mixing.sources(way, 50), (0, None)))(keys, array(*p)))
    assert set(np.unique(source)) == set(np.flatnonzero(p))


def test_the_ends_of_a_draw_of_quotas(monkeypatch):
    """The least and the greatest uniform number, with sums that float32 rounds."""
    monkeypatch.setattr(mixing.jax.random, "uniform", lambda key: key)
    for p in ((0.0, 0.1, 0.2, 0.7, 0.0), (0.0,) * 3 + (1 / 3,) * 3 + (0.0,), (*(1 / 7,) * 7, 0.0)):
        for u in (0.0, float(np.nextafter(np.float32(1), np.float32(0)))):
            for draws in (1, 3, 255, 4096):
                source = np.asarray(mixing.sources("quotas", draws)(jnp.float32(u), array(*p)))
                assert np.all(np.asarray(p)[source] > 0)


def test_the_ends_of_a_draw_of_rows(monkeypatch):
    """A share of 1e-12, which says that a store is not empty, is none; the last store is reached, and no empty one."""
    monkeypatch.setattr(mixing.jax.random, "uniform", lambda key, shape: jnp.full(shape, key))
    least, most = 0.0, float(np.nextafter(np.float32(1), np.float32(0)))
    for p, first, last in (((1e-12, 0.3, 0.7, 0.0), 1, 2), ((0.0, 1.0, 0.0), 1, 1), ((0.5, 1e-12, 0.5), 0, 2)):
        found = [int(mixing.sources("rows", 1)(jnp.float32(u), array(*p))[0]) for u in (most, least)]
        assert found == [first, last]


@pytest.mark.parametrize("draws", [256, 4096, 65536])
def test_whole_quotas_hold_at_the_ends_too(monkeypatch, draws):
    monkeypatch.setattr(mixing.jax.random, "uniform", lambda key: key)
    for u in (0.0, 1e-7, 0.999, float(np.nextafter(np.float32(1), np.float32(0)))):
        for p in ((0.5, 0.5), (0.25, 0.5, 0.25), (0.125, 0.0, 0.875)):
            found = mixing.counts(mixing.sources("quotas", draws)(jnp.float32(u), array(*p)), len(p))
            np.testing.assert_array_equal(found, draws * np.asarray(p))


@pytest.mark.parametrize("way", WAYS)
def test_p_need_not_add_up_to_one_and_changes_without_a_trace(way):
    traces, mix = [], mixing.sources(way, 64)

    @jax.jit
    def counted(key, p):
        traces.append(0)
        return mixing.counts(mix(key, p), 3)

    keys = jax.random.split(jax.random.key(2), 100)
    for key in keys:
        np.testing.assert_array_equal(counted(key, array(1, 2, 1)), counted(key, array(0.25, 0.5, 0.25)))
    assert len(traces) == 1


def test_counts_by_hand():
    np.testing.assert_array_equal(mixing.counts(jnp.int32([2, 0, 2, 2]), 4), [1, 0, 3, 0])


def test_parts_of_a_batch_choose_their_stores_apart():
    p, keys = np.array([0.2, 0.5, 0.3]), jax.random.split(jax.random.key(4), 20_000)
    source = np.asarray(jax.jit(jax.vmap(mixing.sources("store", 8, 4), (0, None)))(keys, array(*p)))
    first, second = source[:, 0::2], source[:, 1::2]
    np.testing.assert_array_equal(first, second)  # of each part both draws
    assert_law(np.bincount(first[:, 2], minlength=3), p)
    pairs = np.bincount(3 * first[:, 0] + first[:, 3], minlength=9)
    assert_law(pairs, np.outer(p, p).ravel())
    rejects(assert_law, pairs, np.diag(p).ravel() + 1e-9)  # one store for all of the batch


def test_unknown_ways_and_empty_batches_are_refused():
    with pytest.raises(ValueError, match="mix_parts is 4, which does not divide a batch of 10 rows"):
        mixing.sources("store", 10, 4)
    with pytest.raises(ValueError, match="'half' of mixing is none of quotas, rows, store"):
        mixing.sources("half", 4)
    with pytest.raises(ValueError, match="a mix of 0 rows"):
        mixing.sources("rows", 0)


# ------------------------------------------------------------------------------------------------ effective shares


@pytest.mark.parametrize(
    ("beta", "size", "instead", "expected"),
    [
        ((0.5, 0.2, 0.3), (4, 9, 1), None, (0.5, 0.2, 0.3)),
        ((0.5, 0.2, 0.3), (0, 9, 1), None, (0, 0.4, 0.6)),
        ((0.5, 0.2, 0.3), (0, 9, 0), None, (0, 1, 0)),
        ((1.0, 0.0, 0.0), (0, 9, 1), None, (0, 0.5, 0.5)),  # no store with a share has rows
        ((1.0, 0.0, 0.0), (0, 0, 1), None, (0, 0, 1)),
        ((0.5, 0.2, 0.3), (0, 0, 0), None, (0, 0, 0)),
        ((0.5, 0.2, 0.3), (0, 9, 1), 1, (0, 0.7, 0.3)),  # the authors': all to the one collected into
        ((0.5, 0.2, 0.3), (0, 9, 0), 1, (0, 1, 0)),
        ((0.5, 0.2, 0.3), (4, 9, 1), 2, (0.5, 0.2, 0.3)),
        ((1.0, 0.0, 0.0), (0, 9, 1), 2, (0, 0, 1)),
    ],
)
def test_effective_shares_by_hand(beta, size, instead, expected):
    found = mixing.effective(array(*beta), jnp.int32(size), None if instead is None else jnp.int32(instead))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_effective_shares_have_finite_gradients_and_one_trace():
    jitted = jax.jit(mixing.effective)
    for size in ((0, 0), (0, 3), (2, 3)):
        assert np.all(np.isfinite(jitted(array(0.3, 0.7), jnp.int32(size))))
    assert jitted._cache_size() == 1


def test_the_probability_of_a_row_by_hand():
    found = mixing.probabilities(array(0.5, 0.2, 0.3), jnp.int32([4, 0, 10]))
    np.testing.assert_allclose(found, [0.625 / 4, 0, 0.375 / 10], rtol=1e-6)
    np.testing.assert_array_equal(mixing.probabilities(array(0.5, 0.5), jnp.int32([0, 0])), [0, 0])


# ------------------------------------------------------------------------------------------------------ schedules

Q, BETA = array(0.1, 0.9), array(0.5, 0.5)


def progress(step=0, added=(0, 0), draws=(0, 0), success=(0, 0), best=None):
    best = success if best is None else best
    return Progress(jnp.int32(step), jnp.uint32(added), jnp.uint32(draws), array(*success), array(*best))


def assert_rates(found, q, beta):
    np.testing.assert_allclose(found.q, q, atol=1e-6)
    np.testing.assert_allclose(found.beta, beta, atol=1e-6)


def test_linear_by_hand():
    schedule = schedules.linear(Rates(Q, BETA), Rates(array(0.5, 0.5), array(0.9, 0.1)), 4)
    for step, q, beta in ((0, 0.1, 0.5), (1, 0.2, 0.6), (2, 0.3, 0.7), (4, 0.5, 0.9), (400, 0.5, 0.9)):
        assert_rates(schedule(progress(step)), [q, 1 - q], [beta, 1 - beta])
    with pytest.raises(ValueError, match="steps is 0"):
        schedules.linear(Rates(Q, BETA), Rates(Q, BETA), 0)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("mixed", (0.1, 0.3, 0.6), (0.1, 0.3, 0.6)),
        ("sim_dependent", (0, 1 / 3, 2 / 3), (0.1, 0.3, 0.6)),
        ("sim_first", (0, 1 / 3, 2 / 3), (1, 0, 0)),
    ],
)
def test_the_authors_strategies(name, before, after):
    beta = array(0.5, 0.25, 0.25)
    schedule = jax.jit(schedules.strategy(name, array(0.1, 0.3, 0.6), beta, threshold=0.7))
    below, reached = progress(success=(1, 0.69, 0)), progress(success=(0, 0, 0.1), best=(0, 0, 0.7))
    assert_rates(schedule(below), before, beta)  # reality's own success does not count
    assert_rates(schedule(reached), after, beta)  # once reached, for ever
    assert schedule._cache_size() == 1


def test_simulators_without_a_rate_begin_alike():
    schedule = schedules.strategy("sim_first", array(1, 0, 0), array(1, 0, 0))
    assert_rates(schedule(progress(success=(0, 0, 0))), [0, 0.5, 0.5], array(1, 0, 0))


def test_an_unknown_strategy_is_refused():
    with pytest.raises(ValueError, match="'real_first' is none of mixed, sim_dependent, sim_first"):
        schedules.strategy("real_first", Q, BETA)


def test_after_success_watches_the_environments_it_is_told_to():
    schedule = schedules.after_success(
        schedules.constant(Q, BETA), schedules.constant(Q, array(1, 0)), jnp.array([True, False])
    )
    assert_rates(schedule(progress(success=(0.6, 1.0))), Q, BETA)
    assert_rates(schedule(progress(success=(0.7, 0.0))), Q, [1, 0])


@pytest.mark.parametrize(
    ("added", "draws", "beta"),
    [
        # reuse 10, 100 draws an iteration: bounds (10 added - drawn) / 100
        ((1000, 1000), (0, 0), (0.5, 0.5)),
        ((2, 1000), (0, 0), (0.2, 0.8)),
        ((2, 1000), (15, 0), (0.05, 0.95)),
        ((2, 1000), (25, 0), (0, 1)),  # drawn too often already
        ((2, 4), (0, 0), (1 / 3, 2 / 3)),  # all at their bounds: those proportions
        ((0, 0), (0, 0), (0.5, 0.5)),  # nothing can be kept
    ],
)
def test_capped_by_hand(added, draws, beta):
    schedule = jax.jit(schedules.capped(schedules.constant(Q, BETA), reuse=10, draws=100))
    assert_rates(schedule(progress(added=added, draws=draws)), Q, beta)


def test_capped_shares_out_in_rounds():
    # bounds 0.1, 0.3, 1: 0.4 and 0.3 are cut, what is over goes to the others in proportion until they are at their own
    schedule = schedules.capped(schedules.constant(array(1, 0, 0), array(0.5, 0.25, 0.25)), reuse=1, draws=100)
    at = Progress(jnp.int32(0), jnp.uint32([10, 30, 100]), jnp.uint32([0, 0, 0]), jnp.zeros(3), jnp.zeros(3))
    np.testing.assert_allclose(schedule(at).beta, [0.1, 0.3, 0.6], atol=1e-6)


def test_capped_holds_over_a_run():
    """No store's rows are drawn more than `reuse` times on average, where the others can take the rest."""
    schedule, added, draws = schedules.capped(schedules.constant(Q, BETA), reuse=4, draws=256), np.zeros(2), np.zeros(2)
    schedule = jax.jit(schedule)
    for _ in range(200):
        added += (8, 400)
        beta = np.float64(schedule(progress(added=added, draws=draws)).beta)
        draws += 256 * beta
        assert np.all(draws <= 4 * added * (1 + 1e-5))
    assert draws[0] == pytest.approx(4 * added[0], rel=1e-3)
    for reuse, count in ((0.0, 4), (1.0, 0)):
        with pytest.raises(ValueError, match="reuse is"):
            schedules.capped(schedule, reuse, count)


@pytest.mark.parametrize("p", [(0.5, 0.4), (1.5, -0.5), (), (float("nan"), 1.0)])
def test_what_is_no_distribution_is_refused(p):
    with pytest.raises(ValueError, match=r"beta is .* add up to 1"):
        mixing.simplex(p, "beta")


def test_simplex_gives_float32():
    p = mixing.simplex(np.array([0.1, 0.9]), "q")
    assert p.dtype == jnp.float32
    np.testing.assert_allclose(p, [0.1, 0.9], rtol=1e-6)
