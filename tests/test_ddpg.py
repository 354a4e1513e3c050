"""DDPG's update against numpy, the authors' order and targets, and two known answers: half the state, and any goal."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import her
from hybrid_jax.algorithms import ddpg
from hybrid_jax.export import NumpyPolicy
from hybrid_jax.normaliser import Statistics
from hybrid_jax.testing import check_algorithm
from hybrid_jax.types import Batch, Goal, Spec, Transition
from tests import oracles

SPEC = Spec(obs_size=4, action_size=2, episode_length=5, dt=0.1)
GOAL = Goal(1, lambda reached, wanted: -(jnp.abs(reached - wanted)[..., 0] > 0.5).astype(jnp.float32),
            slice(0, 1), slice(3, 4))  # fmt: skip
CONFIG = ddpg.Config(
    batch_real=8, batch_sim=16, hidden=(6, 5), discount=0.5, tau=0.1, reward_scale=0.2, action_l2=0.7,
    actor_lr=1e-2, critic_lr=2e-2, policy_average=0.8,
)  # fmt: skip
KEY = jax.random.key(7)


def apart(algorithm):
    """A state in which no two networks agree, none is silent and 32 rows were seen."""
    state = algorithm.init(jax.random.key(0))
    names = ("actor", "critics", "target_critics", "averaged_actor", "target_actor")
    nets = {name: oracles.spread(getattr(state.learner, name), i) for i, name in enumerate(names, start=1)}
    seen = Statistics(jnp.float32(32), jnp.float32([0.5, 0, -1, 0]), jnp.float32([1, 4, 0.25, 1e-6]))
    return state._replace(learner=state.learner._replace(**nets), seen=seen)


def setting(goal):
    """Everything about one update, the rows as the networks saw them among it, float64."""
    algorithm = ddpg.make(CONFIG, SPEC, goal=goal)
    old = apart(algorithm)
    rows = oracles.rows(24 * (SPEC.episode_length if goal else 1), SPEC)
    rows = rows._replace(obs=rows.obs * np.float32([1, 300, 1, 1]))  # the second exceeds the bound on observations
    if goal:
        rows = jax.tree.map(lambda leaf: leaf.reshape(24, 5, *leaf.shape[1:]), rows)
    rows.obs[0, ..., 2] = 1000  # and this the one in standard deviations
    new, told = jax.jit(algorithm.update)(old, Batch(rows, algorithm.mix(KEY, jnp.full(2, 0.5))), KEY)
    if goal:
        rows = her.relabel(jax.random.split(KEY)[0], jax.tree.map(jnp.asarray, rows), goal, 4)
    rows = jax.tree.map(np.float64, rows)
    mean, std = moments_with(old.seen, rows.obs)
    x, x_next = (np.clip((np.clip(s, -200, 200) - mean) / std, -5, 5) for s in (rows.obs, rows.next_obs))
    assert np.any(np.abs(x) == 5)
    seen_by_nets = rows._replace(obs=x, next_obs=x_next)
    return SimpleNamespace(
        algorithm=algorithm, old=old.learner, new=new.learner, after=new, told=told, rows=seen_by_nets, seen=(mean, std)
    )


def moments_with(seen, obs):
    """Mean and std of 32 rows with those moments and of these [B, O], from the sums."""
    obs = np.clip(obs, -200, 200)
    total = 32 + len(obs)
    mean = (32 * np.float64(seen.mean) + obs.sum(axis=0)) / total
    squares = 32 * (np.float64(seen.variance) + np.float64(seen.mean) ** 2) + np.square(obs).sum(axis=0)
    return mean, np.maximum(np.sqrt(squares / total - mean**2), 0.01)


@pytest.fixture(scope="module")
def plain():
    return setting(None)


@pytest.fixture(scope="module")
def hindsight():
    return setting(GOAL)


def target(at):
    """y before the bounds: the target policy's action, the target critic's value."""
    action, _ = oracles.policy(at.old.target_actor, at.rows.next_obs, 0.0)
    value = oracles.ensemble_q(at.old.target_critics, at.rows.next_obs, action)[0]
    return 0.2 * at.rows.reward + 0.5 * at.rows.discount * value


def critic_loss(at, params, y):
    return np.mean((oracles.ensemble_q(params, at.rows.obs, at.rows.action)[0] - y) ** 2)


def actor_loss(at, actor, critics):
    action, _ = oracles.policy(actor, at.rows.obs, 0.0)
    return 0.7 * np.mean(action**2) - np.mean(oracles.ensemble_q(critics, at.rows.obs, action)[0])


def test_the_critic_against_numpy(plain):
    y = target(plain)
    assert y.max() > 0
    np.testing.assert_allclose(plain.told["critic_loss"], critic_loss(plain, plain.old.critics, y), rtol=1e-4)
    moment = plain.new.critic_optimiser[0].mu
    oracles.assert_follows(lambda p: critic_loss(plain, p, y), plain.old.critics, moment)


def test_with_a_goal_the_target_lies_between_its_bounds(hindsight):
    """Rewards are a fifth, so the bounds are -0.2 / (1 - 0.5) and 0."""
    y = target(hindsight)
    bounded = np.clip(y, -0.4, 0.0)
    assert y.max() > 0 and y.min() < -0.4 and np.any(bounded == y)
    loss = critic_loss(hindsight, hindsight.old.critics, bounded)
    np.testing.assert_allclose(hindsight.told["critic_loss"], loss, rtol=1e-4)
    moment = hindsight.new.critic_optimiser[0].mu
    oracles.assert_follows(lambda p: critic_loss(hindsight, p, bounded), hindsight.old.critics, moment)


@pytest.mark.parametrize("kind", ["plain", "hindsight"])
def test_the_policy_moves_before_the_critic(kind, request):
    """It climbs the critic as it was before this update; nothing of y is the policy's, so the order ends here."""
    at = request.getfixturevalue(kind)
    loss = actor_loss(at, at.old.actor, at.old.critics)
    np.testing.assert_allclose(at.told["actor_loss"], loss, rtol=1e-4, atol=1e-5)
    assert abs(loss - actor_loss(at, at.old.actor, at.new.critics)) > 1e-3
    moment = at.new.actor_optimiser[0].mu
    oracles.assert_follows(lambda p: actor_loss(at, p, at.old.critics), at.old.actor, moment)


