"""Path masses: sums over paths of products of ``abs(w)**p``, at any magnitude.

A network on masses is linear, so its derivatives are its gammas. Exponents are
constants to differentiation: they move a number's magnitude, not its value.

A large network has thousands of these operations, and XLA repeats the scalar ones
wherever their result is used, unless that is a reduction or a division. So they are
few, exponents are written as bits, and what many arrays use is divided last. What is
not differentiated is jitted, and so traced and lowered once for all arrays of a shape.
"""

import functools
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pathsgd_optax._scaled import (
    Scaled,
    biased_exponent,
    integer_dtype,
    magnitude,
    normal,
)


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


class Power(NamedTuple):
    """``abs(x)**p``, held as ``mantissa * 2**(p * exponent)``.

    Powers above 2 leave a float's range so soon that the magnitude is taken out first.
    """

    mantissa: jax.Array
    exponent: jax.Array  # shape=(), dtype=int32
    inverse: jax.Array  # 2**-exponent


@functools.partial(jax.jit, static_argnames="p")
def power(x: jax.Array, p: float) -> Power:
    """``abs(x)**p``, elementwise."""
    if p <= 2:
        return Power(_float_power(x, p), jnp.int32(0), jnp.ones((), x.dtype))
    exponent, inverse = _unit_of(_peak(lax.stop_gradient(x)))
    return Power(_float_power(x * inverse, p), exponent, inverse)


def _float_power(x: jax.Array, p: float) -> jax.Array:
    x = x if (p / 2).is_integer() else magnitude(x)
    return lax.integer_pow(x, int(p)) if p.is_integer() else x**p


def mass(x: jax.Array, p: float) -> Mass:
    """``abs(x)**p``, elementwise."""
    return of_power(power(x, p), p)


def of_power(x: Power, p: float) -> Mass:
    """The same number, as a mass."""
    if p.is_integer():
        exponent = lax.mul(x.exponent, jnp.int32(p))
        return Mass(x.mantissa, exponent, exponent)
    exact = x.exponent.astype(x.mantissa.dtype) * p
    exponent = jnp.floor(exact).astype(jnp.int32)
    mantissa = x.mantissa * jnp.exp2(exact - jnp.floor(exact))
    return Mass(mantissa, exponent, exponent)


def of_exponent(mantissa: jax.Array, exponent: int) -> Mass:
    """A mass with this exponent."""
    return Mass(mantissa, jnp.int32(exponent), jnp.int32(exponent))


def ordered(x: Mass) -> Mass:
    """The same number, with its order."""
    return _live(x, jnp.max(lax.stop_gradient(x.mantissa)) != 0)


@functools.partial(jax.jit, static_argnames="p")
def ordered_mass(x: jax.Array, p: float) -> Mass:
    """``abs(x)**p``, elementwise, with its order."""
    if p <= 2:
        return ordered(mass(x, p))
    return _live(mass(x, p), _peak(x) >= jnp.finfo(x.dtype).tiny)


def _live(x: Mass, live: jax.Array) -> Mass:
    return x._replace(order=lax.select(live, x.exponent, jnp.int32(NOWHERE)))


def unit(x: Mass) -> Mass:
    """The power of two at or below the largest entry, inverted; 1 for zeros."""
    return _unit(lax.stop_gradient(x.mantissa), x.exponent)


@jax.jit
def _unit(mantissa: jax.Array, exponent: jax.Array) -> Mass:
    peak = _peak(mantissa)
    below, inverse = _unit_of(peak)
    exponent = exponent + below
    return _live(Mass(inverse, exponent, exponent), peak >= jnp.finfo(peak.dtype).tiny)


def _peak(x: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(x))


