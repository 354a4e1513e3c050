"""What gymnasium's planar runners share: the model file, reset noise, observation and the form of the reward.

obs = (qpos without x, qvel clipped); reward = alive + dx/dt - c |a|^2, `alive` being 1 where the state reached is
healthy; an unhealthy one terminates. Source: gymnasium/envs/mujoco/{half_cheetah,hopper,walker2d}_v5.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import mujoco

from hybrid_jax import physics
from hybrid_jax.types import Array, SimEnv, Spec, Step


class Rules(NamedTuple):
    """What one runner has of its own."""

    frame_skip: int
    control_cost: float  # c
    reset_noise: float  # half width of the uniform noise on the first positions
    first_velocity: Callable[[Array, tuple[int, ...]], Array]  # (key, shape) -> the first velocities
    healthy: Callable[[Array, Array], Array] | None = None  # (qpos, qvel) -> bool; None: no bonus, no end
    max_speed: float = jnp.inf  # observed velocities are clipped to it


def falling(healthy: Callable[[Array, Array], Array]) -> Rules:
    """The rules of Hopper-v5 and Walker2d-v5, which differ in what is healthy alone."""
    width = 5e-3

    def first_velocity(key, shape):
        return jax.random.uniform(key, shape, minval=-width, maxval=width)

    return Rules(
        4, control_cost=1e-3, reset_noise=width, first_velocity=first_velocity, healthy=healthy, max_speed=10.0
    )


def mj_model(file: str) -> mujoco.MjModel:
    """gymnasium's own model file."""
    assets = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    return mujoco.MjModel.from_xml_path(str(assets / file))


def make(
    spec: Spec, model: mujoco.MjModel, rules: Rules, engine: physics.Engine = "auto", threads: int | None = None
) -> SimEnv:
    """The simulator of one runner."""
    bundle = physics.make(model, frame_skip=rules.frame_skip, engine=engine, threads=threads)
    home = jnp.asarray(model.qpos0, jnp.float32)

    def observe(qpos, qvel):
        return jnp.concatenate([qpos[1:], jnp.clip(qvel, -rules.max_speed, rules.max_speed)])

    def reset(model, key):
        position_key, velocity_key = jax.random.split(key)
        noise = jax.random.uniform(position_key, home.shape, minval=-rules.reset_noise, maxval=rules.reset_noise)
        qpos, qvel = home + noise, rules.first_velocity(velocity_key, (bundle.mj_model.nv,))
        return bundle.init(model, qpos, qvel), observe(qpos, qvel)

    def step(model, state, action):
        state, motion = bundle.step(model, state, action)
        reward = motion.displacement[0] / spec.dt - rules.control_cost * jnp.sum(jnp.square(action))
        healthy = jnp.ones((), bool)
        if rules.healthy is not None:
            healthy = rules.healthy(motion.qpos, motion.qvel)
            reward = reward + healthy
        return state, Step(observe(motion.qpos, motion.qvel), reward, ~healthy, jnp.zeros((), bool))

    return SimEnv(spec, bundle.model, reset, step, bundle)
