"""H2O's update against numpy, its order against recomputations, and the reductions to simpler algorithms."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import gap_learner
from hybrid_jax.algorithms import h2o, sac
from hybrid_jax.scaling import FLOOR, Moments
from hybrid_jax.testing import random_rows
from hybrid_jax.types import REAL, Batch, Spec
from tests.oracles import mlp, policy, spread, twin_q

SPEC = Spec(obs_size=3, action_size=2, episode_length=10, dt=0.1)
STD = np.array([0.5, 1.0, 2.0], np.float32)
MOMENTS = Moments(np.zeros(3), np.ones(3), np.zeros(3), STD - FLOOR)
# wide discriminator steps, so that the old discriminators would give other losses than the new ones
CONFIG = h2o.Config(
    batch_real=6, batch_sim=8, discriminator_batch_real=4, discriminator_batch_sim=4, hidden=(7, 6),
    discriminator_hidden=(6, 5), discriminator_lr=0.05, next_state_samples=3, next_state_jitter="full", beta=0.5, penalty_temperature=1.5,
    jitter_scale=0.5, reward_scale=0.5, discount=0.9, initial_temperature=0.3, tau=0.1,
)  # fmt: skip
R, S, D = 6, 8, 8
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def algorithm():
    return h2o.make(CONFIG, SPEC, MOMENTS)


@pytest.fixture(scope="module")
def state(algorithm):
    state = jax.jit(algorithm.init)(jax.random.key(0))
    learner = state.sac._replace(
        actor=spread(state.sac.actor, 1),
        critics=spread(state.sac.critics, 2),
        target_critics=spread(state.sac.critics, 3),
    )
    return gap_learner.State(learner, state.gap._replace(params=spread(state.gap.params, 8)))


@pytest.fixture(scope="module")
def batch(algorithm):
    return Batch(random_rows(jax.random.key(1), R + S + D, SPEC), algorithm.mix(jax.random.key(2)))


@pytest.fixture(scope="module")
def updated(algorithm, state, batch):
    return jax.jit(algorithm.update)(state, batch, KEY)


# numpy, float64 -----------------------------------------------------------------------------------


def normal(key, *shape):
    return np.float64(jax.random.normal(key, shape))


def softmax(x):
    e = np.exp(x)
    return e / e.sum(axis=-1, keepdims=True)


def inputs(rows):
    return np.concatenate([np.float64(x) for x in (rows.obs, rows.action, rows.next_obs)], axis=1)


def probabilities(params, x):
    """p(real), p(sim) of both heads."""
    l_sa = 2 * np.tanh(mlp(params["sa"]["params"], x[:, :5]))
    return softmax(l_sa), softmax(2 * np.tanh(mlp(params["sas"]["params"], x)) + l_sa)


def log_sim_over_real(params, x):
    p_sa, p_sas = probabilities(params, x)
    return np.log(p_sas[:, 1] / p_sas[:, 0]) - np.log(p_sa[:, 1] / p_sa[:, 0])


def numpy_discriminator_loss(params, rows, key):
    x = inputs(rows)[R + S :]
    x = x + CONFIG.discriminator_noise * normal(jax.random.split(key, 3)[1], *x.shape)
    return sum(np.mean(-np.log(p[:4, 0]) - np.log(p[4:, 1])) for p in probabilities(params, x))


def numpy_weights(config, params, rows, key):
    x = inputs(rows)[R : R + S]
    ratio = np.exp(-log_sim_over_real(params, x))
    w = np.clip(ratio, *config.weight_clip) if config.importance_weight else np.ones(S)
    u = np.zeros(S)
    for draw in normal(jax.random.split(key, 3)[2], config.next_state_samples, S, 3):
        moved = x + np.concatenate([np.zeros((S, 5)), config.jitter_scale * STD * draw], axis=1)
        u += log_sim_over_real(params, moved) / config.next_state_samples
    return w, np.clip(u, 0, config.u_clip_max) if config.adaptive_penalty else np.ones(S)


def numpy_critic_loss(config, q, y, w, u):
    omega, t = u / u.sum(), config.penalty_temperature
    loss, penalties = 0.0, []
    for q_j in q:
        if config.linear_penalty:
            pushed = np.sum(omega * q_j[R:])
        else:
            pushed = t * np.log(np.sum(np.exp(q_j[R:] / t) * omega ** (1 / t)))
        penalties.append(np.clip(pushed - q_j[:R].mean(), -config.penalty_clip, config.penalty_clip))
        error = (q_j - y) ** 2
        loss += error[:R].mean() + np.mean(w * error[R:]) + config.beta * penalties[-1]
    return loss, np.mean(penalties)


def numpy_losses(config, learner, discriminators, rows, key):
    """All that the spec's critic, policy and temperature losses say, for given discriminators."""
    w, u = numpy_weights(config, discriminators, rows, key)
    rows = jax.tree.map(lambda x: np.float64(x)[: R + S], rows)
    next_draw, draw = (normal(k, R + S, 2) for k in jax.random.split(jax.random.split(key, 3)[0]))
    alpha = np.exp(np.float64(learner.log_alpha))
    next_action, next_log_prob = policy(learner.actor, rows.next_obs, next_draw)
    value = twin_q(learner.target_critics, rows.next_obs, next_action).min(axis=0)
    value = value - config.entropy_in_backup * alpha * next_log_prob
    y = config.reward_scale * rows.reward + config.discount * rows.discount * value
    q = twin_q(learner.critics, rows.obs, rows.action)
    loss, penalty = numpy_critic_loss(config, q, y, w, u)
    action, log_prob = policy(learner.actor, rows.obs, draw)
    min_q = twin_q(learner.critics, rows.obs, action).min(axis=0)
    return {
        "critic_loss": loss,
        "penalty": penalty,
        "actor_loss": np.mean(alpha * log_prob - min_q),
        "entropy": -np.mean(log_prob),
        "temperature": alpha,
        "q_real": q[:, :R].mean(),
        "q_sim": q[:, R:].mean(),
        "weight_mean": w.mean(),
        "weight_min": w.min(),
        "u_positive_share": np.mean(u > 0),
    }


