"""Networks of any kind: the paths of a JAX function, read off its jaxpr."""

import dataclasses
from collections.abc import Callable, Sequence
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
from pathsgd_optax._networks.traced.examples import check_examples
from pathsgd_optax._networks.traced.network import (
    TracedNetwork,
    context_of,
    outputs_of,
    weights_of,
)
from pathsgd_optax._networks.traced.outputs import check_ends, output_names
from pathsgd_optax._networks.traced.rules.randomness import check_draws
from pathsgd_optax._networks.traced.rules.registry import CUSTOM
from pathsgd_optax._networks.traced.values import Uses
from pathsgd_optax._vocabulary import Params


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
    return TracedNetwork(
        jaxpr,
        jax.tree.structure(params),
        constants,
        inputs,
        _parameters(params, uses, on_path),
        {**CUSTOM},
        gates,
    )


def _parameters(params: Params, uses: Uses, on_path: set[int]) -> tuple[Parameter, ...]:
    """What the network knows of each leaf."""
    return tuple(
        Parameter(
            leaf_name(path),
            leaf.shape,
            "/".join(sorted(uses.roles[k])) if k in on_path else NO_PATH,
            uses.times[k] if k in on_path else 0,
        )
        for k, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(params))
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
        context = context_of(leaves, 1.0, None, CUSTOM, gates)
        context = dataclasses.replace(context, uses=uses)
        weights = weights_of(context, leaves)
        outputs = outputs_of(context, jaxpr, weights, inputs, known)
        check_ends(names, outputs)
        on_path.update(leaf for output in outputs for leaf, _ in output.leaves)

    jax.eval_shape(run, jax.tree.leaves(params), jax.tree.leaves(constants))
    return uses, on_path
