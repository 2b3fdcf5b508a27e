"""Networks of any kind: the paths of a JAX function, read off its jaxpr."""

import dataclasses
import functools
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from pathsgd_optax import _mass
from pathsgd_optax._arguments import (
    check_constants,
    check_params,
    explained,
    listed,
    shapes,
)
from pathsgd_optax._examples import check_examples
from pathsgd_optax._interpreter import interpret
from pathsgd_optax._mass import Mass
from pathsgd_optax._meshes import partitioned
from pathsgd_optax._network import (
    NO_PATH,
    Described,
    Parameter,
    Scaling,
    check_leaves,
    check_whole,
    is_masked,
    leaf_name,
    leaves_of,
    like_parameters,
    resolved,
)
from pathsgd_optax._operands import Rule
from pathsgd_optax._outputs import check_ends, ends, output_names
from pathsgd_optax._randomness import check_draws
from pathsgd_optax._rules import CUSTOM, constant
from pathsgd_optax._scaled import Scaled
from pathsgd_optax._tape import Tape
from pathsgd_optax._types import Params, Scalar, is_zero, path_dtype
from pathsgd_optax._values import Context, Inputs, Uses, Value


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
    """The arrays that a model with variables of its own has now."""

    def __repr__(self) -> str:
        return f"<TracedNetwork of {len(self.parameters)} parameters; see summary()>"

    def __reduce__(self) -> NoReturn:
        raise pickle.PicklingError(UNSAVED)

    def check(self, params: Params, constants: Any = None) -> None:
        """Raises a ValueError where ``params`` or ``constants`` are not its own."""
        check_leaves(self, params)
        check_constants(constants, self.constants)

    def path_norm(self, params: Params, p: float, constants: Any = None) -> Scaled:
        """phi_p, a scalar."""
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
        """phi_p, and sqrt(gamma_p) / 2**unit of the leaves, damped."""
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


