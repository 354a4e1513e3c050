"""The discriminators against a numpy loss, and their log-ratio against two known Gaussians."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import dynamics_gap
from hybrid_jax.scaling import Moments
from hybrid_jax.testing import random_rows
from hybrid_jax.types import Spec, Transition
from tests import oracles

SPEC = Spec(obs_size=3, action_size=2, episode_length=10, dt=0.1)
KNOWN = SPEC.obs_size + SPEC.action_size
NOISE = 0.1


def config(hidden, learning_rate):
    return dynamics_gap.Config(discriminator_hidden=hidden, discriminator_lr=learning_rate, discriminator_noise=NOISE)


@pytest.fixture(scope="module")
def gap():
    return dynamics_gap.make(config((7, 6), 1e-2), SPEC)


@pytest.fixture(scope="module")
def state(gap):
    """Parameters with an entry of order 1/2 everywhere, so that no logit is near 0."""
    state = gap.init(jax.random.key(0))
    return state._replace(params=oracles.spread(state.params, 3))


def noised(rows, key, noise=NOISE):
    x = oracles.gap_inputs(rows)
    return x + noise * oracles.normal(key, *x.shape)


def test_update_reports_the_loss_of_the_released_code(gap, state, key):
    rows = random_rows(jax.random.key(1), 8, SPEC)
    real = np.arange(8) < 4
    _, metrics = jax.jit(gap.update)(state, rows, real, key)

    x = noised(rows, key)
    loss = oracles.discriminator_loss(state.params, x, x[:, :KNOWN], real)
    np.testing.assert_allclose(metrics["discriminator_loss"], loss, rtol=1e-5)
    for name, p in zip(("sa", "sas"), oracles.probabilities(state.params, x, x[:, :KNOWN]), strict=True):
        share = np.mean((np.argmax(p, axis=1) == 0) == real)
        np.testing.assert_allclose(metrics[f"discriminator_accuracy_{name}"], share)


def test_each_network_with_its_noise_and_without_a_bound(key):
    """The form of DARC's code: l_sa, with its own noise, stands in both heads."""
    free = dataclasses.replace(
        config((5,), 1e-2), discriminator_noise=1.0, discriminator_shared_noise=False, discriminator_bound=None
    )
    gap = dynamics_gap.make(free, SPEC)
    shapes = jax.eval_shape(gap.init, key)
    blank = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    state = blank._replace(params=jax.tree.map(lambda x: 2 * x, oracles.spread(blank.params, 3)))
    rows, real = oracles.rows(8, SPEC), np.arange(8) % 2 == 0
    new, metrics = jax.jit(gap.update)(state, rows, real, key)
    x, other = noised(rows, key, 1.0), noised(rows, jax.random.fold_in(key, 1), 1.0)[:, :KNOWN]

    def loss(params):
        return oracles.discriminator_loss(params, x, other, real, None)

    np.testing.assert_allclose(metrics["discriminator_loss"], loss(state.params), rtol=1e-5)
    oracles.assert_follows(loss, state.params, new.optimiser[0].mu)
    observed, _ = gap.log_ratio(state.params, rows, jnp.zeros((0, 8, 3)))
    ratio = -oracles.log_sim_over_real(state.params, oracles.gap_inputs(rows), KNOWN, None)
    np.testing.assert_allclose(observed, ratio, rtol=1e-4, atol=1e-4)
    assert np.max(np.abs(ratio)) > 4  # beyond twice the bound of the other form


def test_log_ratio_equals_the_four_logs_of_the_paper(gap, state):
    rows = random_rows(jax.random.key(1), 5, SPEC)
    observed, jittered = gap.log_ratio(state.params, rows, jnp.zeros((2, 5, SPEC.obs_size)))
    sim_over_real = oracles.log_sim_over_real(state.params, oracles.gap_inputs(rows), KNOWN)
    np.testing.assert_allclose(observed, -sim_over_real, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jittered, np.stack([observed] * 2), rtol=1e-4, atol=1e-5)


def test_jitter_moves_the_successor_alone(gap, state):
    rows = random_rows(jax.random.key(1), 5, SPEC)
    noise = jax.random.normal(jax.random.key(2), (3, 5, SPEC.obs_size))
    _, jittered = gap.log_ratio(state.params, rows, noise)
    for n in range(3):
        there = rows._replace(next_obs=rows.next_obs + noise[n])
        moved = oracles.logits(state.params["sas"], oracles.gap_inputs(there))
        np.testing.assert_allclose(jittered[n], moved[:, 0] - moved[:, 1], rtol=1e-4, atol=1e-5)


def test_the_residual_head_trains_both_networks(gap, state, key):
    """One update's gradient is that of both heads' loss, l_sa not stopped inside D_sas."""
    rows, real = random_rows(jax.random.key(1), 8, SPEC), np.arange(8) < 4
    moved, _ = jax.jit(gap.update)(state, rows, real, key)
    x = noised(rows, key)
    oracles.assert_follows(
        lambda params: oracles.discriminator_loss(params, x, x[:, :KNOWN], real), state.params, moved.optimiser[0].mu
    )


def gaussian_rows(key, rows, shift, obs_mean):
    """s ~ N(obs_mean, 1), s' ~ N(s + shift, 1); one observation, one action that does not matter."""
    keys = jax.random.split(key, 3)
    obs = obs_mean + jax.random.normal(keys[0], (rows, 1))
    next_obs = obs + shift + jax.random.normal(keys[1], (rows, 1))
    action = jnp.tanh(jax.random.normal(keys[2], (rows, 1)))
    return Transition(obs, action, jnp.zeros(rows), jnp.ones(rows), next_obs)


