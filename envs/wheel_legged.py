"""The H2O paper's real robot as a two-wheeled balancer: stand still on two wheels.

State (x [m], x_dot [m/s], tilt [rad], tilt_dot [rad/s]); action: wheel torque / 3 N m, in [-1, 1], shared by
both wheels; 200 Hz; reward = 30 - a^2 - |s'|^2 with a in N m; a tilt past 30 degrees is a fall and terminates.
Source: specification of the wheel-legged task in the H2O authors' code (state, torque limit, rate, reward).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from hybrid_jax import physics
from hybrid_jax.types import SimEnv, Spec, Step

SPEC = Spec(obs_size=4, action_size=1, episode_length=1000, dt=0.005)
TORQUE_LIMIT = 3.0  # [N m] over both wheels
FALL = np.pi / 6  # [rad] tilt at which the robot counts as fallen
FRAME_SKIP = 2
START_TILT = 0.05  # [rad] half width of the first tilt
START_PLACE = 0.5  # [m] half width of the first displacement: nobody puts a robot down on the millimetre
ALIVE = 30.0


def mj_model() -> mujoco.MjModel:
    """The simulator's robot: 4.6 kg with its centre of mass 0.18 m above the axle."""
    return mujoco.MjModel.from_xml_path(str(Path(__file__).with_name("assets") / "wheel_legged.xml"))


class Reality(NamedTuple):
    """A robot of this make; the defaults are the real one, where the simulator has `SIMULATED`."""

    chassis_mass: float = 11.4  # [kg]; with the wheels 12 kg, where the simulator has 4.6 kg
    centre_of_mass: float = 0.30  # [m] above the axle; the simulator has 0.18 m
    ahead: float = 0.02  # [m] the centre of mass lies before the axle, so upright is no balance; 0 in the simulator
    inertia_scale: float = 6.0  # of the chassis
    friction_scale: float = 1.25  # of every contact
    wheel_damping: float = 0.02  # [N m s] per wheel; the simulator has 0.002
    motor_delay: int = 1  # [control steps] of 5 ms
    sensor_noise: tuple[float, float, float, float] = (0.001, 0.01, 0.002, 0.02)  # std of each state


SIMULATED = Reality(
    chassis_mass=4.0,
    centre_of_mass=0.18,
    ahead=0.0,
    inertia_scale=1.0,
    friction_scale=1.0,
    wheel_damping=0.002,
    motor_delay=0,
    sensor_noise=(0.0, 0.0, 0.0, 0.0),
)


def build(reality: Reality) -> mujoco.MjModel:
    """The robot with these constants."""
    model = mj_model()
    chassis = model.body("chassis").id
    model.body_mass[chassis] = reality.chassis_mass
    model.body_inertia[chassis] *= reality.inertia_scale
    model.body_ipos[chassis] = (reality.ahead, 0.0, reality.centre_of_mass)
    model.geom_friction[:] *= reality.friction_scale
    for wheel in ("left_wheel", "right_wheel"):
        model.dof_damping[model.joint(wheel).dofadr[0]] = reality.wheel_damping
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def between(strength: float) -> Reality:
    """The robot at a gap's strength: 0 the real one without delay and noise, 1 the simulator's.

    c = c_sim (c_real / c_sim)^(1 - strength) for the positive constants; `ahead` in proportion.
    """
    if not 0.0 <= strength < np.inf:
        raise ValueError(f"gap_strength {strength} must be a number from 0 on: 0 is the real robot, 1 the simulator")
    real = Reality()
    scaled = {
        name: getattr(SIMULATED, name) * (getattr(real, name) / getattr(SIMULATED, name)) ** (1.0 - strength)
        for name in ("chassis_mass", "centre_of_mass", "inertia_scale", "friction_scale", "wheel_damping")
    }
    return SIMULATED._replace(ahead=(1.0 - strength) * real.ahead, **scaled)


def reward(action, next_obs, xp=jnp):
    """30 - a^2 - |s'|^2, a the raw torque [N m]; xp is jax.numpy or numpy."""
    return ALIVE - xp.sum(xp.square(TORQUE_LIMIT * action), -1) - xp.sum(xp.square(next_obs), -1)


def observe(qpos, qvel, xp=jnp):
    """(x, x_dot, tilt, tilt_dot) out of MuJoCo's (x, z, tilt, wheels)."""
    return xp.stack([qpos[..., 0], qvel[..., 0], qpos[..., 2], qvel[..., 2]], -1)


