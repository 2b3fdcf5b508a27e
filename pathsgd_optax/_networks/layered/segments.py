"""Groups the layers of a network so that equal ones are run by one scan."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp

from pathsgd_optax._networks.layered.layout import REMEDY, Layer, Path, listing


T = TypeVar("T")

Weights: TypeAlias = tuple[jax.Array, jax.Array | None]
"""A layer's kernel ``(fan_in, fan_out)`` and its bias ``(fan_out,)``, if it has one."""

Body: TypeAlias = tuple[Layer, ...]

SCAN_FROM = 4
"""The shortest run of equal layers that is worth stacking for a scan."""


class Segment(NamedTuple):
    """Some consecutive layers: one body run as it is, or bodies run by a scan.

    A single body is scanned over the leading axis that nn.scan gave its leaves, where
    there is one. Several bodies, of equal shapes, are stacked for the scan.
    """

    bodies: tuple[Body, ...]

    @property
    def length(self) -> int | None:
        """The number of layers that nn.scan has stacked in each leaf."""
        return self.bodies[0][0].length

    @property
    def scanned(self) -> bool:
        """Whether `weights` have a leading axis to scan over."""
        return self.length is not None or len(self.bodies) > 1

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers as they are applied; one object for all that a leaf stacks."""
        return tuple(itertools.chain(*self.bodies)) * (self.length or 1)

    def weights(self, leaves: Sequence[jax.Array]) -> list[Weights]:
        """The body's weights, of leaves in the order of `jax.tree.leaves`."""
        bodies = [[_weights(layer, leaves) for layer in body] for body in self.bodies]
        return bodies[0] if len(bodies) == 1 else _stack(bodies)

    def each_body(self, values: Sequence[Any]) -> list[Sequence[Any]]:
        """What belongs to each of the bodies, out of what a run over them returned."""
        if len(self.bodies) == 1:
            return [values]
        return [_at(values, k) for k in range(len(self.bodies))]

    def each_layer(self, values: Sequence[Any]) -> list[Any]:
        """What belongs to each of the layers, out of what a run over them returned."""
        if not self.scanned:
            return list(values)
        return [value for k in self._counts() for value in _at(values, k)]

    def each_leaf(self, values: Sequence[tuple[T, T]]) -> Mapping[int, T]:
        """What belongs to each leaf, by its place, out of pairs for kernel and bias."""
        return {
            leaf.place: value
            for body, pairs in zip(self.bodies, self.each_body(values), strict=True)
            for layer, pair in zip(body, pairs, strict=True)
            for leaf, value in zip(layer.leaves, pair, strict=False)
        }

    def leaves(self, weights: Iterator[Weights]) -> Mapping[int, jax.Array | None]:
        """The leaves by their places, out of the weights of the layers in order."""
        repeats = [[next(weights) for _ in self.bodies[0]] for _ in self._counts()]
        return self.each_leaf(_stack(repeats) if self.scanned else repeats[0])

    def _counts(self) -> range:
        return range(self.length or len(self.bodies))


def segments(layers: Sequence[tuple[Path, Layer]]) -> Iterator[Segment]:
    """The segments of a chain of layers, given with the paths of their modules."""
    for length, group in itertools.groupby(layers, lambda entry: entry[1].length):
        if length is None:
            yield from _runs([layer for _, layer in group])
        else:
            yield from _scans(list(group))


def _runs(layers: Sequence[Layer]) -> Iterator[Segment]:
    for _, group in itertools.groupby(layers, _signature):
        run = [(layer,) for layer in group]
        if len(run) >= SCAN_FROM:
            yield Segment(tuple(run))
        else:
            yield from (Segment((body,)) for body in run)


def _signature(layer: Layer) -> tuple[Any, ...]:
    return tuple((leaf.shape, leaf.dtype) for leaf in layer.leaves)


def _scans(layers: Sequence[tuple[Path, Layer]]) -> list[Segment]:
    """The bodies of nn.scan: the layers of one module, or else the whole group."""
    by_parent = itertools.groupby(layers, lambda entry: entry[0][:-1])
    readings = {
        tuple(tuple(layer for _, layer in group) for _, group in by_parent),
        (tuple(layer for _, layer in layers),),
    }
    fitting = [bodies for bodies in readings if all(map(_repeats, bodies))]
    if len(fitting) != 1:
        kernels = listing([layer.kernel for _, layer in layers])
        problem = "more than one way" if fitting else "no way"
        raise ValueError(
            f"There is {problem} to read these stacked layers as the bodies of "
            f"nn.scan, whose widths must fit when they are repeated: {kernels}. "
            f"{REMEDY}"
        )
    return [Segment((body,)) for body in fitting[0]]


def _repeats(body: Sequence[Layer]) -> bool:
    return body[0].length == 1 or body[0].fan_in == body[-1].fan_out


def _weights(layer: Layer, leaves: Sequence[jax.Array]) -> Weights:
    bias = None if layer.bias is None else leaves[layer.bias.place]
    return leaves[layer.kernel.place], bias


def _stack(bodies: Sequence[Sequence[Weights]]) -> list[Weights]:
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *bodies)


def _at(values: Sequence[Any], k: int) -> Sequence[Any]:
    return jax.tree.map(lambda stack: stack[k], values)
