"""ReBRAC's updates against numpy, and its two ends: a clone of the log, and the best action."""

from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax.algorithms import rebrac
from hybrid_jax.types import Batch, Spec, Transition
from tests import oracles

SPEC = Spec(obs_size=3, action_size=2, episode_length=10, dt=0.1)
CONFIG = rebrac.Config(
    batch_real=8, hidden=(6,), actor_penalty=0.3, critic_penalty=0.7, target_noise=1.0, target_noise_clip=0.6,
    exploration_noise=0.4, reward_scale=0.5, discount=0.9, tau=0.1, actor_lr=1e-2, critic_lr=1e-2,
)  # fmt: skip
KEYS = jax.random.split(jax.random.key(7), 5)


@pytest.fixture(scope="module")
def algorithm():
    return rebrac.make(CONFIG, SPEC)


@pytest.fixture(scope="module")
def rows(algorithm):
    rows = oracles.rows(8, SPEC, algorithm.extras)
    known = np.float32(rows.extras["next_action_known"] > 0)
    assert 0 < known.mean() < 1
    return rows._replace(extras=rows.extras | {"next_action_known": known})


@pytest.fixture(scope="module")
def updates(algorithm, rows):
    """The states before and after each of five updates, and their metrics."""
    update = jax.jit(algorithm.update)
    states, metrics = [oracles.apart(algorithm)], []
    for key in KEYS:
        state, told = update(states[-1], Batch(rows, algorithm.mix(key)), key)
        states.append(state)
        metrics.append(told)
    return states, metrics


def numpy_target(state, rows, key):
    """y [B], the penalty [B] in it and a' [B, A]: the target policy's, with bounded noise; the smaller critic."""
    rows = jax.tree.map(np.float64, rows)
    mode, _ = oracles.policy(state.target_actor, rows.next_obs, 0.0)
    noise = np.clip(1.0 * oracles.normal(jax.random.split(key)[0], *rows.action.shape), -0.6, 0.6)
    action = np.clip(mode + noise, -1, 1)
    away = np.sum((action - rows.extras["next_action"]) ** 2, axis=1)
    penalty = 0.7 * away * rows.extras["next_action_known"]
    value = oracles.ensemble_q(state.target_critics, rows.next_obs, action, "after").min(axis=0) - penalty
    return 0.5 * rows.reward + 0.9 * rows.discount * value, penalty, action


def numpy_critic_loss(state, rows, y):
    q = oracles.ensemble_q(state.critics, np.float64(rows.obs), np.float64(rows.action), "after")
    return np.sum(np.mean((q - y) ** 2, axis=1))


def numpy_policy_loss(actor, critics, rows, scale=None):
    """The loss and 1 / mean |Q|, which carries no gradient: a difference keeps the one that it is given."""
    action, _ = oracles.policy(actor, np.float64(rows.obs), 0.0)
    q = oracles.ensemble_q(critics, np.float64(rows.obs), action, "after").min(axis=0)
    scale = 1 / np.mean(np.abs(q)) if scale is None else scale
    return np.mean(0.3 * np.sum((action - np.float64(rows.action)) ** 2, axis=1) - scale * q), scale


def test_critics_against_numpy(rows, updates):
    states, metrics = updates
    proposed = []
    for state, told, key in zip(states, metrics, KEYS, strict=False):
        y, penalty, action = numpy_target(state, rows, key)
        proposed.append(action)
        np.testing.assert_allclose(told["critic_loss"], numpy_critic_loss(state, rows, y), rtol=2e-5)
        largest = np.max(np.abs(0.5 * np.float64(rows.reward)) + penalty)
        np.testing.assert_allclose(told["reward_max"], largest, rtol=1e-5)
    assert np.any(np.abs(proposed) == 1)  # the bound binds
    y, *_ = numpy_target(states[0], rows, KEYS[0])
    oracles.assert_follows(
        lambda p: numpy_critic_loss(states[0]._replace(critics=p), rows, y),
        states[0].critics, states[1].critic_optimiser[0].mu,
    )  # fmt: skip


def test_policy_and_targets_move_at_every_second_update_alone(updates):
    states, metrics = updates
    for i, (old, new) in enumerate(pairwise(states), start=1):
        if i % 2:
            for name in ("actor", "target_actor", "target_critics", "actor_optimiser"):
                oracles.assert_same(getattr(new, name), getattr(old, name))
        else:
            oracles.assert_moved(new.target_critics, old.target_critics, new.critics, 0.1)
            oracles.assert_moved(new.target_actor, old.target_actor, new.actor, 0.1)
        assert new.log_alpha == old.log_alpha  # it has no temperature
    told = [float(each["actor_loss"]) for each in metrics]
    assert told[0] == 0 and told[1] == told[2] != told[3] == told[4]


