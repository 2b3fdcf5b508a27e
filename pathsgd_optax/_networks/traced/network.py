"""A network of any kind, as the jaxpr of its function, and the masses of its paths."""

import dataclasses
import functools
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from pathsgd_optax._networks.network import (
    NO_PATH,
    Parameter,
    Scaling,
    check_leaves,
    is_masked,
    leaves_of,
    like_parameters,
    resolved,
)
from pathsgd_optax._networks.summaries import Described
from pathsgd_optax._networks.traced import mass as _mass
from pathsgd_optax._networks.traced.arguments import check_constants
from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.interpreter import interpret
from pathsgd_optax._networks.traced.mass import Mass
from pathsgd_optax._networks.traced.outputs import ends
from pathsgd_optax._networks.traced.reach import Ends
from pathsgd_optax._networks.traced.rules.factored import as_activation
from pathsgd_optax._networks.traced.rules.operands import Rule
from pathsgd_optax._networks.traced.rules.registry import constant
from pathsgd_optax._networks.traced.tape import Tape
from pathsgd_optax._networks.traced.values import OUTPUT, Inputs, Uses, Value
from pathsgd_optax._numerics.meshes import partitioned
from pathsgd_optax._numerics.scaled import Scaled
from pathsgd_optax._vocabulary import Params, Scalar, is_zero, path_dtype


UNSAVED = (
    "a traced network holds a program of JAX's, which can't be pickled: save params, "
    "and trace the network again where they are restored."
)


@dataclasses.dataclass(frozen=True, eq=False)
class TracedNetwork(Described):
    """The paths of a JAX function: which weights lie on which paths.

    Made by `trace_network` and read by the measures and transformations; immutable,
    and equal to itself only. It holds the function's jaxpr and the arrays that the
    function has closed over, but no parameters.

    Attributes:
      jaxpr: the function's program, for one example.
      treedef: the structure of the parameters.
      constants: the shapes and dtypes of its constants, a tree; None for none.
      inputs: the shapes and dtypes of the leaves of ``x``.
      parameters: a :class:`Parameter` for each leaf.
      custom: the rules of :func:`register_path_rule` that it was traced with.
      gates: whether normalisations end its paths, and gates multiply them.
      present: a function that returns what a model with variables of its own, as
        :func:`trace_nnx` takes, has now; None for other networks.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> params = {"w": jnp.ones((3, 2)), "unused": jnp.ones(5)}
      >>> network = pathsgd.trace_network(
      ...     lambda params, x: x @ params["w"], params, jnp.ones((1, 3)))
      >>> network.labels()
      {'unused': 'no path', 'w': 'path'}
    """

    jaxpr: ClosedJaxpr
    treedef: jax.tree_util.PyTreeDef
    constants: Any
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    parameters: tuple[Parameter, ...]
    custom: Mapping[str, Rule]
    gates: bool = False
    present: Callable[[], Any] | None = None

    def __repr__(self) -> str:
        return f"<TracedNetwork of {len(self.parameters)} parameters; see summary()>"

    def __reduce__(self) -> NoReturn:
        raise pickle.PicklingError(UNSAVED)

    def check(self, params: Params, constants: Any = None) -> None:
        """Raises a ValueError where ``params`` or ``constants`` are not its own."""
        check_leaves(self, params)
        check_constants(constants, self.constants)

    def path_norm(self, params: Params, p: float, constants: Any = None) -> Scaled:
        """phi_p, as a mantissa and an exponent of 2, scalars."""
        norm = functools.partial(_path_norm, network=self, p=p)
        return partitioned(norm, self._leaves(params), constants)

    def scaling(
        self,
        params: Params,
        p: float,
        damping: Scalar = 0.0,
        constants: Any = None,
        unit: jax.Array | int = 0,
    ) -> Scaling:
        """phi_p, and factors of sqrt(gamma_p) / 2**unit of the leaves, damped."""
        leaves = self._leaves(params)
        tau = None if is_zero(damping) else jnp.asarray(damping, path_dtype(*leaves))
        return partitioned(
            functools.partial(_scaling, network=self, p=p),
            leaves,
            constants,
            tau,
            jnp.int32(unit),
            like=like_parameters(self, params),
        )

    def _leaves(self, params: Params) -> list[jax.Array]:
        """The leaves; any numbers for masked ones, which are on no path."""
        leaves = zip(self.parameters, leaves_of(self, params), strict=True)
        return [
            jnp.zeros(parameter.shape) if is_masked(leaf) else leaf
            for parameter, leaf in leaves
        ]


