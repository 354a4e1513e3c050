"""Hopper with the semantics of gymnasium's Hopper-v5: same XML, frame skip, reward and falls.

obs [11] = (qpos without x, qvel clipped to 10); reward = healthy + dx/dt - 0.001 |a|^2; a state that is not healthy
terminates; 1,000 steps of 0.008 s. Source: gymnasium/envs/mujoco/hopper_v5.py.
"""

import gymnasium
import jax.numpy as jnp
import mujoco

from envs import locomotion
from hybrid_jax import physics
from hybrid_jax.types import SimEnv, Spec

SPEC = Spec(obs_size=11, action_size=3, episode_length=1000, dt=0.008)


def healthy(qpos, qvel):
    """Torso above 0.7 m and within 0.2 rad of upright; angles and velocities all within 100."""
    sane = jnp.all(jnp.abs(jnp.concatenate([qpos[2:], qvel])) < 100.0)
    return sane & (qpos[1] > 0.7) & (jnp.abs(qpos[2]) < 0.2)


def mj_model() -> mujoco.MjModel:
    """gymnasium's own model file."""
    return locomotion.mj_model("hopper.xml")


def make(engine: physics.Engine = "auto", threads: int | None = None) -> SimEnv:
    """The simulator; apply a gap to it with `envs.gap`."""
    return locomotion.make(SPEC, mj_model(), locomotion.falling(healthy), engine, threads)


def make_real(**kwargs) -> gymnasium.Env:
    """The real side: gymnasium's Hopper-v5 (MuJoCo C, float64)."""
    return gymnasium.make("Hopper-v5", **kwargs)
