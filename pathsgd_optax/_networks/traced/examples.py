"""Whether a function mixes the examples of its batch, of which paths follow one.

It is traced for two sizes of the batch. The axes whose sizes differ are those of the
examples: an operation on data that sums over one, reorders it, or reads a part of it,
computes one example's result from another example.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from pathsgd_optax._networks.traced.interpreter import live
from pathsgd_optax._networks.traced.places import place
from pathsgd_optax._networks.traced.reasons import MIXED
from pathsgd_optax._networks.traced.values import Debt


ALONG = frozenset(
    "argmax argmin cumlogsumexp cummax cummin cumprod cumsum rev sort top_k".split()
)
"""The primitives that keep the axes along which they work."""

AXES = ("axes", "axis", "dimension", "dimensions")
"""The names of the parameter that tells which axes these are."""

PARTS = frozenset("dynamic_slice pad slice split".split())
"""The primitives that keep an axis whole, or take a part of it."""

OPAQUE = ("custom_linear_solve", "reduce", "scatter", "select_and")
"""How the names of primitives begin whose functions say nothing of examples."""


@dataclasses.dataclass(frozen=True)
class _Pair:
    """An equation for both sizes, the smaller of which is half of the larger."""

    small: JaxprEqn
    large: JaxprEqn
    batch: int
    callers: tuple[JaxprEqn, ...]
    found: dict[int, Debt]

    def axes(self, side: str, k: int) -> set[int]:
        """The axes of the examples of an operand, or of a result."""
        small, large = (getattr(eqn, side)[k] for eqn in (self.small, self.large))
        sizes = zip(_shape(small), _shape(large), strict=False)
        return {axis for axis, pair in enumerate(sizes) if pair[0] != pair[1]}


def _shape(atom: Any) -> tuple[int, ...]:
    return atom.aval.shape


def mixing_equations(
    small: Jaxpr, large: Jaxpr, data: Sequence[bool], batch: int
) -> dict[int, Debt]:
    """Where a function of any number of examples mixes them.

    Args:
      small: the function for a batch of this size.
      large: the function for twice as many examples.
      data: which of the arguments depend on the inputs.
      batch: the smaller size, at least 2.

    Returns:
      From the identity of an equation of the smaller function to what it owes.
    """
    found: dict[int, Debt] = {}
    if all(
        _shape(x) != _shape(y)
        for x, y in zip(small.outvars, large.outvars, strict=True)
    ):
        _follow(small, large, data, batch, (), found)
    return found


def _follow(
    small: Jaxpr,
    large: Jaxpr,
    data: Sequence[bool],
    batch: int,
    callers: tuple[JaxprEqn, ...],
    found: dict[int, Debt],
) -> list[bool]:
    """Which of the results depend on the inputs."""
    equations = [live(jaxpr) for jaxpr in (small, large)]
    first, second = [[eqn.primitive.name for eqn in eqns] for eqns in equations]
    if first != second:  # Python has done something else: nothing is known.
        return [any(data)] * len(small.outvars)
    known = dict(zip(small.invars, data, strict=True))

    def read(atom: Any) -> bool:
        return not isinstance(atom, Literal) and known.get(atom, False)

    for eqn, twice in zip(*equations, strict=True):
        pair = _Pair(eqn, twice, batch, callers, found)
        results = _results(pair, [read(atom) for atom in pair.small.invars])
        known.update(zip(pair.small.outvars, results, strict=True))
    return [read(atom) for atom in small.outvars]


def _results(pair: _Pair, data: list[bool]) -> list[bool]:
    """Which results of an equation depend on the inputs."""
    if not any(data):
        return [False] * len(pair.small.outvars)
    bodies = zip(_bodies(pair.small), _bodies(pair.large), strict=True)
    found = [_of_body(pair, *body, data) for body in bodies]
    results = [any(each) for each in zip(*found, strict=True)]
    if not found or pair.small.primitive.name == "scan":
        results = results or [True] * len(pair.small.outvars)
        _check(pair, data, results)
    return results


def _bodies(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """The functions that make the results of an equation."""
    if eqn.primitive.name.startswith(OPAQUE):
        return
    for name, param in eqn.params.items():
        for body in param if isinstance(param, tuple) else (param,):
            if isinstance(body, ClosedJaxpr | Jaxpr) and name != "cond_jaxpr":
                yield body.jaxpr if isinstance(body, ClosedJaxpr) else body


def _of_body(pair: _Pair, small: Jaxpr, large: Jaxpr, data: list[bool]) -> list[bool]:
    """Which results of a function depend on the inputs, however often it is run."""
    eqn, first = pair.small, len(data) - len(small.invars)
    data, operands = data[first:], eqn.invars[first:]
    start = end = len(data) - sum(map(_is_row, operands, small.invars))
    if eqn.primitive.name in ("scan", "while"):
        rows = sum(map(_is_row, eqn.outvars, small.outvars))
        start -= len(eqn.outvars) - rows
    while True:
        callers = (*pair.callers, eqn)
        results = _follow(small, large, data, pair.batch, callers, pair.found)
        carry = [x or y for x, y in zip(data[start:end], results, strict=False)]
        if carry == data[start:end]:
            return results
        data = [*data[:start], *carry, *data[end:]]


def _is_row(outer: Any, inner: Any) -> bool:
    return len(_shape(outer)) > len(_shape(inner))


def _check(pair: _Pair, data: list[bool], results: list[bool]) -> None:
    """Notes where a result for one example depends on others."""
    given = {k: pair.axes("invars", k) for k, is_data in enumerate(data) if is_data}
    made = [pair.axes("outvars", k) for k, is_data in enumerate(results) if is_data]
    most = max(map(len, given.values()))
    if most and (
        any(len(axes) != most for axes in made)
        or any(axes & _touched(pair.small, k) for k, axes in given.items())
        or any(axes & _parted(pair) for axes in given.values())
    ):
        eqns, name = (*pair.callers, pair.small), pair.small.primitive.name
        debt = Debt(("examples", id(pair.small)), f"{name}{place(eqns)} {MIXED}")
        pair.found.setdefault(id(pair.small), debt)


def _touched(eqn: JaxprEqn, k: int) -> set[int]:
    """The axes of an operand of which a result's entry depends on several entries."""
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        return set(params["dimension_numbers"][0][k])
    if name == "conv_general_dilated":
        return set(params["dimension_numbers"][0][2:]) if k == 0 else set()
    if name == "fft":
        ndim = len(_shape(eqn.invars[k]))
        return set(range(ndim - len(params["fft_lengths"]), ndim))
    if name in ALONG:
        [axes] = [params[key] for key in AXES if key in params]
        return {axes} if isinstance(axes, int) else set(axes)
    windows = params.get("window_dimensions", ())
    return {axis for axis, size in enumerate(windows) if size != 1}


def _parted(pair: _Pair) -> set[int]:
    """The axes of which some examples are taken, and others not."""
    if pair.small.primitive.name not in PARTS:
        return set()
    shapes = [
        (_shape(small), _shape(large))
        for small, large in zip(pair.small.outvars, pair.large.outvars, strict=True)
    ]
    starts = pair.small.params.get("start_indices", (0,) * len(shapes[0][0]))
    return {
        axis
        for small, large in shapes
        for axis, size in enumerate(small)
        if size % pair.batch or starts[axis] % pair.batch or large[axis] != 2 * size
    }
