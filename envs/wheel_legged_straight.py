"""The H2O paper's second task for its robot: roll straight ahead at 0.2 m/s. Robot, gap and fall are `wheel_legged`'s.

reward = 15 - ((x_dot - 0.2)^2 + a^2) with a in N m and x_dot of s, the state before the step; at most 15,000.
Source: specification of the wheel-legged tasks in the H2O authors' code.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from envs import wheel_legged
from envs.wheel_legged import SPEC as SPEC
from hybrid_jax import physics
from hybrid_jax.types import Array, PyTree, SimEnv

ALIVE = 15.0
SPEED = 0.2  # [m/s] wanted


def reward(obs, action, xp=jnp):
    """15 - ((x_dot - 0.2)^2 + a^2), a the raw torque [N m]; xp is jax.numpy or numpy."""
    torque = wheel_legged.TORQUE_LIMIT * action
    return ALIVE - (xp.square(obs[..., 1] - SPEED) + xp.sum(xp.square(torque), -1))


class Moving(NamedTuple):
    """A simulation with what its next reward is taken from."""

    inner: PyTree
    obs: Array  # [4] of the state that `inner` is in


def make(engine: physics.Engine = "auto", threads: int | None = None, gap_strength: float = 1.0) -> SimEnv:
    """The simulator; gap_strength as in `wheel_legged.make`."""
    standing = wheel_legged.make(engine, threads, gap_strength)

    def reset(model, key):
        inner, obs = standing.reset(model, key)
        return Moving(inner, obs), obs

    def step(model, state, action):
        inner, out = standing.step(model, state.inner, action)
        return Moving(inner, out.obs), out._replace(reward=reward(state.obs, action))

    return standing._replace(reset=reset, step=step)


def at_strength(strength: float) -> Callable[..., SimEnv]:
    """`make` at that gap strength, as a factory of its own."""
    return partial(make, gap_strength=strength)


class RealMovingStraight(wheel_legged.RealWheelLegged):
    """The real side: the same robot, rewarded for rolling."""

    def earned(self, before, action, obs) -> float:
        return float(reward(before, action, np))


def make_real(**kwargs) -> RealMovingStraight:
    """The real side with its default differences."""
    return RealMovingStraight(**kwargs)


DRIVER = wheel_legged.HandTuned(gains=(0.0, 0.6, 4.0, 0.4))  # on x, x_dot - 0.2, tilt, tilt_dot


def hand_tuned(rng: np.random.Generator, driver: wheel_legged.HandTuned = DRIVER):
    """The poor driver behind the log, steering for 0.2 m/s: obs [4] -> action [1]."""
    act = wheel_legged.hand_tuned(rng, driver)
    wanted = np.array([0.0, SPEED, 0.0, 0.0])
    return lambda obs: act(obs - wanted)
