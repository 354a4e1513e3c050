"""What a run stores, and whether its parts fit together, refused in one sentence if not; `rates` is a trainer.Rates."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hybrid_jax import physics
from hybrid_jax.mixing import Mixing
from hybrid_jax.types import Algorithm, SimEnv, Spec, Transition


def example_row(spec: Spec, declared: tuple = (), episodes: bool = False) -> Transition:
    """Shapes and dtypes of one stored row, with the columns that the algorithm declares, or of an episode [T, ...]."""
    obs = jax.ShapeDtypeStruct((spec.obs_size,), jnp.float32)
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    action = jax.ShapeDtypeStruct((spec.action_size,), jnp.float32)
    extras = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in declared}
    row = Transition(obs, action, scalar, scalar, obs, extras or ())
    if not episodes:
        return row
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((spec.episode_length, *leaf.shape), leaf.dtype), row)


def check(spec: Spec, rates: Any, sims: tuple[SimEnv, ...]) -> None:
    """Refuses rates or simulators that do not fit together. Raises ValueError."""
    for name, value in vars(rates).items():
        least = 0 if name == "random" else 1
        if value < least:
            raise ValueError(f"rates.{name} is {value}; it must be at least {least}")
    chunk = rates.sims * rates.unroll
    if chunk > rates.sim_capacity:
        raise ValueError(
            f"rates.sims x rates.unroll = {chunk} rows an iteration do not fit into rates.sim_capacity"
            f" {rates.sim_capacity}; enlarge the store or collect less at once"
        )
    for env in sims:
        if env.spec != spec:
            raise ValueError(f"a simulator's spec {env.spec} differs from the run's {spec}; both must be one task")
        own = None if env.physics is None else physics.batch_size(env.model, env.physics.mj_model)
        if own not in (None, rates.sims):
            raise ValueError(
                f"the simulator has physics for {own} simulations, rates.sims is {rates.sims}: set it to {own}"
            )


def capacities_of(spec: Spec, algorithm: Algorithm, rates: Any, real: int, sims: int) -> tuple[int, ...]:
    """Of the stores, in rows, or in whole episodes where those are the rows. Raises ValueError."""
    rows = (max(real, 1), *(rates.sim_capacity,) * sims)
    if not algorithm.episodes:
        return rows
    if rates.unroll % spec.episode_length:
        raise ValueError(
            f"rates.unroll is {rates.unroll}; the algorithm stores whole episodes, give a multiple of"
            f" {spec.episode_length}"
        )
    return tuple(max(capacity // spec.episode_length, 1) for capacity in rows)


def check_draws(
    algorithm: Algorithm, capacities: tuple[int, ...], mixed: Mixing | None, simulated: bool, updates: int
) -> None:
    """Refuses an algorithm that draws from stores that are not there, or not at the rates. Raises ValueError."""
    key, stores = jax.random.key(0), len(capacities)
    if mixed is None:
        drawn = int(np.max(algorithm.mix(key)))
        if drawn >= stores:
            raise ValueError(
                f"the algorithm draws rows of store {drawn}; there are {stores - 1} simulators behind store 0"
            )
    else:
        sole = [np.asarray(algorithm.mix(key, beta)) for beta in jnp.eye(stores)]
        if stores > 1 and all(np.array_equal(sole[0], other) for other in sole[1:]):
            raise ValueError(
                "the algorithm draws fixed counts, whatever beta is; set its mixing to quotas, rows or store"
            )
    if mixed is not None and updates % algorithm.mix_every:
        raise ValueError(
            f"rates.updates is {updates}; the algorithm draws a mix for {algorithm.mix_every} updates, give a multiple"
        )
    if algorithm.extras and simulated:
        named = ", ".join(name for name, _ in algorithm.extras)
        raise ValueError(
            f"the algorithm's rows hold {named}, which no simulator gives; make the run without simulators"
        )