def trace_network(
    apply_fn: Callable[..., jax.Array],
    params: Params,
    x: Any,
    constants: Any = None,
    *,
    gates: bool = False,
) -> TracedNetwork:
    r"""Reads the paths of a ReLU network off the JAX function that applies it.

    The function is traced for one example, without running it. Each of its operations
    has a rule for the mass of paths, the sum of the products of :math:`|w_e|^p`:

    .. math::
      \Phi_p(w) = \phi_p(w)^p, \qquad
      \gamma_p(w, e) = \Big( \frac{\partial \Phi_p}{\partial |w_e|^p} \Big)^{2/p}

    Convolutions and matrix products by weights, sums, skip connections, concatenation,
    poolings, embeddings, scans, ReLU, leaky ReLU, abs and maxout have rules. Pooling by
    maximum counts the paths of all that is pooled; a leaky ReLU those of its steeper
    side (of its positive one, where a parameter is the slope of the other). A parameter
    that is used many times gets the sum over its uses. What is added is a path from a
    unit that is always 1, as a bias is; constants, such as BatchNorm's running
    averages, are fixed edges, and BatchNorm's shift ``bias - mean * scale / std`` is
    one edge, in whatever order it is computed. Sums and maxima of multiples of one
    value are multiples of it: ``(x + abs(x)) / 2`` is a ReLU.

    Whatever is computed of inputs and constants alone is an array of new input units,
    of mass 1 in every entry that isn't known to be 0: normalised images, sin and cos of
    positions, polynomials, averages of pixels. (A scale and a bias of parameters that
    follow, as BatchNorm's do, are one affine unit with the constants before them.)
    Integers and comparisons of inputs look up and choose: a look-up, of a table or of
    data, has the paths of all that it may find, and ``where`` those of all that it
    chooses from. Of products of data with inputs only those with masks have paths:
    comparisons, one_hot, and products of these.

    Each result of a sort, or of top_k, may be any that was sorted, as a maximum may,
    and has the paths of them all. A solve is a product by the inverse of its matrix,
    which must be constant. Branches are those that are taken, which must be known when
    the network is traced. Random numbers are constants where they project; where they
    shift or scale values on paths, choose, or are drawn for each example, they are
    taken for dropout, and refused.

    Constants that mask entries are no edges: one of -1e4 or less keeps an entry, and
    the paths to it, out of a maximum (one of 1e4 or more, out of a minimum); and one of
    1e8 or more in size, or infinite, makes no edge wherever it is added, nor does one
    of -1e4 or less where the inputs decide whether it is. Outputs with a constant of
    -1e8 or less added are masked, too.

    Masses are p-th powers, in float32 for p up to 32, and up to 256 in float64, which
    they are in where a parameter is.

    Args:
      apply_fn: ``apply_fn(params, x)``, or ``apply_fn(params, x, constants)``, which
        returns an array of outputs, with a row for each example, or a tree of several,
        which are all ends of paths: those that the loss is made of; without dropout,
        and with BatchNorm on its running averages.
      params: a parameter tree of floating arrays, or of `jax.ShapeDtypeStruct`.
      x: a batch of examples, of any size, or the `jax.ShapeDtypeStruct` of one; a tree
        of arrays, if the function takes one. The first axis is the batch.
      constants: what the function needs besides, isn't trained, and may change, such as
        running averages: a tree of arrays, or of `jax.ShapeDtypeStruct`. The measures
        and the transformations take their present values as ``constants=``.
      gates: whether clipping by constants is read as well. ``minimum(relu(x), 6)`` and
        the like have the paths of their argument then. What is multiplied by a clipped
        value, as in hard_swish, has its own, times the size of the value's bounds; what
        only steers such a factor is on no path. None of this is homogeneous: where
        units are rescaled, the network computes something else.

    Returns:
      The network, to be made once, outside of jit.

    Raises:
      ValueError: if a parameter isn't floating, if the function can't be traced on one
        example, has an operation without path semantics, or returns an array that
        doesn't depend on ``x`` and on parameters.

    Example:
      >>> import jax
      >>> from flax import linen as nn
      >>> import pathsgd_optax as pathsgd
      >>> model = nn.Sequential([nn.Conv(4, (3, 3)), nn.relu, lambda x: x.mean((1, 2)),
      ...                        nn.Dense(2, use_bias=False)])
      >>> x = jax.numpy.ones((1, 8, 8, 1))
      >>> params = model.init(jax.random.key(0), x)
      >>> network = pathsgd.trace_network(model.apply, params, x)
      >>> print(network.summary())
      parameter                          shape         role    uses
      ['params']['layers_0']['bias']     (4,)          bias    1
      ['params']['layers_0']['kernel']   (3, 3, 1, 4)  weight  1
      ['params']['layers_3']['kernel']   (4, 2)        weight  1

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, equations (5) and (9);
      Neyshabur et al., `Path-Normalized Optimization of Recurrent Neural Networks with
      ReLU Activations <https://arxiv.org/abs/1605.07154>`_, 2016, for shared weights.
    """
    check_params(params)
    check_whole(params)
    params, x, constants = map(shapes, (params, x, constants))
    jaxpr, names = _trace(apply_fn, params, x, constants)
    inputs = tuple(jax.tree.leaves(_examples(x, 1)))
    uses, on_path = _uses(jaxpr, names, params, inputs, constants, gates)
    _check_batch(apply_fn, params, x, constants)

    def of_two() -> Uses:
        rest = () if constants is None else (constants,)
        two = _examples(x, 2)
        jaxpr = jax.make_jaxpr(apply_fn)(params, two, *rest)
        inputs = jax.tree.leaves(two)
        return _uses(jaxpr, names, params, inputs, constants, gates)[0]

    check_draws(uses, of_two)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    parameters = tuple(
        Parameter(
            leaf_name(path),
            leaf.shape,
            "/".join(sorted(uses.roles[k])) if k in on_path else NO_PATH,
            uses.times[k] if k in on_path else 0,
        )
        for k, (path, leaf) in enumerate(leaves)
    )
    return TracedNetwork(
        jaxpr,
        jax.tree.structure(params),
        constants,
        inputs,
        parameters,
        {**CUSTOM},
        gates,
    )


