"""Path masses: sums over paths of products of ``abs(w)**p``, at any magnitude.

A mass is held as a mantissa and one power of two for the whole array. What is done to
masses is linear in each of them, so their slopes are masses, too: those of the paths
that leave.

A large network has thousands of these operations, and XLA repeats the scalar ones
wherever their result is used, unless that is a reduction or a division. So they are
few, exponents are written as bits, and what many arrays use is divided last. What is
not differentiated is jitted, and so traced and lowered once for all arrays of a shape.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

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
"""The exponent of an array that is known to be all zeros: below that of any other."""

SLACK = 48
"""The most bits by which a mantissa may be off 1 before its magnitude is taken out."""

WEIGHT_SLACK = 8
"""The bits allowed for a weight's power, whose magnitude was not taken out."""

CONTRACTED_SLACK = 16
"""The bits allowed for the number of terms of a contraction."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Mass:
    """A non-negative array, held as ``mantissa * 2**exponent``.

    Args:
      mantissa: the array, in the dtype of the masses.
      exponent: int32 of shape (), or one for each row of what a scan reads.
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
    unit, inverse = _unit_of(_peak(lax.stop_gradient(x)))
    mantissa = _float_power(x * inverse, p)
    if p.is_integer():
        return mantissa, lax.mul(unit, jnp.int32(p))
    exact = unit.astype(x.dtype) * p
    whole = jnp.floor(exact)
    return mantissa * jnp.exp2(exact - whole), whole.astype(jnp.int32)


def _float_power(x: jax.Array, p: float) -> jax.Array:
    x = x if (p / 2).is_integer() else magnitude(x)
    return lax.integer_pow(x, int(p)) if p.is_integer() else x**p


def ordered(x: Mass) -> Mass:
    """The same number, with the exponent of zeros if it is zero."""
    live = jnp.max(lax.stop_gradient(x.mantissa), initial=0) != 0
    exponent = lax.select(live, x.exponent, jnp.int32(NOWHERE))
    return dataclasses.replace(x, exponent=exponent)


def normalized(x: Mass) -> Mass:
    """The same number, with a mantissa whose largest entry is in [1, 2)."""
    inverse, exponent = unit(x)
    return dataclasses.replace(
        x, mantissa=x.mantissa * inverse, exponent=exponent, slack=1
    )


def in_range(x: Mass, *others: Mass) -> Mass:
    """The same number, with a mantissa that may be multiplied by the others'."""
    slack = x.slack + max((y.slack for y in others), default=0)
    return normalized(x) if slack > SLACK else x


def unit(x: Mass) -> tuple[jax.Array, jax.Array]:
    """The magnitude of the largest entry: the mantissa's, inverted; its exponent."""
    return _unit(lax.stop_gradient(x.mantissa), x.exponent)


@jax.jit
def _unit(mantissa: jax.Array, exponent: jax.Array) -> tuple[jax.Array, jax.Array]:
    peak = _peak(mantissa)
    below, inverse = _unit_of(peak)
    live = peak >= jnp.finfo(peak.dtype).tiny
    return inverse, lax.select(live, exponent + below, jnp.int32(NOWHERE))


def _peak(x: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(x), initial=0)


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
    exponent = functools.reduce(lax.max, exponents)
    return [_shift(x, exponent, dtype) for x in exponents], exponent


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


def sum_by(function: Callable[..., jax.Array], *masses: Mass) -> Mass:
    """``function`` of the masses, which is linear in all of them together."""
    mantissas, exponent = align(*masses)
    return of_sum(function(*mantissas), exponent, masses)


def of_sum(mantissa: jax.Array, exponent: jax.Array, masses: Sequence[Mass]) -> Mass:
    """What a linear function has made of masses."""
    terms = sum(x.mantissa.size for x in masses) // max(mantissa.size, 1)
    slack = max(x.slack for x in masses) + max(terms - 1, 0).bit_length()
    return in_range(Mass(mantissa, exponent, slack))


def products(
    x: Mass, mantissas: Sequence[jax.Array], others: Sequence[Mass], contracted: bool
) -> list[Mass]:
    """What bilinear functions have made of ``x`` and each of some other masses.

    Contractions are freed of the magnitude of ``x``, as XLA fuses that.
    """
    if not contracted:
        return [_product(*pair, x) for pair in zip(mantissas, others, strict=True)]
    inverse, exponent = unit(x)
    return [
        Mass(mantissa * inverse, exponent + y.exponent, y.slack + CONTRACTED_SLACK)
        for mantissa, y in zip(mantissas, others, strict=True)
    ]


def _product(mantissa: jax.Array, y: Mass, x: Mass) -> Mass:
    terms = max(x.mantissa.size, y.mantissa.size) // max(mantissa.size, 1)
    slack = x.slack + y.slack + max(terms - 1, 0).bit_length()
    return Mass(mantissa, x.exponent + y.exponent, slack)


def total(x: Mass) -> Mass:
    """The sum of all entries."""
    return Mass(jnp.sum(x.mantissa), x.exponent)


def root(x: Mass, p: float) -> Scaled:
    """``x**(1/p)``, elementwise: the norm of a mass."""
    live = x.mantissa != 0
    positive = lax.select(live, x.mantissa, jnp.ones_like(x.mantissa))
    factor, exponent = _root_of_power(x.exponent, p, positive.dtype)
    mantissa = _float_root(positive * factor, p)
    return Scaled(lax.select(live, mantissa, jnp.zeros_like(mantissa)), exponent)


def roots(
    masses: Sequence[Mass], p: float, unit: jax.Array
) -> list[tuple[jax.Array, jax.Array]]:
    """Two positive factors each of ``x**(1/p) / 2**unit``, elementwise; inf for 0.

    What is to be known of the exponents is computed for all masses at once.
    """
    dtype = masses[0].mantissa.dtype
    exponents = jnp.stack([x.exponent for x in masses])
    factors, exponents = _root_of_power(exponents, p, dtype)
    exponents = exponents - unit
    half = exponents >> 1
    low, high = power_of_two(half, dtype), power_of_two(exponents - half, dtype)
    return [
        (_root(x.mantissa, factors[k], low[k], p), high[k])
        for k, x in enumerate(masses)
    ]


@functools.partial(jax.jit, static_argnames="p")
def _root(x: jax.Array, factor: jax.Array, unit: jax.Array, p: float) -> jax.Array:
    positive = lax.select(x != 0, x, jnp.full_like(x, jnp.inf))
    return normal(_float_root(positive * factor, p) * unit)


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
