"""Networks of any kind: the paths of a JAX function, read off its jaxpr."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr

from pathsgd_optax._networks.network import NO_PATH, Parameter, check_whole, leaf_name
from pathsgd_optax._networks.traced.arguments import (
    check_params,
    explained,
    listed,
    shapes,
)
from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.examples import mixing_equations
from pathsgd_optax._networks.traced.network import (
    TracedNetwork,
    outputs_of,
    weights_of,
)
from pathsgd_optax._networks.traced.outputs import check_ends, output_names
from pathsgd_optax._networks.traced.reasons import GATES
from pathsgd_optax._networks.traced.rules.randomness import check_draws
from pathsgd_optax._networks.traced.rules.registry import CUSTOM
from pathsgd_optax._networks.traced.values import GATE, OUTPUT, Debt, Uses
from pathsgd_optax._vocabulary import Params, check_apply, check_flags, path_dtype


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

    With ``gates=True``, networks that normalise, attend and gate have paths, too. The
    function may be that of training, without dropout.

    - A value that is divided by a root of its own second moment *ends* the paths,
      whatever the module is called: LayerNorm, RMSNorm, GroupNorm, BatchNorm on the
      statistics of the batch, normalised weights, queries and keys. What leaves it is
      an array of input units. What enters adds to :math:`\Phi_p` its masses over their
      mean, which counts as a constant, unless another way leads on from it: in a
      residual stream only the last normalisation counts.
    - What is bounded is a *gate*: what it multiplies keeps its paths, times the size of
      the bounds. sigmoid, tanh, erf and clipping are, and so gelu(x), silu(x) and
      relu6(x) have the paths of x. A softmax over n entries weighs p-th powers by 1/n,
      so attention averages over what its mask allows; so does a look-up in a network
      with any of this, which chooses one of n rows.
    - An activation f, in whatever way it is written, is its value at 0, which is an
      edge as any constant's, and the paths of its argument x, times the largest size of
      (f(x) - f(0)) / x: 1 for GELU, SiLU, softplus and tanh, 1/4 for a sigmoid that
      multiplies nothing. Of a sum of multiples of x, such as h + z * (x - h), the
      multiples are added first.
    - Parameters that do nothing but steer gates (queries, keys, routers, the gates of
      an LSTM) have paths that end in the logits, where what else feeds these counts as
      constant. So rescaling queries against keys changes nothing. Logits are counted in
      such units that their gate is as steep as a sigmoid.
    - Other products of data multiply masses: up and gate, bilinear layers.
    - :math:`\Phi_p` is the mean over the places that outputs have (all axes but the
      first and the last): a language model's scaling doesn't grow with its context.

    Rescalings that don't change the function leave the updates as they are, as ever; a
    GELU's units have none, and there the scaling is a heuristic.

    Masses are p-th powers, in float32 for p up to 32, and up to 256 in float64, which
    they are in where a parameter is.

    Args:
      apply_fn: ``apply_fn(params, x)``, or ``apply_fn(params, x, constants)``, which
        returns an array of outputs, with a row for each example, or a tree of several,
        which are all ends of paths: those that the loss is made of; without dropout,
        and, unless ``gates``, with BatchNorm on its running averages.
      params: a parameter tree of floating arrays, or of `jax.ShapeDtypeStruct`.
      x: a batch of examples, of any size, or the `jax.ShapeDtypeStruct` of one; a tree
        of arrays, if the function takes one. The first axis is the batch.
      constants: what the function needs besides, isn't trained, and may change, such as
        running averages: a tree of arrays, or of `jax.ShapeDtypeStruct`. The measures
        and the transformations take their present values as ``constants=``.
      gates: whether normalisations and gates are read as well: see above.

    Returns:
      The network, to be made once, outside of jit.

    Raises:
      ValueError: if ``apply_fn`` is no function, if a parameter isn't floating, if the
        function can't be traced on one example, has an operation without path
        semantics, or returns an array that doesn't depend on ``x`` and on parameters.

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
    check_flags(gates=gates)
    check_apply(apply_fn)
    check_params(params)
    check_whole(params)
    params, x = shapes(params, "params"), shapes(x, "x")
    constants = shapes(constants, "constants")
    read = functools.partial(_read, apply_fn, params, x, constants)
    try:
        return read(gates)
    except ValueError as error:
        said = str(error)
        if gates or not said.endswith(GATES):
            raise
    raise ValueError(_advised(said, read))


def _advised(said: str, read: Callable[[bool], Any]) -> str:
    """What is wrong without gates, and with them, if they are no remedy."""
    try:
        read(True)
    except ValueError as error:
        return f"{said.removesuffix(GATES)} With gates=True: {error}"
    return said


def _read(
    apply_fn: Callable[..., jax.Array],
    params: Params,
    x: Any,
    constants: Any,
    gates: bool,
) -> TracedNetwork:
    """The network, of arguments as shapes."""
    jaxpr, names = _trace(apply_fn, params, x, constants)
    inputs = tuple(jax.tree.leaves(_examples(x, 1)))
    uses = _uses(jaxpr, names, params, inputs, constants, gates)
    _check_batch(apply_fn, names, params, x, constants, gates)

    def of_two() -> Uses:
        rest = () if constants is None else (constants,)
        two = _examples(x, 2)
        jaxpr = jax.make_jaxpr(apply_fn)(params, two, *rest)
        inputs = jax.tree.leaves(two)
        return _uses(jaxpr, names, params, inputs, constants, gates)

    check_draws(uses, of_two)
    return TracedNetwork(
        jaxpr,
        jax.tree.structure(params),
        constants,
        inputs,
        _parameters(params, uses),
        {**CUSTOM},
        gates,
    )


def _parameters(params: Params, uses: Uses) -> tuple[Parameter, ...]:
    """What the network knows of each leaf."""
    order = {leaf: k for k, leaf in enumerate(uses.times)}
    return tuple(
        Parameter(
            leaf_name(path),
            leaf.shape,
            "/".join(sorted(uses.roles[k])) if uses.ends[k] else NO_PATH,
            uses.times[k] if uses.ends[k] else 0,
            _end(uses.ends[k]) if uses.ends[k] else OUTPUT,
            order.get(k, len(order)),
        )
        for k, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(params))
    )


def _end(ends: set[str]) -> str:
    """Where the paths through a parameter end; at a gate, if there is no other end."""
    return "/".join(sorted(ends - {GATE}) or sorted(ends))


def _examples(x: Any, count: int) -> Any:
    """The shapes of a batch of so many examples."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype), x
    )


