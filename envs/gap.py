"""Dynamics gaps: what is wrong with a simulator, as another physics model or a pure wrapper.

Each function returns the same SimEnv with one thing changed, and refuses when the change did not reach
the engine: a gap that silently did not take is the classic mistake. Functions compose.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from hybrid_jax import physics
from hybrid_jax.types import Array, PyTree, SimEnv

_SETTLE = 4.0  # [s] a limp model is watched for its first contact


@dataclass(frozen=True)
class Gap:
    """A composed gap; 1 (or 0 for noise) leaves a thing as it is."""

    gravity: float = 1.0  # factor on gravity
    friction: float = 1.0  # factor on the friction of all geoms and contact pairs
    joint_noise: float = 0.0  # std of the Gaussian noise on the executed action
    density: float = 1.0  # factor on every body's mass and inertia


def apply(env: SimEnv, gap: Gap) -> SimEnv:
    """All parts of a gap, one after the other."""
    if gap.density != 1.0:
        env = density(env, gap.density)
    if gap.gravity != 1.0:
        env = gravity(env, gap.gravity)
    if gap.friction != 1.0:
        env = friction(env, gap.friction)
    if gap.joint_noise != 0.0:
        env = joint_noise(env, gap.joint_noise)
    return env


def _model_of(env: SimEnv, what: str, scale: float) -> mujoco.MjModel:
    if env.physics is None:
        raise ValueError(f"gap {what}={scale} needs a MuJoCo model; this environment has closed-form dynamics")
    if not scale > 0.0:
        raise ValueError(f"gap {what}={scale} must be a positive factor")
    if physics.batch_axes(env.model, env.physics.mj_model) is not None:
        raise ValueError(f"gap {what}={scale} cannot be laid over physics of each simulation's own; put it into those")
    return physics.with_constants(env.physics.mj_model, env.model)


def _require(took: bool, what: str, scale: float) -> None:
    if not took:
        raise ValueError(f"gap {what}={scale} changed nothing in the engine; the model has no {what} to scale")


def gravity(env: SimEnv, scale: float) -> SimEnv:
    """Gravity times `scale`; checked on the forces that a body at rest feels."""
    before = _model_of(env, "gravity", scale)
    model = env.model._replace(gravity=np.asarray(env.model.gravity) * np.float32(scale))
    after = physics.with_constants(before, model)
    weight = _bias_at_rest(before)
    took = np.any(np.abs(weight) > 0) and np.allclose(_bias_at_rest(after), scale * weight, rtol=1e-4, atol=1e-6)
    _require(took, "gravity", scale)
    return env._replace(model=model)


def friction(env: SimEnv, scale: float) -> SimEnv:
    """Friction of all geoms, floor included, and of explicit pairs times `scale`; checked on a contact.

    MuJoCo takes the larger friction of the two geoms, so scaling only one of them may do nothing.
    """
    before = _model_of(env, "friction", scale)
    factor = np.float32(scale)
    model = env.model._replace(
        geom_friction=np.asarray(env.model.geom_friction) * factor,
        pair_friction=np.asarray(env.model.pair_friction) * factor,
    )
    after = physics.with_constants(before, model)
    mine = contact_friction(before)
    _require(np.allclose(contact_friction(after), scale * mine, rtol=1e-4), "friction", scale)
    return env._replace(model=model)


def density(env: SimEnv, scale: float) -> SimEnv:
    """Mass and inertia of every body times `scale`; checked on the mass matrix of a copy."""
    before = _model_of(env, "density", scale)
    record = physics.rescaled_mass(before, scale)
    after = physics.with_constants(before, record)
    # the armature of the joints does not scale
    light, heavy = _mass_matrix(before), _mass_matrix(after)
    _require(np.any(light > 0) and np.allclose(heavy, scale * light, rtol=1e-4, atol=1e-6), "density", scale)
    return env._replace(model=record)


def _mass_matrix(model: mujoco.MjModel) -> np.ndarray:
    """The bodies' share [V, V] of the joint-space inertia at the home position."""
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    full = np.empty((model.nv, model.nv))
    mujoco.mj_fullM(model, data, full)
    return full - np.diag(model.dof_armature)


def _bias_at_rest(model: mujoco.MjModel) -> np.ndarray:
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return data.qfrc_bias.copy()


def contact_friction(model: mujoco.MjModel) -> np.ndarray:
    """Sliding friction of the first contacts [C] that a limp model makes as it drops."""
    data = mujoco.MjData(model)
    while data.ncon == 0 and data.time < _SETTLE:
        mujoco.mj_step(model, data)
    if data.ncon == 0:
        raise ValueError(f"the model makes no contact within {_SETTLE} s: a friction gap cannot be checked")
    return np.array([contact.friction[0] for contact in data.contact])


class NoisyState(NamedTuple):
    """A simulation with its own stream of action noise."""

    inner: PyTree
    key: Array


def joint_noise(env: SimEnv, std: float) -> SimEnv:
    """The engine executes clip(a + N(0, std^2), -1, 1); the stored action stays the intended one.

    The noise enters the reward through the executed action's cost, as in the H2O paper's simulators.
    """
    if not std > 0.0:
        raise ValueError(f"gap joint_noise={std} must be a positive standard deviation")

    def reset(model, key):
        noise_key, inner_key = jax.random.split(key)
        inner, obs = env.reset(model, inner_key)
        return NoisyState(inner, noise_key), obs

    def step(model, state, action):
        noise_key, next_key = jax.random.split(state.key)
        noise = std * jax.random.normal(noise_key, action.shape, action.dtype)
        executed = jnp.clip(action + noise, -1.0, 1.0)
        inner, out = env.step(model, state.inner, executed)
        return NoisyState(inner, next_key), out

    return env._replace(reset=reset, step=step)
