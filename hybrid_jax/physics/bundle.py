"""The Physics bundle: one interface, three engines behind it.

`mjx` is MuJoCo in JAX for any accelerator, `mjx-warp` is MuJoCo Warp for NVIDIA, `native` is MuJoCo C
on host threads inside the jitted program. `auto` takes `native` on a CPU and `mjx` elsewhere.
"""

import importlib.util
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import mujoco

from hybrid_jax.physics.model import PhysicsModel, constants

Engine = Literal["auto", "mjx", "mjx-warp", "native"]


class Physics(NamedTuple):
    """A stepped rigid-body world; pure functions of one world, batched by vmap."""

    engine: str
    mj_model: mujoco.MjModel
    model: PhysicsModel  # the constants of mj_model: pass them, or others, to init and step
    frame_skip: int
    init: Callable  # (model, qpos [nq], qvel [nv]) -> state
    step: Callable  # (model, state, ctrl [nu]) -> (state, Motion); frame_skip physics steps


def resolve_engine(engine: Engine) -> str:
    """The engine's name with `auto` resolved; says what is missing when it cannot run here."""
    backend = jax.default_backend()
    if engine == "auto":
        return "native" if backend == "cpu" else "mjx"
    if engine not in ("mjx", "mjx-warp", "native"):
        raise ValueError(f"engine {engine!r} is not known; use one of auto, mjx, mjx-warp, native")
    if engine == "mjx-warp":
        if backend not in ("gpu", "cuda"):
            raise ValueError(f"engine 'mjx-warp' needs an NVIDIA GPU, JAX runs on {backend!r} here; use mjx or native")
        if importlib.util.find_spec("warp") is None:
            raise ValueError("engine 'mjx-warp' needs the package warp-lang; pip install -e '.[warp]'")
    return engine


def make(mj_model: mujoco.MjModel, *, frame_skip: int, engine: Engine = "auto", threads: int | None = None) -> Physics:
    """Builds the bundle for a MuJoCo model.

    frame_skip: physics steps per control step. threads: host threads of `native` (None: one per core).
    Raises ValueError for an engine that cannot run here.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads {threads} must be at least 1, or None for one per core")
    if frame_skip < 1:
        raise ValueError(f"frame_skip {frame_skip} must be at least 1")
    name = resolve_engine(engine)
    if name == "native":
        from hybrid_jax.physics import native

        init, step = native.make(mj_model, frame_skip, threads)
    else:
        from hybrid_jax.physics import mjx_engine

        init, step = mjx_engine.make(mj_model, frame_skip, "warp" if name == "mjx-warp" else "jax")
    return Physics(name, mj_model, constants(mj_model), frame_skip, init, step)
