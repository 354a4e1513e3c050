"""Every algorithm in hybrid_jax/algorithms keeps the contract, from the moment its file exists."""

import dataclasses
import importlib
import inspect
import pkgutil

import jax
import numpy as np
import pytest

import hybrid_jax.algorithms
from hybrid_jax.testing import check_algorithm
from hybrid_jax.types import Spec

SPEC = Spec(obs_size=3, action_size=2, episode_length=10, dt=0.1)
EXTRA = {"next_obs_std": np.ones(SPEC.obs_size, np.float32)}  # arguments of `make` beyond (config, spec)
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
    wanted = list(inspect.signature(module.make).parameters)[2:]
    return module.make(dataclasses.replace(config, **small), SPEC, **{name: EXTRA[name] for name in wanted})


@pytest.mark.parametrize("name", NAMES)
def test_algorithm_keeps_the_contract(name):
    check_algorithm(build(name), SPEC)


def broken_shape(sac):
    def update(state, batch, key):
        state, metrics = sac.update(state, batch, key)
        return state._replace(log_alpha=state.log_alpha[None]), metrics

    return sac._replace(update=update)


def broken_number(sac):
    def update(state, batch, key):
        state, metrics = sac.update(state, batch, key)
        return state, metrics | {"critic_loss": metrics["critic_loss"] * np.nan}

    return sac._replace(update=update)


def broken_key(sac):
    calls = iter(range(100))

    def update(state, batch, key):
        del key
        jax.debug.callback(lambda: None)
        drawn = jax.pure_callback(lambda: np.int32(next(calls)), jax.ShapeDtypeStruct((), np.int32))
        return sac.update(state, batch, jax.random.key(drawn))

    return sac._replace(update=update)


def broken_action(sac):
    return sac._replace(act=lambda policy, obs: 1.5 + sac.act(policy, obs))


def broken_exploration(sac):
    return sac._replace(explore=lambda policy, obs, key: sac.act(policy, obs))


@pytest.mark.parametrize(
    "broken", [broken_shape, broken_number, broken_key, broken_action, broken_exploration]
)
def test_contract_sees_a_broken_algorithm(broken):
    with pytest.raises((AssertionError, TypeError)):
        check_algorithm(broken(build("sac")), SPEC)
