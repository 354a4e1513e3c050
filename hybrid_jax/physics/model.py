"""The physics constants that may differ between worlds, as one record of arrays.

A dynamics gap is another record, never an edited XML file; a leading axis on any field gives every
simulation its own value.
"""

from typing import NamedTuple

import chex
import jax.numpy as jnp
import mujoco
import numpy as np

from hybrid_jax.types import Array


class PhysicsModel(NamedTuple):
    """Constants of a MuJoCo model that both engines take as an argument (float32).

    The inverse weights, inertias at rest and subtree masses follow from the masses: change masses through
    `constants`, which lets MuJoCo recompute them.
    """

    gravity: Array  # [3] m/s^2
    geom_friction: Array  # [G, 3] sliding, torsional, rolling
    pair_friction: Array  # [P, 5] of explicit contact pairs
    body_mass: Array  # [B] kg
    body_inertia: Array  # [B, 3] kg m^2, principal axes
    body_ipos: Array  # [B, 3] m, centre of mass in the body frame
    body_subtreemass: Array  # [B] kg
    body_invweight0: Array  # [B, 2]
    dof_invweight0: Array  # [V]
    dof_M0: Array  # [V] inertia at rest, which MuJoCo C takes for that of bodies that move freely
    dof_damping: Array  # [V]
    dof_frictionloss: Array  # [V]
    actuator_gear: Array  # [U, 6]


class Motion(NamedTuple):
    """What a task may read after one control step."""

    qpos: Array  # [nq] generalised positions
    qvel: Array  # [nv] generalised velocities
    displacement: Array  # [nq] change of qpos over the control step, free of the cancellation in qpos


def _owner(model: mujoco.MjModel, name: str):
    return model.opt if name == "gravity" else model


def constants(model: mujoco.MjModel) -> PhysicsModel:
    """Reads the record out of a MuJoCo model: leaves are numpy float32 arrays."""
    return PhysicsModel(*(np.array(getattr(_owner(model, name), name), np.float32) for name in PhysicsModel._fields))


def with_constants(model: mujoco.MjModel, record: PhysicsModel) -> mujoco.MjModel:
    """A copy of a MuJoCo model that carries an unbatched record.

    Entries equal to the float32 value of the original keep the original's float64 value, so an
    unchanged record gives back exactly the same physics.
    """
    base = constants(model)
    changed = model.__copy__()
    for name in PhysicsModel._fields:
        new, old = np.asarray(getattr(record, name), np.float32), getattr(base, name)
        if new.shape != old.shape:
            raise ValueError(f"physics constant {name} has shape {new.shape}, the model needs {old.shape}")
        target = getattr(_owner(changed, name), name)
        target[...] = np.where(new == old, target, new)
    return changed


def rescaled_mass(model: mujoco.MjModel, scale: float) -> PhysicsModel:
    """The record after the density of every body was multiplied; derived constants by MuJoCo itself."""
    heavier = model.__copy__()
    heavier.body_mass[:] *= scale
    heavier.body_inertia[:] *= scale
    mujoco.mj_setConst(heavier, mujoco.MjData(heavier))
    return constants(heavier)


def pack(record: PhysicsModel) -> Array:
    """One flat float32 vector [M]; under vmap a batched record gives a batched vector."""
    return jnp.concatenate([jnp.ravel(jnp.asarray(leaf, jnp.float32)) for leaf in record])


def unpack(vector: np.ndarray, like: PhysicsModel) -> PhysicsModel:
    """The inverse of `pack` on the host."""
    sizes = np.cumsum([leaf.size for leaf in like])[:-1]
    return PhysicsModel(*(part.reshape(leaf.shape) for part, leaf in zip(np.split(vector, sizes), like, strict=True)))


def batch_axes(record: PhysicsModel, model: mujoco.MjModel) -> PhysicsModel | None:
    """The vmap axes of a record: None for one shared record, 0 on each field that has a value per simulation.

    Raises ValueError for a field that is neither the model's shape nor that shape with one leading axis.
    """
    axes = {}
    for name, base in constants(model)._asdict().items():
        shape = np.shape(getattr(record, name))
        if shape not in (base.shape, shape[:1] + base.shape):
            raise ValueError(f"physics constant {name} has shape {shape}; expected {base.shape} or [N, ...]")
        axes[name] = 0 if len(shape) > base.ndim else None
    if all(axis is None for axis in axes.values()):
        return None
    return PhysicsModel(**axes)


def batch_size(record: PhysicsModel, model: mujoco.MjModel) -> int | None:
    """How many simulations a record holds constants for; None for one that all share.

    Raises ValueError where its fields disagree.
    """
    axes = batch_axes(record, model)
    if axes is None:
        return None
    sizes = {np.shape(leaf)[0] for leaf, axis in zip(record, axes, strict=True) if axis == 0}
    if len(sizes) > 1:
        raise ValueError(f"physics constants are given for {sorted(sizes)} simulations; give all for the same number")
    return sizes.pop()


def spread(record: PhysicsModel, model: mujoco.MjModel, count: int) -> PhysicsModel:
    """`count` of a record's simulations, evenly spread; a shared record stays as it is."""
    size, axes = batch_size(record, model), batch_axes(record, model)
    if size is None or axes is None:
        return record
    rows = np.arange(count) * size // count
    return PhysicsModel(*(leaf if axis is None else leaf[rows] for leaf, axis in zip(record, axes, strict=True)))


def stack(records: list[PhysicsModel]) -> PhysicsModel:
    """One batched record [N, ...] out of N records: each simulation with its own physics."""
    chex.assert_trees_all_equal_shapes(*records)
    return PhysicsModel(*(np.stack(leaves) for leaves in zip(*records, strict=True)))
