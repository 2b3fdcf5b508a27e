"""Weights that are sharded over a mesh stay where they are."""

import math
import re

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import pathsgd_optax as pathsgd
from tests import networks


MOVES = r"= (.*?) (?:all-gather|all-to-all|collective-permute|reduce-scatter)"


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((4, 2), ("rows", "columns"), axis_types=(AxisType.Auto,) * 2)


def _shardings(params, mesh):
    axes = {1: PartitionSpec("columns"), 2: PartitionSpec("rows", "columns")}
    axes[3] = PartitionSpec(None, "rows", "columns")
    return jax.tree.map(lambda w: NamedSharding(mesh, axes[w.ndim]), params)


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


@pytest.mark.parametrize("p", [1, 2, jnp.inf])
@pytest.mark.parametrize("widths", [(64, 1024, 1088, 64), (128,) * 9], ids=str)
def test_no_weights_travel_between_devices(mesh, widths, p):
    params = networks.dense_tree(widths)
    shardings = _shardings(params, mesh)
    optimizer = pathsgd.path_sgd(0.1, p=p, momentum=0.9, monitor=True)
    sharded = jax.device_put(params, shardings)
    compiled = _compile(optimizer, sharded)
    assert 0 < _largest_move(compiled) <= max(max(widths), 8 * 128)
    updates, state = compiled(sharded, sharded)
    assert jax.tree.map(lambda u: u.sharding, updates) == shardings
    alone = _compile(optimizer, params)(params, params)
    chex.assert_trees_all_close((updates, state), alone, rtol=2e-5)


def test_the_check_sees_weights_that_travel(mesh):
    params = networks.dense_tree((128, 128, 128))
    reverse = optax.stateless(
        lambda updates, _: jax.tree.map(lambda g: jnp.flip(g, 0), updates)
    )
    compiled = _compile(reverse, jax.device_put(params, _shardings(params, mesh)))
    assert _largest_move(compiled) >= 128 * 128 / 8
