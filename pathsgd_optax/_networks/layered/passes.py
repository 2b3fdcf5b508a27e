"""Algorithm 1 of the paper, by scans over layers.

In the paper ``gamma_in(v)`` and ``gamma_out(v)`` are the masses of the paths that
enter and leave a unit; here both are kept as norms, their p-th roots. A bias is an
edge from one more input unit, whose value is always 1.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from pathsgd_optax._networks.layered.contract import contract, contract_both
from pathsgd_optax._networks.layered.segments import Segment, Weights
from pathsgd_optax._networks.network import Factors, resolved
from pathsgd_optax._numerics.program import jit_apart
from pathsgd_optax._numerics.scaled import (
    Scaled,
    add,
    divisor,
    magnitude,
    norm,
    normal,
    powers_of_two,
    reciprocal,
    scaled,
)
from pathsgd_optax._vocabulary import path_dtype


T = TypeVar("T")


def path_norms(
    segments: Sequence[Segment], leaves: Sequence[jax.Array], p: float
) -> list[Scaled]:
    """The norms of the paths that enter the units of each layer, inputs first."""
    inputs, _ = _inputs_and_outputs(segments, leaves)
    entering, outputs = _forward(segments, leaves, p, inputs)
    layers = [s.each_layer(e) for s, e in zip(segments, entering, strict=True)]
    return [*itertools.chain(*layers), outputs]


def total(outputs: Scaled, p: float) -> Scaled:
    """The norm of the paths to all outputs together."""
    return Scaled(norm(outputs.mantissa, p, axis=0), outputs.exponent)


@functools.partial(jit_apart, static_argnames=("segments", "p"))
def scaling(
    leaves: Sequence[jax.Array],
    damping: jax.Array | None,
    unit: jax.Array,
    *,
    segments: tuple[Segment, ...],
    p: float,
) -> tuple[Scaled, list[list[tuple[Factors, Factors]]]]:
    """phi, and the factors of each layer's kernel and bias, stacked by segment."""
    if damping is None:
        entering, leaving, outputs = _passes(segments, leaves, p)
    else:
        entering, leaving, outputs = _damped_passes(segments, leaves, p, damping)
    phi = total(outputs, p)
    unit = resolved(unit, phi)
    return phi, [
        [_factors(*pair, unit) for pair in zip(*units, strict=True)]
        for units in zip(entering, leaving, strict=True)
    ]


def _damped_passes(
    segments: Sequence[Segment],
    leaves: Sequence[jax.Array],
    p: float,
    damping: jax.Array,
) -> tuple[list[list[Scaled]], list[list[Scaled]], Scaled]:
    """Both passes of Algorithm 1, the second of which needs all of the first."""
    sources, targets = _inputs_and_outputs(segments, leaves)
    entering, outputs = _forward(segments, leaves, p, sources)
    leaving = _damped_backward(segments, leaves, p, targets, entering, damping)
    return entering, leaving, outputs


def _passes(
    segments: Sequence[Segment], leaves: Sequence[jax.Array], p: float
) -> tuple[list[list[Scaled]], list[list[Scaled]], Scaled]:
    """Both passes of Algorithm 1: what enters and what leaves each layer; the outputs.

    They meet at the largest inner layer, whose kernel is read once for both.
    """
    sources, targets = _inputs_and_outputs(segments, leaves)
    before, meeting, after = _parted(segments)
    entering, sources = _forward(before, leaves, p, sources)
    leaving, targets = _backward(after, leaves, p, targets)
    for segment in meeting:
        [(kernel, bias)] = segment.weights(leaves)
        norms = contract_both(kernel, sources.mantissa, targets.mantissa, p)
        entering, leaving = [*entering, [sources]], [[targets], *leaving]
        sources = _with_bias(scaled(norms[0], sources.exponent), bias, p)
        targets = scaled(norms[1], targets.exponent)
    rest, outputs = _forward(after, leaves, p, sources)
    first, _ = _backward(before, leaves, p, targets)
    return entering + rest, first + leaving, outputs


def _parted(
    segments: Sequence[Segment],
) -> tuple[Sequence[Segment], Sequence[Segment], Sequence[Segment]]:
    """The segments before, at and after the largest inner layer that isn't scanned."""
    inner = [k for k in range(1, len(segments) - 1) if not segments[k].scanned]
    if not inner:
        return segments, (), ()
    largest = max(inner, key=lambda k: math.prod(segments[k].layers[0].kernel.shape))
    return segments[:largest], segments[largest : largest + 1], segments[largest + 1 :]


