"""The reverse pass over path masses.

The slope of the path mass by a value's mass is the mass of the paths that leave the
value, which has an exponent of its own: along a deep network it changes as much as the
mass of those that enter. Slopes by mantissas, as `jax.vjp` has them, would have to be
in range at the exponents of the forward pass, and are not.
"""

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax

from pathsgd_optax._networks.traced import mass as _mass
from pathsgd_optax._networks.traced.mass import Mass
from pathsgd_optax._networks.traced.reach import (
    Course,
    End,
    Ends,
    Inside,
    Mask,
    either,
    leading,
    nowhere,
    unreached,
)
from pathsgd_optax._numerics.program import once


Pull: TypeAlias = Callable[[list[Mass]], Sequence[Mass]]
"""From the slopes of an operation's results to those of its sources."""


class _Operation(NamedTuple):
    results: list[Mass]
    sources: list[Mass]
    pull: Pull | None
    layer: bool
    function: Callable[..., jax.Array] | None
    partial: bool
    inside: Inside | None


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
        self._operations: list[_Operation] = []
        self._nodes = 0
        self._units: set[int | None] = set()
        self._moved: dict[int | None, int | None] = {}
        self._norms: dict[int | None, End] = {}
        self._gates: dict[int | None, End] = {}
        self._has_gates = False  # of its own, or inside of an operation

    @property
    def has_ends(self) -> bool:
        """Whether paths may end at a normalisation or a gate."""
        return bool(self._norms) or self._has_gates

    def leaf(self, x: Mass) -> Mass:
        """The same number, as one to have a slope."""
        self._nodes += 1
        return Mass(x.mantissa, x.exponent, slack=x.slack, node=self._nodes)

    def record(
        self,
        results: Sequence[Mass],
        sources: Sequence[Mass],
        pull: Pull | None = None,
        layer: bool = False,
        function: Callable[..., jax.Array] | None = None,
        partial: bool = False,
        inside: Inside | None = None,
    ) -> list[Mass]:
        """The results of an operation, with the slopes of ``pull``.

        What is before a layer is no output, even if its results are. ``function`` is
        what makes the only result, ``partial`` if it doesn't use all of its sources. In
        an operation that has an ``inside``, paths may end.
        """
        if not any(x.node for x in sources):
            return list(results)
        made = [*map(self.leaf, results)]
        self._has_gates |= inside is not None
        operation = _Operation(made, [*sources], pull, layer, function, partial, inside)
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

    def ends(
        self,
        outputs: Sequence[End],
        masks: Sequence[Mask] | None = None,
        given: Sequence[End] = (),
        steering: Sequence[Mass] | None = None,
    ) -> Ends:
        """Where paths end, if some of them do in ``outputs``.

        Args:
          outputs: where paths go on, or end.
          masks: in which entries each of these leads to ends; None for all.
          given: ends elsewhere of what does nothing but steer.
          steering: the leaves that may lead to what does; None for all.
        """
        going = masks or [True] * len(outputs)
        reached: dict[int | None, Mask] = {}
        for end, mask in zip(outputs, going, strict=True):
            if not nowhere(mask):
                reached[end.value.node] = either(reached.get(end.value.node), mask)
        norms, courses = self.reach(reached)
        has_gates = self._has_gates or bool(given)
        found = self.steering(reached, courses, steering) if has_gates else set()
        own, others = (
            [
                End(end.value, unreached(end.slope, reached.get(end.value.node)))
                for end in ends
                if end.value.node in found
            ]
            for ends in (self._gates.values(), given)
        )
        chosen = [not nowhere(mask) for mask in going]
        paths = [*itertools.compress(outputs, chosen)]
        return Ends(paths, norms, own, others, reached, found, courses)

    def reach(
        self, reached: dict[int | None, Mask]
    ) -> tuple[list[End], dict[int, Course]]:
        """Adds to what leads to ends what leads to that, or to a normalisation.

        Returns:
          The ends at normalisations, and the courses of operations with an inside.
        """
        norms: list[End] = []
        rest, courses = dict(self._norms), {}
        for k, operation in reversed([*enumerate(self._operations)]):
            for x in operation.results:
                if x.node in rest and (end := rest.pop(x.node)):
                    _end(end, x.node, reached, norms)
            masks = [reached.get(x.node) for x in operation.results]
            led: Sequence[Mask] = []
            if operation.inside is not None:
                courses[k] = operation.inside(masks)
                led = courses[k].sources
            elif any(mask is not None for mask in masks):
                led = self._led(operation, masks[0])
            for x, mask in zip(operation.sources, led, strict=False):
                if not nowhere(mask):
                    reached[x.node] = either(reached.get(x.node), mask)
        for node, end in rest.items():
            _end(end, node, reached, norms)
        return norms, courses

    def _led(self, operation: _Operation, mask: Mask) -> Sequence[Mask]:
        """The entries of the sources that lead to these entries of the result."""
        whole = mask is True and not operation.partial
        if whole or operation.function is None or not self._has_gates:
            return [True] * len(operation.sources)
        return leading(operation.function, operation.sources, mask)

    def steering(
        self,
        reached: Mapping[int | None, Mask],
        courses: Mapping[int, Course],
        leaves: Sequence[Mass] | None = None,
    ) -> set[int | None]:
        """What leads only to gates, or some of whose entries do, from leaves on."""
        if leaves is None:
            made = {x.node for operation in self._operations for x in operation.results}
            nodes: set[int | None] = {*range(1, self._nodes + 1)} - made
        else:
            nodes = {*_nodes(leaves)}
        found = {node for node in nodes if reached.get(node) is not True}
        for k, operation in enumerate(self._operations):
            sources = [node in found for node in _nodes(operation.sources)]
            if not any(sources):
                continue
            results = _nodes(operation.results)
            if k in courses:
                found.update(itertools.compress(results, courses[k].steer(sources)))
            else:
                found.update(x for x in results if reached.get(x) is not True)
        return found

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
        found = _by_node([*ends.outputs, *ends.norms])
        steering = _by_node([*ends.gates, *ends.given])
        outputs = {*found} if final else set()
        for k, operation in reversed([*enumerate(self._operations)]):
            nodes = _nodes(operation.results)
            if not (operation.layer or outputs.isdisjoint(nodes)):
                outputs.update(_nodes(operation.sources))
            if k in ends.courses:
                _through(operation, ends.courses[k], found, steering, ends)
                continue
            if any(node in found for node in nodes):
                pulled = self._pull(operation, found, outputs)
                _spread(operation, pulled, found)
            if any(node in steering for node in nodes):
                alone = not any(node in ends.reached for node in nodes)
                pulled = self._pull(operation, steering, outputs if alone else None)
                _spread(operation, _open(operation, pulled, ends), steering)
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
    ) -> Sequence[Mass]:
        """The slopes of the sources, from those that the results have."""
        slopes = [
            [*found.pop(x.node, []), *self._floor(x, outputs)]
            for x in operation.results
        ]
        totals = map(_total, slopes, operation.results)
        assert operation.pull is not None
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


