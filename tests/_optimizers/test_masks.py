"""Masks: which are functions, which are trees, and which are neither."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict

import pathsgd_optax as pathsgd
from tests import networks
from tests.optimizers import ALIASES


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Net:
    """A module that can be called, as Equinox has them."""

    body: Any
    head: Any

    def __call__(self, x):
        return jax.nn.relu(x @ self.body) @ self.head


PARAMS = Net(*networks.random_like([np.ones((3, 5)), np.ones((5, 2))], seed=0))
GRADIENTS = jax.tree.map(lambda w: jnp.asarray(1 - w), PARAMS)
NETWORK = pathsgd.trace_network(lambda net, x: net(x), PARAMS, jnp.ones((1, 3)))
SCALED = Net(True, False)

MASKS = {
    "module": SCALED,
    "numpy": Net(np.bool_(True), np.bool_(False)),
    "jax": Net(jnp.array(True), jnp.array(False)),
    "function": lambda params: Net(*(x.shape[1] > 2 for x in jax.tree.leaves(params))),
    "method": Net(lambda params: SCALED, lambda params: SCALED).body,
}


def _update(transformation):
    state = transformation.init(PARAMS)
    return jax.jit(transformation.update)(GRADIENTS, state, PARAMS)[0]


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_mask_is_a_function_or_the_tree_of_its_leaves(mask):
    updates = _update(pathsgd.scale_by_path_norm(NETWORK, mask=mask))
    gamma = pathsgd.path_scaling(NETWORK, PARAMS)
    expected = Net(GRADIENTS.body / gamma.body, GRADIENTS.head)
    chex.assert_trees_all_close(updates, expected, rtol=1e-5)


@pytest.mark.optax
@pytest.mark.parametrize("make", ALIASES.values(), ids=ALIASES)
def test_every_alias_gives_the_fallback_what_a_callable_mask_leaves_out(make):
    updates = _update(make(0.1, NETWORK, mask=SCALED, fallback=optax.sgd(0.5)))
    chex.assert_trees_all_close(updates.head, -0.5 * GRADIENTS.head)
    plain = _update(make(0.1, NETWORK))
    chex.assert_trees_all_close(updates.body, plain.body, rtol=1e-6)


@pytest.mark.parametrize("leaf", ["path", 1, 0.0, jnp.ones(2, bool)], ids=str)
@pytest.mark.parametrize("made", [lambda mask: mask, lambda mask: lambda _: mask])
def test_a_mask_of_anything_but_booleans_is_refused(leaf, made):
    mask = made(Net(True, leaf))
    with pytest.raises(ValueError, match=r"mask must be a tree of booleans.*but has"):
        _update(pathsgd.scale_by_path_norm(NETWORK, mask=mask))


@pytest.mark.parametrize("mask", [True, False])
def test_one_boolean_for_all_parameters_is_refused(mask):
    with pytest.raises(ValueError, match=r"mask is .*for all parameters\. Give a tree"):
        _update(pathsgd.scale_by_path_norm(NETWORK, mask=mask))


@pytest.mark.optax
@pytest.mark.parametrize("make", ALIASES.values(), ids=ALIASES)
def test_a_function_that_is_taken_for_a_schedule_is_refused(make):
    def mask(params):
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    inject = optax.inject_hyperparams(make, static_args="p")
    message = r'mask is False for all.*static_args=\("mask", \.\.\.\)'
    with pytest.raises(ValueError, match=message):
        inject(0.1, NETWORK, mask=mask).init(PARAMS)
    known = optax.inject_hyperparams(make, static_args=("p", "mask"))
    chex.assert_trees_all_close(
        _update(known(0.1, NETWORK, mask=mask)), _update(make(0.1, NETWORK)), rtol=1e-5
    )


LAYERS = {name: {"kernel": jnp.ones((2, 2))} for name in ("layer_0", "layer_1")}
OTHER_MASKS = {
    "missing": ({"layer_0": True}, r"missing \['layer_1'\]\['kernel'\]\."),
    "unknown": ({**LAYERS, "layer_2": True}, r"mask is .*: unknown \['layer_2'\]\."),
    "renamed": (
        {"layer_0": True, "head": True},
        r"missing \['layer_1'\]\['kernel'\]; unknown \['head'\]\.",
    ),
    "deeper": (
        {"layer_0": True, "layer_1": {"kernel": {"w": True}}},
        r"missing \['layer_1'\]\['kernel'\]; unknown .*\['w'\]\.",
    ),
    "empty": ({}, r"missing \['layer_0'\]\['kernel'\] and 1 more\."),
    "other containers": (FrozenDict(LAYERS), "the same leaves in other containers"),
}


@pytest.mark.parametrize("mask, message", OTHER_MASKS.values(), ids=OTHER_MASKS)
def test_a_mask_of_another_tree_is_refused_in_one_line(mask, message):
    mask = jax.tree.map(lambda _: True, mask)
    with pytest.raises(ValueError, match=message) as error:
        pathsgd.path_sgd(0.1, mask=mask).init(LAYERS)
    assert "\n" not in str(error.value)
