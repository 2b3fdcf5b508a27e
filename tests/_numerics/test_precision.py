"""Low precision, ranges, and what is not finite."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pathsgd_optax as pathsgd
from tests import networks, optimizers


pytestmark = pytest.mark.optax

ALIASES = {
    **optimizers.ALIASES,
    "path_sgd, momentum": functools.partial(pathsgd.path_sgd, momentum=0.9),
    "path_sgd, nesterov": functools.partial(
        pathsgd.path_sgd, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "path_sgd, mask": functools.partial(
        pathsgd.path_sgd, mask={"a": True, "b": False}, fallback=optax.adam(0.1)
    ),
}
TRANSFORMATIONS = {
    **optimizers.TRANSFORMATIONS,
    **{name: functools.partial(make, 0.01) for name, make in ALIASES.items()},
}

every = pytest.mark.parametrize("make", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS)
each_alias = pytest.mark.parametrize("make", ALIASES.values(), ids=ALIASES)
narrow = pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])


def _tree(seed, dtype=np.float32):
    shapes = {"a": {"kernel": (3, 4), "bias": (4,)}, "b": {"kernel": (4, 2)}}
    leaves = jax.tree.map(np.ones, shapes, is_leaf=lambda x: isinstance(x, tuple))
    return networks.random_like(leaves, seed=seed, dtype=dtype)


PARAMS, GRADIENTS = _tree(1), _tree(2)
LAYERED = pathsgd.layered_network(PARAMS)
TRACED = pathsgd.trace_network(
    lambda w, x: (
        jax.nn.relu(x @ w["a"]["kernel"] + w["a"]["bias"][None]) @ w["b"]["kernel"]
    ),
    PARAMS,
    np.ones((1, 3), np.float32),
)

each_network = pytest.mark.parametrize("network", [LAYERED, TRACED], ids=type)


def _updates(transformation, gradients, params, count=1):
    state = transformation.init(params)
    for _ in range(count):
        updates, state = transformation.update(gradients, state, params)
    return updates


def _cast(dtype, *trees):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), trees)


# Zero gradients.


@narrow
@each_alias
def test_a_zero_gradient_of_low_precision_gives_a_zero_update(make, dtype):
    # Weights of zero, too: they don't decay.
    gradients, params = jax.tree.map(np.array, _cast(dtype, GRADIENTS, PARAMS))
    gradients["a"]["kernel"][:, 0] = params["a"]["kernel"][:, 0] = 0
    gradients, params = jax.tree.map(jnp.array, (gradients, params))
    updates = _updates(make(0.01, LAYERED), gradients, params, count=2)
    chex.assert_tree_all_finite(updates)
    chex.assert_trees_all_equal_dtypes(updates, gradients)
    assert not np.any(updates["a"]["kernel"][:, 0])
    assert np.all(updates["a"]["kernel"][:, 1:])


def test_adam_of_low_precision_is_no_control():
    params, gradients = jnp.ones(2, jnp.float16), jnp.zeros(2, jnp.float16)
    adam = optax.adam(0.01)
    assert np.isnan(_updates(adam, gradients, params)).all()


# Rounding.


@narrow
@each_alias
def test_low_precision_updates_are_those_of_float32_rounded_once(make, dtype):
    narrowed = _cast(dtype, GRADIENTS, PARAMS)
    wide = _cast(jnp.float32, *narrowed)
    optimizer = make(0.01, LAYERED)
    updates = _updates(optimizer, *narrowed, count=3)
    expected = _updates(optimizer, *wide, count=3)
    expected = jax.tree.map(lambda leaf: leaf.astype(dtype), expected)
    chex.assert_trees_all_equal(updates, expected)


@narrow
@each_alias
def test_states_of_low_precision_are_wide_and_keep_their_dtypes(make, dtype):
    gradients, params = _cast(dtype, GRADIENTS, PARAMS)
    optimizer = make(0.01, LAYERED, update_every=2)
    state = optimizer.init(params)
    _, after = optimizer.update(gradients, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    floats = {leaf.dtype for leaf in jax.tree.leaves(after)} - {np.dtype("int32")}
    assert floats == {np.dtype("float32")}


@each_alias
def test_only_what_the_update_itself_exceeds_is_out_of_range(make):
    """Of weights of 0.01 the quotient is beyond float16, and its hundredth isn't."""
    weights = jax.tree.map(lambda leaf: 0.01 * np.sign(leaf), PARAMS)
    gradients, params = _cast(jnp.float16, GRADIENTS, weights)
    updates = _updates(make(1e-3, LAYERED), gradients, params)
    wide = _cast(jnp.float32, gradients, params)
    expected = _updates(make(1e-3, LAYERED), *wide)
    [expected] = _cast(jnp.float16, expected)
    chex.assert_tree_all_finite(expected)
    chex.assert_trees_all_close(updates, expected, rtol=1e-3)


