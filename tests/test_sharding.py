"""Weights that are sharded over a mesh stay where they are."""

import functools
import importlib.util
import math
import re
import runpy
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import pathsgd_optax as pathsgd
from pathsgd_optax._numerics import meshes as _meshes
from tests import networks


MOVES = r"= (.*?) (?:all-gather|all-to-all|collective-permute|reduce-scatter)"

# Optax's Adam promotes its counter.
pytestmark = pytest.mark.optax

AUTO, EXPLICIT = (AxisType.Auto,) * 2, (AxisType.Explicit,) * 2

WHOLE = P()

SPECS = {
    "whole": {1: P(None), 2: P(None, None), 3: P(None, None, None)},
    "rows": {1: P(None), 2: P("rows", None), 3: P(None, "rows", None)},
    "columns": {1: P("columns"), 2: P(None, "columns"), 3: P(None, None, "columns")},
    "both": {1: P("columns"), 2: P("rows", "columns"), 3: P(None, "rows", "columns")},
}

OPTIMIZERS = {
    "path_sgd": functools.partial(pathsgd.path_sgd, 0.1, momentum=0.9, monitor=True),
    "path_adagrad": functools.partial(pathsgd.path_adagrad, 0.1, update_every=2),
    "path_rmsprop": functools.partial(pathsgd.path_rmsprop, 0.1, weight_decay=1e-3),
    "path_adam": functools.partial(
        pathsgd.path_adam, 0.1, update_every=2, monitor=True
    ),
    "path_lars": functools.partial(pathsgd.path_lars, 0.1, momentum=0.9),
    "path_lamb": functools.partial(pathsgd.path_lamb, 0.1),
    "scale": functools.partial(pathsgd.scale_by_path_norm, update_every=2),
    "precondition": functools.partial(
        pathsgd.precondition_by_path_norm, optax.scale_by_lion()
    ),
    "clip": functools.partial(pathsgd.clip_by_path_metric, 1e-3),
    "penalty": functools.partial(pathsgd.add_path_norm_penalty, 1e-3),
}


def _mesh(axis_types):
    return jax.make_mesh((4, 2), ("rows", "columns"), axis_types=axis_types)


def _shardings(params, mesh, specs="both"):
    return jax.tree.map(lambda w: NamedSharding(mesh, SPECS[specs][w.ndim]), params)


def _put(params, axis_types, specs="both"):
    return jax.device_put(params, _shardings(params, _mesh(axis_types), specs))


def _largest_move(compiled):
    """The number of entries of the largest array that devices exchange."""
    shapes = [
        [int(size) for size in sizes.split(",") if size]
        for moved in re.findall(MOVES, compiled.as_text())
        for sizes in re.findall(r"\w\[([\d,]*)\]", moved)
    ]
    return max(map(math.prod, shapes), default=0)


def _compile(optimizer, params):
    state = optimizer.init(params)
    update = jax.jit(lambda grads, params: optimizer.update(grads, state, params))
    return update.lower(params, params).compile()


def _network(kind, params):
    if kind == "layered":
        return pathsgd.layered_network(params)
    inputs = params["Dense_0"]["kernel"].shape[0]
    return pathsgd.trace_network(networks.apply, params, networks.spec(1, inputs))


def _params(kind):
    """Layers of which some are run by a scan if the network is a layered one."""
    widths = (8, 16, 8, 8, 8, 8, 8, 4) if kind == "layered" else (8, 16, 8, 4)
    return networks.dense_tree(widths)


def _equal_shardings(tree, params):
    """Whether each leaf of a tree like ``params`` is sharded as its parameter is."""
    pairs = jax.tree.map(
        lambda x, w: x.sharding.is_equivalent_to(w.sharding, w.ndim), tree, params
    )
    return all(jax.tree.leaves(pairs))


@pytest.mark.parametrize(
    ("axis_types", "p"),
    [(AUTO, 2), (AUTO, jnp.inf), (EXPLICIT, 2)],
    ids=str,
)
@pytest.mark.parametrize("widths", [(64, 1024, 1088, 64), (128,) * 9], ids=str)
def test_no_weights_travel_between_devices(axis_types, widths, p):
    params = networks.dense_tree(widths)
    optimizer = pathsgd.path_sgd(0.1, p=p, momentum=0.9, monitor=True)
    sharded = _put(params, axis_types)
    compiled = _compile(optimizer, sharded)
    assert 0 < _largest_move(compiled) <= max(max(widths), 8 * 128)
    updates, state = compiled(sharded, sharded)
    assert _equal_shardings(updates, sharded)
    alone = _compile(optimizer, params)(params, params)
    chex.assert_trees_all_close(jax.device_get((updates, state)), alone, rtol=2e-5)


@pytest.mark.parametrize("axis_types", [AUTO, EXPLICIT], ids=str)
def test_no_traced_weights_travel_between_devices(axis_types):
    params = networks.dense_tree((64, 256, 512, 64))
    optimizer = pathsgd.path_adam(0.1, _network("traced", params), update_every=2)
    compiled = _compile(optimizer, _put(params, axis_types))
    assert 0 < _largest_move(compiled) <= 8 * 512


