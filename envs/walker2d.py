"""Walker2d with the semantics of gymnasium's Walker2d-v5: same XML, frame skip, reward and falls.

obs [17] = (qpos without x, qvel clipped to 10); reward = healthy + dx/dt - 0.001 |a|^2; a state that is not healthy
terminates; 1,000 steps of 0.008 s. Source: gymnasium/envs/mujoco/walker2d_v5.py.
"""

import gymnasium
import mujoco

from envs import locomotion
from hybrid_jax import physics
from hybrid_jax.types import SimEnv, Spec

SPEC = Spec(obs_size=17, action_size=6, episode_length=1000, dt=0.008)


def healthy(qpos, qvel):
    """Torso between 0.8 m and 2 m high and within 1 rad of upright."""
    return (qpos[1] > 0.8) & (qpos[1] < 2.0) & (abs(qpos[2]) < 1.0)


def mj_model() -> mujoco.MjModel:
    """gymnasium's own model file (v5: both feet with friction 1.9)."""
    return locomotion.mj_model("walker2d_v5.xml")


def make(engine: physics.Engine = "auto", threads: int | None = None) -> SimEnv:
    """The simulator; apply a gap to it with `envs.gap`."""
    return locomotion.make(SPEC, mj_model(), locomotion.falling(healthy), engine, threads)


def make_real(**kwargs) -> gymnasium.Env:
    """The real side: gymnasium's Walker2d-v5 (MuJoCo C, float64)."""
    return gymnasium.make("Walker2d-v5", **kwargs)
