"""Each loss against its formula in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import losses

RNG = np.random.default_rng(0)


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def scalar(x):
    return jnp.float32(x)


def test_td_target_by_hand_and_without_gradient():
    assert losses.td_target(scalar(2), scalar(0.5), scalar(3)) == 3.5
    assert jax.grad(losses.td_target, argnums=2)(scalar(2), scalar(0.5), scalar(3)) == 0


def test_squared_td_error_by_hand():
    value, slopes = jax.value_and_grad(losses.squared_td_error, argnums=(0, 1))(scalar(5), scalar(3))
    assert value == 4
    assert slopes == (4, 0)  # no factor 1/2; none into the target


def test_actor_loss_by_hand():
    value, slopes = jax.value_and_grad(losses.actor_loss, argnums=(0, 1, 2))(scalar(-2), scalar(3), scalar(0.5))
    assert value == -4
    assert slopes == (0.5, -1, 0)


def test_temperature_loss_by_hand():
    value, slopes = jax.value_and_grad(losses.temperature_loss, argnums=(0, 1))(scalar(0.5), scalar(-2), -1.0)
    assert value == 1.5
    assert slopes == (3, 0)  # an entropy of 2 above the target -1 lowers log alpha


def test_masked_and_weighted_mean():
    x, mask = jnp.array([1.0, 2.0, 6.0]), jnp.array([True, False, True])
    assert losses.masked_mean(x, mask) == 3.5
    assert losses.masked_mean(x, ~mask) == 2
    assert losses.masked_mean(x, jnp.zeros(3, bool)) == 0
    assert losses.weighted_mean(x, jnp.array([1.0, 0.5, 0.0])) == pytest.approx(2 / 3)
    np.testing.assert_array_equal(jax.grad(losses.weighted_mean, argnums=1)(x, jnp.ones(3)), 0)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("linear", [False, True])
def test_value_regularisation_against_numpy(temperature, linear):
    q_sim, q_real, u = 3 * f32(6), 3 * f32(4), np.abs(f32(6))
    omega = np.float64(u) / np.float64(u).sum()
    if linear:
        pushed = np.sum(omega * q_sim)
    else:
        pushed = temperature * np.log(np.sum(np.exp((q_sim + np.log(omega)) / temperature)))
    got = losses.value_regularisation(
        q_sim, q_real, jnp.asarray(np.log(omega), jnp.float32), temperature, 1000.0, linear
    )
    np.testing.assert_allclose(got, pushed - q_real.mean(), rtol=1e-5, atol=1e-5)


def test_value_regularisation_with_equal_weights_is_a_log_mean_exp():
    q_sim, q_real = f32(6), f32(4)
    got = losses.value_regularisation(q_sim, q_real, jnp.full(6, -np.log(6), jnp.float32), 1.0, 1000.0)
    expected = np.log(np.mean(np.exp(np.float64(q_sim)))) - q_real.mean()
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_value_regularisation_is_clipped_both_ways():
    for q, bound in ((500.0, 10.0), (-500.0, -10.0)):
        assert losses.value_regularisation(jnp.full(2, q), jnp.zeros(2), jnp.zeros(2), 1.0, 10.0) == bound


@pytest.mark.parametrize("linear", [False, True])
def test_value_regularisation_without_any_weight_is_zero_with_zero_gradient(linear):
    def term(q_sim, q_real):
        return losses.value_regularisation(q_sim, q_real, jnp.full(3, -jnp.inf), 1.0, 1000.0, linear)

    value, slopes = jax.value_and_grad(term, argnums=(0, 1))(f32(3), f32(3))
    assert value == 0
    np.testing.assert_array_equal(slopes, 0)


def test_value_regularisation_gives_a_weightless_row_no_gradient():
    log_omega = jnp.array([0.0, -jnp.inf])
    slope = jax.grad(losses.value_regularisation)(jnp.array([1.0, 9.0]), jnp.zeros(2), log_omega, 1.0, 1e3)
    np.testing.assert_allclose(slope, [1, 0], atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_conservative_penalty_against_numpy(temperature):
    q, proposed, density = f32(), 3 * f32(5), f32(5)
    pushed = temperature * np.log(np.sum(np.exp((np.float64(proposed) - density) / temperature)))
    penalty = jax.value_and_grad(losses.conservative_penalty, argnums=(0, 1, 2))
    value, slopes = penalty(scalar(q), proposed, density, temperature)
    np.testing.assert_allclose(value, pushed - q, rtol=1e-5)
    share = np.exp((np.float64(proposed) - density) / temperature)
    np.testing.assert_allclose(slopes[1], share / share.sum(), rtol=1e-4, atol=1e-6)
    assert slopes[0] == -1
    np.testing.assert_array_equal(slopes[2], 0)  # none into the log densities


def test_conservative_penalty_of_one_value_everywhere_is_the_log_volume():
    """Uniform proposals on [-1, 1]^2, Q = 3: log of 4 e^3 K, less the 3."""
    value = losses.conservative_penalty(scalar(3), jnp.full(8, 3.0), jnp.full(8, -np.log(4.0)), 1.0)
    np.testing.assert_allclose(value, np.log(4 * 8), rtol=1e-6)


def test_binary_cross_entropy_against_numpy():
    logit, real = 3 * f32(8), RNG.random(8) < 0.5
    p = 1 / (1 + np.exp(-np.float64(logit)))
    got = jax.vmap(losses.binary_cross_entropy)(logit, real)
    np.testing.assert_allclose(got, -np.log(np.where(real, p, 1 - p)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "arguments"),
    [
        (losses.td_target, (np.ones(2, np.float32), scalar(1), scalar(1))),
        (losses.squared_td_error, (scalar(1), np.ones(2, np.float32))),
        (losses.squared_td_error, (jnp.int32(1), scalar(1))),
        (losses.masked_mean, (np.ones((2, 1), np.float32), np.ones(2, bool))),
        (losses.weighted_mean, (np.ones(2, np.float32), np.ones(2, np.int32))),
        (losses.conservative_penalty, (np.ones(2, np.float32), np.ones(2, np.float32), np.ones(2, np.float32), 1.0)),
    ],
)
def test_wrong_rank_or_type_is_refused(loss, arguments):
    with pytest.raises(AssertionError):
        loss(*arguments)
