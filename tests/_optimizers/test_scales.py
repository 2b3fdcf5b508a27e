"""Scales that the function doesn't see are kept where they began."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pathsgd_optax as pathsgd


X = jax.random.normal(jax.random.key(0), (16, 6))
Y = jnp.sin(3 * X[:, :2])


def apply_fn(params, x):
    h = x @ params["a"]
    h = h * jax.lax.rsqrt(jnp.mean(jnp.square(h), -1, keepdims=True) + 1e-6)
    return jax.nn.relu(h @ params["b"] + params["t"][None]) @ params["c"]


def start():
    keys = jax.random.split(jax.random.key(1), 3)
    shapes = {"a": (6, 8), "b": (8, 8), "c": (8, 2)}
    params = {
        name: jax.random.normal(key, shape) / shape[0] ** 0.5
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    return params | {"t": jnp.zeros(8)}


@pytest.fixture(scope="module")
def symmetries():
    return pathsgd.scale_symmetries(apply_fn, start(), X)


def lengths(params):
    return {name: float(jnp.linalg.norm(leaf)) for name, leaf in params.items()}


def trained(optimizer, steps):
    """The losses, and the parameters after the last step."""

    def loss(params, chosen):
        return jnp.mean(jnp.square(apply_fn(params, X[chosen]) - Y[chosen]))

    def step(carry, key):
        params, state = carry
        chosen = jax.random.randint(key, (4,), 0, len(X))
        value, grads = jax.value_and_grad(loss)(params, chosen)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    params = start()
    keys = jax.random.split(jax.random.key(2), steps)
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))
    (params, _), losses = run((params, optimizer.init(params)))
    return np.asarray(losses), params


@pytest.mark.optax
def test_a_kernel_before_a_normalisation_stays_as_long_as_it_was(symmetries):
    network = pathsgd.trace_network(apply_fn, start(), X, gates=True)
    plain = pathsgd.path_adam(0.1, network)
    kept = optax.chain(plain, pathsgd.keep_scale(symmetries))
    losses, params = trained(plain, 300)
    same, ours = trained(kept, 300)
    before, grown, after = map(lengths, (start(), params, ours))
    assert grown["a"] > 10 * before["a"]
    assert after["a"] == pytest.approx(before["a"], rel=1e-3)
    np.testing.assert_allclose(same, losses, rtol=1e-3)
    np.testing.assert_allclose(after["b"] / before["b"], after["c"] / before["c"], 1e-3)


def test_what_is_scaled_back_leaves_the_function(symmetries):
    keep, params = pathsgd.keep_scale(symmetries), start()
    state = keep.init(params)
    factors = {"a": 7.0, "b": 3.0, "t": 1.0, "c": 0.5}
    updates = {name: (factors[name] - 1) * leaf for name, leaf in params.items()}
    updates["t"] = jnp.arange(8.0)
    far = optax.apply_updates(params, updates)
    kept, _ = keep.update(updates, state, params)
    near = optax.apply_updates(params, kept)
    chex.assert_trees_all_close(apply_fn(near, X), apply_fn(far, X), rtol=1e-4)
    ratios = {name: lengths(near)[name] / lengths(params)[name] for name in "abc"}
    # b and c can only be scaled against each other: sqrt(3 / 2) each.
    assert ratios == pytest.approx({"a": 1, "b": 1.5**0.5, "c": 1.5**0.5}, rel=1e-4)
    np.testing.assert_allclose(near["t"], far["t"] * 1.5**0.5 / 3, rtol=1e-4)


def test_without_symmetries_updates_are_as_they_were():
    keep, params = pathsgd.keep_scale(()), start()
    updates, _ = keep.update(params, keep.init(params), params)
    chex.assert_trees_all_equal(updates, params)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_keeps_its_dtype_and_its_scale(symmetries, dtype):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), start())
    keep = pathsgd.keep_scale(symmetries)
    state, update = keep.init(params), jax.jit(keep.update)
    before = float(jnp.linalg.norm(params["a"].astype(jnp.float32)))
    for _ in range(50):
        updates = jax.tree.map(lambda leaf: leaf / 8, params)
        updates, state = update(updates, state, params)
        params = optax.apply_updates(params, updates)
    assert params["a"].dtype == dtype
    after = float(jnp.linalg.norm(params["a"].astype(jnp.float32)))
    assert after == pytest.approx(before, rel=0.05)


def test_parameters_without_entries_stay_out_of_it():
    params = {"a": jnp.ones(2), "b": jnp.ones(2), "none": jnp.zeros((0, 2))}
    keep = pathsgd.keep_scale([{"a": 1.0, "b": -1.0, "none": 0.0}])
    updates = {"a": 3 * params["a"], "b": 0 * params["b"], "none": params["none"]}
    kept, _ = keep.update(updates, keep.init(params), params)
    expected = {"a": jnp.ones(2), "b": jnp.ones(2), "none": params["none"]}
    chex.assert_trees_all_close(kept, expected, rtol=1e-5)


def test_symmetries_of_other_parameters_are_refused(symmetries):
    with pytest.raises(ValueError, match="find them with scale_symmetries"):
        pathsgd.keep_scale(symmetries).init({"a": jnp.ones((6, 8))})


def test_a_single_tree_is_refused(symmetries):
    with pytest.raises(ValueError, match="must be a tuple or list of trees"):
        pathsgd.keep_scale(symmetries[0])


def test_an_update_needs_the_parameters(symmetries):
    keep, params = pathsgd.keep_scale(symmetries), start()
    with pytest.raises(ValueError, match="params"):
        keep.update(params, keep.init(params))
