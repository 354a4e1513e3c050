"""Every task in envs/ keeps the contract, from the moment its file exists."""

import importlib
import pkgutil

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import point_mass
from hybrid_jax.testing import check_sim_env

TASKS = [
    m.name for m in pkgutil.iter_modules(envs.__path__) if hasattr(importlib.import_module(f"envs.{m.name}"), "SPEC")
]


def test_the_tasks_are_found():
    assert {"wheel_legged", "half_cheetah", "hopper", "walker2d", "point_mass"} <= set(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_simulator_keeps_the_contract(name):
    check_sim_env(importlib.import_module(f"envs.{name}").make())


@pytest.mark.parametrize("name", TASKS)
def test_real_side_speaks_gymnasium(name):
    module = importlib.import_module(f"envs.{name}")
    env = module.make_real()
    assert env.observation_space.shape == (module.SPEC.obs_size,)
    assert np.all(env.action_space.low == -1) and np.all(env.action_space.high == 1)
    obs, info = env.reset(seed=0)
    assert obs.shape == (module.SPEC.obs_size,) and isinstance(info, dict)
    obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert isinstance(env, gymnasium.Env) and np.isfinite(reward)
    assert isinstance(terminated, bool | np.bool_) and isinstance(truncated, bool | np.bool_)
    np.testing.assert_array_equal(env.reset(seed=5)[0], env.reset(seed=5)[0])
    env.close()


def _spoilt(change):
    good = point_mass.make()
    return good._replace(step=lambda model, state, action: change(*good.step(model, state, action)))


@pytest.mark.parametrize(
    "change",
    [
        lambda state, out: (state, out._replace(reward=out.reward / 0.0)),
        lambda state, out: (state, out._replace(obs=out.obs[:1])),
        lambda state, out: (state, out._replace(terminated=out.reward)),
        lambda state, out: (state.astype(jnp.bfloat16), out),
    ],
)
def test_contract_refuses(change):
    with pytest.raises((AssertionError, TypeError, ValueError)):
        check_sim_env(_spoilt(change))
