"""RLPD's updates against numpy, and its target against the expected minimum of a known ensemble."""

from dataclasses import replace
from itertools import combinations, pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax.algorithms import rlpd
from hybrid_jax.types import Batch, Spec, Transition
from tests import oracles

SPEC = Spec(obs_size=3, action_size=2, episode_length=10, dt=0.1)
CONFIG = rlpd.Config(
    batch_real=4, batch_sim=4, hidden=(6,), critics=4, actor_period=3, reward_scale=0.5, discount=0.9, tau=0.1,
    actor_lr=1e-2, critic_lr=1e-2, temperature_lr=1e-2, initial_temperature=0.3,
)  # fmt: skip
KEYS = jax.random.split(jax.random.key(7), 7)


@pytest.fixture(scope="module")
def updates():
    """The states before and after each of seven updates, and their metrics."""
    algorithm = rlpd.make(CONFIG, SPEC)
    update, rows = jax.jit(algorithm.update), oracles.rows(8, SPEC)
    states, metrics = [oracles.apart(algorithm)], []
    for key in KEYS:
        state, told = update(states[-1], Batch(rows, algorithm.mix(key)), key)
        states.append(state)
        metrics.append(told)
    return rows, states, metrics


def subset(key):
    """The update's own draw of two members."""
    target_key = jax.random.split(key)[0]
    return np.asarray(jax.random.choice(jax.random.fold_in(target_key, 2), 4, (2,), replace=False))


def numpy_critic_loss(state, rows, key, members):
    rows = jax.tree.map(np.float64, rows)
    draw = oracles.normal(jax.random.split(key)[0], *rows.action.shape)
    y, reward_max = oracles.soft_target(CONFIG, state, rows, draw, "before", members)
    q = oracles.ensemble_q(state.critics, rows.obs, rows.action, "before")
    return np.sum(np.mean((q - y) ** 2, axis=1)), reward_max, q


def numpy_policy_loss(state, judge, rows, key):
    """The policy climbs the mean of all members."""
    rows = jax.tree.map(np.float64, rows)
    draw = oracles.normal(jax.random.split(key)[1], *rows.action.shape)
    return oracles.soft_policy_loss(state, judge, rows, draw, "before", np.mean)


def test_critics_against_numpy(updates):
    """LayerNorm before the ReLU; the target is the smallest of two members drawn anew each time."""
    rows, states, metrics = updates
    for state, told, key in zip(states, metrics, KEYS, strict=False):
        loss, reward_max, q = numpy_critic_loss(state, rows, key, subset(key))
        expected = {"critic_loss": loss, "reward_max": reward_max, "q": q.mean(), "q_max": np.abs(q).max()}
        for name, value in expected.items():
            np.testing.assert_allclose(told[name], value, rtol=2e-5, err_msg=name)
        others = [numpy_critic_loss(state, rows, key, list(pair))[0] for pair in combinations(range(4), 2)]
        assert np.sum(np.isclose(others, loss, rtol=1e-4)) == 1  # no other pair would do
    assert len({frozenset(subset(key)) for key in KEYS}) > 2
    oracles.assert_follows(
        lambda p: numpy_critic_loss(states[0]._replace(critics=p), rows, KEYS[0], subset(KEYS[0]))[0],
        states[0].critics, states[1].critic_optimiser[0].mu,
    )  # fmt: skip


def test_policy_and_temperature_move_at_every_third_update_alone(updates):
    _, states, metrics = updates
    for i, (old, new) in enumerate(pairwise(states), start=1):
        for name in ("actor", "actor_optimiser", "log_alpha", "temperature_optimiser"):
            pairs = zip(jax.tree.leaves(getattr(old, name)), jax.tree.leaves(getattr(new, name)), strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs) == (i % 3 != 0), (name, i)
        np.testing.assert_allclose(metrics[i - 1]["temperature"], np.exp(old.log_alpha), rtol=1e-6)
    told = [float(each["actor_loss"]) for each in metrics]
    assert told[:2] == [0, 0] and told[2] == told[3] == told[4] != told[5] == told[6]  # those of the newest one


