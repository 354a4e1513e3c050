"""DARC's and DARC+'s update against numpy, and their choice in a world whose simulator moves twice as far."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import networks
from hybrid_jax.algorithms import darc, darc_plus, sac
from hybrid_jax.types import REAL, Batch, Spec
from tests import oracles

SPEC = Spec(obs_size=3, action_size=2, episode_length=10, dt=0.1)
KNOWN = SPEC.obs_size + SPEC.action_size
SIM = darc.Config(
    batch_sim=8, discriminator_batch_real=4, discriminator_batch_sim=4, hidden=(5,), discriminator_hidden=(6,),
    discriminator_lr=0.05, discriminator_noise=0.3, correction_clip=0.5, reward_scale=0.5, discount=0.9, tau=0.1,
)  # fmt: skip
BOTH = darc_plus.Config(
    batch_real=3, batch_sim=5, discriminator_batch_real=4, discriminator_batch_sim=4, hidden=(5,),
    discriminator_hidden=(6,), discriminator_lr=0.05, discriminator_noise=0.7, discriminator_shared_noise=False,
    discriminator_bound=None, correction_clip=None, correction_after=3, reward_scale=0.5, discount=0.9, tau=0.1,
)  # fmt: skip
KEY = jax.random.key(7)


def numpy_discriminator_loss(config, params, rows, key):
    x = oracles.gap_inputs(rows)[config.batch_real + config.batch_sim :]
    key = jax.random.split(key, 3)[1]
    noised = [x + config.discriminator_noise * oracles.normal(k, *x.shape) for k in (key, jax.random.fold_in(key, 1))]
    other = noised[0 if config.discriminator_shared_noise else 1][:, :KNOWN]
    return oracles.discriminator_loss(params, noised[0], other, np.arange(8) < 4, config.discriminator_bound)


def numpy_correction(config, params, rows):
    """log P_real/P_sim [S] of the simulated rows between its bounds, by the discriminators given."""
    x = oracles.gap_inputs(rows)[config.batch_real : config.batch_real + config.batch_sim]
    bound = config.correction_clip or np.inf
    return np.clip(-oracles.log_sim_over_real(params, x, KNOWN, config.discriminator_bound), -bound, bound)


def numpy_losses(config, learner, correction, rows, key):
    rows = jax.tree.map(lambda x: np.float64(x)[: config.batch_real + config.batch_sim], rows)
    target_key, action_key = jax.random.split(jax.random.split(key, 3)[0])
    rows = rows._replace(reward=rows.reward + np.append(np.zeros(config.batch_real), correction))
    y, reward_max = oracles.soft_target(config, learner, rows, oracles.normal(target_key, *rows.action.shape))
    q = oracles.ensemble_q(learner.critics, rows.obs, rows.action)
    actor_loss, entropy = oracles.soft_policy_loss(
        learner, learner, rows, oracles.normal(action_key, *rows.action.shape)
    )
    return {
        "critic_loss": sum(np.mean((q - y) ** 2, axis=1)), "actor_loss": actor_loss, "entropy": entropy,
        "reward_max": reward_max, "correction_mean": np.mean(correction), "correction_min": np.min(correction),
    }  # fmt: skip


def assert_all_close(metrics, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, atol=1e-5, err_msg=name)


def prepared(module, config):
    algorithm = module.make(config, SPEC)
    source = algorithm.mix(KEY)
    batch = Batch(oracles.rows(source.shape[0], SPEC), source)
    return jax.jit(algorithm.update), oracles.apart(algorithm), batch


def as_sac(config):
    return sac.Config(**{name: getattr(config, name) for name in sac.Config.__dataclass_fields__})


def test_one_update_in_the_simulator_against_numpy():
    """The correction is that of the new discriminators, clipped, and scaled with the reward."""
    update, state, batch = prepared(darc, SIM)
    new, metrics = update(state, batch, KEY)
    correction = numpy_correction(SIM, new.gap.params, batch.rows)
    old = numpy_correction(SIM, state.gap.params, batch.rows)
    assert np.any(np.abs(correction) == 0.5) and np.any(np.abs(correction) < 0.4) and np.any(correction < 0)
    assert abs(np.mean(old) - np.mean(correction)) > 1e-2  # the old discriminators would show
    assert_all_close(metrics, numpy_losses(SIM, state.sac, correction, batch.rows, KEY))
    assert_all_close(metrics, {"discriminator_loss": numpy_discriminator_loss(SIM, state.gap.params, batch.rows, KEY)})

    def loss(**change):
        return numpy_losses(SIM, state.sac._replace(**change), correction, batch.rows, KEY)

    moments = new.sac.critic_optimiser[0].mu, new.sac.actor_optimiser[0].mu, new.gap.optimiser[0].mu
    oracles.assert_follows(lambda p: loss(critics=p)["critic_loss"], state.sac.critics, moments[0])
    oracles.assert_follows(lambda p: loss(actor=p)["actor_loss"], state.sac.actor, moments[1])
    oracles.assert_follows(lambda p: numpy_discriminator_loss(SIM, p, batch.rows, KEY), state.gap.params, moments[2])


def test_darc_plus_is_sac_on_the_mix_until_its_correction_sets_in():
    """Three updates without, on new rows each; the fourth corrects simulated rows alone, with no bound."""
    update, ours, batch = prepared(darc_plus, BOTH)
    plain = sac.make(as_sac(BOTH), SPEC)
    plain_update, theirs = jax.jit(plain.update), ours.sac
    np.testing.assert_array_equal(plain.mix(KEY), batch.source[:8])
    first = None
    for i in range(3):
        rows, key = oracles.rows(16, SPEC, seed=i), jax.random.key(i)
        half = Batch(jax.tree.map(lambda x: x[:8], rows), batch.source[:8])
        ours, told = update(ours, Batch(rows, batch.source), key)
        theirs, expected = plain_update(theirs, half, jax.random.split(key, 3)[0])
        for name, value in (expected | {"correction_mean": 0, "correction_min": 0}).items():
            np.testing.assert_allclose(told[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
        first = first or ours
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours.sac, theirs)
    state = prepared(darc_plus, BOTH)[1]
    rows, key = oracles.rows(16, SPEC), jax.random.key(0)
    oracles.assert_follows(
        lambda p: numpy_discriminator_loss(BOTH, p, rows, key), state.gap.params, first.gap.optimiser[0].mu
    )
    new, told = update(ours, batch, KEY)
    correction = numpy_correction(BOTH, new.gap.params, batch.rows)
    assert np.max(np.abs(correction)) > 2
    assert_all_close(told, numpy_losses(BOTH, ours.sac, correction, batch.rows, KEY))


def test_rows_that_look_unreal_are_penalised():
    ratio = jnp.array([-30.0, -1.0, 2.0, 30.0])
    got = darc.correction(darc.Config(), ratio, jnp.int32(1))
    np.testing.assert_array_equal(got, [-10, -1, 2, 10])
    np.testing.assert_array_equal(darc.correction(darc.online(), ratio, jnp.int32(100_001)), ratio)
    np.testing.assert_array_equal(darc.correction(darc.online(), ratio, jnp.int32(100_000)), 0)


def test_mixes():
    np.testing.assert_array_equal(darc.make(SIM, SPEC).mix(KEY), np.repeat([1, REAL, 1], [8, 4, 4]))
    np.testing.assert_array_equal(darc_plus.make(BOTH, SPEC).mix(KEY), np.repeat([REAL, 1, REAL, 1], [3, 5, 4, 4]))
    np.testing.assert_array_equal(darc.make(darc.online(), SPEC).mix(KEY), np.repeat([1, REAL, 1], 256))


# a line on which the simulator moves twice as far -------------------------------------------------------------

NOISE = 0.5**0.5
LINE = darc.Config(
    batch_sim=64, discriminator_batch_real=128, discriminator_batch_sim=128, hidden=(32,), discriminator_hidden=(32,),
    discriminator_lr=1e-2, actor_lr=1e-2, critic_lr=1e-2, temperature_lr=0.0, initial_temperature=0.05,
)  # fmt: skip


def draw(key):
    """Rows of s' = s + a + noise for the discriminators, of s' = s + 2 a + noise for all; the reward is a."""
    sim_key, real_key, other_key = jax.random.split(key, 3)

    def at(key, rows, gain):
        return oracles.line(key, rows, gain, NOISE, lambda action, step: action)

    rows = oracles.stacked(at(sim_key, 64, 2.0), at(real_key, 128, 1.0), at(other_key, 128, 2.0))
    return Batch(rows, jnp.repeat(jnp.array([1, 0, 1]), jnp.array([64, 128, 128]), total_repeat_length=320))


@pytest.fixture(scope="module")
def line():
    algorithm = darc.make(LINE, Spec(1, 1, 1, 0.1))
    state, _ = oracles.runner(algorithm, draw, 1000)(oracles.start(algorithm, temperature=0.05))
    return algorithm, state


def test_it_values_an_action_by_how_real_it_is(line):
    """E[log P_real/P_sim] = -KL = -a^2 / (2 noise^2), so Q = a - a^2."""
    _, state = line
    action = jnp.linspace(-0.8, 0.8, 5)[:, None]
    q = networks.critics(1, 1, LINE.hidden).apply(state.sac.critics, jnp.zeros((5, 1)), action)
    np.testing.assert_allclose(q, np.stack([(action - action**2)[:, 0]] * 2), atol=0.3)


def test_it_takes_the_action_that_reality_supports(line):
    """The best of a - a^2 is 1/2; SAC on the same rows climbs a to its end."""
    algorithm, state = line
    obs = jnp.linspace(-0.4, 0.4, 3)[:, None]
    np.testing.assert_allclose(algorithm.act(algorithm.policy(state), obs), 0.5, atol=0.2)
    plain = sac.make(as_sac(LINE), Spec(1, 1, 1, 0.1))

    def simulated(key):
        return jax.tree.map(lambda x: x[:64], draw(key))

    state, _ = oracles.runner(plain, simulated, 1000)(oracles.start(plain, temperature=0.05))
    assert np.all(plain.act(plain.policy(state), obs) > 0.8)


def parabola(state):
    """(k, slope) of the level + slope a - k a^2 that is nearest to the critics' values."""
    action = np.linspace(-0.8, 0.8, 17)[:, None]
    q = networks.critics(1, 1, LINE.hidden).apply(state.sac.critics, jnp.zeros((17, 1)), jnp.float32(action))
    square, slope, _ = np.polyfit(action[:, 0], np.mean(np.asarray(q), axis=0), 2)
    return -square, slope