def _forward(
    segments: Sequence[Segment],
    leaves: Sequence[jax.Array],
    p: float,
    units: Scaled,
) -> tuple[list[list[Scaled]], Scaled]:
    """The path norms that enter each segment's layers, and those behind the last."""

    def step(units: Scaled, body: Sequence[Weights]) -> tuple[Scaled, list[Scaled]]:
        entering = []
        for kernel, bias in body:
            entering.append(units)
            mantissa = contract(kernel, units.mantissa, p, axis=0)
            units = _with_bias(scaled(mantissa, units.exponent), bias, p)
        return units, entering

    passed = []
    for segment in segments:
        units, entering = _run(step, units, segment, segment.weights(leaves))
        passed.append(entering)
    return passed, units


def _backward(
    segments: Sequence[Segment], leaves: Sequence[jax.Array], p: float, units: Scaled
) -> tuple[list[list[Scaled]], Scaled]:
    """The norms of the paths that leave each segment's layers, and what is before."""

    def step(units: Scaled, body: Sequence[Weights]) -> tuple[Scaled, list[Scaled]]:
        leaving = []
        for kernel, _ in reversed(body):
            leaving.append(units)
            units = _before(units, kernel, p)
        return units, leaving[::-1]

    passed = []
    for segment in reversed(segments):
        units, leaving = _run(step, units, segment, segment.weights(leaves), True)
        passed.append(leaving)
    return passed[::-1], units


def _damped_backward(
    segments: Sequence[Segment],
    leaves: Sequence[jax.Array],
    p: float,
    units: Scaled,
    entering: Sequence[Sequence[Scaled]],
    damping: jax.Array,
) -> list[list[Scaled]]:
    """The norms of the paths that leave each segment's layers, if all units do too."""

    def step(
        units: Scaled, body: Sequence[tuple[Weights, Scaled]]
    ) -> tuple[Scaled, list[Scaled]]:
        leaving = []
        for (kernel, _), sources in reversed(body):
            leaving.append(units)
            units = add(_before(units, kernel, p), _floor(sources, damping), p)
        return units, leaving[::-1]

    passed = []
    for segment, sources in reversed(list(zip(segments, entering, strict=True))):
        body = list(zip(segment.weights(leaves), sources, strict=True))
        units, leaving = _run(step, units, segment, body, reverse=True)
        passed.append(leaving)
    return passed[::-1]


def _before(units: Scaled, kernel: jax.Array, p: float) -> Scaled:
    """The norms of the paths that leave the units before a layer."""
    return scaled(contract(kernel, units.mantissa, p, axis=1), units.exponent)


def _floor(units: Scaled, damping: jax.Array) -> Scaled:
    """``damping / units``: what a unit has for being an output, in units of its own."""
    return scaled(damping * reciprocal(units.mantissa), -units.exponent)


def _run(
    step: Callable[[Scaled, list[T]], tuple[Scaled, list[Scaled]]],
    units: Scaled,
    segment: Segment,
    body: list[T],
    reverse: bool = False,
) -> tuple[Scaled, list[Scaled]]:
    if segment.scanned:
        return lax.scan(step, units, body, reverse=reverse)
    return step(units, body)


def _with_bias(units: Scaled, bias: jax.Array | None, p: float) -> Scaled:
    if bias is None:
        return units
    return add(units, scaled(magnitude(bias).astype(units.mantissa.dtype)), p)


def _inputs_and_outputs(
    segments: Sequence[Segment], leaves: Sequence[jax.Array]
) -> tuple[Scaled, Scaled]:
    """The norm of the empty path, of each of the network's inputs and outputs."""
    first, last = segments[0].bodies[0][0], segments[-1].bodies[-1][-1]
    return _ones(first.fan_in, leaves), _ones(last.fan_out, leaves)


def _ones(width: int, leaves: Sequence[jax.Array]) -> Scaled:
    ones = jnp.ones_like(leaves[0], path_dtype(*leaves), shape=(width,))
    return Scaled(ones, jnp.zeros_like(leaves[0], jnp.int32, shape=()))


def _factors(
    unit_in: Scaled, unit_out: Scaled, unit: jax.Array
) -> tuple[Factors, Factors]:
    """``unit_in * unit_out`` of the kernel, ``unit_out`` of the bias, in this unit."""
    dtype = unit_out.mantissa.dtype
    source, target = divisor(unit_in.mantissa), divisor(unit_out.mantissa)
    leaving = unit_out.exponent - unit
    low, high = powers_of_two(leaving + unit_in.exponent, dtype)
    kernel = (
        normal(source * low[..., None])[..., :, None],
        normal(target * high[..., None])[..., None, :],
    )
    low, high = powers_of_two(leaving, dtype)
    return kernel, (normal(target * low[..., None]), high[..., None])