def test_the_policy_is_judged_by_the_new_critics(updates):
    rows, states, metrics = updates
    old, new = states[2], states[3]
    judge = old._replace(critics=new.critics)
    fresh, entropy = numpy_policy_loss(old, judge, rows, KEYS[2])
    stale, _ = numpy_policy_loss(old, old, rows, KEYS[2])
    assert abs(fresh - stale) > 1e-3
    np.testing.assert_allclose(metrics[2]["actor_loss"], fresh, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(metrics[2]["entropy"], entropy, rtol=2e-5, atol=1e-5)
    oracles.assert_follows(
        lambda p: numpy_policy_loss(old._replace(actor=p), judge, rows, KEYS[2])[0],
        old.actor, new.actor_optimiser[0].mu,
    )  # fmt: skip
    slope = entropy + SPEC.action_size / 2  # of log alpha: the target entropy is half of SAC's
    np.testing.assert_allclose(10 * new.temperature_optimiser[0].mu, slope, rtol=1e-4)


def test_targets_follow_at_every_update(updates):
    _, states, _ = updates
    for old, new in pairwise(states):
        oracles.assert_moved(new.target_critics, old.target_critics, new.critics, 0.1)


# targets that are constants ------------------------------------------------------------------------------------

CHAIN = rlpd.Config(
    batch_real=8, batch_sim=8, hidden=(8,), critics=5, entropy_in_backup=False, discount=0.8, critic_lr=3e-3, tau=1e-9
)


@pytest.fixture(scope="module")
def chain():
    """1,200 updates with targets that say 0, 1, 2, 3 and 4 everywhere; half the rows end, each pays 1/2."""
    algorithm = rlpd.make(CHAIN, Spec(1, 1, 9, 0.1))
    obs = jnp.repeat(jnp.array([-1.0, 1.0]), 8)[:, None]
    rows = Transition(obs, 0 * obs, jnp.full(16, 0.5), (obs[:, 0] > 0).astype(jnp.float32), obs)
    state = oracles.start(algorithm)
    silent = jax.tree.map(np.zeros_like, state.target_critics)
    silent["params"]["Dense_1"]["bias"] = np.arange(5, dtype=np.float32)[:, None]

    def draw(key):
        return Batch(rows, algorithm.mix(key))

    return oracles.runner(algorithm, draw, 1200)(state._replace(target_critics=silent))[1]


def test_its_target_is_the_expected_minimum_of_two(chain):
    """Of 0 to 4 the smaller of a random pair is 1 on average; the smallest is 0, the mean 2."""
    expected = np.mean([min(pair) for pair in combinations(range(5), 2)])
    assert expected == 1
    q = np.mean(chain["q"][400:])
    np.testing.assert_allclose(q, 0.5 + 0.8 * expected / 2, atol=0.05)  # over rows that end and rows that do not


def test_the_policy_moves_once_in_twenty_updates(chain):
    moved = 1 + np.flatnonzero(np.diff(np.asarray(chain["actor_loss"]), prepend=0))
    np.testing.assert_array_equal(moved, np.arange(20, 1201, 20))


def test_defaults_of_the_paper():
    config = rlpd.Config()
    np.testing.assert_array_equal(np.bincount(rlpd.make(config, SPEC).mix(KEYS[0])), [128, 128])
    assert (config.critics, config.target_critics, config.layer_norm, config.actor_period) == (10, 2, "before", 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_critics": 0}, "target_critics is 0; give 1 to 4, as critics has it"),
        ({"target_critics": 5}, "target_critics is 5; give 1 to 4, as critics has it"),
        ({"critics": 0}, "critics is 0; give at least 1"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        rlpd.make(replace(CONFIG, **change), SPEC)