def _examples(x: Any, count: int) -> Any:
    """The shapes of a batch of so many examples."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype), x
    )


def _check_batch(
    apply_fn: Callable[..., Any], params: Params, x: Any, constants: Any
) -> None:
    """Raises where the function mixes examples, if it takes several of them."""
    rest = () if constants is None else (constants,)
    [batch] = {max(2, leaf.shape[0]) for leaf in jax.tree.leaves(x)}
    trace = jax.make_jaxpr(apply_fn)
    try:
        small, large = (
            trace(params, _examples(x, count), *rest).jaxpr
            for count in (batch, 2 * batch)
        )
    except Exception:  # It is for one example only: none are mixed.
        return
    before, inputs = len(jax.tree.leaves(params)), len(jax.tree.leaves(x))
    places = range(before, before + inputs)
    data = [k in places for k in range(len(small.invars))]
    check_examples(small, large, data, batch)


def _trace(
    apply_fn: Callable[..., Any], params: Params, x: Any, constants: Any
) -> tuple[ClosedJaxpr, list[str]]:
    """The jaxpr for one example, and the names of the outputs.

    The function is known to take a batch of examples then.
    """
    rest = () if constants is None else (constants,)
    batches = {leaf.shape[:1] for leaf in jax.tree.leaves(x)}
    if len(batches) != 1 or () in batches:
        raise ValueError(
            f"x must have one leading batch axis, but is {listed(x)}. "
            "Pass a batch of examples: x[None] for one."
        )
    one = _examples(x, 1)
    with explained(f"these params and x, {listed(x)}"):
        outputs = jax.eval_shape(apply_fn, params, x, *rest)
    with explained(f"one example (the first axis is the batch) of x, {listed(x)}"):
        jaxpr, output = jax.make_jaxpr(apply_fn, return_shape=True)(params, one, *rest)
    [[batch]] = batches
    return jaxpr, output_names(outputs, output, batch)


def _uses(
    jaxpr: ClosedJaxpr,
    names: Sequence[str],
    params: Params,
    inputs: Sequence[jax.ShapeDtypeStruct],
    constants: Any,
    gates: bool,
) -> tuple[Uses, set[int]]:
    """How each leaf is used, and the leaves on a path, from shapes alone."""
    uses = Uses()
    on_path: set[int] = set()

    def run(leaves: list[jax.Array], known: list[jax.Array]) -> None:
        context = _context(leaves, 1.0, None, CUSTOM, gates)
        context = dataclasses.replace(context, uses=uses)
        weights = _weights(context, leaves)
        outputs = _interpret(context, jaxpr, weights, inputs, known)
        check_ends(names, outputs)
        on_path.update(leaf for output in outputs for leaf, _ in output.leaves)

    jax.eval_shape(run, jax.tree.leaves(params), jax.tree.leaves(constants))
    return uses, on_path


@functools.partial(jax.jit, static_argnames=("network", "p"))
def _path_norm(
    leaves: Sequence[jax.Array], constants: Any, *, network: TracedNetwork, p: float
) -> Scaled:
    context = _context(leaves, p, None, network.custom, network.gates)
    output = _run(context, network, _weights(context, leaves), constants)
    return _mass.root(_mass.total(output), p)


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
    tape = Tape(None if damping is None else _mass.mass(damping, p))
    context = _context(leaves, p, tape, network.custom, network.gates)
    weights = _weights(context, leaves)
    output = _run(context, network, weights, constants)
    phi = _mass.total(output)
    end = _mass.of_exponent(jnp.ones_like(output.mantissa), 0)
    slopes = tape.slopes([(output, end)], [x.mass for x in weights], [output])
    norm = _mass.root(phi, p)
    unit = resolved(unit, norm)
    factors = (
        () if parameter.role == NO_PATH else _mass.factors_of_root(slope, p, unit)
        for parameter, slope in zip(network.parameters, slopes, strict=True)
    )
    return Scaling(norm, tuple(factors))


def _context(
    leaves: Sequence[jax.Array],
    p: float,
    tape: Tape | None,
    custom: Mapping[str, Rule],
    gates: bool,
) -> Context:
    dtype = path_dtype(*leaves)
    _check_order(p, dtype)
    return Context(p, dtype, tape, Uses(), gates=gates, custom=custom)


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


def _weights(context: Context, leaves: Sequence[jax.Array]) -> list[Value]:
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
    outputs = _interpret(context, network.jaxpr, weights, network.inputs, known)
    return ends(context, outputs)


def _interpret(
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
    return interpret(context, jaxpr.jaxpr, [*first, *weights, *data, *last])