def make(engine: physics.Engine = "auto", threads: int | None = None, gap_strength: float = 1.0) -> SimEnv:
    """The simulator; gap_strength: how far it is from the real robot, 1 as it stands (see `between`)."""
    bundle = physics.make(mj_model(), frame_skip=FRAME_SKIP, engine=engine, threads=threads)
    constants = physics.constants(build(between(gap_strength)))

    def reset(model, key):
        place, tilt = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        qpos = jnp.zeros(bundle.mj_model.nq).at[0].set(START_PLACE * place).at[2].set(START_TILT * tilt)
        qvel = jnp.zeros(bundle.mj_model.nv)
        return bundle.init(model, qpos, qvel), observe(qpos, qvel)

    def step(model, state, action):
        torque = TORQUE_LIMIT * jnp.clip(action, -1.0, 1.0)
        state, motion = bundle.step(model, state, jnp.broadcast_to(torque / 2, (2,)))
        obs = observe(motion.qpos, motion.qvel)
        return state, Step(obs, reward(action, obs), jnp.abs(obs[2]) > FALL, jnp.zeros((), bool))

    return SimEnv(SPEC, constants, reset, step, bundle)


def at_strength(strength: float) -> Callable[..., SimEnv]:
    """`make` at that gap strength, as a factory of its own."""
    return partial(make, gap_strength=strength)


class RealWheelLegged(gymnasium.Env):
    """The real side: another robot than the simulator's, in MuJoCo C and float64, on the host."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012
    simulated = True  # its time stands still between two steps
    max_action_step = 2.0  # of the torque limit, from one step to the next: its motors take any jump
    safe_action = 0.0

    def __init__(self, reality: Reality = Reality(), render_mode: str | None = None):
        self.reality = reality
        self.render_mode = render_mode
        self.model = build(reality)
        self.data = mujoco.MjData(self.model)
        self._obs = np.zeros(SPEC.obs_size)  # the newest reading
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (SPEC.obs_size,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (SPEC.action_size,), np.float32)
        self._queue = [0.0] * reality.motor_delay  # torques on their way to the motors
        self._time = 0
        self._renderer = None

    def _sense(self) -> np.ndarray:
        exact = observe(self.data.qpos, self.data.qvel, np)
        self._obs = exact + self.np_random.normal(0.0, self.reality.sensor_noise)
        return self._obs.copy()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[0] = self.np_random.uniform(-START_PLACE, START_PLACE)
        self.data.qpos[2] = self.np_random.uniform(-START_TILT, START_TILT)
        mujoco.mj_forward(self.model, self.data)
        self._queue = [0.0] * self.reality.motor_delay
        self._time = 0
        return self._sense(), {}

    def step(self, action):
        action = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        self._queue.append(float(action[0]) * TORQUE_LIMIT)
        self.data.ctrl[:] = self._queue.pop(0) / 2
        mujoco.mj_step(self.model, self.data, FRAME_SKIP)
        before, obs = self._obs, self._sense()
        self._time += 1
        fallen = bool(abs(self.data.qpos[2]) > FALL)
        return obs, self.earned(before, action, obs), fallen, self._time >= SPEC.episode_length, {}

    def earned(self, before, action, obs) -> float:
        """The reward of one step, by the sensors' states before and after it."""
        return float(reward(action, obs, np))

    def render(self):
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self.model, 540, 960)
        self._renderer.update_scene(self.data, camera="side")
        return self._renderer.render()

    def close(self):
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def make_real(**kwargs) -> RealWheelLegged:
    """The real side with its default differences."""
    return RealWheelLegged(**kwargs)


class HandTuned(NamedTuple):
    """The poor driver behind the log: state feedback with small gains and a trembling hand."""

    gains: tuple[float, float, float, float] = (0.2, 0.25, 3.8, 0.4)  # on x, x_dot, tilt, tilt_dot
    noise: float = 0.35  # stationary std, in units of the action
    memory: float = 0.95  # share of the noise kept from one step to the next


def hand_tuned(rng: np.random.Generator, driver: HandTuned = HandTuned()):
    """A controller obs [4] -> action [1]: clip(k . s + n) with n an autoregressive Gaussian noise."""
    noise = 0.0

    def act(obs: np.ndarray) -> np.ndarray:
        nonlocal noise
        fresh = np.sqrt(1.0 - driver.memory**2) * driver.noise * rng.normal()
        noise = driver.memory * noise + fresh
        return np.clip(np.array([np.dot(driver.gains, obs) + noise]), -1.0, 1.0)

    return act
