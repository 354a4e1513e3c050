"""The tanh-Gaussian against its density written in numpy, and against an integral."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import distributions


def density(action, mean, std):
    """numpy, float64: N(artanh a; mean, std^2) / (1 - a^2) for one dimension."""
    x = np.arctanh(action)
    return np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi) * (1 - action**2))


def test_log_prob_against_numpy():
    rng = np.random.default_rng(0)
    mean, log_std, pre = (rng.standard_normal((6, 3)) for _ in range(3))
    expected = np.log(density(np.tanh(pre), mean, np.exp(log_std))).sum(axis=-1)
    got = distributions.log_prob(*(jnp.asarray(x, jnp.float32) for x in (pre, mean, log_std)))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.5), (0.8, 1.0), (-1.5, 0.3)])
def test_density_integrates_to_one(mean, std):
    pre = np.linspace(mean - 9 * std, mean + 9 * std, 20_001, dtype=np.float32)[:, None]
    log_prob = distributions.log_prob(jnp.asarray(pre), jnp.full(pre.shape, mean), jnp.full(pre.shape, np.log(std)))
    area = np.trapezoid(np.exp(np.float64(log_prob)), np.tanh(np.float64(pre[:, 0])))
    np.testing.assert_allclose(area, 1.0, atol=1e-3)


def test_sample_agrees_with_its_own_log_prob(key):
    mean, log_std = jnp.array([[0.3, -0.2]] * 4), jnp.array([[-1.0, 0.1]] * 4)
    action, log_prob = distributions.sample_and_log_prob(key, mean, log_std)
    expected = np.log(density(np.float64(action), np.float64(mean), np.exp(np.float64(log_std)))).sum(-1)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(action, distributions.sample(key, mean, log_std))


def test_samples_have_the_mean_and_std_before_the_tanh(key):
    mean, log_std = jnp.full((20_000, 1), 0.4), jnp.full((20_000, 1), np.log(0.5, dtype=np.float32))
    pre = np.arctanh(np.float64(distributions.sample(key, mean, log_std)))
    np.testing.assert_allclose([pre.mean(), pre.std()], [0.4, 0.5], atol=0.02)


def test_mode_is_the_tanh_of_the_mean():
    np.testing.assert_allclose(distributions.mode(jnp.array([0.0, 1.0])), [0.0, 0.76159416], rtol=1e-6)


@pytest.mark.parametrize("pre", [-50.0, 50.0])
def test_log_prob_is_finite_where_tanh_saturates(pre):
    def total(mean):
        return distributions.log_prob(jnp.full((1,), pre), mean, jnp.zeros(1))

    value, slope = jax.value_and_grad(total)(jnp.full((1,), pre))
    expected = -0.5 * np.log(2 * np.pi) - 2 * (np.log(2) - abs(pre))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.all(np.isfinite(slope))
