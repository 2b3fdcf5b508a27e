"""Path masses: sums over paths of products of ``abs(w)**p``, at any magnitude.

A mass is held as a mantissa and one power of two for the whole array. What is done to
masses is linear in each of them, so their slopes are masses, too: those of the paths
that leave.

A large network has thousands of these operations, and XLA repeats the scalar ones
wherever their result is used, unless that is a reduction or a division. So they are
few, exponents are written as bits, and what many arrays use is divided last. XLA:CPU
compiles equal kernels once, so what differs between arrays is an operand, not a
constant. What is not differentiated is jitted, and so traced and lowered once for all
arrays of a shape.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pathsgd_optax._numerics.scaled import (
    Scaled,
    biased_exponent,
    integer_dtype,
    magnitude,
    normal,
    reciprocal,
)


NOWHERE = -(2**24)
"""The exponent of an array that is known to be all zeros: below that of any other."""

SLACK = 88
"""The most bits by which a mantissa may be off 1 before its magnitude is taken out."""

WEIGHT_SLACK = 8
"""The bits allowed for a weight's power, whose magnitude was not taken out."""

SLOPE_SLACK = 8
"""The bits allowed for what a contraction gains backwards and not forwards."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Mass:
    """A non-negative array, held as ``mantissa * 2**exponent``.

    Args:
      mantissa: the array, in the dtype of the masses.
      exponent: int32 of shape (), or of one that broadcasts to that of the mantissa
        where rows are of different magnitudes: those of a stack of layers.
      slack: the bits by which the largest entry may be off 1, as far as is known.
      node: its number among the operations of a reverse pass, if it is one's result.
    """

    mantissa: jax.Array
    exponent: jax.Array
    slack: int = dataclasses.field(default=1, metadata={"static": True})
    node: int | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.mantissa.shape


def of_exponent(mantissa: jax.Array, exponent: int) -> Mass:
    """A mass with this exponent."""
    return Mass(mantissa, jnp.int32(exponent))


def zeros_like(x: Mass) -> Mass:
    """The mass of no paths."""
    return of_exponent(jnp.zeros_like(x.mantissa), NOWHERE)


def ones_like(x: Mass) -> Mass:
    """The mass of units."""
    return of_exponent(jnp.ones_like(x.mantissa), 0)


def broadcast(x: Mass, shape: Sequence[int]) -> Mass:
    """The same numbers, repeated along axes of size 1."""
    return dataclasses.replace(x, mantissa=jnp.broadcast_to(x.mantissa, shape))


def mass(x: jax.Array, p: float) -> Mass:
    """``abs(x)**p``, elementwise.

    Powers above 2 leave a float's range so soon that the magnitude is taken out first.
    """
    mantissa, exponent = _power(x, p)
    return Mass(mantissa, exponent, slack=WEIGHT_SLACK if p <= 2 else math.ceil(p))


@functools.partial(jax.jit, static_argnames="p")
def _power(x: jax.Array, p: float) -> tuple[jax.Array, jax.Array]:
    if p <= 2:
        return _float_power(x, p), jnp.int32(0)
    inverse, unit, _ = _unit_of(_peak(jnp.abs(lax.stop_gradient(x))))
    mantissa = _float_power(x * inverse, p)
    if p.is_integer():
        return mantissa, lax.mul(unit, jnp.int32(p))
    exact = unit.astype(x.dtype) * p
    whole = jnp.floor(exact)
    return mantissa * jnp.exp2(exact - whole), whole.astype(jnp.int32)


def mass_of_constant(x: jax.Array, p: float) -> Mass:
    """``abs(x)**p`` of what XLA may know, and would multiply in another order."""
    return mass(lax.optimization_barrier(x), p)


def _float_power(x: jax.Array, p: float) -> jax.Array:
    x = x if (p / 2).is_integer() else magnitude(x)
    return lax.integer_pow(x, int(p)) if p.is_integer() else x**p


def ordered(x: Mass) -> Mass:
    """The same number, with the exponent of zeros if it is zero."""
    live = _peak(lax.stop_gradient(x.mantissa)) != 0
    exponent = lax.select(live, x.exponent, jnp.int32(NOWHERE))
    return dataclasses.replace(x, exponent=exponent)


def by_rows(x: Mass) -> Mass:
    """The same number, with an exponent for each row of its first axis."""
    if x.mantissa.ndim == 0:
        return x
    return freed(x, unit(x, axes=tuple(range(1, x.mantissa.ndim))))


def collapsed(x: Mass) -> Mass:
    """The same number, with a single exponent."""
    if x.exponent.ndim == 0:
        return x
    exponent = jnp.max(x.exponent, initial=NOWHERE)
    return Mass(aligned(x, exponent), exponent, slack=x.slack)


def normalized(x: Mass) -> Mass:
    """The same number, with a mantissa whose largest entry is in [1, 2)."""
    return dataclasses.replace(freed(x, unit(x)), node=x.node)


def in_range(x: Mass, *others: Mass) -> Mass:
    """The same number, with a mantissa that may be multiplied by the others'."""
    slack = x.slack + max((y.slack for y in others), default=0)
    return normalized(x) if slack > SLACK else x


