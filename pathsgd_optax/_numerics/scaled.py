"""Numbers that never overflow, and the l_p norms that are taken of them.

The path norm of a deep network leaves the range of any float. A path value is
therefore held as the l_p *norm* of its paths (the p-th root of their mass), as
a mantissa and one power-of-two exponent an array. Norms are taken relative to
their largest term, so multiplying every term by a power of two multiplies the
norm by the same power and changes no other bit, whatever ``p`` is.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pathsgd_optax._numerics.serialization import serializable


ZERO_EXPONENT = -(2**24)
"""The exponent of an all-zero array: below that of anything it is added to."""


@serializable
class Scaled(NamedTuple):
    """A non-negative array, held as ``mantissa * 2**exponent``."""

    mantissa: jax.Array
    exponent: jax.Array  # dtype=int32; broadcasts to mantissa


def scaled(mantissa: jax.Array, exponent: jax.Array | int = 0) -> Scaled:
    """Moves the magnitude of the largest entry of ``mantissa`` into the exponent."""
    peak = jnp.max(lax.stop_gradient(mantissa), initial=0)
    largest = -jnp.finfo(peak.dtype).minexp
    shift = jnp.clip(exponent_of(peak), -largest, largest)
    exponent = jnp.where(peak != 0, exponent + shift, ZERO_EXPONENT)
    return Scaled(mantissa * _power_of_two(-shift, peak.dtype), exponent)


def unscaled(x: Scaled) -> jax.Array:
    """The plain array, with 0 and inf where its dtype can't hold the value."""
    return scale_by_power_of_two(x.mantissa, x.exponent)


def log(x: Scaled) -> jax.Array:
    """The natural logarithm; -inf at 0."""
    return jnp.log(x.mantissa) + x.exponent.astype(x.mantissa.dtype) * math.log(2)


def scale_by_power_of_two(x: jax.Array, exponent: jax.Array) -> jax.Array:
    """``x * 2**exponent``, saturating to 0 and inf."""
    low, high = powers_of_two(exponent, x.dtype)
    return x * low * high


def powers_of_two(exponent: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """Two exact factors of ``2**exponent``, which alone may be out of range.

    What they leave out is out of the range of any product of theirs, too.
    """
    half = exponent >> 1
    return _power_of_two(half, dtype), _power_of_two(exponent - half, dtype)


def _power_of_two(exponent: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """``2**exponent``, clipped to the normal numbers, by writing the exponent's bits.

    jnp.ldexp takes tens of operations, which XLA repeats wherever the result is used.
    """
    info, integer = jnp.finfo(dtype), integer_dtype(dtype)
    biased = jnp.clip(exponent, info.minexp, info.maxexp - 1) - info.minexp + 1
    return lax.bitcast_convert_type(biased.astype(integer) << info.nmant, dtype)


def exponent_of(x: jax.Array) -> jax.Array:
    """The int32 that brings ``x * 2**-exponent`` to [0.5, 1), for a normal x > 0."""
    return biased_exponent(x) + jnp.finfo(x.dtype).minexp


def biased_exponent(x: jax.Array) -> jax.Array:
    """`exponent_of`, plus a constant of the dtype, as the bits of a float have it."""
    bits = lax.bitcast_convert_type(x, integer_dtype(x.dtype))
    return (bits >> jnp.finfo(x.dtype).nmant).astype(jnp.int32)


def integer_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The integers that hold the bits of this floating dtype."""
    return jnp.dtype(f"int{8 * dtype.itemsize}")


@jax.custom_jvp
def magnitude(x: jax.Array) -> jax.Array:
    """``abs(x)``, with slope 0 at 0, where jnp.abs has 1."""
    return jnp.abs(x)


magnitude.defjvps(lambda slope, _, x: slope * jnp.sign(x))


def reciprocal(x: jax.Array) -> jax.Array:
    """``1 / x``, and 0 at 0: no path runs there, so nothing is to be moved."""
    return jnp.where(x != 0, 1 / jnp.where(x != 0, x, 1), 0)


def divisor(x: jax.Array) -> jax.Array:
    """``x`` as a number to divide a gradient by: inf for 0, where no path runs."""
    return jnp.where(x != 0, x, jnp.inf)


def normal(x: jax.Array) -> jax.Array:
    """A divisor that is not too small: 0 divided by it is 0."""
    return jnp.maximum(x, jnp.finfo(x.dtype).tiny)


def add(x: Scaled, y: Scaled, p: float) -> Scaled:
    """The elementwise l_p norm of ``x`` and ``y``."""
    exponent = jnp.maximum(x.exponent, y.exponent)
    terms = [scale_by_power_of_two(z.mantissa, z.exponent - exponent) for z in (x, y)]
    return scaled(combine(terms, p), exponent)


def combine(terms: Sequence[jax.Array], p: float) -> jax.Array:
    """The elementwise l_p norm of several non-negative arrays of one shape."""
    peak = functools.reduce(jnp.maximum, terms)
    if math.isinf(p):
        return peak
    peak, safe = _split_peak(peak)
    mass = functools.reduce(jnp.add, [_power(term / safe, p) for term in terms])
    return safe * root(mass, p, where=peak != 0)


def norm(x: jax.Array, p: float, axis: int) -> jax.Array:
    """The l_p norm of the non-negative ``x`` along ``axis``."""
    peak = jnp.max(x, axis=axis, keepdims=True)
    if math.isinf(p):
        return jnp.squeeze(peak, axis)
    peak, safe = _split_peak(peak)
    mass = jnp.sum(_power(x / safe, p), axis=axis, keepdims=True)
    return jnp.squeeze(safe * root(mass, p, where=peak != 0), axis)


def _split_peak(peak: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The peak as a constant, and what to divide by: the norm's scale has no slope."""
    peak = lax.stop_gradient(peak)
    return peak, jnp.where(peak != 0, peak, 1)


def _power(x: jax.Array, p: float) -> jax.Array:
    return lax.integer_pow(x, int(p)) if p.is_integer() else x**p


def root(mass: jax.Array, p: float, where: jax.Array) -> jax.Array:
    """``mass ** (1/p)``, and 0 with slope 0 outside ``where``."""
    mass = jnp.where(where, mass, 1)
    root = {1.0: lambda: mass, 2.0: lambda: jnp.sqrt(mass)}
    return jnp.where(where, root.get(p, lambda: mass ** (1 / p))(), 0)
