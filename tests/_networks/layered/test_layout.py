"""What names and shapes tell of a layer, and the leaves that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx

import pathsgd_optax as pathsgd
from tests import networks
from tests.networks import kernels, spec


REMEDY = r"layered_network reads dense layers.*trace_network"


def _widths(params, **options):
    return pathsgd.layered_network(params, **options).widths


@pytest.mark.parametrize(
    "tree",
    [
        {f"Dense_{k}": {"kernel": spec(*s)} for k, s in enumerate([(3, 4), (4, 2)])},
        {"linear": {"w": spec(3, 4), "b": spec(4)}, "linear_1": {"w": spec(4, 2)}},
        {"mlp/~/linear_0": {"w": spec(3, 4)}, "mlp/~/linear_1": {"w": spec(4, 2)}},
        {
            "Dense_0/kernel": spec(3, 4),
            "Dense_0/bias": spec(4),
            "out/kernel": spec(4, 2),
        },
        [{"w": spec(3, 4), "b": spec(4)}, {"w": spec(4, 2), "b": spec(2)}],
    ],
    ids=["linen", "haiku", "haiku's MLP", "flattened", "a list"],
)
def test_the_names_of_flax_and_haiku_are_known(tree):
    assert _widths(tree) == (3, 4, 2)


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
    assert _widths(tree, scanned=True) == (5, 4, *body * 3, 2)


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
        kernels(Dense_0=(3, 4)) | {"BatchNorm_0": {"scale": spec(4), "bias": spec(4)}},
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
        kernels(Dense_0=(3, 4)) | {"kernel": spec(4, 2)},
        r"\['kernel'\] (\(4, 2\) )?lies beside other modules",
    ),
    "a weight that may be transposed": (
        {"Linear_0": {"weight": spec(4, 4), "bias": spec(4)}},
        r"\['Linear_0'\]\['weight'\] \(4, 4\).*\(fan_out, fan_in\)",
    ),
    "a weight in a list of dataclasses": (
        [networks.OutIn(spec(4, 4), spec(4)), networks.OutIn(spec(4, 4), spec(4))],
        r"\[0\]\.weight \(4, 4\).*\(fan_out, fan_in\)",
    ),
    "pairs of a matrix and a bias": (
        [(spec(4, 4), spec(4)), (spec(4, 4), spec(4))],
        r"\[0\]\[0\] \(4, 4\), \[0\]\[1\] \(4,\)",
    ),
    "matrices with numbers": (
        {"w1": spec(3, 4), "w2": spec(4, 2)},
        r"\['w1'\] \(3, 4\), \['w2'\] \(4, 2\)",
    ),
    "a matrix of another name": ({"a": {"W": spec(3, 2)}}, r"\['a'\]\['W'\] \(3, 2\)"),
    "a vector that is no bias": (
        {"a": {"kernel": spec(3, 2), "scale": spec(2)}},
        r"\['a'\]\['scale'\] \(2,\)",
    ),
    "a bias of another library": (
        {"a": {"kernel": spec(3, 2), "b": spec(2)}},
        r"\['a'\]\['b'\] \(2,\)",
    ),
    "an embedding of haiku": (
        {"embed": {"embeddings": spec(50, 8)}, "linear": {"w": spec(8, 2)}},
        r"\['embed'\]\['embeddings'\] \(50, 8\)",
    ),
    "no leaves": ({}, r"params has no leaves"),
    "no leaves in a module": ({"params": {}}, r"params has no leaves"),
    "None": (None, r"params has no leaves"),
}


@pytest.mark.parametrize("tree, message", REFUSED.values(), ids=REFUSED)
def test_a_tree_that_is_no_dense_network_is_refused(tree, message):
    with pytest.raises(ValueError, match=rf"(?s){message}.*{REMEDY}"):
        pathsgd.layered_network(tree)


STACKED = {
    "nn.scan or nn.vmap": kernels(Dense_0=(3, 4, 4)),
    "with biases": {"Dense_0": {"kernel": spec(3, 4, 4), "bias": spec(3, 4)}},
    "of one layer": kernels(Dense_0=(5, 4), Dense_1=(1, 4, 4), Dense_2=(4, 2)),
    "haiku": {"linear": {"w": spec(3, 4, 4)}},
}


@pytest.mark.parametrize("tree", STACKED.values(), ids=STACKED)
def test_stacked_leaves_are_layers_if_that_is_said(tree):
    message = (
        r"\['\w+'\]\['\w+'\] \(\d, 4, 4\) has a leading axis: .*nn.scan.*nn.vmap.*"
        r"path_sgd\(0.1, layered_network\(params, scanned=True\)\).*trace_network"
    )
    with pytest.raises(ValueError, match=message):
        pathsgd.layered_network(tree)
    params = networks.random_like(tree)
    with pytest.raises(ValueError, match=message):
        pathsgd.path_sgd(0.1).init(params)
    network = pathsgd.layered_network(params, scanned=True)
    pathsgd.path_sgd(0.1, network).init(params)


def test_a_stack_that_repeats_in_no_way_is_refused():
    tree = {"Scan_0": kernels(Dense_0=(3, 4, 5))}
    message = r"no way .*\['Scan_0'\]\['Dense_0'\]\['kernel'\] \(3, 4, 5\)"
    with pytest.raises(ValueError, match=rf"(?s){message}.*{REMEDY}"):
        pathsgd.layered_network(tree, scanned=True)


def test_hundreds_of_leaves_are_not_printed():
    names = [f"layer_{a}{b}" for a in "abcdefghijklmnopqrst" for b in "abcdefghijklmno"]
    for shapes in ((2, 2), (2, 3)):
        with pytest.raises(ValueError, match=r"and 294 more") as refusal:
            pathsgd.layered_network(kernels(**dict.fromkeys(names, shapes)))
        assert len(str(refusal.value)) < 700
    with pytest.raises(ValueError, match=r"and 294 more"):
        pathsgd.layered_network([spec(2, 2)] * 300)


@pytest.mark.parametrize(
    "leaf, dtype",
    [
        (spec(3, 2, dtype=jnp.int32), "int32"),
        (spec(3, 2, dtype=jnp.complex64), "complex64"),
        (spec(3, 2, dtype=jnp.bool_), "bool"),
        (jax.eval_shape(lambda: jax.random.key(0)), r"key<fry>"),
        (3.0, r"3\.0"),
        ("text", "'text'"),
        (nn.Dense(2), "a Dense"),
    ],
    ids=str,
)
def test_leaves_that_are_no_floating_arrays_are_refused(leaf, dtype):
    message = rf"\['a'\]\['kernel'\] is not a floating-point array.*{dtype}"
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
        pathsgd.layered_network(kernels(a=(3, 0)))


@pytest.mark.parametrize(
    "make", [pathsgd.scale_by_path_norm, lambda: pathsgd.path_sgd(0.1)]
)
@pytest.mark.parametrize(
    "tree",
    [
        CONVOLUTION,
        {},
        kernels(Dense_0=(784, 16), Dense_1=(17, 10)),
        kernels(encoder=(784, 16), decoder=(16, 784)),
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
