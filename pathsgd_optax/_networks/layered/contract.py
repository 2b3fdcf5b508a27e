"""Sums over all weights of a layer, where the time is spent.

A layer's path norms take one reading of its kernel for the peak and one for the sum,
which XLA fuses into its reductions on any accelerator. On a CPU it would write out the
operand of both, and its reductions of rows are slower than the memory: there, squares
are added without a peak, a few units are combined first, and both directions share one
reading. Only where that leaves the range it is done again, with peaks; an accelerator
would wait for the host to decide on that, for longer than the readings take.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from pathsgd_optax._numerics.program import called, on_cpu
from pathsgd_optax._numerics.scaled import combine, magnitude, norm, root


LIFT = 2.0**32
"""What the largest norm, about 1, is multiplied by to give small squares more room."""

LARGE = 2**20
"""The entries from which on a kernel is beyond the processor's caches."""

ORDERS = (1, 2)
"""The orders whose powers of norms stay in range, but for extreme weights."""

PARTS = 10
"""The most units whose terms are added one by one; XLA writes out those of more."""

TILE = 16
"""The longest side of a tile whose sums LLVM unrolls."""

FEWEST = 4
"""The shortest side of a tile that makes up for writing out its sums."""


def contract(kernel: jax.Array, x: jax.Array, p: float, axis: int) -> jax.Array:
    """The l_p norm of ``abs(kernel) * x`` along ``axis``.

    Args:
      kernel: weights, shape ``(fan_in, fan_out)``, any floating dtype.
      x: non-negative path norms of the units along ``axis``.
      p: order of the norm.
      axis: 0 to sum over the incoming units, 1 over the outgoing ones.

    Returns:
      Array of ``x``'s dtype, of the other axis' size.
    """
    if p not in ORDERS or kernel.size < LARGE:
        return _norm(kernel, x, p, axis)
    return on_cpu(_quick_norm, _plain_norm, p=p, axis=axis)(kernel, x)


def contract_both(
    kernel: jax.Array, sources: jax.Array, targets: jax.Array, p: float
) -> tuple[jax.Array, jax.Array]:
    """`contract` of ``sources`` along axis 0, and of ``targets`` along axis 1."""
    if p not in ORDERS or kernel.size < LARGE or _fold(TILE, *kernel.shape) < FEWEST:
        return contract(kernel, sources, p, 0), contract(kernel, targets, p, 1)
    return on_cpu(_quick_norms, _plain_norms, p=p)(kernel, sources, targets)


def sum_of_squares(x: jax.Array) -> jax.Array:
    """The sum of the squares of all entries, which need not be written out first."""
    if x.size < LARGE or x.ndim < 2:
        return _sum_of_squares(x)
    return on_cpu(_folded_sum_of_squares, _sum_of_squares)(x)


def _edges(kernel: jax.Array, x: jax.Array, axis: int) -> jax.Array:
    return kernel.astype(x.dtype) * jnp.expand_dims(x, 1 - axis)


def _shards(length: int) -> int:
    """The most devices that an axis may be shared out to."""
    return math.gcd(length, jax.device_count())


