"""SAC's update against numpy losses, its order against a recomputation, its answers on a known bandit."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import networks
from hybrid_jax.algorithms import sac
from hybrid_jax.testing import random_rows
from hybrid_jax.types import Batch, Spec, Transition
from tests.oracles import policy, spread, twin_q

SPEC = Spec(obs_size=3, action_size=2, episode_length=10, dt=0.1)
CONFIG = sac.Config(
    batch_real=4, batch_sim=4, hidden=(7, 6), reward_scale=0.5, discount=0.9, initial_temperature=0.3, tau=0.1,
    actor_lr=1e-2, critic_lr=2e-2, temperature_lr=3e-2, policy_average=0.8,
)  # fmt: skip


@pytest.fixture(scope="module")
def algorithm():
    return sac.make(CONFIG, SPEC)


@pytest.fixture(scope="module")
def state(algorithm):
    """Critics and targets differ, nothing is silent."""
    state = jax.jit(algorithm.init)(jax.random.key(0))
    return state._replace(
        actor=spread(state.actor, 1), critics=spread(state.critics, 2), target_critics=spread(state.critics, 3)
    )


@pytest.fixture(scope="module")
def batch(algorithm):
    return Batch(random_rows(jax.random.key(1), 8, SPEC), algorithm.mix(jax.random.key(2)))


@pytest.fixture(scope="module")
def updated(algorithm, state, batch):
    return jax.jit(algorithm.update)(state, batch, jax.random.key(7))


# numpy, float64 -----------------------------------------------------------------------------------


def draws(key, rows):
    """The update's two normal draws: for a' at s', for a at s."""
    return [np.float64(jax.random.normal(k, (rows, SPEC.action_size))) for k in jax.random.split(key)]


def numpy_losses(config, state, rows, key):
    rows = jax.tree.map(np.float64, rows)
    next_draw, draw = draws(key, rows.reward.shape[0])
    alpha = np.exp(np.float64(state.log_alpha))
    next_action, next_log_prob = policy(state.actor, rows.next_obs, next_draw)
    value = twin_q(state.target_critics, rows.next_obs, next_action).min(axis=0)
    value = value - config.entropy_in_backup * alpha * next_log_prob
    y = config.reward_scale * rows.reward + config.discount * rows.discount * value
    q = twin_q(state.critics, rows.obs, rows.action)
    action, log_prob = policy(state.actor, rows.obs, draw)
    min_q = twin_q(state.critics, rows.obs, action).min(axis=0)
    return {
        "critic_loss": sum(np.mean((q[j] - y) ** 2) for j in range(2)),
        "actor_loss": np.mean(alpha * log_prob - min_q),
        "entropy": -np.mean(log_prob),
        "temperature": alpha,
        "q": q.mean(),
        "q_max": np.abs(q).max(),
        "reward_max": np.max(
            np.abs(config.reward_scale * rows.reward) + config.entropy_in_backup * alpha * np.abs(next_log_prob)
        ),
    }


def test_losses_against_numpy(state, batch, updated):
    for name, expected in numpy_losses(CONFIG, state, batch.rows, jax.random.key(7)).items():
        np.testing.assert_allclose(updated[1][name], expected, rtol=1e-5, atol=1e-5, err_msg=name)


def test_entropy_leaves_the_backup(state, batch):
    config = replace(CONFIG, entropy_in_backup=False)
    _, metrics = jax.jit(sac.make(config, SPEC).update)(state, batch, jax.random.key(7))
    expected = numpy_losses(config, state, batch.rows, jax.random.key(7))
    with_entropy = numpy_losses(CONFIG, state, batch.rows, jax.random.key(7))
    for name in ("critic_loss", "reward_max"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5)
        assert abs(expected[name] - with_entropy[name]) > 1e-3  # the comparison can fail


# order of one update ------------------------------------------------------------------------------


def test_gradients_are_taken_at_the_old_state(state, batch, updated):
    """Central differences of the numpy losses, everything old, along a random direction of each tree."""
    new = updated[0]
    log_prob = -numpy_losses(CONFIG, state, batch.rows, jax.random.key(7))["entropy"]

    def named(name):
        return lambda state: numpy_losses(CONFIG, state, batch.rows, jax.random.key(7))[name]

    losses_and_moments = {
        "actor": (named("actor_loss"), new.actor_optimiser),
        "critics": (named("critic_loss"), new.critic_optimiser),
        "log_alpha": (lambda s: -s.log_alpha * (log_prob - SPEC.action_size), new.temperature_optimiser),
    }
    rng = np.random.default_rng(0)
    for name, (loss, optimiser) in losses_and_moments.items():
        old = jax.tree.map(np.float64, getattr(state, name))
        way = jax.tree.map(lambda x: rng.standard_normal(np.shape(x)), old)
        ahead, behind = (jax.tree.map(lambda x, d, e=e: x + e * d, old, way) for e in (1e-6, -1e-6))
        expected = (loss(state._replace(**{name: ahead})) - loss(state._replace(**{name: behind}))) / 2e-6
        gradient = jax.tree.map(lambda m: 10 * np.float64(m), optimiser[0].mu)  # Adam's first moment is g/10
        slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: np.sum(g * d), gradient, way)))
        np.testing.assert_allclose(slope, expected, rtol=1e-3, atol=1e-5, err_msg=name)


