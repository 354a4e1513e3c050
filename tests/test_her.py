"""Hindsight relabelling against numpy that redoes it step by step; every number tells where it is from."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import her
from hybrid_jax.types import Goal, Transition

T, O, A, G = 7, 7, 2, 2
GOAL = Goal(G, lambda reached, wanted: -(jnp.abs(reached - wanted).sum(-1) > 1.5).astype(jnp.float32),
            slice(1, 3), slice(4, 6))  # fmt: skip


def relabelled(key, given, goal=GOAL, k=4):
    return jax.jit(lambda *arguments: her.relabel(*arguments, goal, k))(key, given)


def episodes(batch, seed=0):
    """Episode i: the achieved goal after t steps is (100 i + t, -t), the wanted one (-5 - i, 0.25); rest is noise."""
    rng = np.random.default_rng(seed)

    def drawn(*shape):
        return np.float32(rng.standard_normal((batch, T, *shape)))

    time, own = np.arange(T + 1)[None], np.arange(batch)[:, None]
    states = np.float32(rng.standard_normal((batch, T + 1, O)))
    states[..., 1], states[..., 2] = 100 * own + time, -time
    states[..., 4], states[..., 5] = -5 - own, 0.25
    return Transition(states[:, :-1], drawn(A), drawn(), np.float32(rng.random((batch, T)) < 0.8), states[:, 1:])


@dataclass
class Oracle:
    """The relabelled batch, by loops over the function's own random numbers."""

    rows: Transition
    here: np.ndarray
    later: np.ndarray
    changed: np.ndarray

    @classmethod
    def of(cls, key, given, k=4):
        batch = given.reward.shape[0]
        step_key, later_key, which_key = jax.random.split(key, 3)
        here = np.asarray(jax.random.randint(step_key, (batch,), 0, T))
        later = np.asarray(jax.random.randint(later_key, (batch,), here, T))
        changed = np.asarray(jax.random.uniform(which_key, (batch,))) < k / (1 + k)
        rows = Transition(*(np.stack([leaf[i, t] for i, t in enumerate(here)]) for leaf in given[:5]))
        for i in np.flatnonzero(changed):
            reached = given.next_obs[i, later[i], 1:3]
            rows.obs[i, 4:6] = rows.next_obs[i, 4:6] = reached
            away = np.abs(np.float64(rows.next_obs[i, 1:3]) - reached).sum()
            rows.reward[i] = -1.0 if away > 1.5 else 0.0
        return cls(rows, here, later, changed)


def test_a_batch_against_numpy():
    given, key = episodes(300), jax.random.key(3)
    got = relabelled(key, given)
    expected = Oracle.of(key, given)
    assert got.extras == () and 0 < expected.changed.mean() < 1
    for name, new, old in zip(Transition._fields, got[:5], expected.rows[:5], strict=False):
        np.testing.assert_array_equal(new, old, err_msg=name)  # bit for bit, relabelled or not


@pytest.fixture(scope="module")
def many():
    """60,000 relabelled steps, and by their own numbers: whose goal, of which step, for which step."""
    batch = 60_000
    got = relabelled(jax.random.key(5), episodes(batch))
    obs, next_obs = np.asarray(got.obs), np.asarray(got.next_obs)
    np.testing.assert_array_equal(next_obs[:, 2], obs[:, 2] - 1)  # a transition, not two halves
    step, changed = -obs[:, 2].astype(int), obs[:, 5] != 0.25
    return got, np.arange(batch), step, changed


def test_a_goal_is_a_later_state_of_the_same_episode(many):
    got, own, step, changed = many
    obs, next_obs = np.asarray(got.obs), np.asarray(got.next_obs)
    np.testing.assert_array_equal(obs[:, 1], np.float32(100 * own + step))  # the steps are the episode's, too
    np.testing.assert_array_equal(obs[:, 4:6], next_obs[:, 4:6])
    np.testing.assert_array_equal(obs[~changed, 4], np.float32(-5 - own[~changed]))
    after = -obs[changed, 5].astype(int)  # steps done where the new goal was reached
    np.testing.assert_array_equal(obs[changed, 4], np.float32(100 * own[changed] + after))
    assert np.all(after > step[changed]) and after.max() == T


def test_the_shares_are_those_of_the_paper(many):
    """Four in five are relabelled; steps are uniform, and so are the later ones of each (chi-square, p > 1e-6)."""
    got, _, step, changed = many
    np.testing.assert_allclose(changed.mean(), 0.8, atol=4 * (0.8 * 0.2 / changed.size) ** 0.5)
    after = -np.asarray(got.obs)[:, 5].astype(int)
    assert chi_square(np.bincount(step, minlength=T)) < 40
    for t in range(T - 1):
        found = np.bincount(after[changed & (step == t)], minlength=T + 1)
        assert found[: t + 1].sum() == 0 and chi_square(found[t + 1 :]) < 40


def chi_square(counts):
    return np.sum(np.square(counts - counts.mean()) / counts.mean())


def test_the_reward_is_that_of_the_new_goal(many):
    """The distance is 2 (t' - t): the goal is met by the step that reached it and by no other."""
    got, _, step, changed = many
    after = -np.asarray(got.obs)[:, 5].astype(int)
    reward = np.asarray(got.reward)
    np.testing.assert_array_equal(reward[changed], np.where(after == step + 1, 0.0, -1.0)[changed])
    given = episodes(step.size).reward
    np.testing.assert_array_equal(reward[~changed], given[~changed, step[~changed]])


def test_the_edge_of_the_threshold_is_the_rewards_own():
    """Two steps of an episode on either side of the bound: the reward sees the float32 numbers that are stored."""
    bound = np.float32(0.05)
    inside, outside = np.nextafter(bound, np.float32(0)), np.nextafter(bound, np.float32(1))
    goal = Goal(1, lambda reached, wanted: -(jnp.abs(reached - wanted)[..., 0] > bound).astype(jnp.float32),
                slice(0, 1), slice(1, 2))  # fmt: skip
    for place, met in ((inside, 0.0), (bound, 0.0), (outside, -1.0)):
        states = np.float32([[0, 9], [place, 9], [0, 9]])[None].repeat(64, 0)
        given = Transition(states[:, :2], np.zeros((64, 2, 1), np.float32), np.full((64, 2), 3.0, np.float32),
                           np.ones((64, 2), np.float32), states[:, 1:])  # fmt: skip
        got = relabelled(jax.random.key(0), given, goal, 1e9)
        far = (got.obs[:, 0] == 0) & (got.obs[:, 1] == 0)  # the first step, asked for where the second one ended
        assert 0 < far.sum() < 64
        np.testing.assert_array_equal(got.reward[far], met)
        np.testing.assert_array_equal(got.reward[~far], 0.0)


def test_often_is_as_many_steps_as_there_are_each_by_itself():
    given, key = episodes(5), jax.random.key(2)
    got = jax.jit(lambda *arguments: her.relabel_often(*arguments, GOAL, 4))(key, given)
    rows = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(T, 5, *leaf.shape[1:]), got)
    for own, turn in zip(jax.random.split(key, T), range(T), strict=True):
        alone = relabelled(own, given)
        for name, new, old in zip(Transition._fields, rows[:5], alone[:5], strict=False):
            np.testing.assert_array_equal(new[turn], old, err_msg=name)
    assert len(np.unique(rows.obs[:, 0, 2])) > 1  # not one step, T times


def test_no_goals_are_changed_without_hindsight():
    got = relabelled(jax.random.key(1), episodes(200), k=0)
    assert set(np.asarray(got.obs)[:, 5]) == {0.25}
