"""The order of layers that names and widths tell, and orders that they don't."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import pathsgd_optax as pathsgd
from tests import networks
from tests.networks import kernels, spec


REMEDY = r"Number the layers' names.*layer_0.*trace_network\(apply_fn, params, x\)"


def _widths(params):
    return pathsgd.layered_network(params).widths


@pytest.mark.parametrize(
    "tree, widths",
    [
        (kernels(input=(9, 7), hidden=(7, 5), output=(5, 2)), (9, 7, 5, 2)),
        (kernels(a=(5, 2), b=(7, 5), c=(9, 7)), (9, 7, 5, 2)),
        (kernels(stem=(9, 5), Dense_0=(5, 5), Dense_1=(5, 3)), (9, 5, 5, 3)),
        (
            {
                "block_1": kernels(fc1=(5, 8), fc2=(8, 5)),
                "block_0": kernels(fc1=(3, 5)),
            },
            (3, 5, 8, 5),
        ),
        (
            {f"block_{k}": kernels(fc1=(4, 8), fc2=(8, 4)) for k in range(12)},
            (4, *(8, 4) * 12),
        ),
        ({"params": kernels(Dense_0=(3, 4), Dense_1=(4, 2))}, (3, 4, 2)),
        (
            {"params": {"encoder": kernels(x=(6, 5)), "top": kernels(y=(5, 4))}},
            (6, 5, 4),
        ),
        ([{"kernel": spec(3, 4)}, {"kernel": spec(4, 2)}], (3, 4, 2)),
        ({"kernel": spec(3, 2), "bias": spec(2)}, (3, 2)),
    ],
)
def test_the_order_agrees_with_numbers_and_widths(tree, widths):
    assert _widths(tree) == widths


def test_dense_10_comes_after_dense_9():
    widths = tuple(range(20, 8, -1))
    assert _widths(networks.dense_tree(widths)) == widths


def test_numbers_order_layers_of_equal_widths():
    params = networks.dense_tree((2,) * 12, bias=False)
    network = pathsgd.layered_network(params)
    by_number, by_letters = [f"Dense_{k}" for k in range(11)], sorted(params)
    product, by_letters = (
        np.linalg.multi_dot([np.abs(params[name]["kernel"]) for name in names]).sum()
        for names in (by_number, by_letters)
    )
    phi = pathsgd.path_norm(network, params, p=1)
    np.testing.assert_allclose(phi, product, rtol=1e-5)
    assert abs(by_letters / product - 1) > 1e-3


@pytest.mark.parametrize("names", ["linear", "mlp/~/linear", "net/mlp"])
def test_haiku_leaves_out_the_first_number(names):
    shapes = [(2, 2)] * 11 + [(2, 3)]
    ends = ["", *(f"_{k}" for k in range(1, 12))]
    tree = {
        names + end: {"w": spec(*shape)}
        for end, shape in zip(ends, shapes, strict=True)
    }
    params = networks.random_like(tree)
    product = np.linalg.multi_dot([np.abs(params[names + end]["w"]) for end in ends])
    phi = pathsgd.path_norm(pathsgd.layered_network(params), params, p=1)
    np.testing.assert_allclose(phi, product.sum(), rtol=1e-5)


def test_nnx_lists_are_read_in_the_order_of_their_indices():
    widths = tuple(range(20, 7, -1))
    model = nnx.eval_shape(lambda: networks.NnxMLP(widths, nnx.Rngs(0)))
    assert _widths(nnx.state(model, nnx.Param)) == widths
    assert _widths(nnx.to_pure_dict(nnx.state(model, nnx.Param))) == widths


def test_nnx_attributes_are_read():
    model = nnx.eval_shape(lambda: networks.NnxTwoLayers((3, 5, 2), nnx.Rngs(0)))
    assert _widths(nnx.state(model, nnx.Param)) == (3, 5, 2)


NO_ORDER = {
    "widths that do not chain": kernels(Dense_0=(784, 16), Dense_1=(17, 10)),
    "numbers against the widths": kernels(Dense_0=(16, 10), Dense_1=(784, 16)),
    "two heads": kernels(body=(8, 4), head_a=(4, 2), head_b=(4, 3)),
    "two stems": kernels(left=(8, 4), right=(6, 4), head=(4, 3)),
    "two numbered heads": kernels(Dense_0=(8, 4), Dense_1=(4, 2), Dense_2=(4, 1)),
}


@pytest.mark.parametrize("tree", NO_ORDER.values(), ids=NO_ORDER)
def test_widths_that_never_chain_are_refused(tree):
    name, module = next(iter(tree.items()))
    shape = str(module["kernel"].shape).replace("(", r"\(").replace(")", r"\)")
    message = rf"No order .*\['{name}'\]\['kernel'\] {shape}"
    with pytest.raises(ValueError, match=rf"(?s){message}.*{REMEDY}"):
        pathsgd.layered_network(tree)


AMBIGUOUS = {
    "autoencoder": kernels(encoder=(784, 16), decoder=(16, 784)),
    "square layers": kernels(first=(4, 4), second=(4, 4)),
    "square among others": kernels(stem=(3, 4), a=(4, 4), b=(4, 4), head=(4, 2)),
    "nested autoencoder": {
        "encoder": kernels(Dense_0=(9, 5), Dense_1=(5, 3)),
        "decoder": kernels(Dense_0=(3, 5), Dense_1=(5, 9)),
    },
}


@pytest.mark.parametrize("tree", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_widths_that_chain_in_two_orders_are_refused(tree):
    message = r"more than one order.*\['kernel'\] \(\d+, \d+\)"
    with pytest.raises(ValueError, match=rf"(?s){message}.*{REMEDY}"):
        pathsgd.layered_network(tree)


def test_many_names_without_numbers_are_ordered_by_their_widths():
    names = [f"layer_{letter}" for letter in "zyxwvutsrqponmlkjihgfedcba"]
    params = {
        name: {"kernel": jax.ShapeDtypeStruct((k + 1, k + 2), jnp.float32)}
        for k, name in enumerate(names)
    }
    assert pathsgd.layered_network(params).widths == tuple(range(1, 28))