def test_steps_then_polyak_then_average(state, updated):
    """Adam's first step is lr g / (|g| + eps); targets follow the NEW critics, the average the NEW actor."""
    new = updated[0]

    def stepped(old, lr, moment):
        return jax.tree.map(lambda p, m: p - lr * 10 * m / (np.abs(10 * m) + 1e-8), old, moment)

    def close(got, expected):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, expected)

    close(new.actor, stepped(state.actor, 1e-2, new.actor_optimiser[0].mu))
    close(new.critics, stepped(state.critics, 2e-2, new.critic_optimiser[0].mu))
    close(new.log_alpha, stepped(state.log_alpha, 3e-2, new.temperature_optimiser[0].mu))
    close(new.target_critics, jax.tree.map(lambda t, q: 0.9 * t + 0.1 * q, state.target_critics, new.critics))
    close(new.averaged_actor, jax.tree.map(lambda a, p: 0.8 * a + 0.2 * p, state.averaged_actor, new.actor))


def test_policy_hands_out_the_average_or_the_live_weights(algorithm, state):
    assert algorithm.deployed(state) is state.averaged_actor and algorithm.policy(state) is state.actor
    plain = sac.make(replace(CONFIG, policy_average=0.0), SPEC)
    assert plain.deployed(state) is state.actor
    assert jax.eval_shape(plain.init, jax.random.key(0)).averaged_actor == ()


def test_acting_against_numpy(algorithm, state):
    obs, key = np.float32(np.random.default_rng(4).standard_normal((5, 3))), jax.random.key(3)
    mean, _ = policy(state.actor, obs, 0.0)
    np.testing.assert_allclose(algorithm.act(state.actor, obs), mean, rtol=1e-4, atol=1e-5)
    action, _ = policy(state.actor, obs, np.float64(jax.random.normal(key, (5, 2))))
    np.testing.assert_allclose(algorithm.explore(state.actor, obs, key), action, rtol=1e-4, atol=1e-5)


def test_mix_counts_the_rows_of_each_store(algorithm):
    np.testing.assert_array_equal(np.bincount(algorithm.mix(jax.random.key(0))), [4, 4])
    sim_only = sac.make(sac.Config(), SPEC).mix(jax.random.key(0))
    np.testing.assert_array_equal(np.bincount(sim_only), [0, 256])


def test_bandit_with_a_known_answer():
    """Terminal rows with reward 1 - (a - s)^2: Q is that reward, the best action is s."""
    spec = Spec(1, 1, 1, 0.1)
    config = sac.Config(
        batch_sim=64, hidden=(32, 32), actor_lr=3e-3, critic_lr=3e-3, temperature_lr=3e-3, target_entropy=-2.0
    )
    algorithm = sac.make(config, spec)

    def step(state, key):
        obs_key, action_key, update_key = jax.random.split(key, 3)
        obs = jax.random.uniform(obs_key, (64, 1), minval=-0.5, maxval=0.5)
        action = jax.random.uniform(action_key, (64, 1), minval=-1, maxval=1)
        reward = 1 - jnp.square(action - obs)[:, 0]
        rows = Transition(obs, action, reward, jnp.zeros(64), obs)
        return algorithm.update(state, Batch(rows, jnp.ones(64, jnp.int32)), update_key)

    run = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys)[0])
    state = run(algorithm.init(jax.random.key(0)), jax.random.split(jax.random.key(1), 1000))
    obs = jnp.linspace(-0.4, 0.4, 5)[:, None]
    np.testing.assert_allclose(algorithm.act(algorithm.policy(state), obs), obs, atol=0.15)
    q = networks.critics(1, 1, config.hidden).apply(state.critics, obs, -obs)
    np.testing.assert_allclose(q, np.stack([1 - 4 * np.square(obs[:, 0])] * 2), atol=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_real": 0, "batch_sim": 0}, "batch_real is 0 and batch_sim is 0"),
        ({"batch_sim": -1}, "batch_sim is -1"),
        ({"hidden": ()}, r"hidden is \(\)"),
        ({"initial_temperature": 0.0}, "initial_temperature is 0.0"),
        ({"discount": 1.5}, "discount is 1.5"),
        ({"policy_average": 1.0}, "policy_average is 1.0"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        sac.make(replace(CONFIG, **change), SPEC)
