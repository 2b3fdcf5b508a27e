"""The reverse pass over path masses.

The slope of the path mass by a value's mass is the mass of the paths that leave the
value, which has an exponent of its own: along a deep network it changes as much as the
mass of those that enter. Slopes by mantissas, as `jax.vjp` has them, would have to be
in range at the exponents of the forward pass, and are not.
"""

import dataclasses
import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from pathsgd_optax._networks.traced import mass as _mass
from pathsgd_optax._networks.traced.mass import Mass
from pathsgd_optax._numerics.program import once


Pull: TypeAlias = Callable[[list[Mass]], Sequence[Mass | None]]
"""From the slopes of an operation's results to those of its sources."""


class _Operation(NamedTuple):
    results: list[Mass]
    sources: list[Mass]
    pull: Pull
    layer: bool
    function: Callable[..., jax.Array] | None
    partial: bool
    reach: Sequence[Any] | None


class End(NamedTuple):
    """A value where paths end, and the slope that it has for it."""

    value: Mass
    slope: Mass


class Ends(NamedTuple):
    """Where paths end.

    Args:
      paths: at outputs and at normalisations.
      gates: of what does nothing but steer gates.
      reached: what leads to the former, by nodes: in all entries, or in some.
      steering: the nodes of what parameters lead to that don't, or not all of them.
    """

    paths: list[End]
    gates: list[End]
    reached: dict[int | None, Any]
    steering: set[int | None]

    def closed(self, x: Mass) -> Any:
        """The entries from which no way leads back to what does nothing but steer."""
        return self.reached.get(x.node) if x.node in self.steering else True


