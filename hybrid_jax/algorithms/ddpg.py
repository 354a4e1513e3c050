"""DDPG on rows of K environments, with hindsight where the task has a goal: `Config` ours, `authors` as released.

Lillicrap et al. 2016 (arXiv 1509.02971) on the mix of Di-Castro Shashua et al. 2021 (arXiv 2110.00445, constants of the
authors' code), HER of Andrychowicz et al. 2017 (arXiv 1707.01495; `her`):

    y   = clip(r + gamma (1 - terminated) Q'(s', pi'(s')), -1/(1 - gamma), 0)   (bounds with a goal alone: r is -1 or 0)
    L_Q = mean (Q - y)^2,    L_pi = -mean Q(s, pi(s)) + action_l2 mean pi(s)^2

Both gradients are taken at the old state; as y sees slow copies alone, that is the authors' actor before critic. To
explore, `exploration.around` with 0.2 and 0.3.
One normaliser (`normaliser`) serves acting, updates and goals. What acts is a plain actor with it in its first two
layers; where that explores from an export, it samples tanh(mean + 0.2 N(0, 1)), without the uniform actions.

Ours: quotas, targets that move with every update, statistics of the rows drawn, by beta therefore. `authors`: 8 parts
of a batch (their ranks) that choose a store each for 40 updates, then one step of the targets; statistics of new
episodes, by q. Not theirs: Adam gets the mean over ranks and not the sum, which it does not see but for its epsilon;
all ranks draw from the same episodes; layers start as all networks' here.

To expect: the planar push in reality alone, 97 % after 7,200 episodes with the best of five seeds
(docs/results/push_mixing.md).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from hybrid_jax import actor_critic, distributions, exploration, guards, her, learned, networks, normaliser, ranges
from hybrid_jax.actor_critic import Here
from hybrid_jax.scaling import Moments
from hybrid_jax.types import Algorithm, Array, Batch, Goal, PyTree, Spec, Transition

Statistics = Literal["drawn", "collected"]


@dataclass(frozen=True)
class Config(actor_critic.Config):
    """Those of the actor-critic, with other numbers, and its own."""

    batch_real: int = 128  # rows per update from the real store; at rates beta the sum of both counts
    batch_sim: int = 128  # rows per update from the simulator
    mixing: actor_critic.Mix = "quotas"  # how the rates beta fill a batch; "counts" where a run has none
    mix_parts: int = 1  # equal parts of a batch, each mixed by itself; with "store" each draws from one of its own
    mix_every: int = 1  # updates that share one draw of the mix
    statistics: Statistics = "drawn"  # rows that feed the normaliser: a batch's, or the new ones
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of actor and critic
    critics: int = 1  # with more, the smallest counts
    actor_lr: float = 1e-3  # Adam, policy
    critic_lr: float = 1e-3  # Adam, critic
    temperature_lr: float = 0.0  # there is no temperature
    entropy_in_backup: bool = False  # and no entropy
    discount: float = 0.98  # gamma
    tau: float = 5e-3  # step of the target networks
    target_period: int = 1  # updates per step of the target networks
    action_l2: float = 1.0  # weight of mean pi(s)^2 in the policy's loss
    hindsight: float = 4.0  # k: relabelled rows per row with its own goal
    exploration_noise: float = 0.2  # std of the noise on the policy's action where it explores
    random_actions: float = 0.3  # share of uniform actions where it explores


def authors() -> Config:
    """As coded; beside it a run's visits "rows", sims 2, unroll 400, and the empty store's share to the newest one."""
    return Config(
        batch_real=1024, batch_sim=1024, mixing="store", mix_parts=8, mix_every=40, target_period=40, tau=0.05,
        statistics="collected",
    )  # fmt: skip


class State(NamedTuple):
    """What changes with an update."""

    learner: learned.State
    seen: normaliser.Statistics
    updates: Array  # [] int32: since init


def make(config: Config, spec: Spec, moments: Moments | None = None, goal: Goal | None = None) -> Algorithm:
    """DDPG; with a goal its rows are whole episodes. moments: not used. Raises ValueError as `check`."""
    check(config, goal)
    deeper = networks.actor(spec.obs_size, spec.action_size, (2 * spec.obs_size, *config.hidden))

    def next_value(here: Here) -> tuple[Array, Array]:
        mean, _ = here.actor(here.state.target_actor, here.rows.next_obs)
        value = actor_critic.smallest_target(here, distributions.mode(mean))
        return value, jnp.zeros_like(value)

    def actor_loss(params: PyTree, here: Here) -> tuple[Array, Array]:
        action = distributions.mode(here.actor(params, here.rows.obs)[0])
        q = actor_critic.smallest(here.q(here.rows.obs, action))
        return config.action_l2 * jnp.mean(jnp.square(action)) - jnp.mean(q), jnp.zeros_like(q)  # it has no entropy

    def critic_loss(q: Array, y: Array, here: Here) -> tuple[Array, dict]:
        bounded = y if goal is None else jnp.clip(y, -config.reward_scale / (1 - config.discount), 0.0)
        return actor_critic.mean_squared_error(q, bounded)

    base = actor_critic.parts(config, spec, next_value=next_value, actor_loss=actor_loss, target_actor=True)

    def init(key: Array) -> State:
        return State(base.init(key), normaliser.init(spec.obs_size), jnp.int32(0))

    def update(state: State, batch: Batch, key: Array) -> tuple[State, dict]:
        her_key, step_key = jax.random.split(key)
        rows = batch.rows if goal is None else her.relabel(her_key, batch.rows, goal, config.hindsight)
        seen = normaliser.observe(state.seen, rows.obs) if config.statistics == "drawn" else state.seen
        rows = rows._replace(**{name: normaliser.normalise(seen, getattr(rows, name)) for name in ("obs", "next_obs")})
        learner, metrics = base.step(state.learner, rows, critic_loss, step_key)
        due = (state.updates + 1) % config.target_period == 0
        targets = {name: getattr(learner, name) for name in ("target_critics", "target_actor")}
        kept = guards.keep(due, targets, {name: getattr(state.learner, name) for name in targets})
        return State(learner._replace(**kept), seen, state.updates + 1), metrics

    def observe(state: State, rows: Transition, count: Array | int, key: Array) -> State:
        """With as many relabelled steps as the new episodes have."""
        valid = jnp.arange(rows.reward.shape[0]) < count
        if goal is not None:
            steps, rows = rows.reward.shape[1], her.relabel_often(key, rows, goal, config.hindsight)
            valid = jnp.tile(valid, steps)
        return state._replace(seen=normaliser.observe(state.seen, rows.obs, valid))

    def plain(state: State, actor: PyTree) -> PyTree:
        """The actor for plain observations, its spread that of the exploration noise."""
        return networks.with_std(normaliser.fold(state.seen, actor), max(config.exploration_noise, 1e-8))

    def act(params: PyTree, obs: Array) -> Array:
        return distributions.mode(deeper.apply(params, obs)[0])

    def explore(params: PyTree, obs: Array, key: Array) -> Array:
        return exploration.around(key, act(params, obs), config.exploration_noise, config.random_actions)

    return actor_critic.algorithm(config, base)._replace(
        init=init, update=update, explore=explore, act=act, episodes=goal is not None, mix_every=config.mix_every,
        mix=actor_critic.mix_of(config, config.mix_parts),
        observe=observe if config.statistics == "collected" else None,
        policy=lambda state: plain(state, base.policy(state.learner)),
        deployed=lambda state: plain(state, base.deployed(state.learner)),
    )  # fmt: skip


def check(config: Config, goal: Goal | None) -> None:
    """Refuses hyper-parameters that cannot work. Raises ValueError."""
    ranges.at_least(config, 1, "mix_parts", "mix_every", "target_period")
    ranges.at_least(config, 0, "action_l2", "hindsight", "exploration_noise")
    ranges.share(config, "random_actions")
    ranges.one_of(config, "statistics", get_args(Statistics))
    why = "DDPG has no entropy, normalises by itself and moves its policy with every update"
    ranges.only(config, why, temperature_lr=0.0, entropy_in_backup=False, normalise_states=False, actor_period=1)
    if goal is not None and config.discount == 1:
        raise ValueError("discount is 1, and the value of a goal is held in -1/(1 - discount); give one below 1.")
