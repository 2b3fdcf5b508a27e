"""The courses of paths through scans: what steers, and what ends, in which step.

What a step carries on may lead to outputs, steer later steps, or do nothing, and in the
last steps it may be another of these than in the others. So where paths lead is told
from the last step back to the first one, and what steers from the first one on, as in a
network of as many layers. Steps that are alike are one stretch, whose reverse pass is a
scan.
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from pathsgd_optax._networks.traced import mass as _mass
from pathsgd_optax._networks.traced.carries import Operands, Step, each, masses, sealed
from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.loops import (
    Loop,
    joined,
    run,
    stacked,
    unstacked,
)
from pathsgd_optax._networks.traced.mass import Mass
from pathsgd_optax._networks.traced.reach import (
    Course,
    End,
    Mask,
    either,
    simplified,
)
from pathsgd_optax._networks.traced.tape import Tape
from pathsgd_optax._networks.traced.values import Operand, Uses, is_traced


class _Reach(NamedTuple):
    """Where the paths of a step lead.

    Args:
      results: the entries of its results that lead to ends.
      sources: the entries of its operands that do.
      nodes: what leads to ends inside of it.
      courses: those of its operations that have an inside.
    """

    results: list[Mask]
    sources: list[Mask]
    nodes: dict[int | None, Mask]
    courses: dict[int, Course]


class _Stretch(NamedTuple):
    """Steps that are alike: which of them, and which of their operands steer."""

    steps: slice
    reach: _Reach
    steers: tuple[bool, ...]


class _State(NamedTuple):
    """The slopes that the reverse pass of a scan carries.

    Args:
      carry: those of what was carried.
      constants: the totals of those of its constants.
      carried: the carry's, for being what does nothing but steer.
      totals: those of the constants, for the same.
    """

    carry: list[Mass]
    constants: list[Mass]
    carried: list[Mass]
    totals: list[Mass]


@dataclasses.dataclass(frozen=True)
class Scan:
    """A scan that was run, and what its steps have carried.

    Args:
      context: that of its equation.
      step: what it does in each step.
      operands: its operands, rows with exponents of their own.
      before: what was carried into each step.
      loop: how its steps follow one another.
    """

    context: Context
    step: Step
    operands: Operands
    before: list[Operand]
    loop: Loop

    @property
    def counts(self) -> tuple[int, int]:
        """How many masses constants have, and how many these and the carry."""
        first, second, _ = (len(masses(part)) for part in self.operands)
        return first, first + second

    def run(
        self, tape: Tape, carry: list[Operand], rows: list[Operand]
    ) -> tuple[list[Mass], list[Mass]]:
        """The leaves and the results of a step, on a tape."""
        now = self.operands._replace(carry=carry, rows=rows)
        now = Operands(*(each(tape.leaf, part) for part in now))
        context = dataclasses.replace(self.context, uses=Uses(), tape=tape)
        after, outs = self.step(context, now)
        return masses([*itertools.chain(*now)]), masses(after + outs)


class ScanCourse:
    """The course of paths through a scan, whose results lead to known ends."""

    def __init__(self, scan: Scan, results: Sequence[Mask]) -> None:
        self._scan = scan
        self._tape = Tape()
        self._leaves = masses([*itertools.chain(*scan.operands)])
        self._results: list[Mass] = []
        self._reaches = self._followed([*map(_known, results)])
        nothing = (False,) * len(self._leaves)
        self._steers = [nothing] * scan.loop.length
        self._ended: list[Mass] | None = None
        self.sources: Sequence[Mask] = self._leading()

    # Where paths lead, from the last step on.

    def _followed(self, results: Sequence[Mask]) -> list[_Reach]:
        """Where the paths of each step lead."""
        if not self._scan.context.gates:
            results, sources = ([True] * len(x) for x in (results, self._leaves))
            return [_Reach(results, sources, {}, {})] * self._scan.loop.length
        found: list[_Reach] = []

        def probe(carry: list[Operand], rows: list[Operand]) -> None:
            self._leaves, self._results = self._scan.run(self._tape, carry, rows)
            found.extend(self._back(results))

        first = jax.tree.map(
            lambda x: x[0], (self._scan.before, self._scan.operands.rows)
        )
        jax.eval_shape(probe, *first)
        return found[::-1]

    def _back(self, results: Sequence[Mask]) -> list[_Reach]:
        """Where the paths of each step lead, that of the last step first."""
        first, last = self._scan.counts
        carry, stacks = results[: last - first], results[last - first :]
        found: list[_Reach] = []
        for k in reversed(range(self._scan.loop.length)):
            row = self._scan.loop.row(k)
            now = [*carry, *(_row_of(mask, row) for mask in stacks)]
            same = found and all(map(_are_alike, now, found[-1].results))
            found.append(found[-1] if same else self._reach(now))
            carry = found[-1].sources[first:last]
        return found

    def _reach(self, results: list[Mask]) -> _Reach:
        nodes: dict[int | None, Mask] = {}
        for x, mask in zip(self._results, results, strict=True):
            if mask is not None:
                nodes[x.node] = either(nodes.get(x.node), mask)
        _, courses = self._tape.reach(nodes)
        sources = [_known(nodes.get(x.node)) for x in self._leaves]
        return _Reach(results, sources, nodes, courses)

    def _leading(self) -> list[Mask]:
        """The entries of the operands that lead to ends, in whichever step."""
        first, last = self._scan.counts
        columns = [*zip(*(reach.sources for reach in self._reaches), strict=True)]
        rows = zip(columns[last:], self._leaves[last:], strict=True)
        return [
            *(functools.reduce(either, column) for column in columns[:first]),
            *(column[0] for column in columns[first:last]),
            *(self._stack(*pair) for pair in rows),
        ]

    def _stack(self, masks: Sequence[Mask], row: Mass) -> Mask:
        first = masks[0]
        if isinstance(first, bool | None) and all(mask is first for mask in masks):
            return first
        entries = [np.broadcast_to(0 if x is None else x, row.shape) for x in masks]
        order = map(self._scan.loop.row, range(len(masks)))
        return simplified(
            np.stack([entries[k] for k in order]).astype(row.mantissa.dtype)
        )

    # What steers, from the first step on.

    def steer(self, sources: Sequence[bool]) -> list[bool]:
        """Which results lead to what does nothing but steer, if these sources do."""
        first, last = self._scan.counts
        now, found = tuple(sources), [False] * len(self._results)
        rows = found[last - first :]
        for k, reach in enumerate(self._reaches):
            same = k and reach is self._reaches[k - 1] and now == self._steers[k - 1]
            found = found if same else self._steered(reach, now)
            rows = [*map(operator.or_, rows, found[last - first :])]
            self._steers[k] = now
            now = (*now[:first], *found[: last - first], *now[last:])
        return [*found[: last - first], *rows]

    def _steered(self, reach: _Reach, sources: Sequence[bool]) -> list[bool]:
        leaves = [*itertools.compress(self._leaves, sources)]
        found = self._tape.steering(reach.nodes, reach.courses, leaves)
        return [x.node in found for x in self._results]

    @property
    def _flags(self) -> tuple[bool, ...]:
        """Which operands steer in the first step; none, if nothing does in any."""
        return self._steers[0] if any(map(any, self._steers)) else ()

    @property
    def _stretches(self) -> list[_Stretch]:
        """The steps that are alike, the first ones first."""
        steps = zip(itertools.count(), self._reaches, self._steers, strict=False)
        groups = itertools.groupby(steps, lambda step: (id(step[1]), step[2]))
        found = [[*group] for _, group in groups]
        return [
            _Stretch(slice(group[0][0], group[-1][0] + 1), *group[0][1:])
            for group in found
        ]

    # Slopes.

    def pull(
        self, paths: Sequence[Mass], steering: Sequence[Mass]
    ) -> tuple[list[Mass], list[Mass | None]]:
        """The slopes of the sources, and those of what does nothing but steer."""
        first, last = self._scan.counts
        count = last - first
        steers = self._flags
        steering = steering if steers else ()
        zeros = [*map(_mass.zeros_like, masses(self._scan.operands.constants))]
        state = _State(
            [*map(sealed, paths[:count])],
            zeros,
            [*map(sealed, steering[:count])],
            [*itertools.compress(zeros, steers)],
        )
        stacks = [
            [stacked(x, self._scan.loop.length) for x in part[count:]]
            for part in (paths, steering)
        ]
        found, ended = [], []
        for stretch in reversed(self._stretches):
            state, (rows, totals) = self._pulled(stretch, state, stacks)
            found.append(rows)
            ended += [_mass.total(unstacked(x)) for x in totals]
        self._ended = ended
        return self._in_order(state, joined(found, self._scan.loop), steers)

    def _pulled(
        self, stretch: _Stretch, state: _State, stacks: list[list[Mass]]
    ) -> tuple[_State, tuple[list[Mass], list[Mass]]]:
        """The slopes before a stretch, those of its rows, and what ends in it."""
        scan, tape = self._scan, self._scan.context.tape

        def step(state: _State, saved: Any) -> Any:
            carry, rows, paths, steering = saved
            own = Tape(tape.damping if tape else None)
            leaves, results = scan.run(own, carry, rows)
            ends = own.ends(
                [*map(End, results, [*state.carry, *paths])],
                stretch.reach.results,
                [*map(End, results, [*state.carried, *steering])],
                [*itertools.compress(leaves, stretch.steers)],
            )
            found, others = own.slopes_apart(ends, leaves, final=False)
            steers = _collapsed([*map(_or_zeros, others, leaves)])
            ended = [sealed(_mass.total_of(ends.ended))] if ends.ended else []
            state, rows = self._sorted(state, _collapsed(found), steers)
            return state, (rows, ended)

        saved = (scan.before, scan.operands.rows, *stacks)
        back = scan.loop.backwards()
        return self._over(stretch, back, step, state, saved)

    def _sorted(
        self, state: _State, paths: list[Mass], steering: list[Mass]
    ) -> tuple[_State, list[Mass]]:
        """The slopes that are carried on, and those of rows."""
        first, last = self._scan.counts
        steers = self._flags
        some = [*itertools.compress(steering[:first], steers[:first])]
        state = _State(
            [*map(sealed, paths[first:last])],
            [*map(_added, state.constants, paths[:first])],
            [sealed(x) for x in steering[first:last] if steers],
            [*map(_added, state.totals, some)],
        )
        rows = itertools.compress(steering[last:], steers[last:])
        return state, [*paths[last:], *rows]

    def _in_order(
        self, state: _State, rows: list[Mass], steers: Sequence[bool]
    ) -> tuple[list[Mass], list[Mass | None]]:
        """The slopes of all operands, and those of what does nothing but steer."""
        first, last = self._scan.counts
        count = len(self._leaves) - last
        paths = [*state.constants, *state.carry, *rows[:count]]
        if not steers:
            return paths, [None] * len(paths)
        totals, stacks = iter(state.totals), iter(rows[count:])
        return paths, [
            *(next(totals) if steers[k] else None for k in range(first)),
            *state.carried,
            *(next(stacks) if steers[k] else None for k in range(last, len(steers))),
        ]

    # What ends inside.

    def ended(self) -> list[Mass]:
        """The masses of the paths that end inside."""
        if self._ended is None:
            stretches = self._stretches if self._tape.has_ends else []
            self._ended = [x for stretch in stretches for x in self._ends_of(stretch)]
        return self._ended

    def _ends_of(self, stretch: _Stretch) -> list[Mass]:
        def step(_: None, saved: Any) -> Any:
            tape = Tape()
            leaves, results = self._scan.run(tape, *saved)
            going = [End(x, _mass.ones_like(x)) for x in results]
            steering = [*itertools.compress(leaves, stretch.steers)]
            ends = tape.ends(going, stretch.reach.results, steering=steering)
            return None, [sealed(_mass.total_of(ends.ended))] if ends.ended else []

        scan = self._scan
        saved = (scan.before, scan.operands.rows)
        _, found = self._over(stretch, scan.loop, step, None, saved)
        return [_mass.total(unstacked(x)) for x in found]

    def _over(
        self, stretch: _Stretch, loop: Loop, step: Any, state: Any, saved: Any
    ) -> Any:
        """The results of a scan over the steps of a stretch."""
        steps = stretch.steps
        if steps != slice(0, loop.length):
            rows = self._scan.loop.rows(steps)
            saved = jax.tree.map(lambda x: x[rows], saved)
            loop = loop._replace(length=steps.stop - steps.start)
        return run(step, state, saved, self._scan.operands.constants, loop)


def _known(mask: Mask) -> Mask:
    """What is only known where the program runs is taken for all entries."""
    if mask is None or mask is True or is_traced(mask):
        return mask if mask is None else True
    return np.asarray(mask)


def _row_of(mask: Mask, row: int) -> Mask:
    return mask if mask is None or mask is True else simplified(mask[row])


def _are_alike(x: Mask, y: Mask) -> bool:
    if x is None or y is None or x is True or y is True:
        return x is y
    return np.array_equal(x, y)


def _collapsed(slopes: Sequence[Mass]) -> list[Mass]:
    return [*map(_mass.collapsed, slopes)]


def _added(x: Mass, y: Mass) -> Mass:
    return sealed(_mass.sum_by(operator.add, x, y))


def _or_zeros(x: Mass | None, like: Mass) -> Mass:
    return _mass.zeros_like(like) if x is None else x
