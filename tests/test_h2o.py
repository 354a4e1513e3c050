"""H2O's update against numpy, its order against recomputations, and the reductions to simpler algorithms."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import networks
from hybrid_jax.algorithms import h2o, sac
from hybrid_jax.scaling import FLOOR, Moments
from hybrid_jax.types import REAL, Batch, Spec, Transition
from tests import oracles

SPEC = Spec(obs_size=3, action_size=2, episode_length=10, dt=0.1)
STD = np.array([0.5, 1.0, 2.0], np.float32)
MOMENTS = Moments(np.zeros(3), np.ones(3), np.zeros(3), STD - FLOOR)
# wide discriminator steps, so that the old discriminators would give other losses than the new ones
CONFIG = h2o.Config(
    batch_real=6, batch_sim=8, discriminator_batch_real=4, discriminator_batch_sim=4, hidden=(7, 6),
    discriminator_hidden=(6, 5), discriminator_lr=0.05, next_state_samples=3, next_state_jitter="full", beta=0.5,
    penalty_temperature=1.5, jitter_scale=0.5, reward_scale=0.5, discount=0.9, initial_temperature=0.3, tau=0.1,
)  # fmt: skip
R, S, D = 6, 8, 8
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def algorithm():
    return h2o.make(CONFIG, SPEC, MOMENTS)


@pytest.fixture(scope="module")
def state(algorithm):
    return oracles.apart(algorithm)


@pytest.fixture(scope="module")
def batch(algorithm):
    return Batch(oracles.rows(R + S + D, SPEC, seed=1), algorithm.mix(jax.random.key(2)))


@pytest.fixture(scope="module")
def updated(algorithm, state, batch):
    return jax.jit(algorithm.update)(state, batch, KEY)


# numpy, float64 -----------------------------------------------------------------------------------


def numpy_discriminator_loss(params, rows, key):
    x = oracles.gap_inputs(rows)[R + S :]
    x = x + CONFIG.discriminator_noise * oracles.normal(jax.random.split(key, 3)[1], *x.shape)
    return oracles.discriminator_loss(params, x, x[:, :5], np.arange(D) < 4)


def numpy_weights(config, params, rows, key):
    x = oracles.gap_inputs(rows)[R : R + S]
    ratio = np.exp(-oracles.log_sim_over_real(params, x, 5))
    w = np.clip(ratio, *config.weight_clip) if config.importance_weight else np.ones(S)
    u = np.zeros(S)
    for draw in oracles.normal(jax.random.split(key, 3)[2], config.next_state_samples, S, 3):
        moved = x + np.concatenate([np.zeros((S, 5)), config.jitter_scale * STD * draw], axis=1)
        u += oracles.log_sim_over_real(params, moved, 5) / config.next_state_samples
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
    next_draw, draw = (oracles.normal(k, R + S, 2) for k in jax.random.split(jax.random.split(key, 3)[0]))
    y, _ = oracles.soft_target(config, learner, rows, next_draw)
    q = oracles.ensemble_q(learner.critics, rows.obs, rows.action)
    loss, penalty = numpy_critic_loss(config, q, y, w, u)
    actor_loss, entropy = oracles.soft_policy_loss(learner, learner, rows, draw)
    return {
        "critic_loss": loss,
        "penalty": penalty,
        "actor_loss": actor_loss,
        "entropy": entropy,
        "temperature": np.exp(np.float64(learner.log_alpha)),
        "q_real": q[:, :R].mean(),
        "q_sim": q[:, R:].mean(),
        "weight_mean": w.mean(),
        "weight_min": w.min(),
        "u_positive_share": np.mean(u > 0),
    }


@pytest.mark.parametrize(
    "variant", [{}, {"importance_weight": False, "entropy_in_backup": True}, {"adaptive_penalty": False, "critics": 3}]
)
def test_update_reports_the_losses_of_numpy(state, batch, variant, request):
    config = replace(CONFIG, **variant)
    if variant:
        algorithm = h2o.make(config, SPEC, MOMENTS)
        state = oracles.apart(algorithm)
        new, metrics = jax.jit(algorithm.update)(state, batch, KEY)
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
    """w, u and y are held: each loss moves one network."""
    new = updated[0]

    def loss(**change):
        return numpy_losses(CONFIG, state.sac._replace(**change), new.gap.params, batch.rows, KEY)

    moments = new.sac.critic_optimiser[0].mu, new.sac.actor_optimiser[0].mu, new.gap.optimiser[0].mu
    oracles.assert_follows(lambda p: loss(critics=p)["critic_loss"], state.sac.critics, moments[0])
    oracles.assert_follows(lambda p: loss(actor=p)["actor_loss"], state.sac.actor, moments[1])
    oracles.assert_follows(lambda p: numpy_discriminator_loss(p, batch.rows, KEY), state.gap.params, moments[2])


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
    ours = oracles.apart(reduced)
    assert ours.gap == ()  # no discriminator is trained
    theirs = ours.sac
    update, plain_update = jax.jit(reduced.update), jax.jit(plain.update)
    for i in range(3):
        batch, key = Batch(oracles.rows(16, SPEC, seed=i), plain.mix(KEY)), jax.random.key(10 + i)
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


# a line on which the simulator moves twice as far ------------------------------------------------------------

NOISE = 0.4
LINE = h2o.Config(
    batch_real=64, batch_sim=64, discriminator_batch_real=128, discriminator_batch_sim=128, hidden=(32,),
    discriminator_hidden=(32,), discriminator_lr=1e-2, actor_lr=1e-2, critic_lr=1e-2, temperature_lr=0.0, beta=0.0,
    initial_temperature=0.05,
)  # fmt: skip
UNIT = Moments(*np.ones((4, 1)))


def on_the_line(key):
    """Real rows s' = s + a + noise, simulated ones s' = s + 2 a + noise; the reward is the way less a^2."""

    def at(key, rows, gain):
        return oracles.line(key, rows, gain, NOISE, lambda action, step: step - action**2)

    parts = [at(k, n, g) for k, n, g in zip(jax.random.split(key, 4), (64, 64, 128, 128), (1.0, 2.0) * 2, strict=True)]
    source = jnp.repeat(jnp.array([0, 1, 0, 1]), jnp.array([64, 64, 128, 128]), total_repeat_length=384)
    return Batch(oracles.stacked(*parts), source)


def weighted_value(action):
    """The Q [n] of actions [n] that minimises E_real (Q - r)^2 + E_sim w (Q - r)^2, w = min(P_real/P_sim, 1)."""
    draws, a = np.linspace(-5, 5, 2001), action[:, None]
    mass = np.exp(-(draws**2) / 2) / np.sum(np.exp(-(draws**2) / 2))
    step = 2 * a + NOISE * draws
    w = np.minimum(np.exp(((step - 2 * a) ** 2 - (step - a) ** 2) / (2 * NOISE**2)), 1)
    trusted, reward = np.sum(mass * w, axis=1), np.sum(mass * w * (step - a**2), axis=1)
    return (action - action**2 + reward) / (1 + trusted)


def test_it_believes_the_simulator_as_far_as_reality_does():
    """Real rows alone would say a - a^2, best at 0.5, and the plain mix 1.5 a - a^2, best at 0.75."""
    algorithm = h2o.make(LINE, Spec(1, 1, 1, 0.1), UNIT)
    state, _ = oracles.runner(algorithm, on_the_line, 1000)(oracles.start(algorithm, temperature=0.05))
    action = np.linspace(-0.9, 0.9, 7)
    q = networks.critics(1, 1, LINE.hidden).apply(state.sac.critics, jnp.zeros((7, 1)), jnp.float32(action)[:, None])
    known = weighted_value(action)
    assert abs(known[-1] - (1.5 * 0.9 - 0.81)) > 0.35  # far from the mix
    np.testing.assert_allclose(q, np.stack([known] * 2), atol=0.15)
    best = oracles.GRID[np.argmax(weighted_value(oracles.GRID))]
    assert 0.45 < best < 0.55
    obs = jnp.linspace(-0.4, 0.4, 3)[:, None]
    np.testing.assert_allclose(algorithm.act(algorithm.policy(state), obs), best, atol=0.12)


def test_its_penalty_lifts_what_the_log_holds_and_lowers_the_rest():
    """No rewards; logged actions are lopsided, simulated ones uniform; Q is the minimum of the loss on a grid."""
    config = replace(LINE, importance_weight=False, adaptive_penalty=False, beta=3.0)
    algorithm = h2o.make(config, Spec(1, 1, 1, 0.1), UNIT)

    def draw(key):
        log_key, sim_key = jax.random.split(key)
        action = jnp.concatenate(
            [oracles.lopsided(log_key, 64), jax.random.uniform(sim_key, (64, 1), minval=-1.0, maxval=1.0)]
        )
        rows = Transition(jnp.zeros((128, 1)), action, jnp.zeros(128), jnp.zeros(128), jnp.zeros((128, 1)))
        return Batch(rows, algorithm.mix(key))

    state, _ = oracles.runner(algorithm, draw, 1000)(oracles.start(algorithm, temperature=0.05))
    known, uniform = np.zeros_like(oracles.GRID), 0.5
    for _ in range(2000):  # gradient descent on E_log Q^2 + E_sim Q^2 + beta (log E_sim exp Q - E_log Q)
        share = uniform * np.exp(known) / oracles.integral(uniform * np.exp(known))
        known -= 0.1 * (2 * (oracles.LOPSIDED + uniform) * known + 3.0 * (share - oracles.LOPSIDED))
    assert known[-1] - known[0] > 0.7
    action = jnp.linspace(-0.9, 0.9, 7)[:, None]
    q = networks.critics(1, 1, config.hidden).apply(state.sac.critics, jnp.zeros((7, 1)), action)
    np.testing.assert_allclose(q, np.stack([np.interp(action[:, 0], oracles.GRID, known)] * 2), atol=0.12)


@pytest.mark.parametrize(
    ("change", "moments", "message"),
    [
        ({"batch_real": 0}, MOMENTS, "batch_real is 0"),
        ({"discriminator_batch_sim": 0}, MOMENTS, "discriminator_batch_sim is 0"),
        ({"next_state_samples": 0}, MOMENTS, "next_state_samples is 0"),
        ({"penalty_temperature": 0.0}, MOMENTS, "penalty_temperature is 0.0"),
        ({"tau": 0.0}, MOMENTS, "tau is 0.0"),
        ({"beta": -0.01}, MOMENTS, "beta is -0.01; give at least 0"),
        ({"jitter_scale": -1.0}, MOMENTS, "jitter_scale is -1.0; give at least 0"),
        ({"penalty_clip": 0.0}, MOMENTS, "penalty_clip is 0.0; give a positive number"),
        ({"u_clip_max": 0.0}, MOMENTS, "u_clip_max is 0.0; give a positive number"),
        ({"weight_clip": (1.0, 0.5)}, MOMENTS, r"weight_clip is \(1.0, 0.5\); give the lower bound, >= 0, before"),
        ({"next_state_jitter": "half"}, MOMENTS, "next_state_jitter is 'half'; use 'diluted' or 'full'"),
        ({}, Moments(*np.ones((4, 4))), r"the moments are of \(4,\) numbers, the observation of \(3,\)"),
    ],
)
def test_impossible_settings_are_refused(change, moments, message):
    with pytest.raises(ValueError, match=message):
        h2o.make(replace(CONFIG, **change), SPEC, moments)