def test_the_check_sees_weights_that_travel():
    params = networks.dense_tree((128, 128, 128))
    reverse = optax.stateless(
        lambda updates, _: jax.tree.map(lambda g: jnp.flip(g, 0), updates)
    )
    compiled = _compile(reverse, _put(params, AUTO))
    assert _largest_move(compiled) >= 128 * 128 / 8


@pytest.mark.parametrize("kind", ["layered", "traced"])
@pytest.mark.parametrize("specs", SPECS)
def test_types_of_updates_and_state_on_explicit_axes(kind, specs):
    params = _params(kind)
    sharded = _put(params, EXPLICIT, specs)
    network = _network(kind, params)
    types = [jax.typeof(leaf).sharding for leaf in jax.tree.leaves(sharded)]
    for name, make in OPTIMIZERS.items():
        optimizer = make(network=network)
        with jax.set_mesh(_mesh(EXPLICIT)):  # for Optax's own states
            state = jax.eval_shape(optimizer.init, sharded)
        updates, after = jax.eval_shape(optimizer.update, sharded, state, sharded)
        assert [x.sharding for x in jax.tree.leaves(updates)] == types, name
        assert state == after, name


@pytest.mark.parametrize("kind", ["layered", "traced"])
def test_a_held_scaling_keeps_its_type_where_no_mesh_is_set(kind):
    params = _params(kind)
    sharded = _put(params, EXPLICIT)
    optimizer = OPTIMIZERS["scale"](network=_network(kind, params))
    state = jax.eval_shape(optimizer.init, sharded)
    assert jax.eval_shape(optimizer.update, sharded, state, sharded)[1] == state


@pytest.mark.parametrize("kind", ["layered", "traced"])
def test_updates_on_explicit_axes_are_those_of_one_device(kind):
    params = networks.dense_tree((8, 16, 4))
    network, sharded = _network(kind, params), _put(params, EXPLICIT, "rows")
    optimizer = _three_at_once(network)
    results = [
        jax.jit(optimizer.update)(weights, optimizer.init(weights), weights)
        for weights in (params, sharded)
    ]
    assert _equal_shardings(results[1][0], sharded)
    chex.assert_trees_all_close(*map(jax.device_get, results), rtol=2e-5)


def _three_at_once(network):
    return optax.chain(
        pathsgd.add_path_norm_penalty(1e-3, network),
        pathsgd.clip_by_path_metric(1.0, network),
        pathsgd.scale_by_path_norm(network, update_every=2, monitor=True),
    )


@pytest.mark.skipif(
    importlib.util.find_spec("jax.experimental.shard_alike") is None,
    reason="XLA alone decides, since JAX 0.11.",
)
@pytest.mark.parametrize("kind", ["layered", "traced"])
def test_updates_are_sharded_like_params_on_auto_axes(kind):
    """The biases' factors would be sharded like the rows of the kernels behind them."""
    sharded = _put(networks.dense_tree((8, 16, 4)), AUTO, "rows")
    optimizer = pathsgd.scale_by_path_norm(_network(kind, sharded), update_every=2)
    updates, _ = jax.jit(optimizer.update)(sharded, optimizer.init(sharded), sharded)
    assert _equal_shardings(updates, sharded)


@pytest.mark.parametrize("kind", ["layered", "traced"])
def test_measures_on_explicit_axes(kind):
    params = networks.dense_tree((8, 16, 4), bias=False)
    network, sharded = _network(kind, params), _put(params, EXPLICIT)
    assert network.summary(sharded) == network.summary(params)
    scaling = pathsgd.path_scaling(network, sharded)
    assert _equal_shardings(scaling, sharded)
    want = pathsgd.path_scaling(network, params)
    chex.assert_trees_all_close(jax.device_get(scaling), want, rtol=2e-5)


def test_equivalent_networks_on_explicit_axes():
    params = networks.dense_tree((8, 16, 8, 8, 8, 8, 8, 4))
    network, sharded = _network("layered", params), _put(params, EXPLICIT)
    types = jax.tree.map(jax.typeof, sharded)
    for change in (
        lambda params: pathsgd.balance(network, params),
        lambda params: pathsgd.rescale(network, params, 0, 1, 2.0),
        lambda params: pathsgd.unbalance(network, params, jax.random.key(0), 3),
    ):
        changed = jax.eval_shape(change, sharded)
        assert jax.tree.map(jax.typeof, changed) == types
    for measure in (pathsgd.log_path_norm, pathsgd.group_norm, pathsgd.max_norm):
        norm = jax.eval_shape(functools.partial(measure, network), sharded)
        assert norm.sharding.is_fully_replicated


def test_arrays_are_as_they_are_where_jax_has_no_shard_alike(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax.experimental.shard_alike", None)
    meshes = runpy.run_path(_meshes.__file__)
    x = jnp.ones(3)
    assert meshes["sharded_like"](x, jnp.zeros(3)) is x


# Manual axes.


def _within(function, *arguments, check_vma=True, spec=WHOLE, out=WHOLE):
    """``function`` of what each device has of the arguments."""
    mesh = _mesh(EXPLICIT)
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=spec, out_specs=out, check_vma=check_vma
    )
    return jax.jit(mapped)(*arguments)


