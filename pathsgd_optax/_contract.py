"""Sums over all weights of a layer, where the time is spent.

A layer's path norms take one reading of its kernel. XLA fuses a sum of squares into
that reading on any device. On a CPU it writes out an operand that a norm needs twice,
for the peak and for the sum, and its reductions of rows are slower than the memory:
there, a few units are combined first, and both directions share one reading.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from pathsgd_optax._scaled import combine, magnitude, norm, root


LIFT = 2.0**32
"""What the largest norm, about 1, is multiplied by to give small squares more room."""

LARGE = 2**20
"""The entries from which on a kernel is beyond the processor's caches."""

ORDERS = (1, 2)
"""The orders whose powers of norms stay in range, but for extreme weights."""

FEWEST = 4
"""The fewest units whose combination makes up for a loop over blocks."""


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
    folded = _folded_mass if axis == 0 else _mass
    mass = _on_cpu(folded, _mass, p=p, axis=axis)(kernel, LIFT * x)
    return _root(mass, kernel, x, p, axis)


def contract_both(
    kernel: jax.Array, sources: jax.Array, targets: jax.Array, p: float
) -> tuple[jax.Array, jax.Array]:
    """`contract` of ``sources`` along axis 0, and of ``targets`` along axis 1."""
    folds = [_split(length)[-1] for length in kernel.shape]
    if p not in ORDERS or kernel.size < LARGE or min(folds) < FEWEST:
        return contract(kernel, sources, p, 0), contract(kernel, targets, p, 1)
    masses = _on_cpu(_both_blocked, _both, p=p)
    forward, backward = masses(kernel, LIFT * sources, LIFT * targets)
    return _root(forward, kernel, sources, p, 0), _root(backward, kernel, targets, p, 1)


def sum_of_squares(x: jax.Array) -> jax.Array:
    """The sum of the squares of all entries, which need not be written out first."""
    if x.size < LARGE or x.ndim < 2:
        return _sum_of_squares(x)
    return _on_cpu(_folded_sum_of_squares, _sum_of_squares)(x)


def _on_cpu(
    blocked: Callable[..., Any], plain: Callable[..., Any], **options: Any
) -> Callable[..., Any]:
    return functools.partial(
        lax.platform_dependent,
        cpu=functools.partial(blocked, **options),
        default=functools.partial(plain, **options),
    )


def _edges(kernel: jax.Array, x: jax.Array, axis: int) -> jax.Array:
    return kernel.astype(x.dtype) * jnp.expand_dims(x, 1 - axis)


def _split(length: int) -> tuple[int, int, int]:
    """The sizes of three axes: the first keeps a sharding, few are along the last."""
    outer = math.gcd(length, 16)
    fold = max(k for k in range(1, 11) if length // outer % k == 0)
    return outer, length // outer // fold, fold


def _folds(x: jax.Array, axis: int) -> list[jax.Array]:
    """Parts of ``x``, in each of which the axis has a few times fewer entries."""
    fold = _split(x.shape[axis])[-1]
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


def _both(
    kernel: jax.Array, sources: jax.Array, targets: jax.Array, p: float
) -> tuple[jax.Array, jax.Array]:
    return _mass(kernel, sources, p, 0), _mass(kernel, targets, p, 1)


def _both_blocked(
    kernel: jax.Array, sources: jax.Array, targets: jax.Array, p: float
) -> tuple[jax.Array, jax.Array]:
    """Reads a block of rows from memory once, and from the cache the second time.

    Block k takes rows from all over the kernel, those at k of the second of the three
    axes into which rows are split: they keep their sharding on the first. It is read in
    place only if each part of it that is read is sliced from the kernel by itself.
    """
    (rows, blocks, row), (columns, lanes, column) = map(_split, kernel.shape)
    kernel = jnp.reshape(kernel, (rows, blocks, row, columns, column, lanes))
    sources = jnp.reshape(sources, (rows, blocks, row, 1, 1, 1))
    targets = jnp.reshape(targets, (1, 1, 1, columns, column, lanes))

    def step(forward: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        def powers(x: jax.Array, axis: int) -> list[jax.Array]:
            parts = [
                (_part(kernel, k, axis, place), _part(x, k, axis, place))
                for place in range(kernel.shape[axis])
            ]
            return [_power(weight.astype(x.dtype) * unit, p) for weight, unit in parts]

        backward = _total(functools.reduce(jnp.add, powers(targets, 4)), -1)
        forward = functools.reduce(jnp.add, powers(sources, 2), forward)
        return forward, jnp.sum(backward, (1, 3, 4))

    forward = jnp.zeros((rows, 1, 1, columns, column, lanes), sources.dtype)
    forward, backward = lax.scan(step, forward, jnp.arange(blocks))
    return jnp.ravel(jnp.sum(forward, 0)), jnp.ravel(jnp.moveaxis(backward, 0, 1))


def _part(x: jax.Array, k: jax.Array, axis: int, place: int) -> jax.Array:
    """Block k at one place of another axis; of an axis of size 1 its only entry."""
    starts: list[Any] = [0] * x.ndim
    sizes = list(x.shape)
    starts[1], sizes[1] = k, 1
    starts[axis], sizes[axis] = place, 1
    return lax.dynamic_slice(x, starts, sizes)


# Any order.


def _norm(kernel: jax.Array, x: jax.Array, p: float, axis: int) -> jax.Array:
    if math.isinf(p) or kernel.size < LARGE:
        return _plain_norm(kernel, x, p, axis)
    return _on_cpu(_folded_norm, _plain_norm, p=p, axis=axis)(kernel, x)


def _plain_norm(kernel: jax.Array, x: jax.Array, p: float, axis: int) -> jax.Array:
    return norm(magnitude(_edges(kernel, x, axis)), p, axis)


def _folded_norm(kernel: jax.Array, x: jax.Array, p: float, axis: int) -> jax.Array:
    parts = map(magnitude, _folded_edges(kernel, x, axis))
    return norm(combine(list(parts), p), p, axis)