def test_darc_plus_weighs_the_correction_by_the_share_of_simulated_rows(line):
    """A quarter of the rows is real and says Q = a, the others a - a^2: Q = a - 3/4 a^2, bent 3/4 as much as DARC's."""
    shared = {field: getattr(LINE, field) for field in darc.Config.__dataclass_fields__}
    algorithm = darc_plus.make(darc_plus.Config(**shared | {"batch_real": 16, "batch_sim": 48}), Spec(1, 1, 1, 0.1))

    def mixed(key):
        real_key, rest_key = jax.random.split(key)
        batch = draw(rest_key)
        real = oracles.line(real_key, 16, 1.0, NOISE, lambda action, step: action)
        rows = oracles.stacked(real, jax.tree.map(lambda x: x[16:], batch.rows))
        return Batch(rows, batch.source.at[:16].set(REAL))

    state, _ = oracles.runner(algorithm, mixed, 1000)(oracles.start(algorithm, temperature=0.05))
    (bent, slope), (alone, _) = parabola(state), parabola(line[1])
    assert bent / alone == pytest.approx(0.75, abs=0.1) and slope == pytest.approx(1, abs=0.15)
    assert alone == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_sim": 0}, "batch_sim is 0; DARC needs rows of both worlds, give >= 1"),
        ({"discriminator_batch_real": 0}, "discriminator_batch_real is 0; DARC needs rows of both worlds"),
        ({"correction_clip": 0.0}, "correction_clip is 0.0; give a positive number, or None for no bound"),
        ({"correction_after": -1}, "correction_after is -1; give at least 0"),
        ({"discriminator_noise": -0.1}, "discriminator_noise is -0.1; give at least 0"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        darc.make(replace(SIM, **change), SPEC)


def test_darc_plus_needs_real_rows():
    with pytest.raises(ValueError, match=r"batch_real is 0; DARC\+ needs rows of both worlds, give >= 1"):
        darc_plus.make(replace(BOTH, batch_real=0), SPEC)