def _fold(most: int, *lengths: int) -> int:
    """The largest number up to this that divides what a device has of each axis."""
    shared = math.gcd(*(length // _shards(length) for length in lengths))
    return max(k for k in range(1, most + 1) if shared % k == 0)


def _folds(x: jax.Array, axis: int) -> list[jax.Array]:
    """Parts of ``x``, in each of which the axis has a few times fewer entries."""
    fold = _fold(PARTS, x.shape[axis])
    x = jnp.reshape(x, (*x.shape[:axis], -1, fold, *x.shape[axis + 1 :]))
    return [lax.index_in_dim(x, k, axis + 1, keepdims=False) for k in range(fold)]


def _folded_edges(kernel: jax.Array, x: jax.Array, axis: int) -> list[jax.Array]:
    pairs = zip(_folds(kernel, axis), _folds(x, 0), strict=True)
    return [_edges(weights, units, axis) for weights, units in pairs]


def _total(x: jax.Array, axis: int) -> jax.Array:
    """The sum, as a product: XLA would draw what makes ``x`` into a reduction."""
    ones = jnp.ones(x.shape[axis], x.dtype)
    return jnp.tensordot(x, ones, (axis, 0), precision=lax.Precision.HIGHEST)


# Sums of powers, in one reading.


def _quick_norm(kernel: jax.Array, x: jax.Array, p: float, axis: int) -> jax.Array:
    mass = _folded_mass if axis == 0 else _mass
    return _root(mass(kernel, LIFT * x, p, axis), kernel, x, p, axis)


def _quick_norms(
    kernel: jax.Array, sources: jax.Array, targets: jax.Array, p: float
) -> tuple[jax.Array, jax.Array]:
    both = called(_both_tiled, p=p)
    forward, backward = both(kernel, LIFT * sources, LIFT * targets)
    return _root(forward, kernel, sources, p, 0), _root(backward, kernel, targets, p, 1)


def _mass(kernel: jax.Array, x: jax.Array, p: float, axis: int) -> jax.Array:
    return jnp.sum(_power(_edges(kernel, x, axis), p), axis)


def _folded_mass(kernel: jax.Array, x: jax.Array, p: float, axis: int) -> jax.Array:
    powers = [_power(edges, p) for edges in _folded_edges(kernel, x, axis)]
    return _total(functools.reduce(jnp.add, powers), axis)


def _sum_of_squares(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(x))


def _folded_sum_of_squares(x: jax.Array) -> jax.Array:
    squares = map(jnp.square, _folds(x, x.ndim - 2))
    return jnp.sum(_total(functools.reduce(jnp.add, squares), -2))


def _power(edges: jax.Array, p: float) -> jax.Array:
    return magnitude(edges) if p == 1 else jnp.square(edges)


def _root(
    mass: jax.Array, kernel: jax.Array, x: jax.Array, p: float, axis: int
) -> jax.Array:
    """The root of a lifted mass, or the norm where that is out of range."""
    info = jnp.finfo(mass.dtype)
    lowest = float(info.tiny) / float(info.eps) ** 2
    in_range = jnp.all((mass > lowest) & (mass < jnp.inf))
    return lax.cond(
        in_range,
        lambda: root(mass, p, where=in_range) / LIFT,
        lambda: _norm(kernel, x, p, axis),
    )


def _both_tiled(
    kernel: jax.Array, sources: jax.Array, targets: jax.Array, p: float
) -> tuple[jax.Array, jax.Array]:
    """Reads every weight from memory once: XLA reduces two arrays in a single loop.

    Of each square tile of the kernel, the loop adds up rows for the one and columns
    for the other.
    """
    fold, shards = _fold(TILE, *kernel.shape), _shards(kernel.shape[1])

    def tiles(x: jax.Array, axis: int) -> jax.Array:
        powers = _power(_edges(kernel, x, axis), p)
        return jnp.reshape(
            powers, (-1, fold, shards, fold, kernel.shape[1] // shards // fold)
        )

    rows, columns = tiles(targets, 1), jnp.swapaxes(tiles(sources, 0), 1, 3)
    zero = jnp.zeros((), sources.dtype)
    add = functools.partial(jax.tree.map, jnp.add)
    backward, forward = lax.reduce((rows, columns), (zero, zero), add, (3,))
    forward = jnp.swapaxes(jnp.sum(forward, 0), 0, 1)
    return jnp.ravel(forward), jnp.ravel(jnp.sum(backward, (2, 3)))


# Any order.


def _norm(kernel: jax.Array, x: jax.Array, p: float, axis: int) -> jax.Array:
    if math.isinf(p) or kernel.size < LARGE:
        return _plain_norm(kernel, x, p, axis)
    return on_cpu(_folded_norm, _plain_norm, p=p, axis=axis)(kernel, x)


def _plain_norms(
    kernel: jax.Array, sources: jax.Array, targets: jax.Array, p: float
) -> tuple[jax.Array, jax.Array]:
    return _plain_norm(kernel, sources, p, 0), _plain_norm(kernel, targets, p, 1)


def _plain_norm(kernel: jax.Array, x: jax.Array, p: float, axis: int) -> jax.Array:
    return norm(magnitude(_edges(kernel, x, axis)), p, axis)


def _folded_norm(kernel: jax.Array, x: jax.Array, p: float, axis: int) -> jax.Array:
    parts = map(magnitude, _folded_edges(kernel, x, axis))
    return norm(combine(list(parts), p), p, axis)