def trained(gap, shift, obs_mean, updates):
    """Discriminators that saw real rows with shift 0 and mean 0, sim rows with these."""

    def step(state, key):
        real_key, sim_key, noise_key = jax.random.split(key, 3)
        pair = (gaussian_rows(real_key, 128, 0.0, 0.0), gaussian_rows(sim_key, 128, shift, obs_mean))
        rows = jax.tree.map(lambda *x: jnp.concatenate(x), *pair)
        return gap.update(state, rows, jnp.arange(256) < 128, noise_key)

    run = jax.jit(lambda s, keys: jax.lax.scan(step, s, keys)[0])
    return run(gap.init(jax.random.key(0)), jax.random.split(jax.random.key(1), updates))


@pytest.fixture(scope="module")
def line():
    return dynamics_gap.make(config((32, 32), 3e-3), Spec(1, 1, 10, 0.1))


def test_signs_and_sizes_on_two_known_gaussians(line):
    """P_real = N(s, 1), P_sim = N(s + 1, 1): log P_real/P_sim = 1/2 - (s' - s), whatever the states' shift."""
    state = trained(line, shift=1.0, obs_mean=0.5, updates=600)
    rows = gaussian_rows(jax.random.key(5), 400, 1.0, 0.5)
    step = np.float64(rows.next_obs - rows.obs)[:, 0]
    observed, jittered = line.log_ratio(state.params, rows, jnp.zeros((1, 400, 1)))
    inside = np.abs(step - 0.5) < 1.5
    assert np.corrcoef(observed[inside], (0.5 - step)[inside])[0, 1] > 0.97
    slope = np.polyfit(step[inside], observed[inside], 1)[0]
    assert -1.3 < slope < -0.7
    w = dynamics_gap.importance_weight(observed, (1e-5, 1.0))
    u = dynamics_gap.gap_measure(jittered, 10.0)
    likes_real, likes_sim = step < -0.5, step > 1.5
    assert np.mean(w[likes_real]) > 0.9 and np.mean(w[likes_sim]) < 0.4
    assert np.mean(u[likes_real]) < 0 < np.mean(u[likes_sim])
    assert np.mean(u) > 0.25  # KL(sim || real) = 1/2


def test_a_simulator_without_gap_is_trusted(line):
    state = trained(line, shift=0.0, obs_mean=0.0, updates=300)
    observed, _ = line.log_ratio(state.params, gaussian_rows(jax.random.key(5), 400, 0.0, 0.0), jnp.zeros((0, 400, 1)))
    assert np.mean(np.abs(observed)) < 0.15
    assert np.mean(dynamics_gap.importance_weight(observed, (1e-5, 1.0))) > 0.9


def test_importance_weight_by_hand():
    ratio = jnp.log(jnp.array([1e-9, 0.25, 1.0, 7.0]))
    np.testing.assert_allclose(dynamics_gap.importance_weight(ratio, (1e-5, 1.0)), [1e-5, 0.25, 1, 1], rtol=1e-6)


def test_gap_measure_is_minus_the_mean_log_ratio_with_a_cap():
    ratio = jnp.array([[1.0, -30.0], [-4.0, -10.0]])
    np.testing.assert_allclose(dynamics_gap.gap_measure(ratio, 10.0), [1.5, 10.0])


def test_no_gradient_flows_through_w_and_u():
    for value in (
        lambda x: jnp.sum(dynamics_gap.importance_weight(x, (1e-5, 1.0))),
        lambda x: jnp.sum(dynamics_gap.gap_measure(x, 10.0)),
    ):
        np.testing.assert_array_equal(jax.grad(value)(-jnp.ones((2, 3))), 0)


def test_log_omega_normalises_the_positive_gaps():
    u = jnp.array([1.0, -2.0, 3.0, 0.0])
    got = dynamics_gap.log_omega(u)
    np.testing.assert_allclose(got, [np.log(0.25), -np.inf, np.log(0.75), -np.inf], rtol=1e-6)
    many = jnp.asarray(np.random.default_rng(0).standard_normal(128), jnp.float32)
    np.testing.assert_allclose(np.exp(dynamics_gap.log_omega(many)).sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(dynamics_gap.log_omega(jnp.ones(8)), -np.log(8), rtol=1e-6)


def test_log_omega_without_a_positive_gap_has_no_weight():
    np.testing.assert_array_equal(dynamics_gap.log_omega(jnp.array([-1.0, 0.0])), -np.inf)


def test_next_obs_std_is_that_of_an_array_with_ten_empty_rows_for_each():
    data = np.random.default_rng(0).normal(2.0, 3.0, (50, 4))
    padded = np.concatenate([data, np.zeros((500, 4))])
    diluted = dynamics_gap.next_obs_std(Moments.of(data, data), "diluted")
    np.testing.assert_allclose(diluted, padded.std(axis=0) + 1e-3, rtol=1e-5)
    np.testing.assert_allclose(
        dynamics_gap.next_obs_std(Moments.of(data, data), "full"), data.std(axis=0) + 1e-3, rtol=1e-5
    )
    assert diluted.dtype == np.float32


def test_next_obs_std_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match="next_state_jitter is 'half'"):
        dynamics_gap.next_obs_std(Moments(*np.zeros((4, 2))), "half")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"discriminator_noise": -0.1}, "discriminator_noise is -0.1; give at least 0"),
        ({"discriminator_lr": float("nan")}, "discriminator_lr is nan; give at least 0"),
        ({"discriminator_hidden": ()}, r"discriminator_hidden is \(\); give at least one positive width"),
        ({"discriminator_bound": 0.0}, "discriminator_bound is 0.0; give a positive number, or None for no bound"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dynamics_gap.make(dataclasses.replace(config((4,), 1e-3), **change), SPEC)
