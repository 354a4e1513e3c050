"""A point mass on a line, in closed form: the toy of tests and documents.

x' = x + v dt, v' = v + (gain a - drag v) dt; reward = 1 - x'^2 - 0.1 v'^2 - 0.01 a^2; terminates where |x| > 2.
"""

from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from hybrid_jax.types import Array, SimEnv, Spec, Step

SPEC = Spec(obs_size=2, action_size=1, episode_length=100, dt=0.05)
LIMIT = 2.0  # [m]


class Constants(NamedTuple):
    """The point mass's physics model."""

    gain: Array | float = 4.0  # [m/s^2] acceleration at full action
    drag: Array | float = 0.5  # [1/s]


def dynamics(constants: Constants, obs, action):
    """One step of one point mass: obs [2] = (x, v), action [1] -> (next obs [2], reward, terminated).

    Written in the operators that numpy and jax.numpy share; the caller stacks.
    """
    x, v, a = obs[..., 0], obs[..., 1], action[..., 0]
    x_next = x + v * SPEC.dt
    v_next = v + (constants.gain * a - constants.drag * v) * SPEC.dt
    reward = 1.0 - x_next**2 - 0.1 * v_next**2 - 0.01 * a**2
    return x_next, v_next, reward, abs(x_next) > LIMIT


def make(constants: Constants = Constants()) -> SimEnv:
    """The simulator; its gap is another `Constants`."""

    def reset(model, key):
        obs = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        return obs, obs

    def step(model, state, action):
        x, v, reward, terminated = dynamics(model, state, action)
        obs = jnp.stack([x, v])
        return obs, Step(obs, reward, terminated, jnp.zeros((), bool))

    model = Constants(*(jnp.asarray(value, jnp.float32) for value in constants))
    return SimEnv(SPEC, model, reset, step)


class RealPointMass(gymnasium.Env):
    """The real side: the same equations in float64 numpy, with its own constants."""

    simulated = True  # its time stands still between two steps
    max_action_step = 2.0  # any jump
    safe_action = 0.0

    def __init__(self, constants: Constants = Constants(gain=2.0, drag=1.5)):
        self.constants = constants
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._obs = np.zeros(2)
        self._time = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._obs = self.np_random.uniform(-1.0, 1.0, 2)
        self._time = 0
        return self._obs.copy(), {}

    def step(self, action):
        x, v, reward, terminated = dynamics(self.constants, self._obs, np.asarray(action, np.float64))
        self._obs = np.array([x, v])
        self._time += 1
        return self._obs.copy(), float(reward), bool(terminated), self._time >= SPEC.episode_length, {}


def make_real() -> RealPointMass:
    """The real side with its default gap: half the gain, three times the drag."""
    return RealPointMass()