class Unit(NamedTuple):
    """A power of two."""

    inverse: jax.Array
    exponent: jax.Array
    one: jax.Array  # int32, and unknown to XLA


def unit(x: Mass, axes: tuple[int, ...] | None = None) -> Unit:
    """The magnitude of a mantissa's largest entry, or of the largest along axes."""
    return _unit(lax.stop_gradient(x.mantissa), axes)


@functools.partial(jax.jit, static_argnames="axes")
def _unit(mantissa: jax.Array, axes: tuple[int, ...] | None) -> Unit:
    return _unit_of(_peak(mantissa, axes))


def gain(x: Mass) -> Unit:
    """That of the largest entry, and 1 if it is 0, which slopes don't gain."""
    return _gain(lax.stop_gradient(x.mantissa))


@jax.jit
def _gain(mantissa: jax.Array) -> Unit:
    peak = _peak(mantissa)
    return _unit_of(lax.select(peak != 0, peak, jnp.ones_like(peak)))


def freed(x: Mass, of: Unit, slack: int = 1) -> Mass:
    """The same number, with this unit in its exponent."""
    return Mass(x.mantissa * of.inverse, x.exponent + of.exponent, slack=slack)


def settled(x: Mass, of: Unit) -> Mass:
    """The same number, whose exponent XLA computes once, as a quotient."""
    return dataclasses.replace(x, exponent=lax.div(x.exponent, of.one))


def _peak(x: jax.Array, axes: tuple[int, ...] | None = None) -> jax.Array:
    empty = x.size == 0
    return jnp.max(x, axes, keepdims=axes is not None, initial=0 if empty else None)


def _unit_of(peak: jax.Array) -> Unit:
    """The power of two at or below the peak.

    For a peak of 0 it is the smallest normal number, so that zeros have no say in the
    exponent of a sum.
    """
    info = jnp.finfo(peak.dtype)
    bits = lax.bitcast_convert_type(peak, integer_dtype(info.dtype))
    below = lax.bitcast_convert_type(bits & -(1 << info.nmant), info.dtype)
    inverse = 1 / lax.max(below, info.tiny.astype(info.dtype))
    biased = biased_exponent(inverse)
    return Unit(inverse, (1 - info.minexp) - biased, 1 + (biased >> 12))


def aligned(x: Mass, exponent: jax.Array) -> jax.Array:
    """The mantissa of ``x`` at this exponent, at least its own, where it isn't 0."""
    return x.mantissa * _shift(x.exponent, exponent, x.mantissa.dtype)


