"""How many updates a second, and how near the arithmetic comes to what a matrix product reaches here.

    python benchmarks/update.py

H2O as released (128+128 rows, discriminators on 256+256, 256x256 networks, 10 perturbed successors) and SAC
(256 rows) at HalfCheetah's size: 100 updates a dispatch, each with its own batch drawn from the stores.
"""

from collections.abc import Callable
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import interleaved, report
from hybrid_jax.algorithms import h2o, sac
from hybrid_jax.buffers import multi_buffer
from hybrid_jax.scaling import Moments
from hybrid_jax.testing import random_rows
from hybrid_jax.types import Algorithm, Spec

SPEC = Spec(obs_size=17, action_size=6, episode_length=1000, dt=0.05)
ROWS = 50_000  # in each of the two stores
UPDATES = 100  # per dispatch
PRODUCTS = 400  # [512 x 256] x [256 x 256] products in one chain


def macs(inputs: int, hidden: tuple[int, ...], outputs: int) -> tuple[int, int]:
    """Multiply-adds per row of an MLP: (all layers, all but the first)."""
    sizes = (inputs, *hidden, outputs)
    layers = [a * b for a, b in pairwise(sizes)]
    return sum(layers), sum(layers[1:])


def sac_flops(config: sac.Config) -> int:
    """Floating-point operations of the matrix products in one SAC update, two per multiply-add.

    Per row: actor forward at s and s', backward at s; each critic forward three times (loss, target, actor
    loss), backward once to its weights and once to the action. Backward costs a forward for the weights and
    one for the inputs, without the first layer where nothing asks for the gradient of its input.
    """
    actor, actor_tail = macs(SPEC.obs_size, config.hidden, 2 * SPEC.action_size)
    critic, critic_tail = macs(SPEC.obs_size + SPEC.action_size, config.hidden, 1)
    per_row = (2 * actor + actor + actor_tail) + 2 * (3 * critic + (critic + critic_tail) + critic)
    return 2 * (config.batch_real + config.batch_sim) * per_row


def h2o_flops(config: h2o.Config) -> int:
    """As `sac_flops`, with both discriminators' training and the log-ratio at 1 + N successors."""
    known, samples = SPEC.obs_size + SPEC.action_size, config.next_state_samples
    sa, sa_tail = macs(known, config.discriminator_hidden, 2)
    sas, sas_tail = macs(known + SPEC.obs_size, config.discriminator_hidden, 2)
    training = (2 * sa + sa_tail) + (2 * sas + sas_tail)
    jitter = samples * SPEC.obs_size * config.discriminator_hidden[0]
    ratio = sas - sas_tail + jitter + (1 + samples) * sas_tail
    rows = config.discriminator_batch_real + config.discriminator_batch_sim
    return sac_flops(config) + 2 * (rows * training + config.batch_sim * ratio)


def updates(algorithm: Algorithm) -> Callable:
    """A function that runs `UPDATES` updates in one donated dispatch, state to state."""
    store = multi_buffer((ROWS, ROWS))
    rows = random_rows(jax.random.key(0), ROWS, SPEC)
    buffer = store.init(jax.tree.map(lambda leaf: leaf[0], rows))
    for k in range(2):
        buffer = store.add(buffer, k, rows)

    def update(carry, key):
        state, buffer = carry
        mix_key, sample_key, update_key = jax.random.split(key, 3)
        buffer, batch = store.sample(buffer, sample_key, algorithm.mix(mix_key))
        state, metrics = algorithm.update(state, batch, update_key)
        return (state, buffer), metrics

    def run(carry, key):
        key, now = jax.random.split(key)
        carry, metrics = jax.lax.scan(update, carry, jax.random.split(now, UPDATES))
        return carry, key, jax.tree.map(jnp.mean, metrics)

    step = jax.jit(run, donate_argnums=(0, 1))
    held = [(jax.jit(algorithm.init)(jax.random.key(1)), buffer), jax.random.key(2)]

    def call():
        held[0], held[1], metrics = step(*held)
        return metrics

    return call


def products() -> Callable:
    """A function that runs a chain of `PRODUCTS` matrix products at the updates' own size."""
    x = jax.random.normal(jax.random.key(0), (512, 256))
    weights = jax.random.normal(jax.random.key(1), (10, 256, 256)) / 16  # keeps the chain's scale

    def ten(x, _):
        for weight in weights:
            x = x @ weight
        return x, None

    chain = jax.jit(lambda x: jax.lax.scan(ten, x, None, length=PRODUCTS // 10)[0])
    return lambda: chain(x)


def main() -> None:
    h2o_config, sac_config = h2o.Config(), sac.Config()
    taken = interleaved({
        "h2o": updates(h2o.make(h2o_config, SPEC, Moments(*np.ones((4, SPEC.obs_size))))),
        "sac": updates(sac.make(sac_config, SPEC)),
        "gemm": products(),
    })  # fmt: skip
    rate = {name: UPDATES / taken[name] for name in ("h2o", "sac")}
    gflops = {
        "h2o": rate["h2o"] * h2o_flops(h2o_config) / 1e9,
        "sac": rate["sac"] * sac_flops(sac_config) / 1e9,
        "gemm": PRODUCTS * 2 * 512 * 256 * 256 / taken["gemm"] / 1e9,
    }
    report(
        [
            ("H2O", f"{rate['h2o']:8.1f} updates/s  {gflops['h2o']:8.1f} GFLOP/s"),
            ("SAC", f"{rate['sac']:8.1f} updates/s  {gflops['sac']:8.1f} GFLOP/s"),
            ("matrix product 512 x 256 x 256", f"{'':18}  {gflops['gemm']:8.1f} GFLOP/s"),
            ("H2O over the matrix product", f"{gflops['h2o'] / gflops['gemm']:8.2f}"),
        ],
        {
            "h2o_updates_per_s": rate["h2o"],
            "sac_updates_per_s": rate["sac"],
            "h2o_gflops": gflops["h2o"],
            "gemm_gflops": gflops["gemm"],
            "gemm_fraction": gflops["h2o"] / gflops["gemm"],
        },
    )


if __name__ == "__main__":
    main()
