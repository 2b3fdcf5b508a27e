"""Networks as values: immutable, hashable, and clear about their parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import pathsgd_optax as pathsgd
from tests import networks


def test_parameters_are_in_the_order_of_the_leaves():
    params = networks.dense_tree(tuple(range(2, 15)))
    parameters = pathsgd.layered_network(params).parameters
    leaves = jax.tree_util.tree_leaves_with_path(params)
    assert [(p.path, p.shape) for p in parameters] == [
        (jax.tree_util.keystr(path), leaf.shape) for path, leaf in leaves
    ]
    assert all(isinstance(entry, pathsgd.Parameter) for entry in parameters)


def test_the_order_is_that_in_which_paths_meet_the_parameters():
    layered = pathsgd.layered_network(networks.dense_tree(tuple(range(2, 15))))
    assert [p.path for p in sorted(layered.parameters, key=lambda p: p.order)] == [
        f"['Dense_{k}']['{kind}']" for k in range(12) for kind in ("kernel", "bias")
    ]
    params = {name: jnp.ones((2, 2)) for name in "abcd"}
    traced = pathsgd.trace_network(
        lambda params, x: x @ params["d"] @ (params["b"] + params["c"]) @ params["b"],
        params,
        networks.spec(1, 2),
    )
    orders = {p.path[2]: p.order for p in traced.parameters}
    assert orders["d"] < min(orders["b"], orders["c"]) < orders["a"]


def test_networks_of_equal_trees_are_equal_and_of_others_not():
    trees = [networks.dense_tree((3, 4, 2), seed=seed) for seed in range(2)]
    first, second = map(pathsgd.layered_network, trees)
    other = pathsgd.layered_network(networks.dense_tree((3, 5, 2)))
    assert first == second and hash(first) == hash(second)
    assert first != other
    assert len({first, second, other}) == 2


def test_networks_are_immutable():
    network = pathsgd.layered_network(networks.dense_tree((3, 4, 2)))
    assert isinstance(network, pathsgd.LayeredNetwork)
    for field in dataclasses.fields(network):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(network, field.name, None)


def test_networks_hold_no_arrays():
    network = pathsgd.layered_network(networks.dense_tree((3, 4, 2)))
    values = [getattr(network, field.name) for field in dataclasses.fields(network)]
    assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(values))


def test_a_network_is_a_static_argument_that_compiles_once():
    traces = []

    @jax.jit(static_argnames="network")
    def measure(network, params):
        traces.append(network)
        return pathsgd.log_path_norm(network, params)

    for seed in range(3):
        params = networks.dense_tree((3, 4, 2), seed=seed)
        measure(pathsgd.layered_network(params), params)
    assert len(traces) == 1


def test_a_network_can_be_made_under_jit():
    params = networks.dense_tree((3, 4, 2))
    network = pathsgd.layered_network(params)

    @jax.jit
    def measure(params):
        assert pathsgd.layered_network(params) == network
        return pathsgd.path_norm(pathsgd.layered_network(params), params)

    phi = float(pathsgd.path_norm(network, params))
    assert measure(params) == pytest.approx(phi, rel=1e-6)
