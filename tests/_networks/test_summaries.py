"""Tables of networks, and shares of their paths."""

import jax
import jax.numpy as jnp
import optax

import pathsgd_optax as pathsgd
from tests import networks


def test_the_summary_tells_each_leaf_its_path_shape_role_and_uses():
    tree = networks.linen_tree(networks.ScanMLP(3, (4,), use_bias=False), 5)
    tree["Dense_1"]["bias"] = jnp.zeros(2)
    assert pathsgd.layered_network(tree, scanned=True).summary().splitlines() == [
        "parameter                             shape      role    uses",
        "['Dense_0']['kernel']                 (5, 4)     weight  1",
        "['Dense_1']['bias']                   (2,)       bias    1",
        "['Dense_1']['kernel']                 (4, 2)     weight  1",
        "['ScanBlock_0']['Dense_0']['kernel']  (3, 4, 4)  weight  1",
    ]


def test_shares_of_ends_are_those_of_any_dtype_and_of_unmasked_parameters():
    def gated(params, x):
        return x @ params["v"] * jax.nn.sigmoid(x @ params["w"])

    params = {"unused": jnp.ones(3), "v": jnp.ones((2, 2)), "w": jnp.ones((2, 2))}
    network = pathsgd.trace_network(gated, params, networks.spec(1, 2), gates=True)
    halves = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    masked = params | {"unused": optax.MaskedNode()}
    expected = network.summary(params)
    assert "50.0%" in expected
    assert network.summary(halves) == network.summary(masked) == expected