# Ranges.


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32])
@each_network
@every
def test_finite_gradients_have_finite_updates(make, network, dtype):
    tiny, large = 1e-4 if dtype == jnp.float16 else 1e-18, float(jnp.finfo(dtype).max)
    params = jax.tree.map(lambda leaf: tiny * np.sign(leaf), PARAMS)
    gradients = jax.tree.map(lambda leaf: large / 2 * np.sign(leaf), GRADIENTS)
    gradients, params = _cast(dtype, gradients, params)
    updates = _updates(make(network), gradients, params, count=3)
    chex.assert_tree_all_finite(updates)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_what_is_out_of_range_is_the_largest_number(dtype):
    largest = jnp.finfo(dtype).max
    params = jax.tree.map(lambda leaf: 1e-4 * leaf, PARAMS)
    gradients = jax.tree.map(lambda leaf: float(largest) / 4 * leaf, GRADIENTS)
    gradients, params = _cast(dtype, gradients, params)
    updates = _updates(pathsgd.scale_by_path_norm(LAYERED), gradients, params)
    expected = jax.tree.map(lambda leaf: np.sign(leaf) * largest, gradients)
    chex.assert_trees_all_equal(updates["a"], expected["a"])


def test_a_metric_whose_square_is_out_of_range_still_clips():
    gradients = jax.tree.map(lambda leaf: np.float32(1e30) * leaf, GRADIENTS)
    clip = pathsgd.clip_by_path_metric(1.0, LAYERED)
    expected = _updates(clip, jax.tree.map(lambda g: 1e6 * g, GRADIENTS), PARAMS)
    updates = _updates(clip, gradients, PARAMS)
    chex.assert_trees_all_close(updates, expected, rtol=1e-5)


# What is not finite.


def _bad(tree, place, value):
    bad = jax.tree.map(np.array, tree)
    bad[place[0]][place[1]].flat[0] = value
    return bad


PLACES = [("a", "kernel"), ("a", "bias"), ("b", "kernel")]


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("place", PLACES, ids="/".join)
@pytest.mark.parametrize("p", [1, 3.5])
@each_network
def test_no_leaf_hides_a_weight_that_is_not_finite(network, p, place, value):
    params = _bad(PARAMS, place, value)
    for leaf in jax.tree.leaves(pathsgd.path_scaling(network, params, p)):
        assert not np.isfinite(leaf).any()
    for name in ("scale", "path_sgd", "path_adam", "clip", "penalty"):
        updates = _updates(TRANSFORMATIONS[name](network, p=p), GRADIENTS, params)
        for leaf in jax.tree.leaves(updates):
            assert not np.isfinite(leaf).any()


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("place", PLACES, ids="/".join)
@every
def test_a_gradient_that_is_not_finite_is_passed_on(make, place, value):
    updates = _updates(make(LAYERED), _bad(GRADIENTS, place, value), PARAMS)
    assert not np.isfinite(updates[place[0]][place[1]].ravel()[0])


@pytest.mark.parametrize("layer", ["a", "b"])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@each_network
def test_where_no_path_runs_gradients_of_any_size_have_updates_of_zero(
    network, dtype, layer
):
    # Not those of an objective; added noise, or an L2 penalty, has them.
    params = _tree(1, dtype)
    params[layer] = jax.tree.map(jnp.zeros_like, params[layer])
    gradients = jax.tree.map(lambda w: jnp.full_like(w, jnp.finfo(dtype).max), params)
    updates = _updates(pathsgd.scale_by_path_norm(network), gradients, params)
    chex.assert_tree_all_finite(updates)
    assert not np.any({"a": updates["b"], "b": updates["a"]}[layer]["kernel"])
    clipped = _updates(pathsgd.clip_by_path_metric(1.0, network), gradients, params)
    chex.assert_tree_all_finite(clipped)


@pytest.mark.filterwarnings("error")
@every
@each_network
def test_wide_numpy_arrays_are_float32_without_x64(make, network):
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), (GRADIENTS, PARAMS))
    updates = _updates(make(network=network), *wide)
    expected = _updates(make(network=network), GRADIENTS, PARAMS)
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)
    chex.assert_trees_all_equal_dtypes(updates, expected)


NO_GRADIENTS = {
    "integers": lambda w: jnp.ones(w.shape, jnp.int32),
    "booleans": lambda w: w > 0,
    "complex": lambda w: w.astype(jnp.complex64),
    "numbers": lambda w: 1.0,
}


@pytest.mark.parametrize("kind", NO_GRADIENTS)
@every
def test_updates_that_are_no_floating_arrays_are_refused_in_one_line(make, kind):
    updates = jax.tree.map(NO_GRADIENTS[kind], PARAMS)
    with pytest.raises(ValueError, match=r"The update of \['a'\]\['bias'\] ") as error:
        _updates(make(network=LAYERED), updates, PARAMS)
    assert "\n" not in str(error.value)


@every
def test_params_that_are_numbers_are_refused_in_one_line(make):
    params = {"a": jnp.float32(2.0)}
    network = pathsgd.trace_network(lambda w, x: w["a"] * x, params, jnp.ones((1, 3)))
    with pytest.raises(ValueError, match=r"\['a'\] is 2\.0, not a floating") as error:
        make(network=network).init({"a": 2.0})
    assert "\n" not in str(error.value)
