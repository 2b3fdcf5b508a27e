"""What is read off a parameter tree: the order of its layers, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx

import pathsgd_optax as pathsgd
from tests import networks
from tests.networks import spec


REMEDY = r"layered_network reads fully connected networks.*trace_network"


def _kernels(**shapes):
    return {name: {"kernel": spec(*shape)} for name, shape in shapes.items()}


def _widths(params):
    return pathsgd.layered_network(params).widths


@pytest.mark.parametrize(
    "tree, widths",
    [
        (_kernels(input=(9, 7), hidden=(7, 5), output=(5, 2)), (9, 7, 5, 2)),
        (_kernels(a=(5, 2), b=(7, 5), c=(9, 7)), (9, 7, 5, 2)),
        (_kernels(Dense_0=(4, 4), Dense_1=(4, 4), head=(4, 3)), (4, 4, 4, 3)),
        (_kernels(stem=(9, 4), Dense_0=(4, 4), Dense_1=(4, 3)), (9, 4, 4, 3)),
        (
            {
                "block_1": _kernels(fc1=(5, 8), fc2=(8, 5)),
                "block_0": _kernels(fc1=(3, 5)),
            },
            (3, 5, 8, 5),
        ),
        (
            {f"block_{k}": _kernels(fc1=(4, 8), fc2=(8, 4)) for k in range(12)},
            (4, *(8, 4) * 12),
        ),
        ({"params": _kernels(Dense_0=(3, 4), Dense_1=(4, 2))}, (3, 4, 2)),
        (
            {"params": {"encoder": _kernels(x=(6, 5)), "top": _kernels(y=(5, 4))}},
            (6, 5, 4),
        ),
        ([{"kernel": spec(3, 4)}, {"kernel": spec(4, 2)}], (3, 4, 2)),
        ({"kernel": spec(3, 2), "bias": spec(2)}, (3, 2)),
        ({"Dense_0": {"weird": spec(3, 2), "name": spec(2)}}, (3, 2)),
        (
            {
                "Dense_0": {"kernel": spec(3, 4)},
                "Scan_0": _kernels(Dense_0=(5, 4, 4)),
                "Dense_1": {"kernel": spec(4, 2)},
            },
            (3, 4, 4, 4, 4, 4, 4, 2),
        ),
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


def test_arrays_and_shapes_make_equal_networks():
    params = networks.dense_tree((3, 4, 4, 2))
    shapes = jax.tree.map(lambda leaf: spec(*leaf.shape), params)
    from_arrays, from_shapes = map(pathsgd.layered_network, (params, shapes))
    assert from_arrays == from_shapes
    assert hash(from_arrays) == hash(from_shapes)


def test_linen_modules_are_read():
    model = networks.MLP((5, 4, 2))
    assert _widths(networks.linen_tree(model, 3)) == (3, 5, 4, 2)
    variables = {"params": networks.linen_tree(model, 3)}
    assert _widths(variables) == (3, 5, 4, 2)


@pytest.mark.parametrize("body", [(4,), (6, 4)])
def test_scanned_linen_modules_are_read(body):
    tree = networks.linen_tree(networks.ScanMLP(3, body), 5)
    assert _widths(tree) == (5, 4, *body * 3, 2)


def test_nnx_lists_are_read_in_the_order_of_their_indices():
    widths = tuple(range(20, 7, -1))
    model = nnx.eval_shape(lambda: networks.NnxMLP(widths, nnx.Rngs(0)))
    assert _widths(nnx.state(model, nnx.Param)) == widths
    assert _widths(nnx.to_pure_dict(nnx.state(model, nnx.Param))) == widths


def test_nnx_attributes_are_read():
    model = nnx.eval_shape(lambda: networks.NnxTwoLayers((3, 5, 2), nnx.Rngs(0)))
    assert _widths(nnx.state(model, nnx.Param)) == (3, 5, 2)


# Trees that are refused. Each message names the leaf, its shape and the remedy.

CONVOLUTION = {"Conv_0": {"kernel": spec(3, 3, 1, 8), "bias": spec(8)}}
REFUSED = {
    "rank 4 convolution": (CONVOLUTION, r"\['Conv_0'\]\['kernel'\] \(3, 3, 1, 8\)"),
    "rank 3 convolution with a bias": (
        {"Conv_0": {"kernel": spec(3, 4, 8), "bias": spec(8)}},
        r"\['Conv_0'\]\['bias'\] \(8,\).*\['Conv_0'\]\['kernel'\] \(3, 4, 8\)",
    ),
    "rank 3 convolution without": (
        {"Conv_0": {"kernel": spec(3, 4, 8)}},
        r"\['Conv_0'\]\['kernel'\] \(3, 4, 8\)",
    ),
    "convolution among dense layers": (
        CONVOLUTION | {"Dense_0": {"kernel": spec(8, 2)}},
        r"\['Conv_0'\]\['kernel'\] \(3, 3, 1, 8\)",
    ),
    "embedding": (
        {"Embed_0": {"embedding": spec(50, 8)}, "Dense_0": {"kernel": spec(8, 2)}},
        r"\['Embed_0'\]\['embedding'\] \(50, 8\)",
    ),
    "batch norm": (
        _kernels(Dense_0=(3, 4)) | {"BatchNorm_0": {"scale": spec(4), "bias": spec(4)}},
        r"\['BatchNorm_0'\]\['bias'\] \(4,\).*\['BatchNorm_0'\]\['scale'\] \(4,\)",
    ),
    "a bias of another width": (
        {"Dense_0": {"kernel": spec(3, 4), "bias": spec(3)}},
        r"\['Dense_0'\]\['bias'\] \(3,\).*\['Dense_0'\]\['kernel'\] \(3, 4\)",
    ),
    "two biases": (
        {"Dense_0": {"kernel": spec(3, 4), "bias": spec(4), "b": spec(4)}},
        r"\['Dense_0'\]\['b'\] \(4,\)",
    ),
    "two kernels in a module": (
        {"Dense_0": {"kernel": spec(3, 4), "lora": spec(4, 4)}},
        r"\['Dense_0'\]\['lora'\] \(4, 4\)",
    ),
    "a scalar": ({"temperature": spec()}, r"\['temperature'\] \(\)"),
    "kernels that lie bare in one module": (
        [spec(3, 4), spec(4, 2)],
        r"\[0\] \(3, 4\), \[1\] \(4, 2\)",
    ),
    "a module beside its parent": (
        _kernels(Dense_0=(3, 4)) | {"kernel": spec(4, 2)},
        r"\['kernel'\] (\(4, 2\) )?lies beside other modules",
    ),
    "no leaves": ({}, r"params has no leaves"),
    "no leaves in a module": ({"params": {}}, r"params has no leaves"),
    "None": (None, r"params has no leaves"),
}


@pytest.mark.parametrize("tree, message", REFUSED.values(), ids=REFUSED)
def test_a_tree_that_is_no_dense_network_is_refused(tree, message):
    with pytest.raises(ValueError, match=rf"(?s){message}.*{REMEDY}"):
        pathsgd.layered_network(tree)


NO_ORDER = {
    "widths that do not chain": _kernels(Dense_0=(784, 16), Dense_1=(17, 10)),
    "numbers against the widths": _kernels(Dense_0=(16, 10), Dense_1=(784, 16)),
    "two heads": _kernels(body=(8, 4), head_a=(4, 2), head_b=(4, 3)),
    "two stems": _kernels(left=(8, 4), right=(6, 4), head=(4, 3)),
    "two numbered heads": _kernels(Dense_0=(8, 4), Dense_1=(4, 2), Dense_2=(4, 1)),
}


@pytest.mark.parametrize("tree", NO_ORDER.values(), ids=NO_ORDER)
def test_widths_that_never_chain_are_refused(tree):
    name, module = next(iter(tree.items()))
    shape = str(module["kernel"].shape).replace("(", r"\(").replace(")", r"\)")
    message = rf"No order .*\['{name}'\]\['kernel'\] {shape}.*Number the layers"
    with pytest.raises(ValueError, match=rf"(?s){message}.*{REMEDY}"):
        pathsgd.layered_network(tree)


AMBIGUOUS = {
    "autoencoder": _kernels(encoder=(784, 16), decoder=(16, 784)),
    "square layers": _kernels(first=(4, 4), second=(4, 4)),
    "square among others": _kernels(stem=(3, 4), a=(4, 4), b=(4, 4), head=(4, 2)),
    "nested autoencoder": {
        "encoder": _kernels(Dense_0=(9, 5), Dense_1=(5, 3)),
        "decoder": _kernels(Dense_0=(3, 5), Dense_1=(5, 9)),
    },
}


@pytest.mark.parametrize("tree", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_widths_that_chain_in_two_orders_are_refused(tree):
    message = r"more than one order.*\['kernel'\] \(\d+, \d+\).*Number the layers"
    with pytest.raises(ValueError, match=rf"(?s){message}.*{REMEDY}"):
        pathsgd.layered_network(tree)


def test_a_stack_that_repeats_in_no_way_is_refused():
    tree = {"Scan_0": _kernels(Dense_0=(3, 4, 5))}
    message = r"no way .*\['Scan_0'\]\['Dense_0'\]\['kernel'\] \(3, 4, 5\)"
    with pytest.raises(ValueError, match=rf"(?s){message}.*{REMEDY}"):
        pathsgd.layered_network(tree)


@pytest.mark.parametrize(
    "leaf, dtype",
    [
        (spec(3, 2, dtype=jnp.int32), "int32"),
        (spec(3, 2, dtype=jnp.complex64), "complex64"),
        (spec(3, 2, dtype=jnp.bool_), "bool"),
        (jax.eval_shape(lambda: jax.random.key(0)), r"key<fry>"),
        (3.0, "float"),
        ("text", "str"),
    ],
    ids=str,
)
def test_leaves_that_are_no_floating_arrays_are_refused(leaf, dtype):
    message = rf"\['a'\]\['kernel'\] is not a floating-point array.*{dtype}.*shape"
    remedy = r"variables\['params'\].*nnx\.state\(model, nnx\.Param\)"
    with pytest.raises(ValueError, match=rf"(?s){message}.*{remedy}"):
        pathsgd.layered_network({"a": {"kernel": leaf}})


def test_a_whole_nnx_state_with_its_keys_is_refused():
    model = nnx.eval_shape(lambda: networks.NnxTwoLayers((3, 5, 2), nnx.Rngs(0)))
    message = r"dropout.*not a floating-point array.*nnx\.state\(model, nnx\.Param\)"
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        pathsgd.layered_network(nnx.state(model))


def test_a_linen_network_with_batch_norm_is_refused():
    model = nn.Sequential([nn.Dense(4), nn.BatchNorm(use_running_average=True)])
    tree = networks.linen_tree(model, 3)
    with pytest.raises(ValueError, match=rf"(?s)\['layers_1'\].*\(4,\).*{REMEDY}"):
        pathsgd.layered_network(tree)


def test_a_layer_without_entries_is_refused():
    with pytest.raises(
        ValueError, match=r"\['a'\]\['kernel'\] of shape \(3, 0\) .*Rem"
    ):
        pathsgd.layered_network(_kernels(a=(3, 0)))


@pytest.mark.parametrize(
    "make", [pathsgd.scale_by_path_norm, lambda: pathsgd.path_sgd(0.1)]
)
@pytest.mark.parametrize(
    "tree",
    [
        CONVOLUTION,
        {},
        NO_ORDER["widths that do not chain"],
        AMBIGUOUS["autoencoder"],
        {"a": {"kernel": spec(3, 2, dtype=jnp.int32)}},
    ],
    ids=["convolution", "empty", "no order", "ambiguous", "integers"],
)
def test_transformations_refuse_such_trees_at_init(make, tree):
    tree = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree)
    with pytest.raises(ValueError, match=r"trace_network|trainable parameters only"):
        make().init(tree)


def test_an_embedding_is_told_by_its_own_name_only():
    params = {"embedding_mlp": {"kernel": jnp.ones((3, 5))}}
    assert pathsgd.layered_network(params).widths == (3, 5)


def test_many_names_without_numbers_are_ordered_by_their_widths():
    names = [f"layer_{letter}" for letter in "zyxwvutsrqponmlkjihgfedcba"]
    params = {
        name: {"kernel": jax.ShapeDtypeStruct((k + 1, k + 2), jnp.float32)}
        for k, name in enumerate(names)
    }
    assert pathsgd.layered_network(params).widths == tuple(range(1, 28))
