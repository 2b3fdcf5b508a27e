"""The reverse pass over path masses.

The slope of the path mass by a value's mass is the mass of the paths that leave the
value, which has an exponent of its own: along a deep network it changes as much as the
mass of those that enter. Slopes by mantissas, as `jax.vjp` has them, would have to be
in range at the exponents of the forward pass, and are not.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from pathsgd_optax._networks.traced import mass as _mass
from pathsgd_optax._networks.traced.mass import Mass
from pathsgd_optax._numerics.program import once


Pull: TypeAlias = Callable[[list[Mass]], Sequence[Mass]]
"""From the slopes of an operation's results to those of its sources."""


class _Operation(NamedTuple):
    results: list[Mass]
    sources: tuple[int | None, ...]
    pull: Pull
    layer: bool


class Tape:
    """The operations on masses, in their order.

    A rewriting of a mass (normalisation, alignment) keeps its node: it is the same
    number, and so has the same slope.

    With damping, the p-th power of tau, every unit is an output, too, in units of its
    own: its slope is at least this number over its mass. Units are what contractions
    result in, with their biases, but for the outputs.
    """

    def __init__(self, damping: Mass | None = None) -> None:
        self.damping = damping
        self._operations: list[_Operation] = []
        self._nodes = 0
        self._units: set[int | None] = set()

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
    ) -> list[Mass]:
        """The results of an operation, with the slopes of ``pull``.

        What is before a layer is no output, even if its results are.
        """
        nodes = tuple(x.node for x in sources)
        if not any(nodes):
            return list(results)
        made = [self.leaf(x) for x in results]
        self._operations.append(_Operation(made, nodes, pull, layer))
        return made

    def unit(self, x: Mass, before: Mass | None = None) -> Mass:
        """The mass of a unit; ``before`` was that without its bias, if it was one."""
        if before is None:
            self._units.add(x.node)
        elif before.node in self._units:
            self._units = self._units - {before.node} | {x.node}
        return x

    def slopes(
        self,
        ends: Sequence[tuple[Mass, Mass]],
        leaves: Sequence[Mass],
        outputs: Sequence[Mass] = (),
    ) -> list[Mass]:
        """The masses of the paths from each leaf to the ends.

        Args:
          ends: values, each with its slope.
          leaves: values without operations.
          outputs: those of the ends that are the network's outputs.

        Returns:
          The slope of each leaf, with an exponent for each row where there are several.
        """
        found: dict[int | None, list[Mass]] = defaultdict(list)
        for value, slope in ends:
            found[value.node].append(slope)
        final = {x.node for x in outputs}
        for operation in reversed(self._operations):
            if any(x.node in found for x in operation.results):
                if not (operation.layer or final.isdisjoint(_nodes(operation.results))):
                    final.update(operation.sources)
                slopes = [
                    [*found.pop(x.node, []), *self._floor(x, final)]
                    for x in operation.results
                ]
                totals = map(_total, slopes, operation.results)
                pulled = operation.pull([*map(_mass.collapsed, totals)])
                for node, slope in zip(operation.sources, pulled, strict=True):
                    found[node].append(slope)
        return [_total_by_rows(found[x.node], x) for x in leaves]

    def _floor(self, x: Mass, final: set[int | None]) -> list[Mass]:
        """The slope of a unit for being an output."""
        if self.damping is None or x.node not in self._units - final:
            return []
        return [_mass.quotient(self.damping, x)]


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
