"""What rules ask of their operands."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax

from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.reasons import INDEXED
from pathsgd_optax._networks.traced.values import NoPathError, Operand, Value


Rule: TypeAlias = Callable[..., list[Operand]]
"""``rule(context, *operands)``."""


def rules(table: Sequence[tuple[Rule, str]]) -> dict[str, Rule]:
    """From the name of a primitive to its rule."""
    return {name: rule for rule, names in table for name in names.split()}


def constants_of(operands: Sequence[Any]) -> list[jax.Array]:
    """The arrays, where they depend neither on the inputs nor on parameters."""
    if not all(x.is_constant for x in operands):
        raise NoPathError(INDEXED)
    return [x.value for x in operands]


def all_leaves(operands: Sequence[Value]) -> frozenset[tuple[int, int]]:
    """The parameters that the paths of any of them run through."""
    return frozenset().union(*(x.leaves for x in operands))


def note(context: Context, role: str, operands: Sequence[Value]) -> None:
    """Notes the use of those that are weights."""
    for x in operands:
        if x.is_weight:
            context.uses.add(role, x)