def _two_updates(optimizer, varying, params):
    """Of weights, one of which may vary; all are the same, so the mean is one's."""
    state = optimizer.init(params)
    if varying:
        first = lax.pcast(params["Dense_0"]["kernel"], varying, to="varying")
        params = params | {"Dense_0": params["Dense_0"] | {"kernel": first}}
    _, state = optimizer.update(params, state, params)
    results = optimizer.update(params, state, params)
    return lax.pmean(results, varying) if varying else results


@pytest.mark.parametrize("varying", [(), ("rows", "columns")], ids=str)
@pytest.mark.parametrize("kind", ["layered", "traced"])
def test_types_on_manual_axes(kind, varying):
    params = _params(kind)
    network = _network(kind, params)
    for make in OPTIMIZERS.values():
        optimizer = make(network=network)
        update = functools.partial(_two_updates, optimizer, varying)
        jax.eval_shape(functools.partial(_within, update), params)


@pytest.mark.parametrize("kind", ["layered", "traced"])
def test_updates_on_manual_axes_are_those_of_one_device(kind):
    params = networks.dense_tree((8, 16, 4))
    optimizer = _three_at_once(_network(kind, params))
    want = jax.jit(functools.partial(_two_updates, optimizer, ()))(params)
    update = functools.partial(_two_updates, optimizer, ("rows",))
    got = _within(update, params)
    chex.assert_trees_all_close(*map(jax.device_get, (got, want)), rtol=2e-5)


@pytest.mark.parametrize("check_vma", [True, False])
def test_no_network_is_read_off_shards(check_vma):
    """The shards of these kernels chain, but their paths are not the network's."""
    params = networks.dense_tree((8, 8, 8), bias=False)
    spec = {"Dense_0": {"kernel": P(None, "columns")}}
    spec["Dense_1"] = {"kernel": P("columns", None)}
    shardings = jax.tree.map(lambda axes: NamedSharding(_mesh(EXPLICIT), axes), spec)
    sharded = jax.device_put(params, shardings)

    def update(optimizer, params):
        return optimizer.update(params, optimizer.init(params), params)[0]

    for network, message in (
        (None, r"kernel'\] of shape \(8, 4\) may be a device's shard: it varies over"),
        (pathsgd.layered_network(params), "sharded in shard_map outside of it"),
    ):
        within = functools.partial(update, pathsgd.path_sgd(0.1, network))
        options = {"check_vma": check_vma, "spec": (spec,), "out": spec}
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(functools.partial(_within, within, **options), sharded)


def test_a_network_is_read_off_whole_params_on_manual_axes():
    params = networks.dense_tree((8, 8, 8))
    update = functools.partial(_two_updates, pathsgd.path_sgd(0.1), ())
    jax.eval_shape(functools.partial(_within, update), params)


# Functions that say where their arrays are.


def _placed(params, x):
    hidden = jnp.einsum("nd,dh->nh", x, params["a"], out_sharding=P(None, None))
    hidden = jax.sharding.reshard(jax.nn.relu(hidden), P(None, "columns"))
    return jnp.dot(hidden, params["b"], out_sharding=P(None, None))


def _constrained(params, x):
    hidden = jax.nn.relu(x @ params["a"])
    hidden = lax.with_sharding_constraint(hidden, P(None, "columns"))
    return hidden @ params["b"]


@pytest.mark.parametrize(
    ("apply", "axis_types"), [(_placed, EXPLICIT), (_constrained, AUTO)]
)
def test_where_arrays_are_changes_no_paths(apply, axis_types):
    params = {"a": jnp.ones((8, 8)), "b": jnp.ones((8, 4))}
    sharded = _put(params, axis_types)
    with jax.set_mesh(_mesh(axis_types)):
        network = pathsgd.trace_network(apply, sharded, jnp.ones((1, 8)))
        norms = [pathsgd.path_norm(network, weights) for weights in (sharded, params)]
    np.testing.assert_allclose(norms, 16.0, rtol=1e-6)
    np.testing.assert_allclose(pathsgd.path_norm(network, params), 16.0, rtol=1e-6)


@pytest.mark.parametrize("batch", ["rows", None])
def test_functions_of_what_a_device_has_are_refused(batch):
    """A batch of one example cannot be shared out; else the operation has no rule."""

    def partial_sums(x, a, b):
        return lax.psum(jax.nn.relu(x @ a) @ b, "columns")

    specs = (P(batch, None), P(None, "columns"), P("columns", None))
    apply = jax.shard_map(
        partial_sums, mesh=_mesh(AUTO), in_specs=specs, out_specs=P(batch, None)
    )
    params = {"a": jnp.ones((8, 8)), "b": jnp.ones((8, 4))}
    with pytest.raises(ValueError, match="Trace the function without shard_map"):
        pathsgd.trace_network(
            lambda params, x: apply(x, params["a"], params["b"]),
            params,
            jnp.ones((4, 8)),
        )
