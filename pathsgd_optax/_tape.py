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

from pathsgd_optax import _mass
from pathsgd_optax._mass import Mass
from pathsgd_optax._program import once


Pull: TypeAlias = Callable[[list[Mass]], Sequence[Mass]]
"""From the slopes of an operation's results to those of its sources."""


class _Operation(NamedTuple):
    results: list[Mass]
    sources: tuple[int | None, ...]
    pull: Pull


class Tape:
    """The operations on masses, in their order.

    A rewriting of a mass (normalisation, alignment) keeps its node: it is the same
    number, and so has the same slope.
    """

    def __init__(self) -> None:
        self._operations: list[_Operation] = []
        self._nodes = 0

    def leaf(self, x: Mass) -> Mass:
        """The same number, as one to have a slope."""
        self._nodes += 1
        return Mass(x.mantissa, x.exponent, slack=x.slack, node=self._nodes)

    def record(
        self, results: Sequence[Mass], sources: Sequence[Mass], pull: Pull
    ) -> list[Mass]:
        """The results of an operation, with the slopes of ``pull``."""
        nodes = tuple(x.node for x in sources)
        if not any(nodes):
            return list(results)
        made = [self.leaf(x) for x in results]
        self._operations.append(_Operation(made, nodes, pull))
        return made

    def slopes(
        self, ends: Sequence[tuple[Mass, Mass]], leaves: Sequence[Mass]
    ) -> list[Mass]:
        """The masses of the paths from each leaf to the ends.

        Args:
          ends: values, each with its slope.
          leaves: values without operations.

        Returns:
          The slope of each leaf, with an exponent for each row where there are several.
        """
        found: dict[int | None, list[Mass]] = defaultdict(list)
        for value, slope in ends:
            found[value.node].append(slope)
        for operation in reversed(self._operations):
            if any(x.node in found for x in operation.results):
                slopes = [found.pop(x.node, []) for x in operation.results]
                totals = map(_total, slopes, operation.results)
                pulled = operation.pull([*map(_mass.collapsed, totals)])
                for node, slope in zip(operation.sources, pulled, strict=True):
                    found[node].append(slope)
        return [_total_by_rows(found[x.node], x) for x in leaves]


def _total(slopes: Sequence[Mass], value: Mass) -> Mass:
    """The sum of what several uses of a value have found."""
    if not slopes:
        return _mass.zeros_like(value)
    if len(slopes) == 1:
        return slopes[0]
    added = functools.partial(_mass.sum_by, lambda *parts: once(sum(parts)))
    return added(*map(_mass.merged, slopes))


def _total_by_rows(slopes: Sequence[Mass], leaf: Mass) -> Mass:
    """The sum at a leaf, each of whose rows may be a layer with a use of its own."""
    return _total([*map(_mass.by_rows, slopes)] if len(slopes) > 1 else slopes, leaf)