def test_policy_against_numpy(rows, updates):
    """It climbs the smaller of the new critics, in units of mean |Q|, and is drawn to the logged actions."""
    states, metrics = updates
    old, new = states[1], states[2]
    expected, scale = numpy_policy_loss(old.actor, new.critics, rows)
    np.testing.assert_allclose(metrics[1]["actor_loss"], expected, rtol=2e-5, atol=1e-5)
    assert abs(expected - numpy_policy_loss(old.actor, old.critics, rows)[0]) > 1e-3
    oracles.assert_follows(
        lambda p: numpy_policy_loss(p, new.critics, rows, scale)[0], old.actor, new.actor_optimiser[0].mu
    )


def test_it_acts_without_chance_and_explores_with_bounded_noise(algorithm, updates):
    state, obs = updates[0][0], oracles.rows(5, SPEC).obs
    mode, _ = oracles.policy(state.actor, obs, 0.0)
    params = algorithm.policy(state)
    np.testing.assert_allclose(algorithm.act(params, obs), mode, rtol=1e-4, atol=1e-5)
    expected = np.clip(mode + 0.4 * oracles.normal(jax.random.split(KEYS[0], 3)[0], 5, 2), -1, 1)
    assert np.any(np.abs(expected) == 1)
    np.testing.assert_allclose(algorithm.explore(params, obs, KEYS[0]), expected, rtol=1e-4, atol=1e-5)
    assert algorithm.deployed(state) is state.actor  # the average is the target alone


def test_it_asks_for_real_rows_with_their_next_action(algorithm):
    np.testing.assert_array_equal(np.bincount(rebrac.make(rebrac.Config(), SPEC).mix(KEYS[0])), [1024])
    assert dict(algorithm.extras) == {"next_action": (2,), "next_action_known": ()}


# a bandit with reward 1 - (a - s)^2 whose log takes -s on average ------------------------------------------------


def draw(key):
    keys = jax.random.split(key, 3)
    obs = jax.random.uniform(keys[0], (64, 1), minval=-0.5, maxval=0.5)
    anywhere = jax.random.uniform(keys[1], (64, 1), minval=-1.0, maxval=1.0)
    action = jnp.where(jax.random.bernoulli(keys[2], 0.5, (64, 1)), anywhere, -2 * obs)
    reward = 1 - jnp.square(action - obs)[:, 0]
    extras = {"next_action": action, "next_action_known": jnp.zeros(64)}
    return Batch(Transition(obs, action, reward, jnp.zeros(64), obs, extras), jnp.zeros(64, jnp.int32))


@pytest.mark.parametrize(("penalty", "slope"), [(100.0, -1.0), (0.0, 1.0)])
def test_it_clones_the_log_or_climbs_to_the_best_action(penalty, slope):
    config = rebrac.Config(batch_real=64, hidden=(32,), actor_penalty=penalty, actor_lr=1e-2, critic_lr=1e-2)
    algorithm = rebrac.make(config, Spec(1, 1, 1, 0.1))
    state, _ = oracles.runner(algorithm, draw, 1200)(oracles.start(algorithm))
    obs = jnp.linspace(-0.4, 0.4, 5)[:, None]
    np.testing.assert_allclose(algorithm.act(algorithm.policy(state), obs), slope * obs, atol=0.15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_sim": 8}, "batch_sim is 8; ReBRAC needs each row's next logged action, give 0"),
        ({"temperature_lr": 1e-3}, "temperature_lr is 0.001 and entropy_in_backup is False; ReBRAC's policy"),
        ({"entropy_in_backup": True}, "entropy_in_backup is True; ReBRAC's policy is deterministic, give 0 and False"),
        ({"tau": 1.5}, r"tau is 1.5; give a number in \(0, 1\]"),
        ({"batch_real": 0}, "batch_real is 0 and batch_sim is 0"),
        ({"critics": 0}, "critics is 0; give at least 1"),
        *(
            ({name: -0.1}, f"{name} is -0.1; give at least 0")
            for name in ("actor_penalty", "critic_penalty", "target_noise", "target_noise_clip", "exploration_noise")
        ),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        rebrac.make(replace(CONFIG, **change), SPEC)
