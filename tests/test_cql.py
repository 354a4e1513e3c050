"""CQL's update against numpy, and its values against the fixed point of its loss on a bandit."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import networks
from hybrid_jax.algorithms import cql
from hybrid_jax.scaling import Moments
from hybrid_jax.types import Batch, Spec, Transition
from tests import oracles

SPEC = Spec(obs_size=3, action_size=2, episode_length=10, dt=0.1)
CONFIG = cql.Config(
    batch_real=6, hidden=(6,), critics=3, layer_norm="before", penalty_weight=1.5, penalty_actions=3,
    penalty_temperature=0.7, reward_scale=0.5, discount=0.9, tau=0.1,
)  # fmt: skip
KEY = jax.random.key(7)


def numpy_proposals(config, state, rows, key):
    """Actions [3 N, B, A] and log densities [3 N, B], of the three kinds in turn."""
    uniform_key, here_key, next_key = jax.random.split(jax.random.fold_in(key, 1), 3)
    shape = (config.penalty_actions, *rows.action.shape)
    actions = [np.float64(jax.random.uniform(uniform_key, shape, minval=-1.0, maxval=1.0))]
    densities = [np.full(shape[:2], np.log(0.5) * shape[2])]
    for k, obs in ((here_key, rows.obs), (next_key, rows.next_obs)):
        action, log_prob = oracles.policy(state.actor, obs, oracles.normal(k, *shape))
        actions.append(action)
        densities.append(log_prob)
    return np.concatenate(actions), np.concatenate(densities)


def numpy_losses(config, state, rows, key):
    rows = jax.tree.map(np.float64, rows)
    target_key, action_key = jax.random.split(key)
    next_draw, draw = (oracles.normal(k, *rows.action.shape) for k in (target_key, action_key))
    y, reward_max = oracles.soft_target(config, state, rows, next_draw, config.layer_norm)
    actions, densities = numpy_proposals(config, state, rows, target_key)
    q = oracles.ensemble_q(state.critics, rows.obs, rows.action, config.layer_norm)
    obs = np.broadcast_to(rows.obs, (*densities.shape, SPEC.obs_size))  # all are valued at s
    t, proposed = config.penalty_temperature, oracles.ensemble_q(state.critics, obs, actions, config.layer_norm)
    pushed = t * np.log(np.sum(np.exp((proposed - densities) / t), axis=1))
    actor_loss, entropy = oracles.soft_policy_loss(state, state, rows, draw, config.layer_norm)
    return {
        "critic_loss": np.sum(np.mean((q - y) ** 2 + config.penalty_weight * (pushed - q), axis=1)),
        "penalty": np.mean(pushed - q), "q": q.mean(), "q_max": np.abs(q).max(), "reward_max": reward_max,
        "actor_loss": actor_loss, "entropy": entropy,
    }  # fmt: skip


def test_one_update_against_numpy():
    """The losses; the gradients of both networks, each by its own loss alone: none runs from penalty to policy."""
    algorithm = cql.make(CONFIG, SPEC)
    state = oracles.apart(algorithm)
    rows = oracles.rows(6, SPEC)
    new, metrics = jax.jit(algorithm.update)(state, Batch(rows, algorithm.mix(KEY)), KEY)
    for name, expected in numpy_losses(CONFIG, state, rows, KEY).items():
        np.testing.assert_allclose(metrics[name], expected, rtol=2e-5, atol=1e-5, err_msg=name)

    def loss(**change):
        return numpy_losses(CONFIG, state._replace(**change), rows, KEY)

    # a difference in the critics leaves the policy's actions and log densities where they are
    oracles.assert_follows(lambda p: loss(critics=p)["critic_loss"], state.critics, new.critic_optimiser[0].mu)
    oracles.assert_follows(lambda p: loss(actor=p)["actor_loss"], state.actor, new.actor_optimiser[0].mu)


def test_it_draws_real_rows_alone():
    moments = Moments(*np.ones((4, SPEC.obs_size)))
    for config in (cql.Config(), cql.tuned()):
        np.testing.assert_array_equal(np.bincount(cql.make(config, SPEC, moments).mix(KEY)), [256])


# a bandit whose log takes one side more often -----------------------------------------------------------------

BANDIT = cql.Config(
    batch_real=64, hidden=(32,), penalty_weight=1.0, penalty_actions=6, actor_lr=1e-2, critic_lr=5e-3,
    temperature_lr=0.0,
)  # fmt: skip


def fixed_point():
    """Q on GRID that minimises E_b[Q^2] + weight (log int exp Q - E_b[Q]), b lopsided: all rewards are 0."""
    q = np.zeros_like(oracles.GRID)
    for _ in range(2000):
        share = np.exp(q) / oracles.integral(np.exp(q))
        q -= 0.1 * (2 * oracles.LOPSIDED * q + BANDIT.penalty_weight * (share - oracles.LOPSIDED))
    return q


def draw(key, narrow):
    """Along s = +-1: actions are lopsided and no reward, or all close to 1/2 and more reward beyond."""
    side_key, action_key = jax.random.split(key)
    side = jax.random.rademacher(side_key, (64, 1), jnp.float32)
    along = oracles.lopsided(action_key, 64)
    along = jnp.where(narrow, 0.5 + 0.05 * along, along)
    rows = Transition(side, side * along, narrow * along[:, 0], jnp.zeros(64), jnp.zeros((64, 1)))
    return Batch(rows, jnp.zeros(64, jnp.int32))


@pytest.fixture(scope="module")
def bandit():
    algorithm = cql.make(BANDIT, Spec(1, 1, 1, 0.1))
    return algorithm, oracles.runner(algorithm, draw, 1000)


def test_rarely_taken_actions_lie_below_by_what_the_fixed_point_says(bandit):
    algorithm, run = bandit
    state, _ = run(oracles.start(algorithm), 0.0)
    known = fixed_point()
    assert known[-1] - known[0] > 0.8  # the amount that is asked for
    along = jnp.linspace(-0.9, 0.9, 7)[:, None]
    for side in (-1.0, 1.0):
        q = networks.critics(1, 1, BANDIT.hidden).apply(state.critics, jnp.full((7, 1), side), side * along)
        np.testing.assert_allclose(q, np.stack([np.interp(along[:, 0], oracles.GRID, known)] * 2), atol=0.18)


def test_its_policy_stays_on_the_logged_actions(bandit):
    algorithm, run = bandit
    state, _ = run(oracles.start(algorithm), 1.0)
    side = jnp.array([[-1.0], [1.0]])
    np.testing.assert_allclose(algorithm.act(algorithm.policy(state), side), 0.5 * side, atol=0.15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"penalty_actions": 0}, "penalty_actions is 0; give at least 1"),
        ({"penalty_weight": -1.0}, "penalty_weight is -1.0; give at least 0"),
        ({"penalty_temperature": 0.0}, "penalty_temperature is 0.0; give a positive number"),
        ({"batch_real": 0}, "batch_real is 0 and batch_sim is 0"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        cql.make(replace(CONFIG, **change), SPEC)
