"""The discriminators against a numpy loss, and their log-ratio against two known Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import dynamics_gap
from hybrid_jax.scaling import Moments
from hybrid_jax.testing import random_rows
from hybrid_jax.types import Spec, Transition

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
    rng = np.random.default_rng(3)
    state = gap.init(jax.random.key(0))
    spread = jax.tree.map(lambda x: x + jnp.float32(0.5) * rng.standard_normal(x.shape, np.float32), state.params)
    return state._replace(params=spread)


def logits(params, x):
    """numpy, float64: 2 tanh of a ReLU MLP."""
    layers = [params["params"][f"Dense_{i}"] for i in range(3)]
    for i, layer in enumerate(layers):
        x = x @ np.float64(layer["kernel"]) + np.float64(layer["bias"])
        x = np.maximum(x, 0) if i < 2 else x
    return 2 * np.tanh(x)


def softmax(x):
    e = np.exp(x)
    return e / e.sum(axis=-1, keepdims=True)


def inputs(rows):
    return np.concatenate([np.float64(x) for x in (rows.obs, rows.action, rows.next_obs)], axis=1)


def test_update_reports_the_loss_of_the_released_code(gap, state, key):
    rows = random_rows(jax.random.key(1), 8, SPEC)
    real = jnp.arange(8) < 4
    _, metrics = jax.jit(gap.update)(state, rows, real, key)

    x = inputs(rows) + NOISE * np.float64(jax.random.normal(key, (8, KNOWN + SPEC.obs_size)))
    l_sa = logits(state.params["sa"], x[:, :KNOWN])
    p_sa, p_sas = softmax(l_sa), softmax(logits(state.params["sas"], x) + l_sa)
    loss = sum(np.mean(-np.log(p[:4, 0]) - np.log(p[4:, 1])) for p in (p_sa, p_sas))
    np.testing.assert_allclose(metrics["discriminator_loss"], loss, rtol=1e-5)
    for name, p in (("sa", p_sa), ("sas", p_sas)):
        share = np.mean(np.argmax(p, axis=1) == np.repeat([0, 1], 4))
        np.testing.assert_allclose(metrics[f"discriminator_accuracy_{name}"], share)


def test_log_ratio_equals_the_four_logs_of_the_paper(gap, state):
    rows = random_rows(jax.random.key(1), 5, SPEC)
    observed, jittered = gap.log_ratio(state.params, rows, jnp.zeros((2, 5, SPEC.obs_size)))
    l_sa = logits(state.params["sa"], inputs(rows)[:, :KNOWN])
    p_sa, p_sas = softmax(l_sa), softmax(logits(state.params["sas"], inputs(rows)) + l_sa)
    # log P_sim/P_real = log (1-D_sas)/D_sas - log (1-D_sa)/D_sa, D the probability of "real"
    sim_over_real = np.log(p_sas[:, 1] / p_sas[:, 0]) - np.log(p_sa[:, 1] / p_sa[:, 0])
    np.testing.assert_allclose(observed, -sim_over_real, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jittered, np.stack([observed] * 2), rtol=1e-4, atol=1e-5)


def test_jitter_moves_the_successor_alone(gap, state):
    rows = random_rows(jax.random.key(1), 5, SPEC)
    noise = jax.random.normal(jax.random.key(2), (3, 5, SPEC.obs_size))
    _, jittered = gap.log_ratio(state.params, rows, noise)
    for n in range(3):
        moved = logits(state.params["sas"], inputs(rows._replace(next_obs=rows.next_obs + noise[n])))
        np.testing.assert_allclose(jittered[n], moved[:, 0] - moved[:, 1], rtol=1e-4, atol=1e-5)


def test_the_residual_head_trains_both_networks(gap, state, key):
    """One update's gradient is that of both heads' loss, l_sa not stopped inside D_sas."""
    rows = random_rows(jax.random.key(1), 8, SPEC)
    real = jnp.arange(8) < 4
    moved, _ = jax.jit(gap.update)(state, rows, real, key)
    gradient = jax.tree.map(lambda m: 10 * m, moved.optimiser[0].mu)  # Adam's first moment is g / 10

    def loss(params):  # the same loss again, as sums of log-softmax
        noisy = jnp.concatenate([rows.obs, rows.action, rows.next_obs], axis=1)
        noisy += NOISE * jax.random.normal(key, noisy.shape)

        def out(p, x):
            for i in range(3):
                x = x @ p["params"][f"Dense_{i}"]["kernel"] + p["params"][f"Dense_{i}"]["bias"][None]
                x = jnp.maximum(x, 0) if i < 2 else x
            return 2 * jnp.tanh(x)

        l_sa = out(params["sa"], noisy[:, :KNOWN])
        heads = (l_sa, out(params["sas"], noisy) + l_sa)
        return -sum(jnp.mean(jax.nn.log_softmax(h)[i, j]) for h in heads for i, j in ((slice(4), 0), (slice(4, 8), 1)))

    expected = jax.jit(jax.grad(loss))(state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), gradient, expected)


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
