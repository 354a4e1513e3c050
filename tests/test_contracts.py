"""Every algorithm in hybrid_jax/algorithms keeps the contract, from the moment its file exists."""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hybrid_jax.algorithms
from hybrid_jax.algorithms import h2o
from hybrid_jax.buffers import fixed_mix
from hybrid_jax.scaling import Moments
from hybrid_jax.testing import check_algorithm
from hybrid_jax.types import Algorithm, Spec

SPEC = Spec(obs_size=3, action_size=2, episode_length=10, dt=0.1)
MOMENTS = Moments(*np.ones((4, SPEC.obs_size)))
NAMES = [m.name for m in pkgutil.iter_modules(hybrid_jax.algorithms.__path__)]


def recipes() -> dict[str, Callable]:
    """Every algorithm's default config, and those that its module's functions give."""
    found = {}
    for name in NAMES:
        module = importlib.import_module(f"hybrid_jax.algorithms.{name}")
        found[name] = module.Config
        for function in filter(inspect.isfunction, vars(module).values()):
            signature = inspect.signature(function)
            if signature.return_annotation is module.Config and not signature.parameters:
                found[f"{name}.{function.__name__}"] = function
    return found


RECIPES = recipes() | {  # and the switches of H2O that change the form of its state or loss
    "h2o, linear penalty": lambda: h2o.Config(linear_penalty=True, next_state_jitter="full"),
    "h2o, the mix": lambda: h2o.Config(importance_weight=False, beta=0.0),
}


def build(name: str):
    """The algorithm of a recipe, but with tiny networks and batches."""
    config = RECIPES[name]()
    module = importlib.import_module(type(config).__module__)
    small = {}
    for field in dataclasses.fields(config):
        if field.name.endswith("hidden"):
            small[field.name] = (8, 8)
        elif "batch" in field.name and field.type is int and getattr(config, field.name) > 0:
            small[field.name] = max(4, getattr(config, "mix_parts", 1))
    return module.make(dataclasses.replace(config, **small), SPEC, MOMENTS)


def test_the_recipes_are_found():
    assert {"cql.tuned", "darc.online", "ddpg.authors"} | set(NAMES) < set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_algorithm_keeps_the_contract(name):
    check_algorithm(build(name), SPEC)


def toy() -> Algorithm:
    """Keeps the contract and learns nothing: the state is a gain."""

    def update(state, batch, key):
        return state + jax.random.normal(key), {"loss": jnp.mean(batch.rows.reward)}

    def act(gain, obs):
        return jnp.tanh(gain * obs[:, : SPEC.action_size])

    def explore(gain, obs, key):
        return jnp.tanh(jax.random.normal(key, (obs.shape[0], SPEC.action_size)))

    return Algorithm(jax.random.normal, update, lambda gain: gain, lambda gain: gain, explore, act, fixed_mix((2, 2)))


def with_update(spoil):
    return toy()._replace(update=lambda state, batch, key: spoil(*toy().update(state, batch, key)))


def forgetful():
    calls = iter(range(100))
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    return with_update(lambda s, m: (s + jax.pure_callback(lambda: np.float32(next(calls)), shape), m))


BROKEN = {
    "state changes shape": lambda: with_update(lambda s, m: (s[None], m)),
    "state changes dtype": lambda: with_update(lambda s, m: (s.astype(jnp.bfloat16), m)),
    "metric is not finite": lambda: with_update(lambda s, m: (s, {"loss": m["loss"] / 0.0})),
    "metric is not a scalar": lambda: with_update(lambda s, m: (s, {"loss": m["loss"][None]})),
    "same key, other result": forgetful,
    "action out of bounds": lambda: toy()._replace(act=lambda gain, obs: 1.5 + toy().act(gain, obs)),
    "exploration without noise": lambda: toy()._replace(explore=lambda gain, obs, key: toy().act(gain, obs)),
    "mix is not of integers": lambda: toy()._replace(mix=lambda key, beta: jnp.zeros(4)),
}


def test_contract_accepts_the_toy():
    check_algorithm(toy(), SPEC)


@pytest.mark.parametrize("fault", BROKEN)
def test_contract_refuses(fault):
    with pytest.raises((AssertionError, TypeError)):
        check_algorithm(BROKEN[fault](), SPEC)