def _end(
    end: End, node: int | None, reached: dict[int | None, Mask], norms: list[End]
) -> None:
    """Ends paths at a normalisation, unless they go on from there."""
    if node not in reached:
        norms.append(end)
        reached[node] = reached[end.value.node] = True


def _through(
    operation: _Operation,
    course: Course,
    found: dict[int | None, list[Mass]],
    steering: dict[int | None, list[Mass]],
    ends: Ends,
) -> None:
    """Pulls both kinds of slopes through an operation with an inside."""
    paths, steers = (
        [_mass.collapsed(_total(slopes.pop(x.node, []), x)) for x in operation.results]
        for slopes in (found, steering)
    )
    pulled, others = course.pull(paths, steers)
    _spread(operation, pulled, found)
    _spread(operation, _open(operation, others, ends), steering)


def _spread(
    operation: _Operation,
    pulled: Sequence[Mass | None],
    found: dict[int | None, list[Mass]],
) -> None:
    """Adds the slopes of the sources to those that were found."""
    for x, slope in zip(operation.sources, pulled, strict=True):
        if slope is not None:
            found[x.node].append(slope)


def _open(
    operation: _Operation, pulled: Sequence[Mass | None], ends: Ends
) -> list[Mass | None]:
    """The slopes of what steers, where it may do so."""
    masks = map(ends.closed, operation.sources)
    return [
        None if slope is None or mask is True else unreached(slope, mask)
        for slope, mask in zip(pulled, masks, strict=True)
    ]


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
