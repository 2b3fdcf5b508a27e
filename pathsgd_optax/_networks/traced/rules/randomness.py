"""Random numbers in a traced network: fixed features, or noise and dropout.

What is drawn from a constant key is a constant of the program. But a key that is closed
over is another one in the next step, so numbers are noise where anything else can be
meant: where they are drawn for each example, where one is compared to choose, and where
they are not the factors of a matrix product, but shift or scale values on paths.
"""

from collections.abc import Callable, Iterator, Sequence

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn

from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.places import place
from pathsgd_optax._networks.traced.reasons import RANDOM
from pathsgd_optax._networks.traced.values import (
    NoPathError,
    Operand,
    Randomness,
    Uses,
    Value,
)


DRAWS = ("random_bits", "random_gamma", "rng_", "threefry")
"""How the names of primitives begin that draw random numbers."""

CHOOSING = frozenset("ceil eq floor ge gt le lt ne round sign".split())
"""The primitives that make choices of random numbers."""

FEATURES = frozenset("conv_general_dilated dot_general dynamic_slice gather".split())
"""The primitives that project values on paths by random numbers, or permute them."""


def randomness(context: Context, operands: Sequence[Value]) -> Randomness:
    """What constants are made of random numbers, by an operation on constants alone."""
    name = context.eqn.primitive.name
    eqns = (*context.callers, context.eqn)
    if draws := [*_draws(context.eqn)]:
        context.uses.draws += [(*eqns, *inner) for inner in draws]
        return Randomness.NUMBERS
    most = max((x.random for x in operands), default=Randomness.NONE)
    floating = any(jnp.issubdtype(x.value.dtype, jnp.floating) for x in operands)
    if most and floating and name in CHOOSING:
        return Randomness.CHOICES
    return most


def _draws(eqn: JaxprEqn) -> Iterator[tuple[JaxprEqn, ...]]:
    """The equations that draw in one, with those that have called them."""
    if eqn.primitive.name.startswith(DRAWS):
        yield ()
    for param in eqn.params.values():
        for function in param if isinstance(param, tuple) else (param,):
            if isinstance(function, ClosedJaxpr):
                for inner in function.jaxpr.eqns:
                    yield from ((inner, *others) for others in _draws(inner))


def check_randomness(context: Context, operands: Sequence[Operand]) -> None:
    """Raises where random numbers may be noise, or dropout."""
    name = context.eqn.primitive.name
    if name.startswith(DRAWS):
        raise NoPathError(RANDOM)
    most = max((x.random for x in operands if isinstance(x, Value)), default=0)
    on_paths = any(isinstance(x, Value) and not x.is_constant for x in operands)
    if most == Randomness.CHOICES or (most and on_paths and name not in FEATURES):
        raise NoPathError(RANDOM)


def check_draws(uses: Uses, of_two: Callable[[], Uses]) -> None:
    """Raises a ValueError if what is drawn depends on the number of examples.

    Args:
      uses: of the function of one example.
      of_two: returns those of the function of two.
    """
    if not uses.draws:
        return
    try:
        others = of_two().draws
    except Exception:  # It is for one example only: nothing is known.
        others = []
    if [*map(_shapes, uses.draws)] != [*map(_shapes, others)]:
        eqns = uses.draws[0]
        raise ValueError(
            f"{eqns[-1].primitive.name}{place(eqns)} has no path semantics: {RANDOM}"
        )


def _shapes(eqns: Sequence[JaxprEqn]) -> list[str]:
    return [str(variable.aval) for variable in eqns[-1].outvars]
