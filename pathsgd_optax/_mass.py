"""Path masses: sums over paths of products of ``abs(w)**p``, at any magnitude.

A network on masses is linear, so its derivatives are its gammas. Exponents are
constants to differentiation: they move a number's magnitude, not its value.

A large network has thousands of these operations, and XLA repeats the scalar ones
wherever their result is used. So they are few, and exponents are written as bits.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pathsgd_optax._scaled import Scaled, integer_dtype, magnitude


NOWHERE = -(2**24)
"""The order of an array of zeros: below that of anything it is added to."""

RAISED = 60
"""The most bits by which slopes are raised, so that none overflows."""


class Mass(NamedTuple):
    """A non-negative array, held as ``mantissa * 2**exponent``.

    Its order is its exponent, or `NOWHERE` if it is known to be all zeros: these keep
    an exponent, which their slopes depend on, but have no say in that of a sum.
    """

    mantissa: jax.Array
    exponent: jax.Array  # shape=(), dtype=int32
    order: jax.Array  # shape=(), dtype=int32


def mass(x: jax.Array, p: float) -> Mass:
    """``abs(x)**p``, elementwise.

    Powers above 2 leave a float's range so soon that the magnitude is taken out first.
    """
    if p == 1:
        return of_exponent(magnitude(x), 0)
    if p <= 2:
        return of_exponent(jnp.square(x) if p == 2 else magnitude(x) ** p, 0)
    base = normalized(of_exponent(magnitude(x), 0))
    if p.is_integer():
        power, times = lax.integer_pow(base.mantissa, int(p)), jnp.int32(p)
        return Mass(power, base.exponent * times, base.order * times)
    exact = base.exponent.astype(x.dtype) * p
    exponent = jnp.floor(exact).astype(jnp.int32)
    power = base.mantissa**p * jnp.exp2(exact - jnp.floor(exact))
    return Mass(power, exponent, lax.min(base.order, exponent))


def of_exponent(mantissa: jax.Array, exponent: int) -> Mass:
    """A mass with this exponent."""
    return Mass(mantissa, jnp.int32(exponent), jnp.int32(exponent))


def ordered(x: Mass) -> Mass:
    """The same number, with its order."""
    live = jnp.max(lax.stop_gradient(x.mantissa)) != 0
    return x._replace(order=lax.select(live, x.exponent, jnp.int32(NOWHERE)))


def unit(x: Mass) -> Mass:
    """The power of two at or below the largest entry; 1 for zeros."""
    info = jnp.finfo(x.mantissa.dtype)
    peak = jnp.max(lax.stop_gradient(x.mantissa))
    ones = jnp.array(info.maxexp - 1, integer_dtype(info.dtype)) << info.nmant
    bits = lax.bitcast_convert_type(peak, ones.dtype) & -(1 << info.nmant)
    live = bits != 0
    bits = lax.select(live, bits, ones)
    exponent = x.exponent + (bits - ones >> info.nmant).astype(jnp.int32)
    order = lax.select(live, exponent, jnp.int32(NOWHERE))
    inverse = lax.bitcast_convert_type(2 * ones - bits, info.dtype)
    return Mass(inverse, exponent, order)


def normalized(x: Mass) -> Mass:
    """The same number, with the largest mantissa between 1 and 2."""
    inverse, exponent, order = unit(x)
    return Mass(x.mantissa * inverse, exponent, order)


def aligned(x: Mass, exponent: jax.Array) -> jax.Array:
    """The mantissa of ``x`` at this exponent."""
    shift = x.exponent - exponent
    return x.mantissa * power_of_two(shift, x.mantissa.dtype, most=RAISED)


def power_of_two(
    exponent: jax.Array, dtype: jnp.dtype, most: int | None = None
) -> jax.Array:
    """``2**exponent``, saturating to 0 and to ``2**most``, or the largest power."""
    info = jnp.finfo(dtype)
    bias = info.maxexp - 1
    most = bias if most is None else most
    biased = lax.clamp(jnp.int32(0), exponent + jnp.int32(bias), jnp.int32(bias + most))
    bits = biased.astype(integer_dtype(info.dtype)) << info.nmant
    return lax.bitcast_convert_type(bits, info.dtype)


def common_exponent(*masses: Mass) -> tuple[jax.Array, jax.Array]:
    """The exponent and the order of a sum."""
    order = functools.reduce(lax.max, [x.order for x in masses])
    least = functools.reduce(lax.min, [x.exponent for x in masses])
    return lax.max(order, least), order


def add(x: Mass, y: Mass) -> Mass:
    """``x + y``, elementwise."""
    exponent, order = common_exponent(x, y)
    return Mass(aligned(x, exponent) + aligned(y, exponent), exponent, order)


def multiply(x: Mass, y: Mass) -> Mass:
    """``x * y``, elementwise."""
    return Mass(x.mantissa * y.mantissa, x.exponent + y.exponent, x.order + y.order)


@jax.custom_jvp
def with_slope_of(x: jax.Array, carrier: jax.Array) -> jax.Array:
    """``x``, with the derivative of ``carrier``."""
    del carrier
    return x


@with_slope_of.defjvp
def _slope_of_carrier(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return primals[0], tangents[1]


def root(x: Mass, p: float) -> Scaled:
    """``x**(1/p)``, elementwise: the norm of a mass."""
    live = x.mantissa != 0
    positive = lax.select(live, x.mantissa, jnp.ones_like(x.mantissa))
    mantissa, exponent = _root(x._replace(mantissa=positive), p)
    return Scaled(lax.select(live, mantissa, jnp.zeros_like(mantissa)), exponent)


def inverse_root(x: Mass, p: float) -> tuple[jax.Array, jax.Array]:
    """Two factors of ``x**(-1/p)``, which are finite; 0 at 0."""
    infinite = jnp.full_like(x.mantissa, jnp.inf)
    positive = lax.select(x.mantissa != 0, x.mantissa, infinite)
    mantissa, exponent = _root(x._replace(mantissa=positive), p)
    return 1 / mantissa, power_of_two(-exponent, mantissa.dtype)


def _root(x: Mass, p: float) -> Scaled:
    """The norm of a mass that is positive everywhere."""
    dtype = x.mantissa.dtype
    if p.is_integer():
        below = int(p) * NOWHERE // 2**4  # unsigned, XLA divides by a shift
        above = (x.exponent - below).astype(jnp.uint32)
        whole = (above // jnp.uint32(p)).astype(jnp.int32) + below // int(p)
        mantissa = x.mantissa * power_of_two(x.exponent - int(p) * whole, dtype)
    else:
        exact = x.exponent.astype(dtype) / p
        whole = jnp.floor(exact).astype(jnp.int32)
        mantissa = x.mantissa * jnp.exp2(p * (exact - jnp.floor(exact)))
    return Scaled(_float_root(mantissa, p), whole)


def _float_root(x: jax.Array, p: float) -> jax.Array:
    """``x**(1/p)``; by square roots, exact in powers of two, for p in 1, 2, 4..."""
    while p > 1 and (p / 2).is_integer():
        x, p = jnp.sqrt(x), p / 2
    return x if p == 1 else x ** (1 / p)