def align(*masses: Mass) -> tuple[list[jax.Array], jax.Array]:
    """The mantissas at the largest exponent, and this exponent."""
    if len(masses) == 1:
        return [masses[0].mantissa], masses[0].exponent
    dtype = masses[0].mantissa.dtype
    shifts, exponent = _alignment([x.exponent for x in masses], dtype)
    return [
        x.mantissa * shift for x, shift in zip(masses, shifts, strict=True)
    ], exponent


@functools.partial(jax.jit, static_argnames="dtype")
def _alignment(
    exponents: Sequence[jax.Array], dtype: jnp.dtype
) -> tuple[list[jax.Array], jax.Array]:
    exponent = functools.reduce(jnp.maximum, exponents)
    least = -int(jnp.finfo(dtype).maxexp)
    return powers_of_two([x - exponent for x in exponents], dtype, least), exponent


@functools.partial(jax.jit, static_argnames="dtype")
def _shift(given: jax.Array, wanted: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """What to multiply by, to get from one exponent to another, not smaller one."""
    return power_of_two(given - wanted, dtype, least=-int(jnp.finfo(dtype).maxexp))


def power_of_two(
    exponent: jax.Array, dtype: jnp.dtype, least: int | None = None
) -> jax.Array:
    """``2**exponent``, saturating at this exponent; that of -maxexp is 0.

    Without it, and above, at that of a normal number whose inverse is normal, too. It
    is an inverse itself, so that XLA computes it once.
    """
    info = jnp.finfo(dtype)
    bias, largest = info.maxexp - 1, -int(info.minexp)
    lowest = jnp.int32(bias - largest)
    highest = jnp.int32(bias - (-largest if least is None else least))
    biased = lax.clamp(lowest, jnp.int32(bias) - exponent, highest)
    bits = biased.astype(integer_dtype(info.dtype)) << info.nmant
    return 1 / lax.bitcast_convert_type(bits, info.dtype)


def powers_of_two(
    exponents: Sequence[jax.Array], dtype: jnp.dtype, least: int | None = None
) -> list[jax.Array]:
    """`power_of_two` of each, as one array, which XLA compiles as fast as one."""
    return list(power_of_two(jnp.stack(exponents), dtype, least))


def sum_by(function: Callable[..., jax.Array], *masses: Mass) -> Mass:
    """``function`` of the masses, which is linear in all of them together."""
    mantissas, exponent = align(*masses)
    return of_sum(function(*mantissas), exponent, masses)


def of_sum(mantissa: jax.Array, exponent: jax.Array, masses: Sequence[Mass]) -> Mass:
    """What a linear function has made of masses."""
    terms = sum(x.mantissa.size for x in masses) // max(mantissa.size, 1)
    slack = max(x.slack for x in masses) + max(terms - 1, 0).bit_length()
    return in_range(Mass(mantissa, exponent, slack=slack))


def of_product(mantissa: jax.Array, x: Mass, y: Mass) -> Mass:
    """What a bilinear function has made of two masses."""
    terms = max(x.mantissa.size, y.mantissa.size) // max(mantissa.size, 1)
    slack = x.slack + y.slack + max(terms - 1, 0).bit_length()
    return Mass(mantissa, x.exponent + y.exponent, slack=slack)


def times_number(x: Mass, number: float) -> Mass:
    """``number * x``, for a moderate number."""
    if number == 1:
        return x
    return normalized(dataclasses.replace(x, mantissa=x.mantissa * number, node=None))


def quotient(x: Mass, y: Mass) -> Mass:
    """``x / y``, elementwise, and 0 where ``y`` is."""
    x, y = normalized(x), normalized(y)
    mantissa = x.mantissa * reciprocal(y.mantissa)
    return normalized(ordered(Mass(mantissa, x.exponent - y.exponent)))


def total(x: Mass) -> Mass:
    """The sum of all entries."""
    return Mass(jnp.sum(x.mantissa), x.exponent)


def inverse(x: Mass) -> Mass:
    """``1 / x``, elementwise, and 0 where ``x`` is."""
    x = normalized(x)
    return normalized(ordered(Mass(reciprocal(x.mantissa), -x.exponent)))


def inner(x: Mass, y: Mass) -> Mass:
    """The sum of the products of the entries."""
    x, y = collapsed(in_range(x, y)), collapsed(y)
    return total(of_product(x.mantissa * y.mantissa, x, y))


def total_of(numbers: Sequence[Mass]) -> Mass:
    """The sum of numbers, which XLA aligns at once."""
    if len(numbers) == 1:
        return numbers[0]
    mantissas, exponents = zip(
        *((x.mantissa, x.exponent) for x in numbers), strict=True
    )
    slack = max(x.slack for x in numbers)
    stack = Mass(jnp.stack(mantissas), jnp.stack(exponents), slack=slack)
    return total(collapsed(stack))


def root(x: Mass, p: float) -> Scaled:
    """``x**(1/p)``, elementwise: the norm of a mass, in the same bits for any unit."""
    x = normalized(x)
    live = x.mantissa != 0
    positive = lax.select(live, x.mantissa, jnp.ones_like(x.mantissa))
    whole = _quotient(x.exponent, p, positive.dtype)
    rest = _rest(x.exponent, whole, p, positive.dtype)
    mantissa = _float_root(positive * rest, p)
    return Scaled(lax.select(live, mantissa, jnp.zeros_like(mantissa)), whole)


def factors_of_root(x: Mass, p: float, unit: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two positive factors of ``x**(1/p) / 2**unit``, elementwise; inf for 0.

    The second one has the exponent, as far as it is in range.
    """
    dtype = x.mantissa.dtype
    rest, beyond, size = _parts_of_root(x.exponent, unit, p, dtype)
    return _root(x.mantissa, rest, beyond, p), size


@functools.partial(jax.jit, static_argnames=("p", "dtype"))
def _parts_of_root(
    exponent: jax.Array, unit: jax.Array, p: float, dtype: jnp.dtype
) -> list[jax.Array]:
    """What to multiply by before a root, and twice after it."""
    whole = _quotient(exponent, p, dtype)
    largest = jnp.int32(-jnp.finfo(dtype).minexp)
    within = lax.clamp(-largest, whole - unit, largest)
    parts = [whole - unit - within, within]
    if p.is_integer():
        return powers_of_two([exponent - int(p) * whole, *parts], dtype)
    return [_rest(exponent, whole, p, dtype), *powers_of_two(parts, dtype)]


@functools.partial(jax.jit, static_argnames="p")
def _root(x: jax.Array, rest: jax.Array, beyond: jax.Array, p: float) -> jax.Array:
    positive = lax.select(x != 0, x, jnp.full_like(x, jnp.inf))
    return normal(_float_root(positive * rest, p) * beyond)


def _quotient(exponent: jax.Array, p: float, dtype: jnp.dtype) -> jax.Array:
    """An exponent divided by ``p``, rounded down."""
    if not p.is_integer():
        return jnp.floor(exponent.astype(dtype) / p).astype(jnp.int32)
    divisor = int(p)
    if divisor.bit_count() == 1:
        return exponent >> (divisor.bit_length() - 1)
    below = divisor * NOWHERE // 2**4  # unsigned, XLA divides by a shift
    above = (exponent - below).astype(jnp.uint32) // jnp.uint32(divisor)
    return above.astype(jnp.int32) + below // divisor


def _rest(
    exponent: jax.Array, whole: jax.Array, p: float, dtype: jnp.dtype
) -> jax.Array:
    """``2**(exponent - p * whole)``."""
    if p.is_integer():
        return power_of_two(exponent - int(p) * whole, dtype)
    return jnp.exp2(exponent.astype(dtype) - p * whole.astype(dtype))


def _float_root(x: jax.Array, p: float) -> jax.Array:
    """``x**(1/p)``; by square roots, exact in powers of two, for p in 1, 2, 4..."""
    while p > 1 and (p / 2).is_integer():
        x, p = jnp.sqrt(x), p / 2
    return x if p == 1 else x ** (1 / p)
