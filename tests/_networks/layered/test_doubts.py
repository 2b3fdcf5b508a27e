"""Trees that fit another network as well are refused, unless an example decides."""

import jax
import numpy as np
import pytest
from flax import linen as nn

import pathsgd_optax as pathsgd
from tests import networks
from tests.networks import kernels, spec


SURE = r"layered_network\(params, apply_fn=apply_fn, x=x\).*trace_network"


class Nested(nn.Module):
    """A network in one expression, whose last layer is made first: Dense_0."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        """Applies the layers."""
        inner, outer = self.widths
        return nn.Dense(outer)(nn.relu(nn.Dense(inner)(x)))


def _haiku(*shapes, bias=False):
    tree = {f"linear_{k}": {"w": spec(*shape)} for k, shape in enumerate(shapes)}
    for module in tree.values():
        module |= {"b": spec(module["w"].shape[1])} if bias else {}
    return tree


BACKWARDS = {
    "linen": kernels(Dense_0=(4, 2), Dense_1=(2, 4)),
    "one input, one output": kernels(Dense_0=(1, 8), Dense_1=(8, 1)),
    "three layers": kernels(Dense_0=(4, 2), Dense_1=(2, 4), Dense_2=(4, 2)),
    "inside": {"params": kernels(MyDense_0=(4, 2), MyDense_1=(2, 4))},
    "modules": {
        "Net_0": kernels(Dense_0=(4, 3), Dense_1=(3, 2)),
        "Net_1": kernels(Dense_0=(2, 3), Dense_1=(3, 4)),
    },
    "haiku": {
        "linear": {"w": spec(4, 2), "b": spec(2)},
        "linear_1": {"w": spec(2, 4), "b": spec(4)},
    },
}


@pytest.mark.parametrize("tree", BACKWARDS.values(), ids=BACKWARDS)
def test_automatic_numbers_are_no_order_where_the_reverse_fits(tree):
    message = rf"order of the numbers and in its reverse: .*\(\d, \d\).*{SURE}"
    with pytest.raises(ValueError, match=message):
        pathsgd.layered_network(tree)


FORWARDS = {
    "names of one's own": kernels(layer_0=(4, 2), layer_1=(2, 4)),
    "a list": [{"kernel": spec(4, 2)}, {"kernel": spec(2, 4)}],
    "a mirror": kernels(Dense_0=(4, 2), Dense_1=(2, 2), Dense_2=(2, 4)),
    "square": kernels(Dense_0=(4, 4), Dense_1=(4, 4)),
    "neighbours tell": {
        "Net_0": kernels(Dense_0=(3, 4)),
        "Net_1": kernels(Dense_0=(4, 2), Dense_1=(2, 4)),
    },
}


@pytest.mark.parametrize("tree", FORWARDS.values(), ids=FORWARDS)
def test_other_numbers_are_the_order(tree):
    shapes = [leaf.shape for leaf in jax.tree.leaves(tree)]
    widths = pathsgd.layered_network(tree).widths
    assert widths == (shapes[0][0], *(shape[1] for shape in shapes))


TRANSPOSABLE = {
    "square": _haiku((4, 4), (4, 4)),
    "square, with biases": _haiku((4, 4), (4, 4), (4, 4), bias=True),
    "no bias tells": _haiku((4, 2), (2, 4)),
    "a list": [{"w": spec(4, 2)}, {"w": spec(2, 4)}],
}


@pytest.mark.parametrize("tree", TRANSPOSABLE.values(), ids=TRANSPOSABLE)
def test_w_may_be_transposed_where_the_transposes_fit(tree):
    message = rf"as w @ x, and as x @ w.*\(\d, \d\).*Call them kernel.*{SURE}"
    with pytest.raises(ValueError, match=message):
        pathsgd.layered_network(tree)


def test_a_bias_or_a_width_tells_what_w_is():
    trees = [
        _haiku((4, 4), (4, 2)),
        [{"w": spec(4, 2), "b": spec(2)}, {"w": spec(2, 4), "b": spec(4)}],
        _haiku((1, 1), (1, 1), bias=True),
        _haiku((4, 4)),
    ]
    assert [pathsgd.layered_network(tree).widths for tree in trees] == [
        (4, 4, 2),
        (4, 2, 4),
        (1, 1, 1),
        (4, 4),
    ]


BRANCHES = {
    "two heads": kernels(trunk=(8, 4), actor=(4, 4), critic=(4, 1)),
    "two inputs": kernels(state=(8, 4), action=(4, 4), head=(4, 1)),
    "towers": {
        "actor": kernels(Dense_0=(8, 6), Dense_1=(6, 8)),
        "critic": kernels(Dense_0=(8, 5), Dense_1=(5, 1)),
    },
    "numbered towers": kernels(
        actor_0=(8, 6), actor_1=(6, 8), critic_0=(8, 5), critic_1=(5, 1)
    ),
    "a recurrent cell": {"cell": kernels(i=(3, 4), h=(4, 4)), "out": kernels(x=(4, 2))},
    "modules without numbers": kernels(stem=(3, 4), hidden=(4, 4), head=(4, 2)),
}


@pytest.mark.parametrize("tree", BRANCHES.values(), ids=BRANCHES)
def test_branches_that_chain_are_refused(tree):
    message = rf"Nothing but the widths tells .*side by side.*\(\d, \d\).*{SURE}"
    with pytest.raises(ValueError, match=message):
        pathsgd.layered_network(tree)


def test_stacks_between_stem_and_head_are_read():
    tree = {
        "stem": {"kernel": spec(3, 4)},
        "blocks": [{"kernel": spec(4, 4)}, {"kernel": spec(4, 4)}],
        "head": {"kernel": spec(4, 2)},
    }
    assert pathsgd.layered_network(tree).widths == (3, 4, 4, 4, 2)
    tree = networks.linen_tree(networks.ScanMLP(3, (6, 4)), 5)
    widths = pathsgd.layered_network(tree, scanned=True).widths
    assert widths == (5, 4, *(6, 4) * 3, 2)


@pytest.mark.parametrize(
    "model, is_stack",
    [(Nested((2, 4)), False), (networks.MLP((2, 4)), True)],
    ids=["nested", "stack"],
)
def test_an_example_decides(model, is_stack):
    params = networks.linen_tree(model, 4)
    x = spec(3, 4)

    def apply_fn(params, x):
        return model.apply({"params": params}, x)

    def read():
        return pathsgd.layered_network(params, apply_fn=apply_fn, x=x)

    with pytest.raises(ValueError, match=r"in its reverse"):
        pathsgd.layered_network(params)
    if is_stack:
        traced = pathsgd.trace_network(apply_fn, params, x)
        phi = pathsgd.path_norm(traced, params)
        np.testing.assert_allclose(pathsgd.path_norm(read(), params), phi, rtol=1e-5)
    else:
        with pytest.raises(ValueError, match=r"not the plain ReLU stack"):
            read()
