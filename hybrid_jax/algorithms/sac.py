"""Soft actor-critic, and the parts that other algorithms borrow from it.

Haarnoja et al. 2018 (arXiv 1812.05905), in the form of H2O's released code: twin critics, automatic
temperature, all gradients taken at the old state, Polyak average after every step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hybrid_jax import distributions, losses, networks
from hybrid_jax.buffers import fixed_mix
from hybrid_jax.types import Algorithm, Array, Batch, PyTree, Spec, Transition


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of SAC."""

    batch_real: int = 0  # rows per update from the real store; 128 with batch_sim 128 is the plain mix
    batch_sim: int = 256  # rows per update from the simulator
    hidden: tuple[int, ...] = (256, 256)  # widths of actor and critics
    actor_lr: float = 3e-4  # Adam, policy
    critic_lr: float = 3e-4  # Adam, both critics
    temperature_lr: float = 3e-4  # Adam, log alpha
    discount: float = 0.99  # gamma
    tau: float = 5e-3  # step of the target critics towards the critics
    initial_temperature: float = 1.0  # alpha at the start
    target_entropy: float | None = None  # [nats]; None: -dim(A)
    entropy_in_backup: bool = True  # y holds -alpha log pi(a'|s')
    reward_scale: float = 1.0  # multiplies the stored rewards, in the update only
    policy_average: float = 0.0  # decay of the averaged weights that deployed() hands out; 0: the live ones


class State(NamedTuple):
    """Everything that SAC learns."""

    actor: PyTree
    critics: PyTree  # leaves [2, ...]
    target_critics: PyTree  # leaves [2, ...]
    log_alpha: Array  # []
    averaged_actor: PyTree  # () unless policy_average > 0
    actor_optimiser: PyTree
    critic_optimiser: PyTree
    temperature_optimiser: PyTree


class Parts(NamedTuple):
    """What SAC is made of; an algorithm close to it takes these and brings its own critic loss."""

    init: Callable  # (key) -> State
    step: Callable  # (State, rows [B, ...], critic_loss, key) -> (State, metrics); see `parts`
    policy: Callable  # (State) -> actor params that explore
    deployed: Callable  # (State) -> actor params that are judged and exported
    explore: Callable  # (actor params, obs [N, O], key) -> action [N, A]
    act: Callable  # (actor params, obs [N, O]) -> action [N, A]


def make(config: Config, spec: Spec) -> Algorithm:
    """SAC on `batch_real` + `batch_sim` rows, all of equal weight."""
    sac = parts(config, spec)

    def update(state: State, batch: Batch, key: Array) -> tuple[State, dict]:
        return sac.step(state, batch.rows, mean_squared_error, key)

    mix = fixed_mix((config.batch_real, config.batch_sim))
    return Algorithm(sac.init, update, sac.policy, sac.deployed, sac.explore, sac.act, mix)


def mean_squared_error(q: Array, y: Array) -> tuple[Array, dict]:
    """sum_j mean_i (Q_j - y)^2 over critics and rows; q [2, B], y [B]."""
    return jnp.sum(jnp.mean(squared_td_errors(q, y), axis=1)), {"q": jnp.mean(q)}


squared_td_errors = jax.vmap(jax.vmap(losses.squared_td_error), in_axes=(0, None))  # [2, B], [B] -> [2, B]


