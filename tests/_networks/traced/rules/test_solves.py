"""Solves of linear systems, against products by the inverse."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.scipy.linalg import solve_triangular
from jax.scipy.sparse.linalg import cg

from tests import paths


MATRIX = np.float32(np.random.default_rng(0).normal(size=(4, 4)) + 3 * np.eye(4))
SQUARE = MATRIX.T @ MATRIX
DIAGONALS = [np.float32(x) for x in ([0, 1, -1, 2], [4, 5, 6, 7], [1, -2, 1, 0])]
TRIDIAGONAL = sum(
    np.diag(x, k)
    for x, k in zip((DIAGONALS[0][1:], DIAGONALS[1]), (-1, 0), strict=True)
) + np.diag(DIAGONALS[2][:-1], 1)


SOLVES = {
    "solve": (lambda b: jnp.linalg.solve(MATRIX, b), MATRIX),
    "cg": (lambda b: cg(lambda x: SQUARE @ x, b, tol=1e-7)[0], SQUARE),
    "lower": (lambda b: solve_triangular(MATRIX, b, lower=True), np.tril(MATRIX)),
    "upper": (lambda b: solve_triangular(MATRIX, b, trans=1), np.triu(MATRIX).T),
    "tridiagonal": (
        lambda b: lax.linalg.tridiagonal_solve(*map(jnp.array, DIAGONALS), b),
        TRIDIAGONAL,
    ),
}


@pytest.mark.parametrize("measure", [paths.of_units, paths.of_weight])
@pytest.mark.parametrize("name", SOLVES)
def test_a_solve_is_a_product_by_the_inverse(name, measure):
    solve, matrix = SOLVES[name]
    inverse = np.float32(np.linalg.inv(np.float64(matrix)).T)
    found = measure(lambda x: solve(x.T).T)
    chex.assert_trees_all_close(found, measure(lambda x: x @ inverse), rtol=1e-3)


def test_solves_of_matrices_of_parameters_are_refused():
    with pytest.raises(ValueError, match=r"jnp.linalg.solve .*a parameter enters it"):
        paths.of_weight(lambda w: jnp.linalg.solve(MATRIX + w, MATRIX)[:1])


def test_large_systems_say_what_to_do():
    def solve(x):
        wide = jnp.tile(x, (1, 600)).reshape(4, 600)
        return jnp.linalg.solve(MATRIX, wide).sum(0, keepdims=True)

    def multiply(x):
        wide = jnp.tile(x, (1, 600)).reshape(4, 600)
        return (jnp.linalg.inv(MATRIX) @ wide).sum(0, keepdims=True)

    with pytest.raises(ValueError, match=r"Multiply by the inverse.*jnp.linalg.inv"):
        paths.of_units(solve)
    assert jnp.isfinite(paths.of_units(multiply)).all()
