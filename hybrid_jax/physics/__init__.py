"""Rigid-body physics behind one interface."""

from hybrid_jax.physics.bundle import Engine, Physics, make, resolve_engine
from hybrid_jax.physics.model import (
    Motion,
    PhysicsModel,
    batch_axes,
    constants,
    rescaled_mass,
    stack,
    with_constants,
)

__all__ = [
    "Engine",
    "Motion",
    "Physics",
    "PhysicsModel",
    "batch_axes",
    "constants",
    "make",
    "rescaled_mass",
    "resolve_engine",
    "stack",
    "with_constants",
]