class Tape:
    """The operations on masses, in their order.

    A rewriting of a mass (normalisation, alignment) keeps its node: it is the same
    number, and so has the same slope.

    Paths end in units of the value where they end. What enters a normalisation is an
    output over its mean, unless it goes elsewhere, too: it is counted where that way
    ends. What steers a gate ends there, for those entries of parameters that lead to
    no other end. With damping, the p-th power of tau, every unit is an output, too: its
    slope is at least this number over its mass. Units are what contractions result in,
    with their biases, but for outputs.
    """

    def __init__(self, damping: Mass | None = None) -> None:
        self.damping = damping
        self.elsewhere: list[Mass] = []
        """The masses of paths that have ended inside of scans."""
        self._operations: list[_Operation] = []
        self._nodes = 0
        self._units: set[int | None] = set()
        self._moved: dict[int | None, int | None] = {}
        self._norms: dict[int | None, End] = {}
        self._gates: dict[int | None, End] = {}
        self._has_gates = False  # of its own, or inside of an operation

    def leaf(self, x: Mass) -> Mass:
        """The same number, as one to have a slope."""
        self._nodes += 1
        return Mass(x.mantissa, x.exponent, slack=x.slack, node=self._nodes)

    def record(
        self,
        results: Sequence[Mass],
        sources: Sequence[Mass],
        pull: Pull,
        layer: bool = False,
        function: Callable[..., jax.Array] | None = None,
        partial: bool = False,
        reach: Sequence[Any] | None = None,
    ) -> list[Mass]:
        """The results of an operation, with the slopes of ``pull``.

        What is before a layer is no output, even if its results are. ``function`` is
        what makes the only result, ``partial`` if it doesn't use all of its sources. An
        operation with gates inside has ``reach``, which entries of each source lead to
        the results, and pulls the slopes of what steers after those of all sources.
        """
        if not any(x.node for x in sources):
            return list(results)
        made = [*map(self.leaf, results)]
        self._has_gates |= reach is not None
        operation = _Operation(made, [*sources], pull, layer, function, partial, reach)
        self._operations.append(operation)
        return made

    def moved(self, x: Mass, before: Mass) -> None:
        """Notes that both are the same entries."""
        if x.node is not None:
            self._moved[x.node] = before.node

    def unit(self, x: Mass, before: Mass | None = None) -> Mass:
        """The mass of a unit; ``before`` was that without its bias, if it was one."""
        if before is None:
            self._units.add(x.node)
        elif before.node in self._units:
            self._units = self._units - {before.node} | {x.node}
        return x

    def normalised(self, x: Mass, slope: Mass) -> None:
        """Notes that paths may end in ``x``, with this slope."""
        slope, node = _mass.broadcast(slope, x.shape), x.node
        while node in self._moved:
            node = self._moved[node]
        if node is not None:
            self._norms.setdefault(node, End(x, slope))

    def steered(self, x: Mass, slope: Mass) -> None:
        """Notes that ``x`` steers a gate, with this slope."""
        if x.node is not None:
            self._gates.setdefault(x.node, End(x, slope))
            self._has_gates = True

    def ends(self, outputs: Sequence[End]) -> Ends:
        """Where paths end, if some of them do in ``outputs``."""
        paths, rest = list(outputs), dict(self._norms)
        reached: dict[int | None, Any] = {end.value.node: True for end in outputs}
        for operation in reversed(self._operations):
            for x in operation.results:
                if (
                    x.node in rest
                    and (end := rest.pop(x.node))
                    and x.node not in reached
                ):
                    paths.append(end)
                    reached[x.node] = reached[end.value.node] = True
            self._reach(operation, reached)
        paths += [end for node, end in rest.items() if node not in reached]
        steering = self._steering(reached) if self._has_gates else set()
        gates = [
            End(end.value, _unreached(end.slope, reached.get(node)))
            for node, end in self._gates.items()
            if node in steering
        ]
        return Ends(paths, gates, reached, steering)

    def ended(self, ends: Ends, outputs: int) -> list[Mass]:
        """The masses of the paths that have ended, but for so many outputs."""
        others = [*ends.paths[outputs:], *ends.gates]
        return [*(_mass.inner(*end) for end in others), *self.elsewhere]

    def _steering(self, reached: Mapping[int | None, Any]) -> set[int | None]:
        """What leads only to gates, or some of whose entries do, from leaves on."""
        made = {x.node for operation in self._operations for x in operation.results}
        nodes = {*range(1, self._nodes + 1)} - made
        found = {node for node in nodes if reached.get(node) is not True}
        for operation in self._operations:
            if not found.isdisjoint(_nodes(operation.sources)):
                results = _nodes(operation.results)
                found.update(k for k in results if reached.get(k) is not True)
        return found

    def _reach(self, operation: _Operation, reached: dict[int | None, Any]) -> None:
        """Marks what leads to a result that leads to an end."""
        masks = [reached.get(x.node) for x in operation.results]
        if all(mask is None for mask in masks):
            return
        led = _leading(operation, masks) if self._has_gates else itertools.repeat(True)
        for x, mask in zip(operation.sources, led, strict=False):
            if mask is not None:
                reached[x.node] = _either(reached.get(x.node), mask)

    def slopes(
        self, ends: Ends, leaves: Sequence[Mass], final: bool = True
    ) -> list[Mass]:
        """The masses of the paths from each leaf to the ends.

        Args:
          ends: where they end.
          leaves: values without operations.
          final: whether no paths go on from there.

        Returns:
          The slope of each leaf, with an exponent for each row where there are several.
        """
        paths, steering = self.slopes_apart(ends, leaves, final)
        return [
            _total_by_rows([x, *(() if y is None else (y,))], leaf)
            for x, y, leaf in zip(paths, steering, leaves, strict=True)
        ]

    def slopes_apart(
        self, ends: Ends, leaves: Sequence[Mass], final: bool = True
    ) -> tuple[list[Mass], list[Mass | None]]:
        """The masses of the paths to ends, and of those that only steer, if any do."""
        found, steering = _by_node(ends.paths), _by_node(ends.gates)
        outputs = {*found} if final else set()
        for operation in reversed(self._operations):
            nodes = _nodes(operation.results)
            if not (operation.layer or outputs.isdisjoint(nodes)):
                outputs.update(_nodes(operation.sources))
            if any(node in found for node in nodes):
                pulled = self._pull(operation, found, outputs)
                _spread(operation, pulled, found, steering, ends)
            if any(node in steering for node in nodes):
                alone = not any(node in ends.reached for node in nodes)
                pulled = self._pull(operation, steering, outputs if alone else None)
                _spread(operation, pulled, None, steering, ends)
        paths = [_total_by_rows(found[x.node], x) for x in leaves]
        others = [
            _total_by_rows(steering[x.node], x) if steering[x.node] else None
            for x in leaves
        ]
        return paths, others

    def _pull(
        self,
        operation: _Operation,
        found: dict[int | None, list[Mass]],
        outputs: set[int | None] | None,
    ) -> Sequence[Mass | None]:
        """The slopes of the sources, from those that the results have."""
        slopes = [
            [*found.pop(x.node, []), *self._floor(x, outputs)]
            for x in operation.results
        ]
        totals = map(_total, slopes, operation.results)
        return operation.pull([*map(_mass.collapsed, totals)])

    def _floor(self, x: Mass, outputs: set[int | None] | None) -> list[Mass]:
        """The slope of a unit for being an output."""
        if (
            self.damping is None
            or outputs is None
            or x.node not in self._units - outputs
        ):
            return []
        return [_mass.quotient(self.damping, x)]