@pytest.mark.parametrize(
    "variant", [{}, {"importance_weight": False, "entropy_in_backup": True}, {"adaptive_penalty": False}]
)
def test_update_reports_the_losses_of_numpy(state, batch, variant, request):
    config = replace(CONFIG, **variant)
    if variant:
        new, metrics = jax.jit(h2o.make(config, SPEC, MOMENTS).update)(state, batch, KEY)
    else:
        new, metrics = request.getfixturevalue("updated")
    expected = numpy_losses(config, state.sac, new.gap.params, batch.rows, KEY)
    assert 0 < expected["u_positive_share"] < 1 or not config.adaptive_penalty  # some rows are masked
    expected["discriminator_loss"] = numpy_discriminator_loss(state.gap.params, batch.rows, KEY)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "variant",
    [{}, {"linear_penalty": True}, {"penalty_temperature": 1.0}, {"penalty_clip": 0.05}, {"beta": 0.0}],
)
def test_critic_loss_against_numpy(variant):
    config = replace(CONFIG, **variant)
    rng = np.random.default_rng(5)
    q, y = 3 * rng.standard_normal((2, R + S)), rng.standard_normal(R + S)
    w, u = rng.random(S), rng.standard_normal(S)
    loss, metrics = h2o.critic_loss(config, *(jnp.asarray(x, jnp.float32) for x in (q, y, w, u)))
    expected, penalty = numpy_critic_loss(config, q, y, w, np.maximum(u, 0))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert ("penalty" in metrics) == (config.beta > 0)
    if config.beta:
        np.testing.assert_allclose(metrics["penalty"], penalty, rtol=1e-5)


# order of one update ------------------------------------------------------------------------------


