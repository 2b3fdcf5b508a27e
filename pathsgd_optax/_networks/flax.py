"""Short-cuts from a linen module, or an nnx model, to its network."""

import dataclasses
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax.extend.core import ClosedJaxpr
from jax.tree_util import keystr

from pathsgd_optax._networks.traced.interpreter import is_literal, live
from pathsgd_optax._networks.traced.network import TracedNetwork
from pathsgd_optax._networks.traced.tracing import trace_network
from pathsgd_optax._vocabulary import Params, check_flags, described


OPTIONS = ("capture_intermediates", "method", "mutable", "rngs")
"""The keyword arguments of ``module.apply`` that aren't the module's."""

ON_ONE_BATCH: dict[str, Any] = {"use_running_average": False, "axis_name": None}
"""What makes an `nnx.BatchNorm` normalise by the statistics of one device's batch."""


def trace_linen(
    module: linen.Module,
    variables: Any,
    x: Any,
    *args: Any,
    gates: bool = False,
    **kwargs: Any,
) -> TracedNetwork:
    """`trace_network` of a linen module.

    Its parameters are ``variables["params"]``. The other collections, if there are any,
    are its constants: ``constants={"batch_stats": batch_stats}``.

    With ``gates=True``, BatchNorm is on the statistics of the batch, whether
    ``train=True`` or not, and Dropout drops nothing; collections that then have no
    influence, such as running averages, are no constants.

    Args:
      module: the module, as made, not bound.
      variables: what ``module.init`` returns, or `jax.eval_shape` of it; with x64 or
        without, of any floating dtype.
      x: a batch of examples, of any size; or a tree of several.
      *args: further arguments of the module. Arrays with the batch axis of ``x`` are
        inputs, too; others are fixed, as are flags, numbers and keys. (A batch of one
        makes inputs of all arrays whose first axis is 1; trace with two examples where
        one of them is fixed.)
      gates: see `trace_network`.
      **kwargs: likewise, such as ``train=False``; and those of ``module.apply``, such
        as ``method``.

    Returns:
      The network of ``variables["params"]``.

    Raises:
      ValueError: see `trace_network`.

    Example:
      >>> import jax
      >>> from flax import linen as nn
      >>> import pathsgd_optax as pathsgd
      >>> model = nn.Sequential([nn.Dense(5), nn.BatchNorm(use_running_average=True)])
      >>> x = jax.numpy.ones((1, 3))
      >>> variables = model.init(jax.random.key(0), x)
      >>> network = pathsgd.trace_linen(model, variables, x)
      >>> print(network.summary())
      parameter               shape   role    uses
      ['layers_0']['bias']    (5,)    bias    1
      ['layers_0']['kernel']  (3, 5)  weight  1
      ['layers_1']['bias']    (5,)    bias    1
      ['layers_1']['scale']   (5,)    scale   1
    """
    check_flags(gates=gates)
    _check_module(module, variables)
    constants = {name: leaf for name, leaf in variables.items() if name != "params"}
    options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
    inputs, completed = _inputs(x, args, kwargs)
    mutable = options.pop("mutable", [*constants] if gates else False)

    def apply_fn(params: Params, inputs: Any, constants: Any = None) -> Any:
        args, kwargs = completed(inputs)
        collections = {"params": params, **(constants or {})}
        outputs = module.apply(collections, *args, mutable=mutable, **kwargs, **options)
        return outputs if mutable is False else outputs[0]

    if not gates:
        return trace_network(apply_fn, variables["params"], inputs, constants or None)
    with linen.intercept_methods(_training):
        return _with_gates(apply_fn, variables["params"], inputs, constants or None)