@functools.partial(jax.jit, static_argnames=("network", "p"))
def _path_norm(
    leaves: Sequence[jax.Array], constants: Any, *, network: TracedNetwork, p: float
) -> Scaled:
    tape = Tape() if network.gates else None
    context = _context(leaves, p, tape, network)
    output = _run(context, network, weights_of(context, leaves), constants)
    if tape is None:
        return _mass.root(_mass.total(output), p)
    return _mass.root(_total(tape.ends([context.output(output)])), p)


@functools.partial(jax.jit, static_argnames=("network", "p"))
def _scaling(
    leaves: Sequence[jax.Array],
    constants: Any,
    damping: jax.Array | None,
    unit: jax.Array,
    *,
    network: TracedNetwork,
    p: float,
) -> Scaling:
    share = 1 / max(_places(network), 1)
    tape = Tape(None if damping is None else _mass.mass(damping * share ** (1 / p), p))
    context = _context(leaves, p, tape, network)
    weights = weights_of(context, leaves)
    output = _run(context, network, weights, constants)
    ends = tape.ends([context.output(output)])
    slopes = tape.slopes(ends, [x.mass for x in weights])
    norm = _mass.root(_total(ends), p)
    unit = resolved(unit, norm)
    factors = (
        () if parameter.role == NO_PATH else _mass.factors_of_root(slope, p, unit)
        for parameter, slope in zip(network.parameters, slopes, strict=True)
    )
    return Scaling(norm, tuple(factors))


def _total(ends: Ends) -> Mass:
    """The masses of all paths, wherever they have ended."""
    [output], others = ends.outputs, ends.ended
    if not others:
        return _mass.total(output.value)
    return _mass.total_of([_mass.inner(*output), *others])


def _context(
    leaves: Sequence[jax.Array], p: float, tape: Tape | None, network: TracedNetwork
) -> Context:
    """What rules know, for parameters of these dtypes."""
    dtype = path_dtype(*leaves)
    _check_order(p, dtype)
    return Context(
        p,
        dtype,
        tape,
        Uses(),
        gates=network.gates,
        places=_places(network),
        custom=network.custom,
    )


def _places(network: TracedNetwork) -> int:
    """How many places the outputs have; 0 if nothing is normalised or gated."""
    if all(parameter.end == OUTPUT for parameter in network.parameters):
        return 0
    return max(math.prod(aval.shape[1:-1]) for aval in network.jaxpr.out_avals)


def _check_order(p: float, dtype: jnp.dtype) -> None:
    if math.isinf(p):
        raise ValueError(
            "p = inf has no scaling in a traced network: the derivative of a maximum "
            "knows only one of its paths. Use a finite p, or layered_network."
        )
    largest = int(jnp.finfo(dtype).maxexp) // 4
    if p > largest:
        wider = " or, for p up to 256, float64 parameters under jax_enable_x64,"
        raise ValueError(
            f"p = {p:g} is too large for {dtype} in a traced network: p-th powers of "
            f"weights leave its range. Use p up to {largest},"
            f"{wider if largest < 256 else ''} or layered_network."
        )


def weights_of(context: Context, leaves: Sequence[jax.Array]) -> list[Value]:
    """The parameters, in the dtype of the masses."""
    return [
        Value(weight, context.leaf(weight), leaves=frozenset([(k, 1)]))
        for k, weight in enumerate(leaf.astype(context.dtype) for leaf in leaves)
    ]


def _run(
    context: Context,
    network: TracedNetwork,
    weights: Sequence[Value],
    constants: Any,
) -> Mass:
    """The masses of the paths to the outputs."""
    known = jax.tree.leaves(constants)
    outputs = outputs_of(context, network.jaxpr, weights, network.inputs, known)
    return ends(context, outputs)


def outputs_of(
    context: Context,
    jaxpr: ClosedJaxpr,
    weights: Sequence[Value],
    inputs: Sequence[jax.ShapeDtypeStruct],
    constants: Sequence[jax.Array],
) -> Any:
    """The network's outputs, as path values."""
    data = [Inputs(binary=spec.dtype == bool) for spec in inputs]
    first = map(constant, jaxpr.consts)
    last = map(constant, constants)
    outputs = interpret(context, jaxpr.jaxpr, [*first, *weights, *data, *last])
    return [as_activation(context, x) for x in outputs]
