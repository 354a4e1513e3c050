"""Summaries against hand numbers, scipy and a known distribution."""

import math

import numpy as np
import pytest
from scipy import stats

from hybrid_jax.statistics import bootstrap_ci, interquartile_mean, mean_std, stratified_ci


def test_mean_std_of_hand_numbers():
    assert mean_std([1.0, 3.0]) == (2.0, math.sqrt(2.0))
    mean, std = mean_std([2, 4, 4, 4, 5, 5, 7, 9])
    assert mean == 5.0 and std == pytest.approx(math.sqrt(32 / 7))


def test_the_std_of_a_single_value_is_nan():
    mean, std = mean_std([4.0])
    assert mean == 4.0 and math.isnan(std)


def test_the_bootstrap_interval_of_two_values_is_that_of_the_three_possible_means():
    # The mean of two draws from {0, 1} is 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4.
    assert bootstrap_ci([0.0, 1.0], level=0.9) == (0.0, 1.0)
    assert bootstrap_ci([0.0, 1.0], level=0.4) == (0.5, 0.5)


def test_the_bootstrap_interval_agrees_with_scipys():
    values = np.random.default_rng(1).exponential(size=30)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=2)
    ours = bootstrap_ci(values, resamples=20_000)
    np.testing.assert_allclose(ours, theirs.confidence_interval, atol=0.02)


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    data = np.random.default_rng(3).normal(7.0, 2.0, (400, 25))
    intervals = np.array([bootstrap_ci(row, level=0.8, resamples=300, seed=i) for i, row in enumerate(data)])
    coverage = np.mean((intervals[:, 0] <= 7.0) & (intervals[:, 1] >= 7.0))
    # 0.8 less the bootstrap's small-sample loss (about 0.02), within 3 binomial standard errors (0.06).
    assert 0.72 < coverage < 0.84


def test_the_interval_is_reproducible_and_depends_on_the_seed():
    values = [1.0, 5.0, 2.0, 8.0, 3.0]
    assert bootstrap_ci(values) == bootstrap_ci(values)
    assert bootstrap_ci(values, resamples=50) != bootstrap_ci(values, resamples=50, seed=1)


def test_a_single_value_is_its_own_interval():
    assert bootstrap_ci([3.5]) == (3.5, 3.5)


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], 3.0])
def test_no_row_of_values_is_refused(values):
    for summary in (mean_std, bootstrap_ci):
        with pytest.raises(ValueError, match="at least one value in one row"):
            summary(values)


def test_a_level_outside_the_unit_interval_is_refused():
    with pytest.raises(ValueError, match=r"level is 95; give a share"):
        bootstrap_ci([1.0, 2.0], level=95)


def test_the_interquartile_mean_of_hand_numbers():
    assert interquartile_mean([5.0]) == 5.0
    assert interquartile_mean([1.0, 2.0, 9.0]) == 4.0  # a quarter of three values is none
    assert interquartile_mean([100.0, 1.0, 3.0, -50.0]) == 2.0
    assert interquartile_mean([0.0, 1.0, 2.0, 3.0, 1000.0]) == 2.0


@pytest.mark.parametrize("count", [1, 4, 7, 30, 101])
def test_the_interquartile_mean_is_scipys_trimmed_mean(count):
    values = np.random.default_rng(count).standard_cauchy(count)
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25))


def test_a_stratum_is_resampled_by_itself():
    # Each task's runs are equal: whatever is drawn, the pool is the same.
    assert stratified_ci([[1.0, 1.0], [5.0, 5.0]]) == (3.0, 3.0)
    # The pool of four is drawn from {0, 1}: its middle two are 0 0, 0 1 or 1 1, as 0, 1, 2, 3 or 4 ones are in it.
    values = np.random.default_rng(0).integers(0, 2, (200_000, 4))
    middle = np.sort(values, axis=1)[:, 1:3].mean(axis=1)
    for level in (0.3, 0.9):
        theirs = np.quantile(middle, [(1 - level) / 2, (1 + level) / 2])
        assert stratified_ci([[0.0, 1.0], [0.0, 1.0]], level=level) == tuple(theirs)


def test_one_stratum_is_the_plain_bootstrap():
    values = [1.0, 4.0, 2.0, 8.0, 5.0]
    mean = stratified_ci([values], lambda x: x.mean(axis=-1), seed=3)
    assert mean == bootstrap_ci(values, seed=3)


def test_strata_make_the_interval_narrower_than_one_pool():
    easy, hard = [100.0, 101.0, 102.0], [0.0, 1.0, 2.0]
    mean = lambda x: x.mean(axis=-1)  # noqa: E731
    apart, pooled = stratified_ci([easy, hard], mean), stratified_ci([easy + hard], mean)
    assert apart[1] - apart[0] < 0.1 * (pooled[1] - pooled[0])


def test_strata_without_values_are_refused():
    with pytest.raises(ValueError, match="at least one stratum"):
        stratified_ci([])
    with pytest.raises(ValueError, match="at least one value in one row"):
        stratified_ci([[1.0], []])
    with pytest.raises(ValueError, match=r"level is 95; give a share"):
        stratified_ci([[1.0]], level=95)