def test_targets_and_the_average_follow_the_new_networks(plain):
    oracles.assert_moved(plain.new.target_critics, plain.old.target_critics, plain.new.critics, 0.1)
    oracles.assert_moved(plain.new.target_actor, plain.old.target_actor, plain.new.actor, 0.1)
    oracles.assert_moved(plain.new.averaged_actor, plain.old.averaged_actor, plain.new.actor, 0.2)
    assert plain.after.updates == 1


@pytest.mark.parametrize("kind", ["plain", "hindsight"])
def test_statistics_are_those_of_the_rows_in_use(kind, request):
    """The relabelled ones: the fourth number is the goal."""
    at = request.getfixturevalue(kind)
    mean, std = at.seen
    np.testing.assert_allclose(at.after.seen.mean, mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.maximum(np.sqrt(at.after.seen.variance), 0.01), std, rtol=1e-4)
    assert at.after.seen.count == 32 + 24


def test_acting_takes_plain_observations(plain):
    """The normalised actor in numpy; the same in an export; the average where it is judged."""
    obs = oracles.rows(40, SPEC, seed=3).obs * np.float32([1, 300, 1, 1])
    mean, std = plain.seen
    x = np.clip((np.clip(obs, -200, 200) - mean) / std, -5, 5)
    for hand_out, actor in (("policy", plain.new.actor), ("deployed", plain.new.averaged_actor)):
        params = getattr(plain.algorithm, hand_out)(plain.after)
        expected, _ = oracles.policy(actor, x, 0.0)
        np.testing.assert_allclose(plain.algorithm.act(params, obs), expected, atol=1e-3)
        np.testing.assert_allclose(NumpyPolicy.from_params(jax.device_get(params))(obs), expected, atol=1e-3)


