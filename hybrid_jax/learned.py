"""What an actor-critic learns: a policy, an ensemble of critics with slow copies, a temperature.

How all of it starts, how a loss looks at it, one step of one part down a gradient, and how the policy acts.
In which order an update moves the parts is for `actor_critic` to say.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hybrid_jax import distributions, networks
from hybrid_jax.scaling import Moments, Scaling
from hybrid_jax.types import Array, PyTree, Spec, Transition


class State(NamedTuple):
    """Everything that is learned."""

    actor: PyTree
    critics: PyTree  # leaves [M, ...]
    target_critics: PyTree  # leaves [M, ...]
    log_alpha: Array  # []
    averaged_actor: PyTree  # () unless policy_average > 0
    target_actor: PyTree  # () unless asked for
    actor_optimiser: PyTree
    critic_optimiser: PyTree
    temperature_optimiser: PyTree
    delay: PyTree  # Delay where actor_period > 1, else ()


class Delay(NamedTuple):
    """What the updates between two of the policy carry on."""

    count: Array  # [] int32: updates done
    metrics: dict  # of the newest update of the policy


class Here(NamedTuple):
    """What a loss may look at: the networks as functions, the rows and a key of its own."""

    q: Callable  # (obs [B, O], action [B, A]) -> [M, B], of the critics in training
    target_q: Callable  # the same, of the target critics, or of those members only that a third argument names
    actor: Callable  # (params, obs [B, O]) -> (mean, log_std) [B, A] before the tanh
    state: State
    rows: Transition  # leaves [B, ...]
    key: Array


class Learned(NamedTuple):
    """The networks as functions of the state."""

    init: Callable  # (key) -> State
    look: Callable  # (State, rows as the networks see them [B, ...], key) -> Here
    descend: Callable  # (State, "actor" | "critics" | "log_alpha", gradient) -> State: one step of Adam
    move_targets: Callable  # (State) -> State: the target critics take a step towards the critics
    trail: Callable  # (State) -> State: the averaged and the target actor take a step towards the actor
    scaled: Callable  # (rows [B, ...]) -> rows as the networks see them
    policy: Callable  # (State) -> actor params that explore
    deployed: Callable  # (State) -> actor params that are judged and exported
    explore: Callable  # (actor params, obs [N, O], key) -> action [N, A]
    act: Callable  # (actor params, obs [N, O]) -> action [N, A]


OPTIMISERS = {"actor": "actor_optimiser", "critics": "critic_optimiser", "log_alpha": "temperature_optimiser"}


def make(config: Any, spec: Spec, moments: Moments | None, target_actor: bool = False) -> Learned:
    """config: an actor_critic.Config; moments: of a log, for normalise_states; target_actor: whether there is one."""
    scaling = Scaling.of(moments, config.normalise_states, spec.obs_size)
    actor = networks.actor(spec.obs_size, spec.action_size, config.hidden)
    wide = config.critic_hidden or config.hidden
    critics = networks.critics(
        spec.obs_size, spec.action_size, wide, config.critics, config.layer_norm, config.orthogonal_init
    )
    rates = (config.actor_lr, config.critic_lr, config.temperature_lr)
    adam = dict(zip(OPTIMISERS, map(optax.adam, rates), strict=True))

    def init(key: Array) -> State:
        actor_key, critic_key = jax.random.split(key)
        live, q = actor.init(actor_key), critics.init(critic_key)
        log_alpha = jnp.log(jnp.float32(config.initial_temperature))
        averaged = jax.tree.map(jnp.copy, live) if config.policy_average else ()
        target = jax.tree.map(jnp.copy, live) if target_actor else ()
        memory = {OPTIMISERS[name]: adam[name].init(p) for name, p in zip(adam, (live, q, log_alpha), strict=True)}
        zero = jnp.float32(0)
        delay = Delay(jnp.int32(0), {"actor_loss": zero, "entropy": zero}) if config.actor_period > 1 else ()
        return State(live, q, jax.tree.map(jnp.copy, q), log_alpha, averaged, target, delay=delay, **memory)

    def look(state: State, rows: Transition, key: Array) -> Here:
        def q(obs: Array, action: Array) -> Array:
            return critics.apply(state.critics, obs, action)

        def target_q(obs: Array, action: Array, members: Array | None = None) -> Array:
            chosen = state.target_critics
            if members is not None:
                chosen = jax.tree.map(lambda leaf: leaf[members], chosen)
            return critics.apply(chosen, obs, action)

        return Here(q, target_q, actor.apply, state, rows, key)

    def descend(state: State, name: str, gradient: PyTree) -> State:
        params, memory = getattr(state, name), getattr(state, OPTIMISERS[name])
        step, memory = adam[name].update(gradient, memory, params)
        return state._replace(**{name: optax.apply_updates(params, step), OPTIMISERS[name]: memory})

    def move_targets(state: State) -> State:
        return state._replace(target_critics=optax.incremental_update(state.critics, state.target_critics, config.tau))

    def trail(state: State) -> State:
        if config.policy_average:  # the decay is one per update of the critics
            step = 1 - config.policy_average**config.actor_period
            averaged = optax.incremental_update(state.actor, state.averaged_actor, step)
            state = state._replace(averaged_actor=averaged)
        if target_actor:
            target = optax.incremental_update(state.actor, state.target_actor, config.tau)
            state = state._replace(target_actor=target)
        return state

    def policy(state: State) -> PyTree:
        return scaling.fold(state.actor)

    def deployed(state: State) -> PyTree:
        return scaling.fold(state.averaged_actor if config.policy_average else state.actor)

    def explore(params: PyTree, obs: Array, key: Array) -> Array:
        return distributions.sample(key, *actor.apply(params, obs))

    def act(params: PyTree, obs: Array) -> Array:
        mean, _ = actor.apply(params, obs)
        return distributions.mode(mean)

    return Learned(init, look, descend, move_targets, trail, scaling.rows, policy, deployed, explore, act)


def smallest(q: Array) -> Array:
    """min_j Q_j [B] of q [M, B]."""
    return jnp.min(q, axis=0)


def smallest_target(here: Here, action: Array) -> Array:
    """min_j Q'_j(s', a') [B]."""
    return smallest(here.target_q(here.rows.next_obs, action))


def propose(here: Here, obs: Array, key: Array) -> tuple[Array, Array]:
    """Actions [B, A] of the policy as it was before the update, and their log pi [B]."""
    return distributions.sample_and_log_prob(key, *here.actor(here.state.actor, obs))
