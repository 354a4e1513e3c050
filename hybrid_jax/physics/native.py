"""MuJoCo C inside a jitted program: a call to the host, where `mujoco.batch` steps all simulations on C++ threads.

The state crosses the border as the bits of its float64 vector (two uint32 lanes a number), so the C
engine's precision and its solver's warm start survive in a float32 program.
"""

import hashlib
import os
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco.batch import Batch

from hybrid_jax.physics import host_call
from hybrid_jax.physics import model as physics_model
from hybrid_jax.physics.model import Motion
from hybrid_jax.types import Array

STATE = int(mujoco.mjtState.mjSTATE_FULLPHYSICS | mujoco.mjtState.mjSTATE_WARMSTART)
_INPUT = int(STATE | mujoco.mjtState.mjSTATE_CTRL)
_MODEL_SETS = 16  # distinct (batches of) physics constants whose compiled models are kept


def state_columns(mj_model: mujoco.MjModel) -> dict[str, slice]:
    """Where time, qpos, qvel and ctrl stand in the packed float64 vector."""
    size = {
        name: mujoco.mj_stateSize(mj_model, int(getattr(mujoco.mjtState, f"mjSTATE_{name}")))
        for name in ("TIME", "QPOS", "QVEL", "CTRL")
    }
    qpos = size["TIME"]
    qvel = qpos + size["QPOS"]
    end = mujoco.mj_stateSize(mj_model, _INPUT)
    # MuJoCo orders the vector by the bits of mjtState; ctrl follows the warm start and ends it.
    return {
        "qpos": slice(qpos, qvel),
        "qvel": slice(qvel, qvel + size["QVEL"]),
        "ctrl": slice(end - size["CTRL"], end),
    }


def to_float64(state: Array, mj_model: mujoco.MjModel) -> np.ndarray:
    """The packed float64 state [..., S] behind the engine's bits, on the host: for tests and inspection."""
    bits = np.ascontiguousarray(np.asarray(state))
    assert bits.shape[-1] == 2 * mujoco.mj_stateSize(mj_model, STATE)
    return bits.view(np.float64)


def from_float64(packed: np.ndarray) -> np.ndarray:
    """The engine's bits [..., 2 S] of a packed float64 state [..., S]."""
    return np.ascontiguousarray(packed, np.float64).view(np.uint32)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Engine:
    """Owns the MuJoCo models and, for each number of simulations, batches that step them on C++ threads."""

    def __init__(self, mj_model: mujoco.MjModel, frame_skip: int, threads: int | None):
        # MuJoCo resets a diverged state by itself; here it must be seen, masked out and counted.
        self.base = mj_model.__copy__()
        self.base.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        self.constants = physics_model.constants(mj_model)
        self.frame_skip = frame_skip
        self.columns = state_columns(mj_model)
        self.state_size = mujoco.mj_stateSize(mj_model, STATE)
        self.threads = threads or cores()
        # Batches that are not in use, each with the models it is set to, by their number of simulations.
        self.spare: defaultdict[int, deque[tuple[Batch, list]]] = defaultdict(deque)
        self.model_sets: OrderedDict[bytes, list[mujoco.MjModel]] = OrderedDict()
        self.models_lock = threading.Lock()

    def models(self, vectors: np.ndarray) -> list[mujoco.MjModel]:
        """A model per row of packed constants [1 or N, M]; those seen before cost a look-up of their bytes."""
        key = vectors.tobytes()
        with self.models_lock:  # callbacks may overlap
            models = self.model_sets.pop(key, None) or self._compiled(vectors)
            self.model_sets[key] = models  # the newest stands last
            while len(self.model_sets) > _MODEL_SETS:
                self.model_sets.popitem(last=False)
        return models

    def _compiled(self, vectors: np.ndarray) -> list[mujoco.MjModel]:
        """A model per row; equal rows share one."""
        unique = {row.tobytes(): row for row in vectors}
        made = {
            name: physics_model.with_constants(self.base, physics_model.unpack(row, self.constants))
            for name, row in unique.items()
        }
        return [made[row.tobytes()] for row in vectors]

    @contextmanager
    def batch(self, vectors: np.ndarray, count: int) -> Iterator[Batch]:
        """`count` simulations of these constants. Callbacks may overlap, so each borrows a batch of its own."""
        models = self.models(vectors)
        try:
            batch, before = self.spare[count].pop()
        except IndexError:
            batch, before = Batch(self.base, count, self.threads), []
        if before is not models:
            batch.set_models(models[0] if len(models) == 1 else models)
        yield batch
        self.spare[count].append((batch, models))  # one that failed is let go

    def init(self, vectors, qpos, qvel):
        (vectors, qpos, qvel), shape = _flatten(vectors, qpos, qvel)
        with self.batch(vectors, len(qpos)) as batch:
            batch.reset(stage=mujoco.mjtStage.mjSTAGE_NONE.value)
            batch.state[:, self.columns["qpos"]] = qpos
            batch.state[:, self.columns["qvel"]] = qvel
            batch.forward()
            packed = batch.state[:, : self.state_size].copy()
        return (packed.view(np.uint32).reshape(*shape, -1),)

    def step(self, vectors, state, ctrl):
        (vectors, state, ctrl), shape = _flatten(vectors, state, ctrl)
        with self.batch(vectors, len(state)) as batch:
            rows = batch.state
            rows[:, : self.state_size] = np.ascontiguousarray(state).view(np.float64)
            rows[:, self.columns["ctrl"]] = ctrl
            before = rows[:, self.columns["qpos"]].copy()
            batch.step(nstep=self.frame_skip)
            qpos = rows[:, self.columns["qpos"]]
            with np.errstate(over="ignore", invalid="ignore"):  # of a diverged state; the rollout masks and counts it
                out = (
                    rows[:, : self.state_size].copy().view(np.uint32),
                    qpos.astype(np.float32),
                    rows[:, self.columns["qvel"]].astype(np.float32),
                    (qpos - before).astype(np.float32),
                )
        return tuple(leaf.reshape(*shape, -1) for leaf in out)