def _unit_of(peak: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The exponent of the power of two at or below the peak, and this power's inverse.

    They are 0 and 1 for a peak of 0.
    """
    info = jnp.finfo(peak.dtype)
    bits = lax.bitcast_convert_type(peak, integer_dtype(info.dtype))
    below = lax.bitcast_convert_type(bits & -(1 << info.nmant), info.dtype)
    inverse = 1 / lax.select(below != 0, below, jnp.ones_like(below))
    return (1 - info.minexp) - biased_exponent(inverse), inverse


def aligned(x: Mass, exponent: jax.Array) -> jax.Array:
    """The mantissa of ``x`` at this exponent."""
    return x.mantissa * _shift(x.exponent, exponent, x.mantissa.dtype)


def align(*masses: Mass) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """The mantissas at the exponent of the sum, this exponent, and the sum's order."""
    dtype = masses[0].mantissa.dtype
    exponents, orders = [x.exponent for x in masses], [x.order for x in masses]
    shifts, exponent, order = _alignment(exponents, orders, dtype)
    pairs = zip(masses, shifts, strict=True)
    return [x.mantissa * shift for x, shift in pairs], exponent, order


@functools.partial(jax.jit, static_argnames="dtype")
def _alignment(
    exponents: Sequence[jax.Array], orders: Sequence[jax.Array], dtype: jnp.dtype
) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    order = functools.reduce(lax.max, orders)
    exponent = lax.max(order, functools.reduce(lax.min, exponents))
    return [_shift(x, exponent, dtype) for x in exponents], exponent, order


@functools.partial(jax.jit, static_argnames="dtype")
def _shift(given: jax.Array, wanted: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """What to multiply by, to get from one exponent to another."""
    beyond = int(jnp.finfo(dtype).maxexp)
    return power_of_two(given - wanted, dtype, -beyond, RAISED)


def power_of_two(
    exponent: jax.Array,
    dtype: jnp.dtype,
    least: int | None = None,
    most: int | None = None,
) -> jax.Array:
    """``2**exponent``, saturating at these exponents; that of -maxexp is 0.

    Without them, at those of normal numbers whose inverses are normal, too. It is an
    inverse itself, so that XLA computes it once.
    """
    info = jnp.finfo(dtype)
    bias, largest = info.maxexp - 1, -int(info.minexp)
    lowest = jnp.int32(bias - (largest if most is None else most))
    highest = jnp.int32(bias - (-largest if least is None else least))
    biased = lax.clamp(lowest, jnp.int32(bias) - exponent, highest)
    bits = biased.astype(integer_dtype(info.dtype)) << info.nmant
    return 1 / lax.bitcast_convert_type(bits, info.dtype)


def add(x: Mass, y: Mass) -> Mass:
    """``x + y``, elementwise."""
    mantissas, exponent, order = align(x, y)
    return Mass(operator.add(*mantissas), exponent, order)


def multiply(x: Mass, y: Mass) -> Mass:
    """``x * y``, elementwise."""
    exponent, order = lax.add(x.exponent, y.exponent), lax.add(x.order, y.order)
    return Mass(x.mantissa * y.mantissa, exponent, order)


def total(x: Mass) -> Mass:
    """The sum of all entries, whose exponent XLA computes once.

    It is a reduction of equal numbers, which is hidden from XLA.
    """
    known = x.mantissa >= 0
    exponent = jnp.max(jnp.where(known, x.exponent, jnp.int32(NOWHERE)))
    return Mass(jnp.sum(x.mantissa), exponent, exponent)


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
    factor, exponent = _root_of_power(x.exponent, p, positive.dtype)
    mantissa = _float_root(positive * factor, p)
    return Scaled(lax.select(live, mantissa, jnp.zeros_like(mantissa)), exponent)


def roots(
    slopes: Sequence[jax.Array], powers: Sequence[Power], above: jax.Array, p: float
) -> list[tuple[jax.Array, jax.Array]]:
    """Two positive factors each of the p-th root of a derivative; inf for 0.

    The slopes are those of a mass of this exponent by the powers' mantissas.
    """
    dtype = slopes[0].dtype
    factor, exponent = _root_of_power(above, p, dtype)
    shared = power_of_two(exponent, dtype)
    pairs = zip(slopes, powers, strict=True)
    return [(_root(x, power.inverse, factor, p), shared) for x, power in pairs]


@functools.partial(jax.jit, static_argnames="p")
def _root(
    slope: jax.Array, inverse: jax.Array, factor: jax.Array, p: float
) -> jax.Array:
    positive = lax.select(slope != 0, slope, jnp.full_like(slope, jnp.inf))
    return normal(_float_root(positive * factor, p) * inverse)


def _root_of_power(
    exponent: jax.Array, p: float, dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
    """What to multiply by before a root, and its exponent, for ``2**exponent``."""
    if p.is_integer():
        below = int(p) * NOWHERE // 2**4  # unsigned, XLA divides by a shift
        above = (exponent - below).astype(jnp.uint32)
        whole = (above // jnp.uint32(p)).astype(jnp.int32) + below // int(p)
        return power_of_two(exponent - int(p) * whole, dtype), whole
    exact = exponent.astype(dtype) / p
    rest = p * (exact - jnp.floor(exact))
    return jnp.exp2(rest), jnp.floor(exact).astype(jnp.int32)


def _float_root(x: jax.Array, p: float) -> jax.Array:
    """``x**(1/p)``; by square roots, exact in powers of two, for p in 1, 2, 4..."""
    while p > 1 and (p / 2).is_integer():
        x, p = jnp.sqrt(x), p / 2
    return x if p == 1 else x ** (1 / p)
