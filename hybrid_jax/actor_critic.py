"""The actor-critic step that SAC and its relatives share: each algorithm is this with something replaced.

Haarnoja et al. 2018 (arXiv 1812.05905), in the form of H2O's released code: twin critics, automatic temperature,
all gradients taken at the old state, Polyak average after every step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from hybrid_jax import distributions, learned, losses, ranges
from hybrid_jax.buffers import fixed_mix
from hybrid_jax.learned import Delay, Here, State, propose, smallest, smallest_target
from hybrid_jax.mixing import sources
from hybrid_jax.scaling import Moments
from hybrid_jax.types import REAL, Algorithm, Array, Batch, PyTree, Spec, Transition

LayerNorm = Literal["none", "before", "after"]
Mix = Literal["counts", "quotas", "rows", "store"]  # "counts", or a way of mixing.sources


@dataclass(frozen=True)
class Config:
    """Hyper-parameters that SAC and its relatives share."""

    batch_real: int = 0  # rows per update from the real store; 128 with batch_sim 128 is the plain mix
    batch_sim: int = 256  # rows per update from the simulator
    mixing: Mix = "counts"  # those counts, or as many rows in all at the rates beta: by quotas, row by row, one store
    hidden: tuple[int, ...] = (256, 256)  # widths of the actor, and of the critics unless they have their own
    critic_hidden: tuple[int, ...] | None = None  # widths of the critics; None: those of the actor
    critics: int = 2  # members of the ensemble of critics
    layer_norm: LayerNorm = "none"  # LayerNorm in the critics, before or after each ReLU
    orthogonal_init: bool = False  # critics' layers start orthogonal, not as PyTorch's
    actor_lr: float = 3e-4  # Adam, policy
    critic_lr: float = 3e-4  # Adam, all critics
    temperature_lr: float = 3e-4  # Adam, log alpha; 0: alpha stays
    discount: float = 0.99  # gamma
    tau: float = 5e-3  # step of the target critics towards the critics
    initial_temperature: float = 1.0  # alpha at the start
    target_entropy: float | None = None  # [nats]; None: -dim(A)
    entropy_in_backup: bool = True  # y holds -alpha log pi(a'|s')
    reward_scale: float = 1.0  # multiplies the stored rewards, in the update only
    normalise_states: bool = False  # networks see (s - mean) / std of the log's observations
    policy_average: float = 0.0  # decay per update of the averaged weights that deployed() hands out; 0: the live ones
    actor_period: int = 1  # critic updates per policy update; beyond 1 the policy is judged by the new critics
    delayed_targets: bool = False  # True: the target critics move with the policy, not with every update


class Parts(NamedTuple):
    """What an algorithm is made of."""

    init: Callable  # (key) -> State
    step: Callable  # (State, rows [B, ...], critic_loss, key) -> (State, metrics); see `parts`
    policy: Callable  # (State) -> actor params that explore
    deployed: Callable  # (State) -> actor params that are judged and exported
    explore: Callable  # (actor params, obs [N, O], key) -> action [N, A]
    act: Callable  # (actor params, obs [N, O]) -> action [N, A]


squared_td_errors = jax.vmap(jax.vmap(losses.squared_td_error), in_axes=(0, None))  # [M, B], [B] -> [M, B]


def mean_squared_error(q: Array, y: Array, here: Here | None = None) -> tuple[Array, dict]:
    """sum_j mean_i (Q_j - y)^2 over critics and rows; q [M, B], y [B]."""
    return jnp.sum(jnp.mean(squared_td_errors(q, y), axis=1)), {"q": jnp.mean(q)}


def parts(
    config: Config,
    spec: Spec,
    moments: Moments | None = None,
    *,
    target_value: Callable = smallest_target,
    policy_value: Callable = smallest,
    next_value: Callable | None = None,
    actor_loss: Callable | None = None,
    target_actor: bool = False,
) -> Parts:
    """The pieces of an algorithm. `step` takes its critic_loss: (q [M, B], y [B], Here) -> (loss [], metrics).

    target_value: (Here, action [B, A]) -> the ensemble's value [B] of the proposed action at s'.
    policy_value: (q [M, B]) -> the value [B] that the policy climbs.
    next_value: (Here) -> (V(s') [B], the part of it that is no Q [B]), instead of SAC's.
    actor_loss: (params, Here) -> (loss [], log pi [B]), instead of SAC's.
    target_actor: the state holds one, which follows the policy with tau.
    """
    check(config)
    nets = learned.make(config, spec, moments, target_actor)
    target_entropy = -float(spec.action_size) if config.target_entropy is None else config.target_entropy

    def soft_value(here: Here) -> tuple[Array, Array]:
        action, log_prob = propose(here, here.rows.next_obs, here.key)
        value = target_value(here, action)
        bonus = -jnp.exp(here.state.log_alpha) * log_prob if config.entropy_in_backup else jnp.zeros_like(value)
        return value + bonus, bonus

    def soft_actor_loss(params: PyTree, here: Here) -> tuple[Array, Array]:
        action, log_prob = distributions.sample_and_log_prob(here.key, *here.actor(params, here.rows.obs))
        value = policy_value(here.q(here.rows.obs, action))
        loss = jax.vmap(losses.actor_loss, in_axes=(0, 0, None))(log_prob, value, jnp.exp(here.state.log_alpha))
        return jnp.mean(loss), log_prob

    def temperature_loss(log_alpha: Array, log_prob: Array) -> Array:
        loss = jax.vmap(losses.temperature_loss, in_axes=(None, 0, None))
        return jnp.mean(loss(log_alpha, log_prob, target_entropy))

    def step_critics(state: State, rows: Transition, critic_loss: Callable, key: Array) -> tuple[State, dict]:
        value, bonus = (next_value or soft_value)(nets.look(state, rows, key))
        reward = config.reward_scale * rows.reward
        y = jax.vmap(losses.td_target)(reward, config.discount * rows.discount, value)

        def loss_of(params: PyTree) -> tuple[Array, dict]:
            here = nets.look(state._replace(critics=params), rows, jax.random.fold_in(key, 1))
            q = here.q(rows.obs, rows.action)
            loss, metrics = critic_loss(q, y, here)
            return loss, metrics | {"q_max": jnp.max(jnp.abs(q))}

        (loss, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.critics)
        metrics |= {"critic_loss": loss, "reward_max": jnp.max(jnp.abs(reward) + jnp.abs(bonus))}
        return nets.descend(state, "critics", gradient), metrics

    def step_actor(state: State, judge: State, rows: Transition, key: Array) -> tuple[State, dict]:
        """The policy and the temperature, judged by the critics of another state."""
        here = nets.look(judge, rows, key)
        slope = jax.value_and_grad(actor_loss or soft_actor_loss, has_aux=True)
        (loss, log_prob), gradient = slope(state.actor, here)
        state = nets.descend(state, "actor", gradient)
        if config.temperature_lr:
            state = nets.descend(state, "log_alpha", jax.grad(temperature_loss)(judge.log_alpha, log_prob))
        return nets.trail(state), {"actor_loss": loss, "entropy": -jnp.mean(log_prob)}

    def step(old: State, rows: Transition, critic_loss: Callable, key: Array) -> tuple[State, dict]:
        target_key, action_key = jax.random.split(key)
        rows = nets.scaled(rows)
        state, metrics = step_critics(old, rows, critic_loss, target_key)
        if not config.delayed_targets:
            state = nets.move_targets(state)
        if config.actor_period == 1:  # every gradient is taken at the old state, then every step is applied
            state, told = step_actor(state, old, rows, action_key)
        else:
            state, told = delayed(state, rows, action_key)
        return state, metrics | told | {"temperature": jnp.exp(old.log_alpha)}

    def delayed(state: State, rows: Transition, key: Array) -> tuple[State, dict]:
        count, told = state.delay.count + 1, state.delay.metrics

        def turn(state: State) -> tuple[State, dict]:
            moved = nets.move_targets(state) if config.delayed_targets else state
            return step_actor(moved, state, rows, key)

        due = count % config.actor_period == 0
        state, told = jax.lax.cond(due, turn, lambda state: (state, told), state)
        return state._replace(delay=Delay(count, told)), told

    return Parts(nets.init, step, nets.policy, nets.deployed, nets.explore, nets.act)


def algorithm(config: Config, base: Parts, critic_loss: Callable = mean_squared_error) -> Algorithm:
    """The algorithm whose update is one step down this critic loss, on the config's counts of rows."""

    def update(state: State, batch: Batch, key: Array) -> tuple[State, dict]:
        return base.step(state, batch.rows, critic_loss, key)

    return Algorithm(base.init, update, base.policy, base.deployed, base.explore, base.act, mix_of(config))


def mix_of(config: Config, parts: int = 1) -> Callable[..., Array]:
    """(key, beta [K] = None) -> source [batch_real + batch_sim] int32, by the config's counts or at the rates beta.

    With batch_real 0 the rates are those of the simulators among each other. parts: of `mixing.sources`. Raises
    ValueError for parts that the batch or the way of mixing does not have.
    """
    if config.mixing == "counts" and parts > 1:
        raise ValueError(f"mix_parts is {parts} and mixing is 'counts', which has no parts; give 1, or another mixing.")
    if config.mixing == "counts":
        return fixed_mix((config.batch_real, config.batch_sim))
    draw = sources(config.mixing, config.batch_real + config.batch_sim, parts)
    if config.batch_real > 0:
        return draw
    return lambda key, beta=None: draw(key, None if beta is None else beta.at[REAL].set(0.0))


def check(config: Any) -> None:
    """Refuses hyper-parameters that cannot work. Raises ValueError."""
    if config.batch_real < 0 or config.batch_sim < 0 or config.batch_real + config.batch_sim == 0:
        raise ValueError(
            f"batch_real is {config.batch_real} and batch_sim is {config.batch_sim}; "
            "give counts >= 0, at least one of them positive."
        )
    ranges.widths(config, "hidden", "critic_hidden")
    ranges.positive(config, "initial_temperature", "reward_scale")
    ranges.at_least(config, 0, "actor_lr", "critic_lr", "temperature_lr")
    ranges.at_least(config, 1, "critics", "actor_period")
    for name in ("discount", "tau"):
        if not 0 < getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}; give a number in (0, 1].")
    if not 0 <= config.policy_average < 1:
        raise ValueError(f"policy_average is {config.policy_average}; give a decay in [0, 1), e.g. 0.999.")
    for name, known in (("layer_norm", get_args(LayerNorm)), ("mixing", get_args(Mix))):
        ranges.one_of(config, name, known)
    if config.delayed_targets and config.actor_period == 1:
        raise ValueError("delayed_targets is True, but actor_period is 1; give an actor_period of at least 2.")
