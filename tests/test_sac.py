"""SAC's update against numpy losses, its order against a recomputation, its answers on a known bandit."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import networks
from hybrid_jax.algorithms import sac
from hybrid_jax.types import Batch, Spec, Transition
from tests import oracles
from tests.oracles import policy

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
    return oracles.apart(algorithm)


@pytest.fixture(scope="module")
def batch(algorithm):
    return Batch(oracles.rows(8, SPEC), algorithm.mix(jax.random.key(2)))


@pytest.fixture(scope="module")
def updated(algorithm, state, batch):
    return jax.jit(algorithm.update)(state, batch, jax.random.key(7))


# numpy, float64 -----------------------------------------------------------------------------------


def numpy_losses(config, state, rows, key):
    rows = jax.tree.map(np.float64, rows)
    next_draw, draw = (oracles.normal(k, *rows.action.shape) for k in jax.random.split(key))
    y, reward_max = oracles.soft_target(config, state, rows, next_draw)
    q = oracles.ensemble_q(state.critics, rows.obs, rows.action)
    actor_loss, entropy = oracles.soft_policy_loss(state, state, rows, draw)
    return {
        "critic_loss": sum(np.mean((q[j] - y) ** 2) for j in range(2)),
        "actor_loss": actor_loss,
        "entropy": entropy,
        "temperature": np.exp(np.float64(state.log_alpha)),
        "q": q.mean(),
        "q_max": np.abs(q).max(),
        "reward_max": reward_max,
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
    new = updated[0]
    log_prob = -numpy_losses(CONFIG, state, batch.rows, jax.random.key(7))["entropy"]

    def loss(**change):
        return numpy_losses(CONFIG, state._replace(**change), batch.rows, jax.random.key(7))

    oracles.assert_follows(lambda p: loss(critics=p)["critic_loss"], state.critics, new.critic_optimiser[0].mu)
    oracles.assert_follows(lambda p: loss(actor=p)["actor_loss"], state.actor, new.actor_optimiser[0].mu)
    oracles.assert_follows(
        lambda log_alpha: -log_alpha * (log_prob - SPEC.action_size), state.log_alpha, new.temperature_optimiser[0].mu
    )


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
    oracles.assert_moved(new.target_critics, state.target_critics, new.critics, 0.1)
    oracles.assert_moved(new.averaged_actor, state.averaged_actor, new.actor, 0.2)


def test_policy_hands_out_the_average_or_the_live_weights(algorithm, state):
    assert algorithm.deployed(state) is state.averaged_actor and algorithm.policy(state) is state.actor
    plain = sac.make(replace(CONFIG, policy_average=0.0), SPEC)
    assert plain.deployed(state) is state.actor


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