def parts(config: Config, spec: Spec) -> Parts:
    """SAC's pieces. `critic_loss`: (q [2, B], y [B]) -> (loss [], metrics) says all that differs."""
    check(config)
    actor = networks.actor(spec.obs_size, spec.action_size, config.hidden)
    critics = networks.critics(spec.obs_size, spec.action_size, config.hidden)
    rates = (config.actor_lr, config.critic_lr, config.temperature_lr)
    optimisers = tuple(optax.adam(rate) for rate in rates)
    target_entropy = -float(spec.action_size) if config.target_entropy is None else config.target_entropy

    def init(key: Array) -> State:
        actor_key, critic_key = jax.random.split(key)
        live, q = actor.init(actor_key), critics.init(critic_key)
        log_alpha = jnp.log(jnp.float32(config.initial_temperature))
        averaged = jax.tree.map(jnp.copy, live) if config.policy_average else ()
        states = (o.init(p) for o, p in zip(optimisers, (live, q, log_alpha), strict=True))
        return State(live, q, jax.tree.map(jnp.copy, q), log_alpha, averaged, *states)

    def targets(state: State, rows: Transition, key: Array) -> tuple[Array, Array]:
        """y [B], and the largest part of a y that is not a bootstrapped Q []."""
        action, log_prob = distributions.sample_and_log_prob(key, *actor.apply(state.actor, rows.next_obs))
        value = jnp.min(critics.apply(state.target_critics, rows.next_obs, action), axis=0)
        reward = config.reward_scale * rows.reward
        bonus = -jnp.exp(state.log_alpha) * log_prob if config.entropy_in_backup else 0.0
        y = jax.vmap(losses.td_target)(reward, config.discount * rows.discount, value + bonus)
        return y, jnp.max(jnp.abs(reward) + jnp.abs(bonus))

    def actor_loss(params: PyTree, state: State, obs: Array, key: Array) -> tuple[Array, Array]:
        action, log_prob = distributions.sample_and_log_prob(key, *actor.apply(params, obs))
        min_q = jnp.min(critics.apply(state.critics, obs, action), axis=0)
        loss = jax.vmap(losses.actor_loss, in_axes=(0, 0, None))(log_prob, min_q, jnp.exp(state.log_alpha))
        return jnp.mean(loss), log_prob

    def temperature_loss(log_alpha: Array, log_prob: Array) -> Array:
        loss = jax.vmap(losses.temperature_loss, in_axes=(None, 0, None))
        return jnp.mean(loss(log_alpha, log_prob, target_entropy))

    def step(state: State, rows: Transition, critic_loss: Callable, key: Array) -> tuple[State, dict]:
        target_key, action_key = jax.random.split(key)
        y, reward_max = targets(state, rows, target_key)

        def loss_of_critics(params: PyTree) -> tuple[Array, dict]:
            q = critics.apply(params, rows.obs, rows.action)
            loss, metrics = critic_loss(q, y)
            return loss, metrics | {"q_max": jnp.max(jnp.abs(q))}

        # every gradient is taken at the old state, then every step is applied
        (q_loss, q_metrics), q_grad = jax.value_and_grad(loss_of_critics, has_aux=True)(state.critics)
        (pi_loss, log_prob), pi_grad = jax.value_and_grad(actor_loss, has_aux=True)(
            state.actor, state, rows.obs, action_key
        )
        alpha_grad = jax.grad(temperature_loss)(state.log_alpha, log_prob)

        live, actor_optimiser = _apply(optimisers[0], pi_grad, state.actor_optimiser, state.actor)
        q, critic_optimiser = _apply(optimisers[1], q_grad, state.critic_optimiser, state.critics)
        log_alpha, temperature_optimiser = _apply(
            optimisers[2], alpha_grad, state.temperature_optimiser, state.log_alpha
        )
        averaged = state.averaged_actor
        if config.policy_average:
            averaged = optax.incremental_update(live, averaged, 1 - config.policy_average)
        metrics = {
            "critic_loss": q_loss,
            "actor_loss": pi_loss,
            "temperature": jnp.exp(state.log_alpha),
            "entropy": -jnp.mean(log_prob),
            "reward_max": reward_max,
            **q_metrics,
        }
        return State(
            live,
            q,
            optax.incremental_update(q, state.target_critics, config.tau),
            log_alpha,
            averaged,
            actor_optimiser,
            critic_optimiser,
            temperature_optimiser,
        ), metrics

    def policy(state: State) -> PyTree:
        return state.actor

    def deployed(state: State) -> PyTree:
        return state.averaged_actor if config.policy_average else state.actor

    def explore(params: PyTree, obs: Array, key: Array) -> Array:
        return distributions.sample(key, *actor.apply(params, obs))

    def act(params: PyTree, obs: Array) -> Array:
        mean, _ = actor.apply(params, obs)
        return distributions.mode(mean)

    return Parts(init, step, policy, deployed, explore, act)


def check(config: Config) -> None:
    """Refuses hyper-parameters that cannot work. Raises ValueError."""
    if config.batch_real < 0 or config.batch_sim < 0 or config.batch_real + config.batch_sim == 0:
        raise ValueError(
            f"batch_real is {config.batch_real} and batch_sim is {config.batch_sim}; "
            "give counts >= 0, at least one of them positive."
        )
    if not config.hidden or min(config.hidden) < 1:
        raise ValueError(f"hidden is {config.hidden}; give at least one positive width, e.g. (256, 256).")
    if config.initial_temperature <= 0:
        raise ValueError(f"initial_temperature is {config.initial_temperature}; give a positive number.")
    for name in ("discount", "tau"):
        if not 0 < getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}; give a number in (0, 1].")
    if not 0 <= config.policy_average < 1:
        raise ValueError(f"policy_average is {config.policy_average}; give a decay in [0, 1), e.g. 0.999.")


def _apply(optimiser: optax.GradientTransformation, grads: PyTree, state: PyTree, params: PyTree) -> tuple:
    updates, state = optimiser.update(grads, state, params)
    return optax.apply_updates(params, updates), state