def _check_batch(
    apply_fn: Callable[..., Any],
    names: Sequence[str],
    params: Params,
    x: Any,
    constants: Any,
    gates: bool,
) -> None:
    """Raises where the function mixes examples, if it takes several of them.

    The statistics of a batch may, with gates, where they normalise.
    """
    rest = () if constants is None else (constants,)
    [batch] = {max(2, leaf.shape[0]) for leaf in jax.tree.leaves(x)}
    trace = jax.make_jaxpr(apply_fn)
    try:
        small, large = (
            trace(params, _examples(x, count), *rest) for count in (batch, 2 * batch)
        )
    except Exception:  # It is for one example only: none are mixed.
        return
    before, count = len(jax.tree.leaves(params)), len(jax.tree.leaves(x))
    places = range(before, before + count)
    data = [k in places for k in range(len(small.jaxpr.invars))]
    mixing = mixing_equations(small.jaxpr, large.jaxpr, data, batch)
    if mixing and not gates:
        raise ValueError(next(iter(mixing.values())).reason)
    if mixing:
        inputs = jax.tree.leaves(_examples(x, batch))
        _uses(small, names, params, inputs, constants, gates, mixing)


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
    mixing: Mapping[int, Debt] | None = None,
) -> Uses:
    """How each leaf is used, and where its paths end, from shapes alone."""
    uses = Uses()

    def run(leaves: list[jax.Array], known: list[jax.Array]) -> None:
        context = Context(
            1.0,
            path_dtype(*leaves),
            None,
            uses,
            gates=gates,
            custom=CUSTOM,
            mixing=mixing or {},
        )
        weights = weights_of(context, leaves)
        outputs = outputs_of(context, jaxpr, weights, inputs, known)
        check_ends(names, outputs)
        for output in outputs:
            uses.end(OUTPUT, output.leaves)

    jax.eval_shape(run, jax.tree.leaves(params), jax.tree.leaves(constants))
    if uses.debts:
        raise ValueError(uses.debts[0].reason)
    return uses
