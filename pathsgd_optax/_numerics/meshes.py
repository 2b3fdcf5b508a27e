"""Arrays that a mesh of devices shares: what the kinds of its axes ask for.

On Auto axes XLA decides where everything is, and there is nothing to do. On Explicit
axes an array's type tells how it is sharded, and reshaping one is ambiguous: there,
passes run as on Auto axes, and only what they return gets such a type. On manual axes,
those of `jax.shard_map`, an array is what one device has, and may vary between them.
"""

import functools
from collections.abc import Callable
from numbers import Number
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec


try:
    from jax.experimental.shard_alike import shard_alike
except ImportError:  # JAX 0.11 has none: XLA alone decides.

    def shard_alike(x: Any, y: Any) -> Any:
        """Both arrays, as they are."""
        return x, y


def partitioned(function: Callable[..., Any], *arguments: Any, like: Any = None) -> Any:
    """``function(*arguments)``, partitioned by XLA, whatever the kinds of the axes.

    Args:
      function: from trees of arrays to one.
      arguments: what it is given, all varying over the same manual axes.
      like: a prefix of what it returns, with an array where all are to be sharded as
        this one is, along the axes that they share with it, and None where each device
        is to have the whole.
    """
    mesh = _explicit_mesh(arguments)
    if mesh is None:
        return _matched(sharded_like, function(*alike(arguments)), like)
    auto = mesh.update_axis_types(dict.fromkeys(mesh.explicit_axes, AxisType.Auto))
    with jax.sharding.use_abstract_mesh(auto):
        results = function(*alike(_map(_untyped, arguments)))
    return _matched(
        lambda x, array: jax.sharding.reshard(x, _sharding(mesh, x, array)),
        results,
        like,
    )


def sharded_like(x: jax.Array, array: jax.Array | None) -> jax.Array:
    """``x``, which XLA is to shard as it does an array of the same shape.

    It decides on Auto axes alone. There a product by a sharded factor, for example,
    would be sharded like the factor.
    """
    if array is None or array.shape != x.shape or _is_typed(array):
        return x
    return shard_alike(x, array)[0]


def zeros(shapes: Any, like: Any) -> Any:
    """Zeros of these shapes, where `partitioned` puts arrays of them."""
    return _matched(_zeros, shapes, like)


def _zeros(x: jax.ShapeDtypeStruct, array: Any) -> jax.Array:
    mesh: Any = _explicit_mesh(array)
    if mesh is None:
        same = array is not None and array.shape == x.shape
        return jnp.zeros_like(array if same else x, x.dtype)
    if not _is_traced(array):
        mesh = array.sharding.mesh
    return jax.sharding.reshard(jnp.zeros(x.shape, x.dtype), _sharding(mesh, x, array))


def _matched(function: Callable[[Any, Any], Any], tree: Any, like: Any) -> Any:
    """``function(leaf, array)``, with the array that stands for the leaf's branch."""

    def branch(array: jax.Array | None, part: Any) -> Any:
        return jax.tree.map(lambda leaf: function(leaf, array), part)

    return jax.tree.map(branch, like, tree, is_leaf=lambda x: x is None)


def varying_axes(x: Any) -> list[str]:
    """The manual axes along which devices may have different arrays.

    All, where nothing tells: under check_vma=False, and `jax.pmap`.
    """
    if not _is_traced(x):
        return []
    sizes = jax.sharding.get_abstract_mesh()
    return [axis for axis in sizes.manual_axes if _varies(x, axis)]


def _varies(x: jax.Array, axis: str) -> bool:
    """Whether what varies over the axis makes no other type of ``x``."""
    return jax.typeof(lax.select(lax.axis_index(axis) < 0, x, x)) == jax.typeof(x)


def alike(arguments: Any) -> Any:
    """Arrays that vary over every manual axis that one of them varies over."""
    for axis in jax.sharding.get_abstract_mesh().manual_axes:
        if any(_varies(x, axis) for x in _arrays(arguments)):
            arguments = _map(functools.partial(_varying, axis=axis), arguments)
    return arguments


def _varying(x: jax.Array, axis: str) -> jax.Array:
    return x if _varies(x, axis) else lax.pcast(x, axis, to="varying")


def _untyped(x: jax.Array) -> jax.Array:
    """The array, of the type that it has where there are only Auto axes."""
    return jax.sharding.reshard(x, PartitionSpec())


def _map(function: Callable[[jax.Array], jax.Array], tree: Any) -> Any:
    """The tree with the function's results for its arrays; numbers stay."""
    return jax.tree.map(lambda x: x if _is_number(x) else function(x), tree)


def _arrays(tree: Any) -> list[jax.Array]:
    return [x for x in jax.tree.leaves(tree) if not _is_number(x)]


def _is_number(x: Any) -> bool:
    return isinstance(x, Number)


def _explicit_mesh(arguments: Any) -> AbstractMesh | None:
    """The mesh of arrays whose types tell how they are sharded."""
    meshes = (jax.typeof(x).sharding.mesh for x in _arrays(arguments))
    return next((mesh for mesh in meshes if mesh.explicit_axes), None)


def _sharding(mesh: Any, x: Any, array: jax.Array | None) -> NamedSharding:
    """That of ``array``, along the axes that ``x`` shares with it."""
    if array is None or array.ndim != x.ndim:
        return NamedSharding(mesh, PartitionSpec())
    sizes = zip(jax.typeof(array).sharding.spec, array.shape, x.shape, strict=True)
    axes = (axis if whole == part else None for axis, whole, part in sizes)
    return NamedSharding(mesh, PartitionSpec(*axes))


def _is_typed(array: jax.Array) -> bool:
    """Whether its type tells on which devices it is, and XLA has no say."""
    mesh = jax.typeof(array).sharding.mesh
    return bool(mesh.explicit_axes or mesh.manual_axes)


def _is_traced(x: Any) -> bool:
    return isinstance(x, jax.core.Tracer)