class Noise:
    def standard_normal(self, shape, dtype):
        return np.full(shape, 1.5, dtype)


def test_it_explores_by_uniform_actions_and_noise(plain):
    params, obs = plain.algorithm.policy(plain.after), np.float32(oracles.rows(2000, SPEC, seed=3).obs)
    action, mode = plain.algorithm.explore(params, obs, KEY), np.asarray(plain.algorithm.act(params, obs))
    noise_key, uniform_key, which_key = jax.random.split(KEY, 3)
    anyhow = np.asarray(jax.random.uniform(which_key, (2000, 1))) < 0.3
    noisy = np.clip(mode + 0.2 * oracles.normal(noise_key, 2000, 2), -1, 1)
    uniform = 2 * np.float64(jax.random.uniform(uniform_key, (2000, 2))) - 1
    assert 0.27 < anyhow.mean() < 0.33 and np.any(np.abs(noisy) == 1)
    np.testing.assert_allclose(action, np.where(anyhow, uniform, noisy), atol=1e-5)
    exported = NumpyPolicy.from_params(jax.device_get(params)).explore(obs, Noise())
    np.testing.assert_allclose(exported, np.tanh(np.arctanh(mode) + 0.2 * 1.5), atol=1e-3)


# the authors' form ---------------------------------------------------------------------------------------------


def test_the_authors_targets_move_once_in_forty_updates():
    algorithm = ddpg.make(replace(ddpg.authors(), batch_real=2, batch_sim=2, mix_parts=4, hidden=(4,)), SPEC, goal=GOAL)
    rows = jax.tree.map(lambda leaf: jnp.asarray(leaf.reshape(4, 5, *leaf.shape[1:])), oracles.rows(20, SPEC))

    def step(state, key):
        state, _ = algorithm.update(state, Batch(rows, jnp.zeros(4, jnp.int32)), key)
        return state, state.learner

    start = apart(algorithm)
    _, after = jax.jit(lambda s: jax.lax.scan(step, s, jax.random.split(KEY, 80)))(start)
    for target_name, live_name in (("target_critics", "critics"), ("target_actor", "actor")):
        held = getattr(start.learner, target_name)
        for cycle in (0, 40):
            targets = jax.tree.map(lambda leaf, c=cycle: leaf[c : c + 40], getattr(after, target_name))
            jax.tree.map(lambda leaf, h: np.testing.assert_array_equal(leaf[:39], np.stack([h] * 39)), targets, held)
            live = jax.tree.map(lambda leaf, c=cycle: leaf[c + 39], getattr(after, live_name))
            last = jax.tree.map(lambda leaf: leaf[39], targets)
            oracles.assert_moved(last, held, live, 0.05)
            held = last


def test_the_authors_numbers_are_those_of_their_code():
    config = ddpg.authors()
    found = (config.mixing, config.mix_every, config.target_period, 1 - config.tau, config.discount, config.action_l2)
    assert found == ("store", 40, 40, 0.95, 0.98, 1.0)
    assert (config.actor_lr, config.critic_lr, config.hidden, config.critics) == (1e-3, 1e-3, (256,) * 3, 1)
    assert (config.batch_real + config.batch_sim, config.mix_parts, config.hindsight) == (8 * 256, 8, 4)
    assert (config.random_actions, config.exploration_noise) == (0.3, 0.2)


