"""Simulation throughput on HalfCheetah (frame skip 5): our engines against their rivals, in one run.

    python benchmarks/sim.py [envs]          default 1024

Rivals: raw `mujoco.rollout` (MuJoCo C, all threads), gymnasium's vector environment, brax on its mjx backend.
Every engine steps random actions; ours do it inside a jitted scan with the task's observation and reward.
"""

import sys
import warnings

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco import rollout as mujoco_rollout

from benchmarks import timing
from envs import half_cheetah
from hybrid_jax import physics, rollout
from hybrid_jax.physics import native

STEPS = 20  # control steps a call
SLOW_ENVS = 64  # of the engines that need seconds a call on a CPU


def ours(engine: str, envs: int, steps: int):
    """A call that advances all simulations, and the control steps it takes."""
    env = half_cheetah.make(engine=engine)
    reset, step = rollout.batched(env)

    @jax.jit
    def advance(state, key):
        def one(state, key):
            action = jax.random.uniform(key, (envs, 6), minval=-1.0, maxval=1.0)
            state, out = step(state, action)
            return state, jnp.mean(out.reward)

        return jax.lax.scan(one, state, jax.random.split(key, steps))

    state, _ = jax.jit(reset)(jax.random.split(jax.random.key(0), envs))
    held = {"state": state, "key": jax.random.key(1)}

    def call():
        held["key"], key = jax.random.split(held["key"])
        held["state"], reward = advance(held["state"], key)
        return reward

    return call, envs * steps


def raw(envs: int):
    """MuJoCo's own threaded rollout, one call per control step as a closed loop needs it."""
    model = half_cheetah.mj_model()
    threads = native.cores()
    data = [mujoco.MjData(model) for _ in range(threads)]
    pool = mujoco_rollout.Rollout(nthread=threads)
    spec = int(mujoco.mjtState.mjSTATE_FULLPHYSICS)
    first = np.zeros(mujoco.mj_stateSize(model, spec))
    mujoco.mj_getState(model, data[0], first, spec)
    rng = np.random.default_rng(0)
    ctrl = np.repeat(rng.uniform(-1, 1, (STEPS, envs, 1, 6)), half_cheetah.FRAME_SKIP, 2)
    held = {"state": np.tile(first, (envs, 1)) + np.pad(rng.uniform(-0.1, 0.1, (envs, 18)), ((0, 0), (1, 0)))}

    def call():
        for now in ctrl:
            states, _ = pool.rollout(model, data, held["state"], now)
            held["state"] = states[:, -1]

    return call, envs * STEPS


def gymnasium_vector(envs: int):
    """gymnasium's SyncVectorEnv."""
    vector = gymnasium.make_vec("HalfCheetah-v5", num_envs=envs, vectorization_mode="sync")
    vector.reset(seed=0)
    rng = np.random.default_rng(0)

    def call():
        for _ in range(STEPS):
            vector.step(rng.uniform(-1, 1, (envs, 6)).astype(np.float32))

    return call, envs * STEPS


def brax_mjx(envs: int):
    """brax's HalfCheetah on its mjx backend, bare, vmapped and scanned."""
    from brax import envs as brax_envs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = brax_envs.get_environment("halfcheetah", backend="mjx")

    @jax.jit
    def advance(state, key):
        def one(state, key):
            action = jax.random.uniform(key, (envs, 6), minval=-1.0, maxval=1.0)
            return jax.vmap(env.step)(state, action), None

        return jax.lax.scan(one, state, jax.random.split(key, STEPS))[0]

    held = {"state": jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.PRNGKey(0), envs))}

    def call():
        held["state"] = advance(held["state"], jax.random.key(1))
        return held["state"].obs

    return call, envs * STEPS


def main(envs: int) -> None:
    """Measures and prints."""
    slow = envs if jax.default_backend() != "cpu" else SLOW_ENVS
    calls = {
        "native": ours("native", envs, STEPS),
        "raw_rollout": raw(envs),
        "gymnasium_vector": gymnasium_vector(SLOW_ENVS),
        "mjx": ours("mjx", slow, STEPS),
        "brax_mjx": brax_mjx(slow),
    }
    try:
        physics.resolve_engine("mjx-warp")
        calls["mjx_warp"] = ours("mjx-warp", slow, STEPS)
        absent = None
    except ValueError as error:
        absent = str(error)
    quick = ("native", "raw_rollout", "gymnasium_vector")
    taken = timing.interleaved({name: calls[name][0] for name in quick}, repeats=15)
    taken |= timing.interleaved({name: call for name, (call, _) in calls.items() if name not in quick}, repeats=5)
    rate = {name: calls[name][1] / seconds for name, seconds in taken.items()}
    rows = [(name, f"{value:12,.0f} env-steps/s") for name, value in rate.items()]
    rows.append(("native / raw mujoco.rollout", f"{rate['native'] / rate['raw_rollout']:12.2f}"))
    rows.append(("native / brax on mjx", f"{rate['native'] / rate['brax_mjx']:12.1f}"))
    if absent:
        rows.append(("mjx_warp", absent))
    counts = {"envs": envs, "mjx_envs": slow, "brax_mjx_envs": slow, "gymnasium_vector_envs": SLOW_ENVS}
    timing.report(rows, {f"{name}_env_steps_per_s": value for name, value in rate.items()} | counts)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1024)
