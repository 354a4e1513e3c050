"""MuJoCo in JAX (MJX), in plain JAX or on NVIDIA Warp.

The carried state is one float32 vector (qpos, qvel, act, warm start): everything else in `mjx.Data`
is recomputed by the step.
"""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from hybrid_jax.physics import cholesky
from hybrid_jax.physics.model import Motion, PhysicsModel
from hybrid_jax.types import Array

_WARP_CONTACTS = 1 << 17  # over all simulations: 32 each for 4,096 of them


def _split(mj_model: mujoco.MjModel, state: Array) -> list[Array]:
    sizes = (mj_model.nq, mj_model.nv, mj_model.na, mj_model.nv)
    return jnp.split(state, np.cumsum(sizes)[:-1])


def make(mj_model: mujoco.MjModel, frame_skip: int, impl: str):
    """The (init, step) pair of the MJX engines; see `bundle.Physics`."""
    from mujoco import mjx

    base = mjx.put_model(mj_model, impl=impl)
    room = {"naconmax": _WARP_CONTACTS} if impl == "warp" else {}  # Warp needs the bound over all simulations
    template = mjx.make_data(mj_model, impl=impl, **room)
    # Hinges and slides only, and qpos advances by dt qvel: then the sum is free of the cancellation in qpos.
    summed = mj_model.nq == mj_model.nv and mj_model.opt.integrator != mujoco.mjtIntegrator.mjINT_RK4

    def mjx_model(record: PhysicsModel):
        fields = record._asdict()
        gravity = fields.pop("gravity")
        return base.tree_replace(
            {"opt.gravity": jnp.asarray(gravity), **{name: jnp.asarray(v) for name, v in fields.items()}}
        )

    def pack(data) -> Array:
        return jnp.concatenate([data.qpos, data.qvel, data.act, data.qacc_warmstart])

    def init(model, position, velocity):
        data = template.replace(qpos=jnp.asarray(position, jnp.float32), qvel=jnp.asarray(velocity, jnp.float32))
        with jax.numpy_rank_promotion("allow"), cholesky.in_place_of_lapack():  # MJX broadcasts ranks inside
            data = mjx.forward(mjx_model(model), data)
        return pack(data.replace(qacc_warmstart=data.qacc))

    def step(model, state, ctrl):
        physics = mjx_model(model)
        qpos, qvel, act, warmstart = _split(mj_model, state)
        data = template.replace(qpos=qpos, qvel=qvel, act=act, qacc_warmstart=warmstart, ctrl=ctrl)

        def substep(carry, _):
            data, travelled = carry
            with jax.numpy_rank_promotion("allow"), cholesky.in_place_of_lapack():
                data = mjx.step(physics, data)
            if summed:
                travelled = travelled + physics.opt.timestep * data.qvel
            return (data, travelled), None

        (data, travelled), _ = jax.lax.scan(substep, (data, jnp.zeros_like(qpos)), None, length=frame_skip)
        displacement = travelled if summed else data.qpos - qpos
        return pack(data), Motion(data.qpos, data.qvel, displacement)

    return init, step
