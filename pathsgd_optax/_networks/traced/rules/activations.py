"""Activations: what a function of one array does to its paths, whatever it is made of.

It is its value at 0, which is an edge as any constant's, and a multiple of its argument
by what may be between two numbers, of which paths count the larger one. If it is
bounded, it is a gate, too, which its argument steers: in such units that all gates have
the steepness of a sigmoid.
"""

import jax.numpy as jnp

from pathsgd_optax._networks.traced import curves as _curves, multiples as _multiples
from pathsgd_optax._networks.traced.bounds import hull, is_bounded, largest
from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.curves import GRID, Curve, Shape
from pathsgd_optax._networks.traced.values import Factor, Logits, Value


def activated(context: Context, curve: Curve) -> Value | None:
    """The paths of a function of data; None if it has none, or grows, or jumps."""
    shape = _curves.shape_of(curve.samples, curve.root.bounds)
    if shape is None or not shape.steepness:
        return None
    return _shaped(context, curve.root, shape)


def activation(context: Context, x: Value) -> Value | None:
    """The paths of a primitive that is a function of one array."""
    samples = _curves.evaluated(context.eqn.primitive.name, context.params, [GRID])
    return None if samples is None else activated(context, Curve(x, samples))


def _shaped(context: Context, x: Value, shape: Shape) -> Value:
    x = context.settle(x)
    size = largest(hull([shape.above, shape.below]))
    origin = jnp.full(x.shape, shape.origin, context.dtype) if shape.origin else None
    return Value(
        None,
        context.stretched(x.mass, size),
        origin,
        x.leaves,
        ray=x.ray.multiple(),
        bounds=shape.range,
        shifted=shape.origin != 0,
        mixed=x.mixed,
        parts=_multiples.bent(x, shape.above, shape.below),
        factor=_gate(context, x, shape) if is_bounded(shape.range) else None,
    )


def _gate(context: Context, x: Value, shape: Shape) -> Factor:
    """A bounded function as a factor."""
    low, high = shape.range
    unit = (4 * shape.steepness / (high - low)) ** context.p if low < high else 0.0
    return Factor(
        largest(shape.range),
        bounds=shape.range,
        logits=(Logits(x, unit),),
        related=x.ray.bases,
    )
