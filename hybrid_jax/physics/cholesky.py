"""Cholesky factors and solves in plain JAX, for MJX on a CPU with jaxlib before 0.11.

There jaxlib's LAPACK calls split a large batch over XLA's thread pool and wait inside one of its threads: two
independent calls at once, as MJX makes them, stop a machine of two cores for good.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
from jax import lax

from hybrid_jax.types import Array


def cho_factor(a: Array, lower: bool = False, overwrite_a: bool = False, check_finite: bool = True):
    """The upper factor U [n, n] of a = U^T U, and False; of `jax.scipy.linalg.cho_factor`'s form for one matrix.

    A matrix that is not positive definite gives NaN.
    """
    del lower, overwrite_a, check_finite
    size = a.shape[-1]
    index = jnp.arange(size)

    def row(j, factor):
        # a[j, k] less what the rows above explain, over its root at k = j; entries left of the diagonal are zero
        rest = a[j] - factor[:, j] @ factor
        return factor.at[j].set(jnp.where(index >= j, rest / jnp.sqrt(rest[j]), 0.0))

    return lax.fori_loop(0, size, row, jnp.zeros_like(a)), False


def cho_solve(factored: tuple[Array, bool], b: Array, overwrite_b: bool = False, check_finite: bool = True) -> Array:
    """Solves U^T U x = b [n] for x [n], of `jax.scipy.linalg.cho_solve`'s form."""
    del overwrite_b, check_finite
    upper, size = factored[0], b.shape[-1]

    def forwards(j, y):
        return y.at[j].set((b[j] - upper[:, j] @ y) / upper[j, j])  # y is zero from j on

    def backwards(i, x):
        j = size - 1 - i
        return x.at[j].set((y[j] - upper[j] @ x) / upper[j, j])  # x is zero up to j

    y = lax.fori_loop(0, size, forwards, jnp.zeros_like(b))
    return lax.fori_loop(0, size, backwards, jnp.zeros_like(b))


def needed() -> bool:
    """Whether LAPACK's own calls may stop the program here."""
    return jax.default_backend() == "cpu" and jax.__version_info__ < (0, 11)


@contextmanager
def in_place_of_lapack() -> Iterator[None]:
    """While a function is traced inside, `jax.scipy.linalg` answers with this module's functions, where needed."""
    if not needed():
        yield
        return
    module = jax.scipy.linalg
    theirs = module.cho_factor, module.cho_solve
    module.cho_factor, module.cho_solve = cho_factor, cho_solve
    try:
        yield
    finally:
        module.cho_factor, module.cho_solve = theirs
