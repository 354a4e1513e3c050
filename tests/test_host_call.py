"""numpy functions inside jitted programs: values, failures, and one core."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax.physics import host_call


def _scaled(factors, x):
    """Rows x [..., 3] times one factor a row; refuses what is negative."""
    if np.any(x < 0):
        raise ArithmeticError(f"{x.min()} is negative")
    return (factors * x).astype(np.float32), (x.view(np.uint32) + np.uint32(1))


@pytest.fixture(scope="module")
def scaled():
    host_call.register("test-scaled", _scaled)
    row = (jax.ShapeDtypeStruct((3,), jnp.float32), jax.ShapeDtypeStruct((3,), jnp.uint32))
    return jax.ffi.ffi_call("test-scaled", row, vmap_method="expand_dims")


def test_values_shapes_and_types_pass_both_ways(scaled):
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    product, bits = jax.jit(jax.vmap(scaled, in_axes=(None, 0)))(jnp.full(1, 2.5), jnp.asarray(x))
    np.testing.assert_array_equal(product, 2.5 * x)
    np.testing.assert_array_equal(bits, x.view(np.uint32) + 1)
    assert product.dtype == jnp.float32 and bits.dtype == jnp.uint32


def test_no_rows_are_no_trouble(scaled):
    product, _ = jax.jit(jax.vmap(scaled, in_axes=(None, 0)))(jnp.ones(1), jnp.zeros((0, 3)))
    assert product.shape == (0, 3)


def test_what_it_raises_reaches_the_caller_and_the_next_call_works(scaled):
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"ArithmeticError: -1\.0 is negative"):
        jax.block_until_ready(jax.jit(scaled)(jnp.ones(1), -jnp.ones(3)))
    np.testing.assert_array_equal(jax.jit(scaled)(jnp.ones(1), jnp.ones(3))[0], np.ones(3))


def test_ctrl_c_inside_a_host_function_ends_the_program_cleanly():
    def interrupted(x):
        raise KeyboardInterrupt

    host_call.register("test-interrupted", interrupted)
    call = jax.ffi.ffi_call("test-interrupted", jax.ShapeDtypeStruct((3,), jnp.float32), vmap_method="expand_dims")
    with pytest.raises(jax.errors.JaxRuntimeError, match="KeyboardInterrupt"):
        jax.block_until_ready(jax.jit(call)(jnp.ones(3)))


def test_a_name_means_one_function(scaled):
    with pytest.raises(ValueError, match="'test-scaled' is registered already"):
        host_call.register("test-scaled", _scaled)


ONE_CORE = """
import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax, jax.numpy as jnp, numpy as np
from hybrid_jax.physics import host_call
from pathlib import Path
host_call.register("add", lambda x, y: [x + y])
shape = (400, 200)  # more than JAX copies without its thread pool
add = jax.jit(jax.ffi.ffi_call("add", jax.ShapeDtypeStruct(shape, jnp.float32), vmap_method="sequential"))
x, total = jnp.ones(shape), np.ones(shape, np.float32)
noise = [jax.random.uniform(jax.random.key(i), shape) for i in range(20)]
for i in range(20):  # all programs are under way before the first result is fetched
    x = add(x, jax.random.uniform(jax.random.key(i), shape))
for drawn in noise:
    total += np.asarray(drawn)
np.testing.assert_array_equal(x, total)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are chosen through Linux")
def test_large_arrays_and_many_calls_pass_on_one_core():
    """`jax.pure_callback` waits for ever here."""
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-c", ONE_CORE], check=True, timeout=60, cwd=root)
