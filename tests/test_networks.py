"""Networks against numpy forward passes and the bounds of their initialisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import networks

O, A, B, H = 3, 2, 5, (7, 6)


def spread(tree, seed=0):
    """Parameters with an entry of order 1/2 everywhere, so that no layer is silent."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(x + 0.5 * rng.standard_normal(x.shape), jnp.float32), tree)


def mlp(params, x):
    """numpy: ReLU after all layers but the last."""
    layers = [params[f"Dense_{i}"] for i in range(len(params))]
    for i, layer in enumerate(layers):
        x = x @ np.float64(layer["kernel"]) + np.float64(layer["bias"])
        x = np.maximum(x, 0) if i + 1 < len(layers) else x
    return x


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(1)


def test_initial_bounds(key):
    params = networks.discriminator(O, (400, 300)).init(key)["params"]
    for name, fan_in in (("Dense_0", O), ("Dense_1", 400)):
        for leaf in params[name].values():
            assert np.max(np.abs(leaf)) <= fan_in**-0.5
            np.testing.assert_allclose(np.std(leaf), (3 * fan_in) ** -0.5, rtol=0.1)  # uniform
    last = params["Dense_2"]
    assert 0.9 * 1e-2 * (6 / 302) ** 0.5 < np.max(np.abs(last["kernel"])) <= 1e-2 * (6 / 302) ** 0.5
    np.testing.assert_array_equal(last["bias"], 0)


def test_actor_against_numpy(key, rng):
    net = networks.actor(O, A, H)
    params = spread(net.init(key))
    obs = rng.standard_normal((B, O)).astype(np.float32)
    mean, log_std = net.apply(params, obs)
    p = params["params"]
    out = mlp(p["MLP_0"], obs)
    np.testing.assert_allclose(mean, out[:, :A], rtol=1e-5, atol=1e-5)
    expected = np.float64(p["log_std_multiplier"]) * out[:, A:] + np.float64(p["log_std_offset"])
    np.testing.assert_allclose(log_std, np.clip(expected, -20, 2), rtol=1e-5, atol=1e-5)


def test_actor_starts_with_log_std_near_minus_one_and_clips_it(key):
    net = networks.actor(O, A, H)
    params = net.init(key)
    assert params["params"]["log_std_multiplier"] == 1
    np.testing.assert_allclose(net.apply(params, jnp.ones((1, O)))[1], -1, atol=0.05)
    for offset, bound in ((100.0, 2.0), (-100.0, -20.0)):
        params["params"]["log_std_offset"] = jnp.float32(offset)
        np.testing.assert_array_equal(net.apply(params, jnp.ones((1, O)))[1], bound)


def test_critics_against_numpy(key, rng):
    net = networks.critics(O, A, H)
    first = net.init(key)
    leaves = jax.tree.leaves(first)
    assert all(leaf.shape[0] == 2 for leaf in leaves)
    assert not np.array_equal(leaves[1][0], leaves[1][1])  # the members start apart
    params = spread(first)
    obs, action = (rng.standard_normal((B, n)).astype(np.float32) for n in (O, A))
    q = net.apply(params, obs, action)
    assert q.shape == (2, B)
    x = np.concatenate([obs, action], axis=1)
    for j in range(2):
        member = jax.tree.map(lambda leaf, j=j: leaf[j], params)
        np.testing.assert_allclose(q[j], mlp(member["params"], x)[:, 0], rtol=1e-4, atol=1e-5)


def test_discriminator_is_bounded_and_matches_numpy(key, rng):
    net = networks.discriminator(O, H)
    params = spread(net.init(key))
    x = rng.standard_normal((B, O)).astype(np.float32)
    np.testing.assert_allclose(net.apply(params, x), 2 * np.tanh(mlp(params["params"], x)), rtol=1e-4, atol=1e-5)
    assert np.max(np.abs(net.apply(params, 1e3 * x))) <= 2


@pytest.mark.parametrize("samples", [0, 4])
def test_noise_on_the_last_inputs_equals_noised_inputs(key, rng, samples):
    net = networks.discriminator(O, H)
    params = spread(net.init(key))
    x = rng.standard_normal((B, O)).astype(np.float32)
    noise = rng.standard_normal((samples, B, 2)).astype(np.float32)
    got = net.apply(params, x, noise)
    assert got.shape == (1 + samples, B, 2)
    np.testing.assert_allclose(got[0], net.apply(params, x), rtol=1e-4, atol=1e-5)
    for n in range(samples):
        noised = x + np.concatenate([np.zeros((B, 1), np.float32), noise[n]], axis=1)
        np.testing.assert_allclose(got[1 + n], net.apply(params, noised), rtol=1e-4, atol=1e-5)


def test_wrong_width_is_refused(key):
    net = networks.actor(O, A, H)
    with pytest.raises(AssertionError):
        net.apply(net.init(key), jnp.zeros((B, O + 1)))