def _spread(
    operation: _Operation,
    pulled: Sequence[Mass | None],
    found: dict[int | None, list[Mass]] | None,
    steering: dict[int | None, list[Mass]],
    ends: Ends,
) -> None:
    """Adds the slopes of paths to ``found``, and those of what steers, where it may."""
    count = len(operation.sources)
    steers = pulled[count:] if found is not None else pulled
    if found is not None:
        for x, slope in zip(operation.sources, pulled[:count], strict=True):
            if slope is not None:
                found[x.node].append(slope)
    for k, slope in enumerate(steers):
        x = operation.sources[k % count]
        if slope is not None and (mask := ends.closed(x)) is not True:
            steering[x.node].append(_unreached(slope, mask))


def _leading(operation: _Operation, masks: Sequence[Any]) -> Iterable[Any]:
    """The entries of the sources that lead to these entries of the results."""
    if operation.reach is not None:
        return operation.reach
    mask = masks[0]
    whole = mask is True and not operation.partial
    if whole or operation.function is None:
        return [True] * len(operation.sources)
    with jax.ensure_compile_time_eval():
        sources = [*map(_structure, operation.sources)]
        result, pull = jax.vjp(operation.function, *sources)
        led = pull(jnp.ones_like(result) if mask is True else mask)
        return [_mask(jnp.minimum(part, 1)) for part in led]


def _structure(x: Mass) -> jax.Array:
    """1 in every entry that paths may lead to; those of constants are known."""
    fixed = x.node is None and not isinstance(x.mantissa, jax.core.Tracer)
    ones = jnp.ones_like(x.mantissa, shape=x.shape)
    return jnp.where(x.mantissa != 0, ones, 0) if fixed else ones


def _mask(mask: jax.Array) -> Any:
    """True, if all entries are known to be 1."""
    known = not isinstance(mask, jax.core.Tracer)
    return True if known and bool(mask.all()) else mask


def _either(x: Any, y: Any) -> Any:
    if x is True or y is True:
        return True
    return y if x is None else _mask(jnp.maximum(x, y))


def _unreached(x: Mass, mask: Any) -> Mass:
    """A slope, without those of entries that lead to other ends."""
    if mask is None:
        return x
    return dataclasses.replace(x, mantissa=x.mantissa * (1 - mask))


def _by_node(ends: Sequence[End]) -> dict[int | None, list[Mass]]:
    found: dict[int | None, list[Mass]] = defaultdict(list)
    for value, slope in ends:
        found[value.node].append(slope)
    return found


def _nodes(masses: Sequence[Mass]) -> list[int | None]:
    return [x.node for x in masses]


def _total(slopes: Sequence[Mass], value: Mass) -> Mass:
    """The sum of what several uses of a value have found."""
    if not slopes:
        return _mass.zeros_like(value)
    if len(slopes) == 1:
        return slopes[0]
    added = functools.partial(_mass.sum_by, lambda *parts: once(sum(parts)))
    return added(*slopes)


def _total_by_rows(slopes: Sequence[Mass], leaf: Mass) -> Mass:
    """The sum at a leaf, each of whose rows may be a layer with a use of its own."""
    return _total([*map(_mass.by_rows, slopes)] if len(slopes) > 1 else slopes, leaf)
