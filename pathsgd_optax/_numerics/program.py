"""What a program reads, and how XLA is to lay it out."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import Literal


def reads_values(function: Callable[[Any], Any], tree: Any) -> bool:
    """Whether what it returns depends on more than the shapes of the tree's arrays."""
    try:
        program = jax.make_jaxpr(function)(tree).jaxpr
    except TypeError:
        return True  # It can't be traced, or returns what isn't an array.
    known = set(program.invars)
    for equation in program.eqns:
        if known.intersection(_variables(equation.invars)):
            known.update(equation.outvars)
    return bool(known.intersection(_variables(program.outvars)))


def _variables(atoms: Sequence[Any]) -> list[Any]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def on_cpu(
    special: Callable[..., Any], general: Callable[..., Any], **options: Any
) -> Callable[..., Any]:
    """``special`` where it is compiled for a CPU, and ``general`` anywhere else."""
    return functools.partial(
        lax.platform_dependent,
        cpu=functools.partial(special, **options),
        default=functools.partial(general, **options),
    )


def called(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """The function as a single instruction, which XLA does not inline."""
    jitted = jax.jit(functools.partial(function, **options))

    def call(*arguments: Any) -> Any:
        return set_xla_metadata(jitted(*arguments), inlineable="false")

    return call


def jit_apart(
    function: Callable[..., Any], static_argnames: Sequence[str]
) -> Callable[..., Any]:
    """`jax.jit`, and a single instruction in the program of a CPU that it is part of.

    XLA:CPU orders a program breadth first. The passes over paths are longer chains of
    instructions than a gradient, so weights and gradients would be kept until they
    end. As one instruction they come first, and a step is laid out like one of SGD.
    """

    @functools.partial(jax.jit, static_argnames=static_argnames)
    def jitted(*arguments: Any, **options: Any) -> Any:
        inlined = functools.partial(function, **options)
        return on_cpu(called(inlined), inlined)(*arguments)

    return jitted


@jax.custom_vjp
def once(x: jax.Array) -> jax.Array:
    """The array, which XLA:CPU computes once, and its cotangent.

    It repeats elementwise operations in whatever uses their result. In a residual
    network each sum would repeat all of those before it.
    """
    return _once(x)


@functools.partial(jax.jit, inline=True)
def _once(x: jax.Array) -> jax.Array:
    return on_cpu(called(lax.optimization_barrier), lambda x: x)(x)


once.defvjp(lambda x: (_once(x), None), lambda _, slope: (_once(slope),))


def after(factors: Any, arrays: Sequence[jax.Array]) -> Any:
    """The same arrays, known only once all of ``arrays`` are.

    Where the last reading of weights or of gradients is in the past, XLA writes new
    weights over them, which else it would copy. That nothing is added must be hidden:
    XLA drops an optimization_barrier before it decides on copies.
    """
    together = [jnp.ravel(x).astype(jnp.float32) for x in arrays]
    invalid = jnp.isnan(
        jnp.sum(jnp.concatenate([jnp.zeros(1, jnp.float32), *together]))
    )
    zero = jnp.minimum(invalid.astype(jnp.int32), 0)
    return jax.tree.map(lambda factor: factor + zero.astype(factor.dtype), factors)
