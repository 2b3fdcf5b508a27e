"""The comparison of a function with the plain stack that its tree was read as."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn, nnx

import pathsgd_optax as pathsgd
from tests import networks
from tests.networks import dense_tree, kernels, spec


WIDTHS = (5, 5, 5, 5)


def _dense(module, x):
    return x @ module["kernel"] + module["bias"]


def _stack(order=(0, 1, 2), between=jax.nn.relu, after=lambda x: x):
    """A function that applies Dense_0, Dense_1 and Dense_2 in some way."""

    def apply_fn(params, x):
        for k, number in enumerate(order):
            x = _dense(params[f"Dense_{number}"], between(x) if k else x)
        return after(x)

    return apply_fn


def _residual(params, x):
    h = _dense(params["Dense_0"], x)
    h = h + _dense(params["Dense_1"], jax.nn.relu(h))
    return _dense(params["Dense_2"], jax.nn.relu(h))


def _transposed(params, x):
    turned = {
        name: module | {"kernel": module["kernel"].T} for name, module in params.items()
    }
    return _stack()(turned, x)


def _normalised(h):
    return jax.nn.relu((h - h.mean(-1, keepdims=True)) / h.std(-1, keepdims=True))


def _attention(params, x):
    queries, keys, values = (_dense(params[f"Dense_{k}"], x) for k in range(3))
    return jax.nn.softmax(queries @ keys.T) @ values


OTHERS = {
    "reversed": _stack(order=(2, 1, 0)),
    "used twice": _stack(order=(0, 1, 1, 2)),
    "not used": _stack(order=(0, 2)),
    "transposed": _transposed,
    "a residual connection": _residual,
    "LayerNorm": _stack(between=_normalised),
    "attention": _attention,
    "no activation": _stack(between=lambda h: h),
    "a scale": _stack(between=lambda h: 0.9 * jax.nn.relu(h)),
    "an offset": _stack(between=lambda h: jax.nn.relu(h + 0.1)),
    "a softmax at the end": _stack(after=jax.nn.softmax),
    "a relu at the end": _stack(after=jax.nn.relu),
    "nan": _stack(after=lambda y: y * jnp.nan),
    **{
        name: _stack(between=getattr(jax.nn, name))
        for name in ("tanh", "gelu", "silu", "elu", "sigmoid", "softplus", "relu6")
    },
}


@pytest.mark.parametrize("start", ["random", "zeros"])
@pytest.mark.parametrize("apply_fn", OTHERS.values(), ids=OTHERS)
def test_what_is_no_plain_stack_is_refused(apply_fn, start):
    params, x = dense_tree(WIDTHS), jnp.ones((3, 5))
    if start == "zeros":
        params, x = jax.tree.map(jnp.zeros_like, (params, x))
    pathsgd.layered_network(params)
    message = (
        r"apply_fn\(params, x\) is not the plain ReLU stack .*"
        r"differ by up to \S+, of at most \S+, .*trace_network\(apply_fn, params, x\)"
    )
    with jax.numpy_rank_promotion("allow"), pytest.raises(ValueError, match=message):
        pathsgd.layered_network(params, apply_fn=apply_fn, x=x)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("widths", [(5, 3), WIDTHS, (3, *(16,) * 60, 2)], ids=len)
def test_a_plain_stack_is_found_to_be_one(widths, dtype):
    deep = len(widths) > 4
    params = dense_tree(widths, dtype=jnp.float32 if deep else dtype)
    x = jnp.zeros((2, widths[0]), jax.tree.leaves(params)[0].dtype)
    network = pathsgd.layered_network(params, apply_fn=networks.apply, x=x)
    assert network == pathsgd.layered_network(params)


def _flattened(params, x):
    return networks.apply(params, x.reshape(len(x), -1))


def _bytes(params, x):
    return networks.apply(params, x.astype(jnp.float32))


@pytest.mark.parametrize(
    "apply_fn, x",
    [
        (_flattened, spec(2, 2, 3)),
        (networks.apply, spec(7, 6)),
        (
            lambda params, x: jax.vmap(networks.apply, (None, 0))(params, x),
            spec(3, 2, 6),
        ),
        (_bytes, spec(4, 6, dtype=jnp.uint8)),
        (lambda params, x: networks.apply(params, x)[:, 0], spec(4, 6)),
    ],
    ids=["images", "a batch", "two batch axes", "bytes", "one output"],
)
def test_examples_have_any_shape(apply_fn, x):
    params = dense_tree((6, 4, 1))
    network = pathsgd.layered_network(params, apply_fn=apply_fn, x=x)
    assert network.widths == (6, 4, 1)


def test_modules_are_checked():
    linen, x = networks.MLP((4, 2)), spec(2, 3)
    params = networks.linen_tree(linen, 3)
    pathsgd.layered_network(
        params, apply_fn=lambda params, x: linen.apply({"params": params}, x), x=x
    )
    scan = networks.ScanMLP(3, (4,))
    params = networks.linen_tree(scan, 3)
    pathsgd.layered_network(
        params,
        scanned=True,
        apply_fn=lambda params, x: scan.apply({"params": params}, x),
        x=x,
    )
    graph, params = nnx.split(networks.NnxMLP((3, 4, 2), nnx.Rngs(0)))
    pathsgd.layered_network(
        params, apply_fn=lambda params, x: nnx.merge(graph, params)(x), x=x
    )


def test_an_ensemble_is_no_scan():
    class Ensemble(nn.Module):
        @nn.compact
        def __call__(self, x):
            dense = nn.vmap(
                nn.Dense,
                in_axes=None,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                axis_size=3,
            )
            return dense(4)(x).mean(0)

    params, x = networks.linen_tree(Ensemble(), 4), spec(2, 4)
    with pytest.raises(ValueError, match=r"not the plain ReLU stack"):
        pathsgd.layered_network(
            params,
            scanned=True,
            apply_fn=lambda params, x: Ensemble().apply({"params": params}, x),
            x=x,
        )


@pytest.mark.parametrize(
    "apply_fn, message",
    [
        (lambda params: params, "fails on .*TypeError: .*takes 1 positional argument"),
        (nn.Dense(2).apply, r"fails on .*ScopeCollectionNotFound.*module\.apply\(\{"),
        (
            lambda params, x: x @ jnp.ones((7, 2)),
            r"x of shape \(2, 3\), with TypeError",
        ),
        (lambda params, x: 1 / 0, "with ZeroDivisionError: division by zero"),
        (lambda params, x: (x, x), "must return an array, .*but returns a tuple"),
        (lambda params, x: None, "must return an array, .*but returns None"),
        ("apply", "must be a function of params and inputs, but got 'apply'"),
    ],
    ids=["signature", "linen", "shapes", "itself", "tuple", "None", "str"],
)
def test_a_function_that_fails_is_refused_in_one_line(apply_fn, message):
    params = networks.dense_tree((3, 4, 2))
    with pytest.raises(ValueError, match=message) as error:
        pathsgd.layered_network(params, apply_fn=apply_fn, x=jnp.ones((2, 3)))
    assert "\n" not in str(error.value)


def test_an_example_is_compared_under_jit():
    @jax.jit
    def measure(params):
        network = pathsgd.layered_network(params, apply_fn=networks.apply, x=spec(2, 3))
        return pathsgd.path_norm(network, params)

    assert measure(dense_tree((3, 4, 2))) > 0


@pytest.mark.parametrize(
    "apply_fn, x, message",
    [
        (networks.apply, None, r"apply_fn and x go together"),
        (None, spec(2, 3), r"apply_fn and x go together"),
        (lambda _, x: x, spec(2, 3), r"outputs of shape \(2, 3\).*3 units to 2"),
        (lambda _, x: x, spec(2, 5), r"inputs of shape \(2, 5\).*3 units to 2"),
    ],
    ids=["no example", "no function", "outputs", "inputs"],
)
def test_examples_of_other_widths_are_refused(apply_fn, x, message):
    with pytest.raises(ValueError, match=message):
        pathsgd.layered_network(kernels(Dense_0=(3, 2)), apply_fn=apply_fn, x=x)
