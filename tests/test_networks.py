"""Networks against numpy forward passes and the bounds of their initialisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import networks
from tests.oracles import ensemble_q, mlp, spread

O, A, B, H = 3, 2, 5, (7, 6)


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


@pytest.mark.parametrize(
    ("members", "hidden", "layer_norm"), [(2, H, "none"), (3, H, "before"), (1, (4, 5, 3), "after")]
)
def test_critics_against_numpy(rng, members, hidden, layer_norm):
    net = networks.critics(O, A, hidden, members, layer_norm)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    assert all(leaf.shape[0] == members for leaf in jax.tree.leaves(shapes))
    params = spread(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes))
    obs, action = (rng.standard_normal((B, n)).astype(np.float32) for n in (O, A))
    q = net.apply(params, obs, action)
    assert q.shape == (members, B)
    expected = ensemble_q(params, obs, action, layer_norm)
    np.testing.assert_allclose(q, expected, rtol=1e-4, atol=1e-5)
    some = jax.tree.map(lambda leaf: leaf[members - 1 :], params)  # as many members as are given
    np.testing.assert_allclose(net.apply(some, obs, action), expected[members - 1 :], rtol=1e-4, atol=1e-5)


def test_the_members_of_an_ensemble_start_apart(key):
    kernel, bias = (networks.critics(O, A, (4,)).init(key)["params"]["Dense_0"][name] for name in ("kernel", "bias"))
    assert not np.array_equal(kernel[0], kernel[1]) and not np.array_equal(bias[0], bias[1])


def test_orthogonal_start(key):
    """Hidden kernels W^T W = 2 on the shorter side, the last of norm 1/100, no bias; each member its own."""
    params = networks.critics(O, A, H, 2, orthogonal=True).init(key)["params"]
    for layer in params.values():
        np.testing.assert_array_equal(layer["bias"], 0)
    for j in range(2):
        wide, narrow, last = (np.float64(params[f"Dense_{i}"]["kernel"][j]) for i in range(3))  # [5, 7], [7, 6], [6, 1]
        np.testing.assert_allclose(wide @ wide.T, 2 * np.eye(O + A), atol=1e-5)
        np.testing.assert_allclose(narrow.T @ narrow, 2 * np.eye(6), atol=1e-5)
        np.testing.assert_allclose(last.T @ last, [[1e-4]], rtol=1e-4)
    assert not np.array_equal(params["Dense_0"]["kernel"][0], params["Dense_0"]["kernel"][1])


def test_discriminator_is_bounded_and_matches_numpy(key, rng):
    net = networks.discriminator(O, H)
    params = spread(net.init(key))
    x = rng.standard_normal((B, O)).astype(np.float32)
    np.testing.assert_allclose(net.apply(params, x), 2 * np.tanh(mlp(params["params"], x)), rtol=1e-4, atol=1e-5)
    assert np.max(np.abs(net.apply(params, 1e3 * x))) <= 2
    free = networks.discriminator(O, H, bound=None)
    np.testing.assert_allclose(free.apply(params, 1e3 * x), mlp(params["params"], 1e3 * x), rtol=1e-4)


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