def test_critics_see_the_new_discriminators(state, batch, updated):
    new, metrics = updated
    old = numpy_losses(CONFIG, state.sac, state.gap.params, batch.rows, KEY)["critic_loss"]
    fresh = numpy_losses(CONFIG, state.sac, new.gap.params, batch.rows, KEY)["critic_loss"]
    assert abs(old - fresh) > 1e-3 * abs(fresh)
    np.testing.assert_allclose(metrics["critic_loss"], fresh, rtol=1e-5)


def test_each_network_follows_its_own_loss_at_the_old_state(state, batch, updated):
    """Central differences of the numpy losses along a random direction, w, u and y held, one tree at a time."""
    new = updated[0]
    expected_at = {
        "actor": lambda p: numpy_losses(CONFIG, state.sac._replace(actor=p), new.gap.params, batch.rows, KEY)[
            "actor_loss"
        ],
        "critics": lambda p: numpy_losses(CONFIG, state.sac._replace(critics=p), new.gap.params, batch.rows, KEY)[
            "critic_loss"
        ],
        "gap": lambda p: numpy_discriminator_loss(p, batch.rows, KEY),
    }
    trees = {"actor": state.sac.actor, "critics": state.sac.critics, "gap": state.gap.params}
    moments = {
        "actor": new.sac.actor_optimiser[0].mu,
        "critics": new.sac.critic_optimiser[0].mu,
        "gap": new.gap.optimiser[0].mu,
    }
    rng = np.random.default_rng(0)
    for name, loss in expected_at.items():
        old = jax.tree.map(np.float64, trees[name])
        way = jax.tree.map(lambda x: rng.standard_normal(np.shape(x)), old)
        ahead, behind = (loss(jax.tree.map(lambda x, d, e=e: x + e * d, old, way)) for e in (1e-6, -1e-6))
        gradient = jax.tree.map(lambda m: 10 * np.float64(m), moments[name])  # Adam's first moment is g/10
        slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: np.sum(g * d), gradient, way)))
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-3, atol=1e-5, err_msg=name)


def test_no_gradient_reaches_the_targets_and_the_weights():
    q, y = jnp.ones((2, R + S)), jnp.zeros(R + S)
    gradients = jax.grad(lambda *a: h2o.critic_loss(CONFIG, *a)[0], argnums=(0, 1, 2, 3))(
        q, y, jnp.full(S, 0.5), jnp.full(S, 0.5)
    )
    assert np.all(gradients[0] != 0)
    for stopped in gradients[1:]:
        np.testing.assert_array_equal(stopped, 0)


# reductions ---------------------------------------------------------------------------------------


def test_without_weight_and_penalty_it_is_sac_on_the_mix():
    """The critic loss is twice SAC's mean over both halves, which Adam does not feel."""
    shared = {"batch_real": 8, "batch_sim": 8, "hidden": (7, 6), "entropy_in_backup": False}
    config = h2o.Config(**shared, importance_weight=False, beta=0.0)
    plain, reduced = sac.make(sac.Config(**shared), SPEC), h2o.make(config, SPEC, MOMENTS)
    np.testing.assert_array_equal(plain.mix(KEY), reduced.mix(KEY))
    ours = jax.jit(reduced.init)(jax.random.key(0))
    assert ours.gap == ()  # no discriminator is trained
    ours = ours._replace(sac=ours.sac._replace(critics=spread(ours.sac.critics)))
    theirs = ours.sac
    update, plain_update = jax.jit(reduced.update), jax.jit(plain.update)
    for i in range(3):
        batch, key = Batch(random_rows(jax.random.key(i), 16, SPEC), plain.mix(KEY)), jax.random.key(10 + i)
        ours, metrics = update(ours, batch, key)
        theirs, plain_metrics = plain_update(theirs, batch, jax.random.split(key, 3)[0])
        np.testing.assert_allclose(metrics["critic_loss"], 2 * plain_metrics["critic_loss"], rtol=1e-5)
    for name in ("actor", "critics", "target_critics", "log_alpha"):
        pairs = (jax.tree.leaves(getattr(s, name)) for s in (ours.sac, theirs))
        for a, b in zip(*pairs, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6, err_msg=name)


