"""Every algorithm in hybrid_jax/algorithms keeps the contract, from the moment its file exists."""

import dataclasses
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hybrid_jax.algorithms
from hybrid_jax.buffers import fixed_mix
from hybrid_jax.scaling import Moments
from hybrid_jax.testing import check_algorithm
from hybrid_jax.types import Algorithm, Spec

SPEC = Spec(obs_size=3, action_size=2, episode_length=10, dt=0.1)
MOMENTS = Moments(*np.ones((4, SPEC.obs_size)))
NAMES = [m.name for m in pkgutil.iter_modules(hybrid_jax.algorithms.__path__)]


def build(name: str):
    """The algorithm with its default config, but tiny networks and batches."""
    module = importlib.import_module(f"hybrid_jax.algorithms.{name}")
    config = module.Config()
    small = {}
    for field in dataclasses.fields(config):
        if field.name.endswith("hidden"):
            small[field.name] = (8, 8)
        elif "batch" in field.name and field.type is int and getattr(config, field.name) > 0:
            small[field.name] = 4
    return module.make(dataclasses.replace(config, **small), SPEC, MOMENTS)


@pytest.mark.parametrize("name", NAMES)
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