def test_a_rank_of_theirs_draws_from_one_store_and_we_by_quotas():
    beta, keys = jnp.float32([0.25, 0.75]), jax.random.split(KEY, 40)
    theirs, ours = (ddpg.make(config, SPEC, goal=GOAL) for config in (ddpg.authors(), ddpg.Config()))
    drawn = np.stack([theirs.mix(key, beta) for key in keys]).reshape(40, 8, 256)
    assert np.all(drawn == drawn[..., :1]) and set(drawn[:, 0, 0]) == set(drawn[0, :, 0]) == {0, 1}
    for key in keys[:3]:
        np.testing.assert_array_equal(np.bincount(ours.mix(key, beta)), [64, 192])
    assert (theirs.mix_every, ours.mix_every) == (40, 1) and theirs.episodes and ours.episodes
    assert not ddpg.make(ddpg.Config(), SPEC).episodes


@pytest.mark.parametrize("config", [ddpg.Config(), ddpg.authors()], ids=["ours", "authors"])
def test_with_a_goal_it_keeps_the_contract(config):
    check_algorithm(ddpg.make(replace(config, batch_real=4, batch_sim=4, hidden=(8,)), SPEC, goal=GOAL), SPEC)


def test_the_authors_statistics_are_those_of_new_episodes():
    """Three of four count, five steps of each, with goals from hindsight; a batch adds nothing."""
    config = replace(ddpg.authors(), batch_real=4, batch_sim=4, hidden=(8,))
    algorithm = ddpg.make(config, SPEC, goal=GOAL)
    start = apart(algorithm)
    new = jax.tree.map(lambda leaf: jnp.asarray(leaf.reshape(4, 5, *leaf.shape[1:])), oracles.rows(20, SPEC))
    spoilt = new._replace(obs=new.obs.at[3].set(jnp.nan))
    after = jax.jit(algorithm.observe)(start, spoilt, 3, KEY)
    picked = np.float64(her.relabel_often(KEY, new, GOAL, 4).obs).reshape(5, 4, -1)[:, :3].reshape(15, -1)
    mean, std = moments_with(start.seen, picked)
    np.testing.assert_allclose(after.seen.mean, mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.maximum(np.sqrt(after.seen.variance), 0.01), std, rtol=1e-4)
    batch = Batch(jax.tree.map(lambda leaf: jnp.concatenate([leaf] * 2), new), jnp.zeros(8, jnp.int32))
    learned, _ = jax.jit(algorithm.update)(after, batch, KEY)
    jax.tree.map(np.testing.assert_array_equal, learned.seen, after.seen)
    assert ddpg.make(CONFIG, SPEC, goal=GOAL).observe is None  # ours: of the rows drawn


def test_without_a_goal_new_rows_count_as_they_are():
    algorithm = ddpg.make(replace(CONFIG, statistics="collected"), SPEC)
    rows = oracles.rows(20, SPEC)
    after = algorithm.observe(apart(algorithm), jax.tree.map(jnp.asarray, rows), 12, KEY)
    mean, _ = moments_with(apart(algorithm).seen, rows.obs[:12])
    np.testing.assert_allclose(after.seen.mean, mean, rtol=1e-4, atol=1e-4)


# known answers -------------------------------------------------------------------------------------------------


def bandit(key):
    """Terminal rows with reward 1 - (a - s)^2."""
    keys = jax.random.split(key)
    obs, action = (jax.random.uniform(k, (64, 1), minval=-1.0) for k in keys)
    reward = 1 - jnp.square(action - obs)[:, 0]
    return Batch(Transition(obs, action, reward, jnp.zeros(64), obs), jnp.zeros(64, jnp.int32))


@pytest.mark.parametrize(("action_l2", "slope"), [(0.0, 1.0), (1.0, 0.5)])
def test_it_finds_the_best_action_and_pays_for_its_size(action_l2, slope):
    """The largest 1 - (a - s)^2 - l a^2 is at a = s / (1 + l)."""
    config = ddpg.Config(batch_real=64, batch_sim=0, hidden=(64, 64), action_l2=action_l2)
    algorithm = ddpg.make(config, Spec(1, 1, 1, 0.1))
    state, _ = oracles.runner(algorithm, bandit, 1500)(algorithm.init(jax.random.key(0)))
    obs = jnp.linspace(-0.8, 0.8, 5)[:, None]
    np.testing.assert_allclose(algorithm.act(algorithm.policy(state), obs), slope * obs, atol=0.12)


