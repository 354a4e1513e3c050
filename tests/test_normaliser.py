"""The running normaliser against numpy, and the plain actor that it is folded into against the normalised one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import networks, normaliser
from hybrid_jax.export import NumpyPolicy
from tests import oracles

SCALE = np.float32([1.0, 1e-4, 30.0, 500.0, 0.0])  # the second is below the floor, the fourth beyond the bound
SHIFT = np.float32([0.0, 1.0, -40.0, 100.0, 2.0])


def drawn(rows, seed=0):
    return SHIFT + SCALE * np.random.default_rng(seed).standard_normal((rows, 5), np.float32)


@pytest.fixture(scope="module")
def seen():
    """Statistics of three batches of different sizes, in another order than that of `drawn`."""
    batches = np.split(drawn(700), [100, 300])
    state = normaliser.init(5)
    for batch in (batches[2], batches[0], batches[1]):
        state = jax.jit(normaliser.observe)(state, batch)
    return state


def expected(obs):
    """x of `normaliser`'s head in float64, with the moments of all rows at once."""
    rows = np.clip(np.float64(drawn(700)), -200, 200)
    mean, std = rows.mean(axis=0), np.maximum(rows.std(axis=0), 0.01)
    return np.clip((np.clip(np.float64(obs), -200, 200) - mean) / std, -5, 5), mean, std


def test_statistics_are_those_of_all_rows_at_once(seen):
    _, mean, std = expected(drawn(1))
    assert seen.count == 700 and std[1] == std[4] == 0.01 and std[3] < 200
    np.testing.assert_allclose(seen.mean, mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.maximum(np.sqrt(seen.variance), 0.01), std, rtol=1e-4)


def test_rows_that_do_not_count_leave_no_trace(seen):
    obs, valid = jnp.asarray(drawn(40, 3)), jnp.arange(40) < 25
    spoilt = jnp.where(valid[:, None], obs, jnp.nan)
    some = jax.jit(normaliser.observe)(seen, spoilt, valid)
    alone = normaliser.observe(seen, obs[:25])
    for name in ("count", "mean", "variance"):
        np.testing.assert_allclose(getattr(some, name), getattr(alone, name), rtol=1e-4, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, normaliser.observe(seen, spoilt, jnp.zeros(40, bool)), seen)
    start = normaliser.init(5)
    jax.tree.map(np.testing.assert_array_equal, normaliser.observe(start, spoilt, jnp.zeros(40, bool)), start)


def test_the_first_batch_forgets_the_start():
    one = normaliser.observe(normaliser.init(5), jnp.asarray(drawn(3)))
    np.testing.assert_allclose(one.variance, np.clip(drawn(3), -200, 200).var(axis=0), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(normaliser.normalise(normaliser.init(5), jnp.full((1, 5), 3.0)), 3.0)


def test_normalised_and_bounded_against_numpy(seen):
    obs = np.concatenate([drawn(50, 1), SHIFT + 40 * drawn(50, 2)])
    x, *_ = expected(obs)
    assert np.any(x == 5) and np.any(x == -5) and np.any(np.abs(x) < 1)
    np.testing.assert_allclose(normaliser.normalise(seen, obs), x, rtol=1e-3, atol=1e-3)


def test_a_deeper_actor_for_plain_observations_is_the_normalised_one(seen):
    shallow, deep = (networks.actor(5, 2, hidden) for hidden in ((8, 6), (10, 8, 6)))
    params = oracles.spread(shallow.init(jax.random.key(0)))
    folded = normaliser.fold(seen, params)
    obs = np.concatenate([drawn(50, 1), SHIFT + 40 * drawn(50, 2)])
    mean, log_std = shallow.apply(params, normaliser.normalise(seen, obs))
    for got, wanted in zip(deep.apply(folded, obs), (mean, log_std), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(NumpyPolicy.from_params(folded)(obs), np.tanh(mean), atol=1e-3)


def test_a_fold_keeps_the_axis_of_the_seeds(seen):
    stack = lambda *leaves: jnp.stack(leaves)  # noqa: E731
    params = [oracles.spread(networks.actor(5, 2, (8, 6)).init(jax.random.key(0)), seed) for seed in (1, 2)]
    stats = [seen, normaliser.observe(seen, 3 * jnp.asarray(drawn(40)))]
    together = normaliser.fold(jax.tree.map(stack, *stats), jax.tree.map(stack, *params))
    alone = [normaliser.fold(*pair) for pair in zip(stats, params, strict=True)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), together, jax.tree.map(stack, *alone))
