"""Networks that see scaled observations: trained and handed out as numpy says."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from hybrid_jax.algorithms import sac
from hybrid_jax.scaling import FLOOR, Moments, Scaling
from hybrid_jax.types import Batch, Spec
from tests import oracles

SPEC = Spec(obs_size=3, action_size=2, episode_length=10, dt=0.1)
MEAN, STD = np.array([40.0, -1.0, 0.0]), np.array([0.2, 3.0, 1.0])
MOMENTS = Moments(MEAN, STD - FLOOR, np.full(3, 9.0), np.full(3, 9.0))  # those of successors are not for this
PLAIN = sac.Config(batch_real=4, batch_sim=4, hidden=(6, 5), policy_average=0.5, actor_lr=1e-2, critic_lr=1e-2)
KEY = jax.random.key(2)


@pytest.fixture(scope="module")
def algorithm():
    return sac.make(replace(PLAIN, normalise_states=True), SPEC, MOMENTS)


@pytest.fixture(scope="module")
def seen():
    """Rows as the networks see them, and as the stores hold them."""
    rows = oracles.rows(8, SPEC)
    stored = (np.float32(MEAN + STD * np.float64(obs)) for obs in (rows.obs, rows.next_obs))
    return rows, rows._replace(obs=next(stored), next_obs=next(stored))


def test_moments_by_numpy():
    obs, following = np.random.default_rng(0).normal(3.0, 2.0, (2, 50, 4)).astype(np.float32)
    moments = Moments.of(obs, following)
    expected = [f(np.float64(x), axis=0) for x in (obs, following) for f in (np.mean, np.std)]
    np.testing.assert_allclose(moments, expected, rtol=1e-12)


def test_the_policy_handed_out_takes_plain_observations(algorithm, seen):
    state, (scaled, stored) = oracles.apart(algorithm), seen
    for params, folded in (
        (state.actor, algorithm.policy(state)),
        (state.averaged_actor, algorithm.deployed(state)),
    ):
        mode, _ = oracles.policy(params, np.float64(scaled.obs), 0.0)
        np.testing.assert_allclose(algorithm.act(folded, stored.obs), mode, rtol=1e-3, atol=1e-4)
        action, _ = oracles.policy(params, np.float64(scaled.obs), oracles.normal(KEY, 8, 2))
        np.testing.assert_allclose(algorithm.explore(folded, stored.obs, KEY), action, rtol=1e-3, atol=1e-4)
    rest = ("Dense_1", "Dense_2")  # only the first layer differs
    oracles.assert_same(*([p["params"]["MLP_0"][name] for name in rest] for p in (folded, state.averaged_actor)))


def test_training_on_stored_rows_is_training_on_scaled_ones(algorithm, seen):
    """Three updates, bit for bit the same learner but for the rounding of the observations."""
    plain = sac.make(PLAIN, SPEC)
    ours = theirs = oracles.apart(algorithm)
    update, plain_update = jax.jit(algorithm.update), jax.jit(plain.update)
    (scaled, stored), source = seen, plain.mix(KEY)
    for key in jax.random.split(KEY, 3):
        ours, told = update(ours, Batch(stored, source), key)
        theirs, expected = plain_update(theirs, Batch(scaled, source), key)
        for name, value in expected.items():
            np.testing.assert_allclose(told[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4),
        (ours.actor, ours.critics, ours.log_alpha),
        (theirs.actor, theirs.critics, theirs.log_alpha),
    )


def test_unwanted_it_changes_nothing(seen):
    scaling = Scaling.of(MOMENTS, False, SPEC.obs_size)
    assert scaling.rows(seen[0]) is seen[0] and scaling.fold(MOMENTS) is MOMENTS


@pytest.mark.parametrize(
    ("moments", "message"),
    [
        (None, "normalise_states needs the moments of a log of real data; give one, or leave it off"),
        (Moments(*np.ones((4, 4))), r"the moments are of \(4,\) numbers, the observation of \(3,\)"),
    ],
)
def test_it_needs_moments_of_the_same_observations(moments, message):
    with pytest.raises(ValueError, match=message):
        sac.make(replace(PLAIN, normalise_states=True), SPEC, moments)