PLANE = Spec(obs_size=4, action_size=2, episode_length=6, dt=0.1)  # (x, wanted x); x' = x + 0.4 a
REACH = Goal(2, lambda reached, wanted: -(jnp.linalg.norm(reached - wanted, axis=-1) > 0.1).astype(jnp.float32),
             slice(0, 2), slice(2, 4))  # fmt: skip


def walks(key):
    """128 episodes of uniform actions: their own goals lie anywhere and are met by about one step in 150."""
    keys = jax.random.split(key, 3)
    action = jax.random.uniform(keys[0], (128, 6, 2), minval=-1.0)
    first, wanted = (jax.random.uniform(k, (128, 1, 2), minval=-1.0) for k in keys[1:])
    x = jnp.concatenate([first, first + 0.4 * jnp.cumsum(action, axis=1)], axis=1)
    states = jnp.concatenate([x, jnp.broadcast_to(wanted, x.shape)], axis=-1)
    reward = REACH.reward(x[:, 1:], states[:, 1:, 2:])
    rows = Transition(states[:, :-1], action, reward, jnp.ones((128, 6)), states[:, 1:])
    return Batch(rows, jnp.zeros(128, jnp.int32))


def success(hindsight):
    """The share of goals at which the policy stands after six steps, having learned from walks without aim."""
    config = ddpg.Config(batch_real=128, batch_sim=0, hidden=(64, 64), tau=0.02, hindsight=hindsight)
    algorithm = ddpg.make(config, PLANE, goal=REACH)
    state, _ = oracles.runner(algorithm, walks, 1000)(algorithm.init(jax.random.key(0)))
    act, policy = jax.jit(algorithm.act), algorithm.policy(state)
    place, wanted = (jax.random.uniform(k, (500, 2), minval=-1.0) for k in jax.random.split(jax.random.key(9)))
    for _ in range(PLANE.episode_length):
        place = place + 0.4 * act(policy, jnp.concatenate([place, wanted], axis=1))
    return float(jnp.mean(REACH.reward(place, wanted) == 0))


def test_it_reaches_any_goal_of_a_plane_and_by_hindsight_alone():
    """The best policy reaches them all: goals are at most 2 away along either axis, six steps lead 2.4 far."""
    assert success(4.0) > 0.95 and success(0.0) < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"discount": 1.0}, "discount is 1, and the value of a goal is held"),
        ({"mix_parts": 5}, "mix_parts is 5, which does not divide a batch of 24 rows"),
        ({"mix_parts": 2, "mixing": "counts"}, "mix_parts is 2 and mixing is 'counts', which has no parts"),
        ({"statistics": "new"}, "statistics is 'new'; use one of drawn, collected"),
        ({"random_actions": 1.1}, r"random_actions is 1.1; give a share in \[0, 1\]"),
        ({"temperature_lr": 1e-3}, "temperature_lr is 0.001; DDPG has no entropy, .* give 0.0"),
        ({"entropy_in_backup": True}, "entropy_in_backup is True; DDPG has no entropy, .* give False"),
        ({"normalise_states": True}, "normalise_states is True; DDPG .* give False"),
        ({"actor_period": 2}, "actor_period is 2; DDPG .* give 1"),
        ({"tau": 1.5}, r"tau is 1.5; give a number in \(0, 1\]"),
        *(({name: 0}, f"{name} is 0; give at least 1") for name in ("mix_parts", "mix_every", "target_period")),
        *(({name: -0.1}, f"{name} is -0.1; give at least 0")
          for name in ("action_l2", "hindsight", "exploration_noise")),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ddpg.make(replace(CONFIG, **change), SPEC, goal=GOAL)
