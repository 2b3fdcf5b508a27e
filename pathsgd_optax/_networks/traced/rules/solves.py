"""Solves of linear systems with constant matrices, as products by their inverses."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.reasons import NONLINEAR, SYSTEM
from pathsgd_optax._networks.traced.rules.operands import rules
from pathsgd_optax._networks.traced.values import NoPathError, Operand, Value


LARGEST = 2048
"""The most unknowns of a system whose inverse is written out."""


def _solved(context: Context, *operands: Value) -> list[Operand]:
    """The solution for the last operand, by what solving for each unit vector gives."""
    *matrices, x = operands
    if not all(matrix.is_constant for matrix in matrices):
        raise NoPathError(NONLINEAR)
    if len(context.eqn.outvars) > 1 or math.prod(x.shape) > LARGEST:
        raise NoPathError(SYSTEM)
    arrays = [matrix.value for matrix in matrices]

    def solve(right: jax.Array) -> jax.Array:
        return context.bind(*arrays, right)[0]

    inverse = context.mass(Value(_matrix(context, solve)))

    def multiply(x: jax.Array, inverse: jax.Array) -> jax.Array:
        return jnp.tensordot(x, inverse, x.ndim, precision=jax.lax.Precision.HIGHEST)

    mass = context.contract(multiply, context.mass(x), inverse)
    value = None if x.is_data else solve(x.value)
    return [Value(value, mass, leaves=x.leaves)]


def _matrix(context: Context, function: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The entries of a linear function of the last operand: its shape, the result's."""
    aval = context.eqn.invars[-1].aval
    units = jnp.eye(aval.size, dtype=aval.dtype).reshape(aval.size, *aval.shape)
    return jax.vmap(function)(units).reshape(*aval.shape, *context.out_shape)


RULES = rules([(_solved, "custom_linear_solve triangular_solve tridiagonal_solve")])
