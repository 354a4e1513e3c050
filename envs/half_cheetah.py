"""HalfCheetah with the semantics of gymnasium's HalfCheetah-v5: same XML, frame skip and reward.

obs [17] = (qpos without x, qvel); reward = dx/dt - 0.1 |a|^2; never terminates; 1,000 steps of 0.05 s.
Source: gymnasium/envs/mujoco/half_cheetah_v5.py.
"""

import gymnasium
import jax
import mujoco

from envs import locomotion
from hybrid_jax import physics
from hybrid_jax.types import SimEnv, Spec

SPEC = Spec(obs_size=17, action_size=6, episode_length=1000, dt=0.05)
FRAME_SKIP = 5
RULES = locomotion.Rules(
    frame_skip=FRAME_SKIP,
    control_cost=0.1,
    reset_noise=0.1,
    first_velocity=lambda key, shape: 0.1 * jax.random.normal(key, shape),
)


def mj_model() -> mujoco.MjModel:
    """gymnasium's own model file."""
    return locomotion.mj_model("half_cheetah.xml")


def make(engine: physics.Engine = "auto", threads: int | None = None) -> SimEnv:
    """The simulator; apply a gap to it with `envs.gap`."""
    return locomotion.make(SPEC, mj_model(), RULES, engine, threads)


def make_real(**kwargs) -> gymnasium.Env:
    """The real side: gymnasium's HalfCheetah-v5 (MuJoCo C, float64)."""
    return gymnasium.make("HalfCheetah-v5", **kwargs)
