"""Dynamics gaps: what is wrong with a simulator, as another physics model or a pure wrapper (`action_gap`).

Each function returns the same SimEnv with one thing changed, and refuses when the change did not reach
the engine: a gap that silently did not take is the classic mistake. Functions compose.
"""

from dataclasses import dataclass

import mujoco
import numpy as np

from envs import action_gap
from hybrid_jax import physics
from hybrid_jax.types import SimEnv

_SETTLE = 4.0  # [s] a limp model is watched for its first contact


@dataclass(frozen=True)
class Gap:
    """A composed gap; 1 (0 for noise and delay) leaves a thing as it is."""

    gravity: float = 1.0  # factor on gravity
    friction: float = 1.0  # factor on the friction of all geoms and contact pairs
    joint_noise: float = 0.0  # std of the Gaussian noise on the executed action
    density: float = 1.0  # factor on every body's mass and inertia
    actuator: float = 1.0  # factor on the torque or force of every motor
    action_delay: int = 0  # [control steps] from the intended action to the executed one


def apply(env: SimEnv, gap: Gap) -> SimEnv:
    """All parts of a gap, one after the other."""
    if gap.density != 1.0:
        env = density(env, gap.density)
    if gap.gravity != 1.0:
        env = gravity(env, gap.gravity)
    if gap.friction != 1.0:
        env = friction(env, gap.friction)
    if gap.actuator != 1.0:
        env = actuator(env, gap.actuator)
    if gap.joint_noise != 0.0:
        env = action_gap.joint_noise(env, gap.joint_noise)
    if gap.action_delay != 0:
        env = action_gap.action_delay(env, gap.action_delay)  # outermost: the noise is the motors', not the line's
    return env


def _model_of(env: SimEnv, what: str, scale: float) -> mujoco.MjModel:
    if env.physics is None:
        raise ValueError(f"gap {what}={scale} needs a MuJoCo model; this environment has closed-form dynamics")
    if not 0.0 < scale < np.inf:
        raise ValueError(f"gap {what}={scale} must be a positive factor")
    if physics.batch_axes(env.model, env.physics.mj_model) is not None:
        raise ValueError(f"gap {what}={scale} cannot be laid over physics of each simulation's own; put it into those")
    return physics.with_constants(env.physics.mj_model, env.model)


def _require(took: bool | np.bool_, what: str, scale: float) -> None:
    if not took:
        raise ValueError(
            f"gap {what}={scale} changed nothing in the engine, or not by that factor; the model has no such {what}"
        )


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


def actuator(env: SimEnv, scale: float) -> SimEnv:
    """Every motor's gear times `scale`; checked on the torques that reach the joints in motion.

    A servo's or a limited joint's torque is no multiple of its gear, which is refused.
    """
    before = _model_of(env, "actuator", scale)
    model = env.model._replace(actuator_gear=np.asarray(env.model.actuator_gear) * np.float32(scale))
    mine, theirs = _torque(before), _torque(physics.with_constants(before, model))
    _require(np.any(mine != 0) and np.allclose(theirs, scale * mine, rtol=1e-4, atol=1e-6), "actuator", scale)
    return env._replace(model=model)


def _torque(model: mujoco.MjModel) -> np.ndarray:
    """What the actuators exert on the joints [V] at full command, away from home and moving."""
    data = mujoco.MjData(model)
    data.qvel[:] = 1.0
    mujoco.mj_integratePos(model, data.qpos, data.qvel, 0.1)
    data.ctrl[:] = np.where(model.actuator_ctrllimited, model.actuator_ctrlrange[:, 1], 1.0)
    mujoco.mj_forward(model, data)
    return data.qfrc_actuator.copy()


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
    """Sliding friction of the first contacts with friction [C] that a limp model makes as it drops."""
    data = mujoco.MjData(model)
    while data.time < _SETTLE:
        found = [contact.friction[0] for contact in data.contact if contact.dim > 1]
        if found:
            return np.array(found)
        mujoco.mj_step(model, data)
    raise ValueError(f"the model makes no contact within {_SETTLE} s that has friction: the gap cannot be checked")