def _flatten(*arrays):
    """Arrays [batch or 1s, n] as [product of batch or 1, n], and the full batch shape."""
    arrays = [np.asarray(array) for array in arrays]
    batch = np.broadcast_shapes(*(array.shape[:-1] for array in arrays))
    flat = [
        array.reshape(1, -1)
        if array.size == array.shape[-1] and i == 0  # one set of constants for all
        else np.broadcast_to(array, (*batch, array.shape[-1])).reshape(-1, array.shape[-1])
        for i, array in enumerate(arrays)
    ]
    return flat, batch


_engines: dict[str, _Engine] = {}  # by name: compiled programs hold on to the name, so an engine stays


def _named_engine(mj_model: mujoco.MjModel, frame_skip: int, threads: int | None) -> tuple[str, _Engine]:
    """The engine of this model and its name, which says the same in every process."""
    content = np.empty(mujoco.mj_sizeModel(mj_model), np.uint8)
    mujoco.mj_saveModel(mj_model, None, content)
    name = f"mujoco-{hashlib.sha256(content).hexdigest()[:16]}-{frame_skip}-{threads or cores()}"
    if name not in _engines:
        _engines[name] = _Engine(mj_model, frame_skip, threads)
        host_call.register(f"{name}-init", _engines[name].init)
        host_call.register(f"{name}-step", _engines[name].step)
    return name, _engines[name]


def make(mj_model: mujoco.MjModel, frame_skip: int, threads: int | None):
    """The (init, step) pair of the native engine; see `bundle.Physics`.

    Raises ValueError for a model whose state holds more than positions, velocities and activations.
    """
    if mj_model.npluginstate or mj_model.nmocap:
        raise ValueError(
            f"engine 'native' carries no plugin state ({mj_model.npluginstate} numbers) and no mocap bodies"
            f" ({mj_model.nmocap}); take mjx, or a model without them"
        )
    name, engine = _named_engine(mj_model, frame_skip, threads)
    state = jax.ShapeDtypeStruct((2 * engine.state_size,), jnp.uint32)
    qpos = jax.ShapeDtypeStruct((mj_model.nq,), jnp.float32)
    qvel = jax.ShapeDtypeStruct((mj_model.nv,), jnp.float32)

    def call(function, kind, shapes, *arguments):
        if jax.default_backend() == "cpu":
            return jax.ffi.ffi_call(f"{name}-{kind}", shapes, vmap_method="expand_dims")(*arguments)
        # Elsewhere the rows lie in the accelerator's memory, and JAX brings them to the host and back.
        return jax.pure_callback(function, shapes, *arguments, vmap_method="expand_dims")

    def init(model, position, velocity):
        return call(engine.init, "init", (state,), physics_model.pack(model), position, velocity)[0]

    def step(model, packed, ctrl):
        shapes = (state, qpos, qvel, qpos)
        packed, *motion = call(engine.step, "step", shapes, physics_model.pack(model), packed, ctrl)
        return packed, Motion(*motion)

    return init, step
