"""Hindsight experience replay: an episode judged by a goal that it did reach.

Andrychowicz et al. 2017 (arXiv 1707.01495), section 3.2 and the strategy "future". From each episode of L steps

    t ~ U{0, ..., L - 1};   with probability 1 - 1/(1 + k):   t' ~ U{t, ..., L - 1},   g <- achieved(s_{t' + 1})

and the reward of a relabelled step is goal.reward(achieved(s_{t + 1}), g). An episode is one row of a store, so a new
goal comes from the same episode of the same environment by construction.

Index: t' counts steps and its goal is read from the step's successor, `next_obs[t']`. These are the states t + 1 to L
of baselines' her_sampler.py, which takes `ag[t + 1 + int(u (L - t))]` from L + 1 states. An off-by-one cannot hide: the
step itself (t' = t) is a source and has then reached its goal; the state it began in never is one.
"""

import chex
import jax
import jax.numpy as jnp

from hybrid_jax.types import Array, Goal, Transition


def relabel(key: Array, episodes: Transition, goal: Goal, k: float) -> Transition:
    """One step [B, ...] of each episode [B, T, ...], k of 1 + k of them with another goal on average; no extras.

    Steps that keep their goal keep the reward that their own environment gave. A terminal keeps its discount: an
    environment that ends where its goal is reached is not served.
    """
    chex.assert_rank([episodes.obs, episodes.reward], [3, 2])
    chex.assert_type([episodes.obs, episodes.reward], float)
    step_key, later_key, which_key = jax.random.split(key, 3)
    count, steps = episodes.reward.shape
    here = jax.random.randint(step_key, (count,), 0, steps)
    later = jax.random.randint(later_key, (count,), here, steps)
    changed = jax.random.bernoulli(which_key, k / (1 + k), (count,))

    each = jnp.arange(count)
    rows = jax.tree.map(lambda leaf: leaf[each, here], episodes._replace(extras=()))
    reached = episodes.next_obs[each, later, goal.achieved]
    return jax.tree.map(
        lambda new, old: jnp.where(jnp.expand_dims(changed, range(1, old.ndim)), new, old),
        _with_goal(rows, goal, reached), rows,
    )  # fmt: skip


def relabel_often(key: Array, episodes: Transition, goal: Goal, k: float) -> Transition:
    """T steps of each episode [B, T, ...], each as by `relabel`: rows [T B, ...], row i from episode i mod B."""
    picked = jax.vmap(lambda own: relabel(own, episodes, goal, k))(jax.random.split(key, episodes.reward.shape[1]))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), picked)


def _with_goal(rows: Transition, goal: Goal, desired: Array) -> Transition:
    """Rows [B, ...] as they had been with these desired goals [B, G]."""
    obs, next_obs = (s.at[:, goal.desired].set(desired) for s in (rows.obs, rows.next_obs))
    return rows._replace(obs=obs, next_obs=next_obs, reward=goal.reward(next_obs[:, goal.achieved], desired))