def _training(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    """Statistics are those of one device's batch; nothing is dropped."""
    module = context.module
    if context.method_name != "__call__":
        return method(*args, **kwargs)
    if isinstance(module, linen.Dropout):
        return args[0] if args else kwargs["inputs"]
    if isinstance(module, linen.BatchNorm):
        kwargs = _switched(module, kwargs, "use_running_average", False)
        object.__setattr__(module, "axis_name", None)
        args = args[:1]
    if isinstance(module, linen.MultiHeadDotProductAttention):
        kwargs = _switched(module, kwargs, "deterministic", True)
    return method(*args, **kwargs)


def _switched(
    module: linen.Module, kwargs: dict[str, Any], name: str, value: bool
) -> dict[str, Any]:
    """The keyword arguments of a call, where the module has no such attribute."""
    if getattr(module, name) is None:
        return kwargs | {name: value}
    object.__setattr__(module, name, value)
    return {key: x for key, x in kwargs.items() if key != name}


def _with_gates(
    apply_fn: Callable[..., Any], params: Params, inputs: Any, constants: Any
) -> TracedNetwork:
    """The network, without constants if it depends on none, as of running averages."""
    network = trace_network(apply_fn, params, inputs, constants, gates=True)
    count, jaxpr = len(jax.tree.leaves(constants)), network.jaxpr.jaxpr
    kept, last = jaxpr.invars[:-count], jaxpr.invars[-count:]
    used = {atom for eqn in live(jaxpr) for atom in eqn.invars if not is_literal(atom)}
    if not count or not used.isdisjoint(last):
        return network
    without = ClosedJaxpr(jaxpr.replace(invars=kept), network.jaxpr.consts)
    return dataclasses.replace(network, jaxpr=without, constants=None)


def trace_nnx(
    model: nnx.Module, x: Any, *args: Any, gates: bool = False, **kwargs: Any
) -> TracedNetwork:
    """`trace_network` of an nnx model, in evaluation mode.

    Its parameters are ``nnx.state(model, nnx.Param)``. Running averages, if there are
    any, are its constants: ``constants=nnx.state(model, nnx.BatchStat)``. The model
    itself stays as it is. With ``gates=True``, BatchNorm is on the statistics of the
    batch, and needs no constants.

    An optimizer of a part of the parameters, ``nnx.Optimizer(model, tx, wrt=head)``,
    divides by the scaling of the whole network, in which the others are fixed edges. It
    takes their present values from the model, or, as under `nnx.jit`, from the update:
    ``optimizer.update(model, grads, constants=nnx.state(model))``.

    Args:
      model: the model; with parameters of any floating dtype.
      x: a batch of examples, of any size; or a tree of several.
      *args: further arguments of the model. Arrays with the batch axis of ``x`` are
        inputs, too; others are fixed, as are flags, numbers and keys. (A batch of one
        makes inputs of all arrays whose first axis is 1; trace with two examples where
        one of them is fixed.)
      gates: see `trace_network`.
      **kwargs: likewise.

    Returns:
      The network of ``nnx.state(model, nnx.Param)``.

    Raises:
      ValueError: see `trace_network`.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> import pathsgd_optax as pathsgd
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(
      ...     nnx.Linear(3, 5, rngs=rngs), nnx.relu, nnx.Dropout(0.5, rngs=rngs),
      ...     nnx.Linear(5, 2, rngs=rngs))
      >>> network = pathsgd.trace_nnx(model, jax.numpy.ones((1, 3)))
      >>> [parameter.role for parameter in network.parameters]
      ['bias', 'weight', 'bias', 'weight']
    """
    check_flags(gates=gates)
    if not isinstance(model, nnx.Module):
        raise ValueError(
            f"model must be an nnx.Module, but got {_kind(model)}. trace_linen takes "
            "those of linen, and trace_network any function."
        )
    split: Any = nnx.split
    graph, params, statistics, rest = split(model, nnx.Param, nnx.BatchStat, ...)
    if not jax.tree.leaves(params):
        raise ValueError(
            "the model has no nnx.Param, which are the variables that are trained. "
            "Make its weights nnx.Param."
        )

    inputs, completed = _inputs(x, args, kwargs)

    def apply_fn(params: Any, inputs: Any, constants: Any = None) -> jax.Array:
        averages = statistics if constants is None else constants
        # Variables of this trace, which the model may change in it.
        others = jax.tree.map(lambda leaf: leaf, (averages, rest))
        copy = nnx.merge(graph, params, *others)
        copy.eval()
        if gates:
            copy.set_attributes(nnx.BatchNorm, **ON_ONE_BATCH, raise_if_not_found=False)
        args, kwargs = completed(inputs)
        return copy(*args, **kwargs)

    constants = statistics if jax.tree.leaves(statistics) else None
    if gates:
        network = _with_gates(apply_fn, params, inputs, constants)
    else:
        network = trace_network(apply_fn, params, inputs, constants)
    itself = weakref.ref(model)

    def present() -> Any:
        return None if itself() is None else nnx.state(itself())

    return dataclasses.replace(network, present=present)


def _check_module(module: Any, variables: Any) -> None:
    if not isinstance(module, linen.Module):
        raise ValueError(
            f"module must be a linen.Module, but got {_kind(module)}. trace_nnx takes "
            "those of nnx, and trace_network any function."
        )
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise ValueError(
            'variables must be the dict that module.init returns, with "params" in it, '
            f'but got {described(variables)}. Give params as {{"params": params}}.'
        )


def _kind(module: Any) -> str:
    kinds = {"a linen module, ": linen.Module, "an nnx module, ": nnx.Module}
    known = [name for name, kind in kinds.items() if isinstance(module, kind)]
    return "".join(known) + described(module)


def _inputs(x: Any, args: Any, kwargs: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The inputs by their names, and what makes all arguments of them."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path((x, args, kwargs))
    names = ("x", "args", "kwargs")
    arguments = [(names[path[0].idx] + keystr(path[1:]), leaf) for path, leaf in leaves]
    batches = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(x)} - {()}
    inputs = {
        name: leaf
        for name, leaf in arguments
        if name.startswith("x") or _shape(leaf)[:1] in batches
    }

    def completed(inputs: dict[str, Any]) -> Any:
        filled = [inputs.get(name, leaf) for name, leaf in arguments]
        x, args, kwargs = jax.tree.unflatten(treedef, filled)
        return (x, *args), kwargs

    return inputs, completed


def _shape(leaf: Any) -> tuple[int, ...]:
    """The shape of an array; keys, flags and numbers have none."""
    is_key = jnp.issubdtype(getattr(leaf, "dtype", bool), jax.dtypes.prng_key)
    return () if is_key else getattr(leaf, "shape", ())
