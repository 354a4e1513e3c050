"""HalfCheetah with the semantics of gymnasium's HalfCheetah-v5: same XML, frame skip and reward.

obs [17] = (qpos without x, qvel); reward = dx/dt - 0.1 |a|^2; never terminates; 1,000 steps of 0.05 s.
Source: gymnasium/envs/mujoco/half_cheetah_v5.py.
"""

from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import mujoco

from hybrid_jax import physics
from hybrid_jax.types import SimEnv, Spec, Step

FRAME_SKIP = 5
RESET_NOISE = 0.1
CONTROL_COST = 0.1
SPEC = Spec(obs_size=17, action_size=6, episode_length=1000, dt=0.05)


def mj_model() -> mujoco.MjModel:
    """gymnasium's own model file."""
    assets = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    return mujoco.MjModel.from_xml_path(str(assets / "half_cheetah.xml"))


def make(engine: physics.Engine = "auto", threads: int | None = None) -> SimEnv:
    """The simulator; apply a gap to it with `envs.gap`."""
    bundle = physics.make(mj_model(), frame_skip=FRAME_SKIP, engine=engine, threads=threads)
    home = jnp.asarray(bundle.mj_model.qpos0, jnp.float32)

    def observe(qpos, qvel):
        return jnp.concatenate([qpos[1:], qvel])

    def reset(model, key):
        position_key, velocity_key = jax.random.split(key)
        qpos = home + jax.random.uniform(position_key, home.shape, minval=-RESET_NOISE, maxval=RESET_NOISE)
        qvel = RESET_NOISE * jax.random.normal(velocity_key, (bundle.mj_model.nv,))
        return bundle.init(model, qpos, qvel), observe(qpos, qvel)

    def step(model, state, action):
        state, motion = bundle.step(model, state, action)
        reward = motion.displacement[0] / SPEC.dt - CONTROL_COST * jnp.sum(jnp.square(action))
        never = jnp.zeros((), bool)
        return state, Step(observe(motion.qpos, motion.qvel), reward, never, never)

    return SimEnv(SPEC, bundle.model, reset, step, bundle)


def make_real(**kwargs) -> gymnasium.Env:
    """The real side: gymnasium's HalfCheetah-v5 (MuJoCo C, float64)."""
    return gymnasium.make("HalfCheetah-v5", **kwargs)