def test_gap_of_one_gives_a_log_mean_exp():
    config = replace(CONFIG, penalty_temperature=1.0)
    q = jax.random.normal(KEY, (2, R + S))
    _, metrics = h2o.critic_loss(config, q, jnp.zeros(R + S), jnp.ones(S), jnp.ones(S))
    q = np.float64(q)
    expected = np.mean(np.log(np.mean(np.exp(q[:, R:]), axis=1)) - q[:, :R].mean(axis=1))
    np.testing.assert_allclose(metrics["penalty"], expected, rtol=1e-5)


@pytest.mark.parametrize("linear", [False, True])
def test_a_simulator_that_looks_real_everywhere_is_not_penalised(linear):
    config = replace(CONFIG, linear_penalty=linear)
    q, y, w = jax.random.normal(KEY, (2, R + S)), jnp.zeros(R + S), jnp.ones(S)

    def loss(q, u):
        return h2o.critic_loss(config, q, y, w, u)[0]

    plain = jax.value_and_grad(lambda q: h2o.critic_loss(replace(config, beta=0.0), q, y, w, w)[0])(q)
    for u in (-jnp.ones(S), jnp.zeros(S)):
        jax.tree.map(np.testing.assert_array_equal, jax.value_and_grad(loss)(q, u), plain)


def test_unused_discriminators_are_left_out():
    def rows_and_gap(**change):
        algorithm = h2o.make(replace(CONFIG, **change), SPEC, MOMENTS)
        return algorithm.mix(KEY).shape[0], jax.eval_shape(algorithm.init, KEY).gap != ()

    assert rows_and_gap() == (R + S + D, True)
    assert rows_and_gap(beta=0.0) == (R + S + D, True)  # w needs them
    assert rows_and_gap(importance_weight=False) == (R + S + D, True)  # u needs them
    assert rows_and_gap(importance_weight=False, adaptive_penalty=False) == (R + S, False)
    assert rows_and_gap(importance_weight=False, beta=0.0) == (R + S, False)


# the rows -----------------------------------------------------------------------------------------


def test_mix_lays_real_rows_before_simulated_ones(algorithm):
    expected = np.repeat([REAL, 1, REAL, 1], [R, S, 4, 4])
    np.testing.assert_array_equal(algorithm.mix(KEY), expected)


def test_every_simulator_counts_as_simulated(algorithm, state, batch, updated):
    source = batch.source.at[R + S - 3 : R + S].set(3).at[-2:].set(2)
    new, _ = jax.jit(algorithm.update)(state, batch._replace(source=source), KEY)
    jax.tree.map(np.testing.assert_array_equal, new, updated[0])


def test_a_batch_of_another_size_is_refused(algorithm, state, batch):
    short = jax.tree.map(lambda x: x[1:], batch)
    with pytest.raises(AssertionError):
        jax.eval_shape(algorithm.update, state, short, KEY)


@pytest.mark.parametrize(
    ("change", "moments", "message"),
    [
        ({"batch_real": 0}, MOMENTS, "batch_real is 0"),
        ({"discriminator_batch_sim": 0}, MOMENTS, "discriminator_batch_sim is 0"),
        ({"next_state_samples": 0}, MOMENTS, "next_state_samples is 0"),
        ({"penalty_temperature": 0.0}, MOMENTS, "penalty_temperature is 0.0"),
        ({"tau": 0.0}, MOMENTS, "tau is 0.0"),
        ({}, Moments(*np.ones((4, 4))), r"the moments are of \(4,\) numbers, the observation of \(3,\)"),
    ],
)
def test_impossible_settings_are_refused(change, moments, message):
    with pytest.raises(ValueError, match=message):
        h2o.make(replace(CONFIG, **change), SPEC, moments)
