"""Rigid-body physics behind one interface."""

import logging

import mujoco

from hybrid_jax.physics.bundle import Engine, Physics, make, resolve_engine
from hybrid_jax.physics.model import (
    Motion,
    PhysicsModel,
    batch_axes,
    batch_size,
    constants,
    rescaled_mass,
    spread,
    stack,
    with_constants,
)

__all__ = [
    "Engine",
    "Motion",
    "Physics",
    "PhysicsModel",
    "batch_axes",
    "batch_size",
    "constants",
    "make",
    "rescaled_mass",
    "resolve_engine",
    "spread",
    "stack",
    "with_constants",
]

# MuJoCo would write its warnings to a file in the working folder; diverged simulations are counted by the
# rollout anyway. `logging.getLogger("mujoco").setLevel("INFO")` shows them.
mujoco.set_mju_user_warning(logging.getLogger("mujoco").info)
