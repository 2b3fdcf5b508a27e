"""At home in Optax: its own suite for contributed optimizers, and its wrappers."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pathsgd_optax as pathsgd
from tests import networks


pytestmark = pytest.mark.optax

ALIASES = {
    "path_sgd": (pathsgd.path_sgd, 1e-3, {}),
    "path_sgd, momentum": (
        pathsgd.path_sgd,
        1e-3,
        {"momentum": 0.9, "update_every": 3, "monitor": True},
    ),
    "path_adagrad": (pathsgd.path_adagrad, 1.0, {}),
    "path_rmsprop": (pathsgd.path_rmsprop, 5e-3, {}),
    "path_adam": (pathsgd.path_adam, 1e-2, {}),
    "path_lars": (pathsgd.path_lars, 1e-2, {}),
    "path_adam, fallback": (
        pathsgd.path_adam,
        1e-2,
        {"fallback": optax.adam(1e-2), "weight_decay": 0.0},
    ),
}


# Optax's own suite. Its targets are bare arrays, each the weights of one layer here.


def _one_layer(params, x):
    """A network of one layer whose outputs' weights are those of ``params``."""
    leaves = jax.tree.leaves(params)
    layers = [x[:, : len(w)] @ w.reshape(len(w), -1) for w in leaves]
    return jnp.concatenate(layers, axis=1)


def _on_one_layer(alias, **options):
    """The alias for a network of one layer, traced when init sees the parameters."""

    def make(learning_rate: optax.ScalarOrSchedule):
        seen = []

        def optimizer(params):
            leaves = jax.tree.leaves(params)
            if leaves:  # optax.tree.map_params asks without them
                x = jnp.ones((1, max(map(len, leaves))), leaves[0].dtype)
                seen[:] = [pathsgd.trace_network(_one_layer, params, x)]
            return alias(learning_rate, *seen, **options)

        def init(params):
            return optimizer(params).init(params)

        def update(updates, state, params, **extra):
            return optimizer(params).update(updates, state, params, **extra)

        return optax.GradientTransformationExtraArgs(init, update)

    return make


def _suite():
    """The tests of Optax's suite, each once, without its parameters."""
    try:
        from optax.contrib import _common_test as suite
    except ImportError:  # the suite needs absl's testing
        return {}
    tests = {}
    for name, method in vars(suite.ContribTest).items():
        if name.startswith("test") and hasattr(method, "__wrapped__"):
            tests.setdefault(method.__wrapped__.__name__, method.__wrapped__)
    return tests


VARIANTS = {
    "test_optimizers_accept_extra_args": [{"wrap": False}],
    "test_optimizers": [
        {"target": f"_setup_{target}", "dtype": "float32"}
        for target in (
            "parabola",
            "rosenbrock",
            "matrix_parabola",
            "mixed_tensor_target",
        )
    ],
    "test_preserve_dtype": [{"dtype": dtype} for dtype in ("bfloat16", "float32")],
    "test_gradient_accumulation": [{"dtype": d} for d in ("bfloat16", "float32")],
    "test_state_shape_dtype_shard_stability": [
        {"dtype": dtype}
        for dtype in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)
    ],
}


def test_the_suite_of_optax_is_known():
    pytest.importorskip("optax.contrib._common_test")
    assert set(VARIANTS) < set(_suite())


@pytest.mark.parametrize("alias", ALIASES)
@pytest.mark.parametrize("test", _suite())
def test_the_suite_of_optax_for_contributed_optimizers(test, alias, monkeypatch):
    from optax.contrib import _common_test as suite

    factory, rate, options = ALIASES[alias]
    factory = _on_one_layer(factory, **options)
    monkeypatch.setattr(suite, "_get_opt_factory", lambda name: factory)
    # Its own context sets the configuration of all later tests.
    monkeypatch.setattr(suite.utils, "x64_precision", jax.enable_x64)
    for variant in VARIANTS.get(test, [{}]):
        if "target" in variant:
            variant = variant | {"target": getattr(suite, variant["target"])}
        _suite()[test](
            suite.ContribTest(),
            opt_name=alias,
            opt_kwargs={"learning_rate": rate},
            wrapper_name=None,
            wrapper_kwargs=None,
            **variant,
        )


# Optax's wrappers.


def _problem(dtype=np.float32):
    params = networks.dense_tree((3, 4, 2), seed=6, dtype=dtype)
    return params, networks.random_like(params, seed=7, dtype=dtype)


def _steps(optimizer, params, gradients, count=4):
    """The parameters after some steps from constant gradients, and the state."""
    return _trainer(optimizer)(params, gradients, count)


@functools.cache
def _trainer(optimizer):
    """One program for any number of steps."""

    @jax.jit
    def train(params, gradients, count):
        def step(_, carry):
            params, state = carry
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, count, step, (params, optimizer.init(params)))

    return train


@functools.cache
def _plain(make):
    return make(0.01)


INNER = {
    pathsgd.path_sgd: optax.sgd,
    pathsgd.path_adagrad: optax.adagrad,
    pathsgd.path_rmsprop: optax.rmsprop,
    pathsgd.path_adam: optax.adam,
}

every_alias = pytest.mark.parametrize("make", INNER)
each_kind = pytest.mark.parametrize("make", [pathsgd.path_sgd, pathsgd.path_adam])


@every_alias
def test_hyperparameters_are_injected(make):
    params, gradients = _problem()
    inject = optax.inject_hyperparams(make, static_args="p")
    optimizer = inject(optax.constant_schedule(0.01), weight_decay=0.1)
    after, state = _steps(optimizer, params, gradients)
    assert optax.tree.get(state, "weight_decay") == np.float32(0.1)
    assert "p" not in state.hyperparams
    plain, _ = _steps(make(0.01, weight_decay=0.1), params, gradients)
    # Injected numbers are float32 where those of Python are exact.
    chex.assert_trees_all_close(after, plain, rtol=1e-4)


def test_an_order_that_is_injected_is_refused():
    params, _ = _problem()
    with pytest.raises(ValueError, match=r'p must be .*inject.*static_args=\("p"'):
        optax.inject_hyperparams(pathsgd.path_sgd)(0.1).init(params)


@every_alias
def test_schedules_are_learning_rates(make):
    params, gradients = _problem()

    def schedule(count):
        return jnp.where(count < 2, 0.01, 0.0)

    scheduled, _ = _steps(make(schedule), params, gradients, count=4)
    fixed, _ = _steps(_plain(make), params, gradients, count=2)
    chex.assert_trees_all_close(scheduled, fixed, rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"monitor": True},
        {"update_every": 2},
        {"fallback": optax.adam(0.1)},
        {"mask": {"Dense_0": True, "Dense_1": False}, "fallback": optax.adam(0.1)},
    ],
    ids=" and ".join,
)
@each_kind
def test_the_parameters_in_a_state_can_be_mapped(make, options):
    params, gradients = _problem()
    optimizer = make(0.01, pathsgd.layered_network(params), **options)
    _, state = _steps(optimizer, params, gradients)
    same = optax.tree.map_params(optimizer, lambda leaf: leaf, state)
    chex.assert_trees_all_equal(same, state)
    marked = optax.tree.map_params(
        optimizer,
        lambda leaf: "param",
        state,
        transform_non_params=lambda leaf: "other",
    )
    names = jax.tree.leaves(marked)
    assert len(names) == len(jax.tree.leaves(state))
    assert ("param" in names) == (make is not pathsgd.path_sgd or "mask" in options)


def test_a_map_without_a_network_is_told_to_give_one():
    params, _ = _problem()
    optimizer = pathsgd.path_sgd(0.1, update_every=2)
    with pytest.raises(ValueError, match=r"give one, such as network=layered_network"):
        optax.tree.map_params(optimizer, lambda leaf: leaf, optimizer.init(params))


@each_kind
def test_gradients_accumulate_in_multi_steps(make):
    params, gradients = _problem()
    wrapped = optax.MultiSteps(make(0.01), every_k_schedule=2)
    after, _ = _steps(wrapped, params, gradients, count=4)
    plain, _ = _steps(_plain(make), params, gradients, count=2)
    chex.assert_trees_all_close(after, plain, rtol=1e-6)


@each_kind
def test_updates_that_are_not_finite_are_not_applied(make):
    params, gradients = _problem()
    optimizer = optax.apply_if_finite(
        make(0.01, monitor=True), max_consecutive_errors=3
    )
    before = optimizer.init(params)
    bad = jax.tree.map(lambda g: g * jnp.nan, gradients)
    updates, state = jax.jit(optimizer.update)(bad, before, params)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, params))
    chex.assert_trees_all_equal(state.inner_state, before.inner_state)
    updates, _ = jax.jit(optimizer.update)(gradients, state, params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(updates))


@pytest.mark.x64
@each_kind
@pytest.mark.parametrize("reset", [False, True])
def test_lookahead_runs_the_optimizer_on_the_fast_parameters(make, reset):
    params, gradients = _problem(np.float64)
    optimizer = optax.lookahead(make(0.01), 3, 0.5, reset_state=reset)
    pair = optax.LookaheadParams.init_synced(params)
    after, _ = _steps(optimizer, pair, gradients, count=2)
    plain, _ = _steps(_plain(make), params, gradients, count=2)
    chex.assert_trees_all_close(after.fast, plain, rtol=1e-12)
    chex.assert_trees_all_equal(after.slow, params)
    synced, _ = _steps(optimizer, pair, gradients, count=3)
    chex.assert_trees_all_close(synced.fast, synced.slow, rtol=1e-12)


def test_names_in_a_chain_are_names_in_the_state():
    params, gradients = _problem()
    optimizer = optax.named_chain(
        ("clip", pathsgd.clip_by_path_metric(1e6)),
        ("paths", pathsgd.scale_by_path_norm(monitor=True)),
        ("rate", optax.scale(-0.01)),
    )
    after, state = _steps(optimizer, params, gradients)
    plain, _ = _steps(_plain(pathsgd.path_sgd), params, gradients)
    chex.assert_trees_all_close(after, plain, rtol=1e-6)
    metric = optax.tree.get(state, "path_metric")
    assert metric == state["paths"].path_metric > 0


def test_frozen_layers_keep_their_weights_and_stay_on_the_paths():
    params, gradients = _problem()
    freeze = {"Dense_0": True, "Dense_1": False}
    optimizer = optax.chain(pathsgd.path_sgd(0.01), optax.freeze(freeze))
    after, _ = _steps(optimizer, params, gradients, count=1)
    plain, _ = _steps(_plain(pathsgd.path_sgd), params, gradients, count=1)
    chex.assert_trees_all_equal(after["Dense_0"], params["Dense_0"])
    chex.assert_trees_all_close(after["Dense_1"], plain["Dense_1"], rtol=1e-6)


# Parameters on no path, and those that the mask leaves out.


def _with_head(params):
    """The network with parameters beside it that its outputs don't depend on."""
    params = {"body": params, "other": {"scale": jnp.array([1.0, -2.0])}}
    network = pathsgd.trace_network(
        lambda params, x: networks.apply(params["body"], x), params, jnp.ones((1, 3))
    )
    return params, network


def _separately(makers, params, gradients, count=4):
    return {
        name: _steps(make, params[name], gradients[name], count)[0]
        for name, make in makers.items()
    }


@every_alias
def test_parameters_on_no_path_go_to_the_fallback(make):
    body, slopes = _problem()
    params, network = _with_head(body)
    gradients = {"body": slopes, "other": {"scale": jnp.array([3.0, 0.5])}}
    fallback = optax.adamw(0.1, weight_decay=0.5)
    optimizer = make(0.01, network, weight_decay=0.2, fallback=fallback)
    after, state = _steps(optimizer, params, gradients)
    makers = {"body": make(0.01, weight_decay=0.2), "other": fallback}
    expected = _separately(makers, params, gradients)
    chex.assert_trees_all_close(after, expected, rtol=1e-4)
    assert optax.tree.get(state, "log_path_norm") != 0


@every_alias
def test_without_a_fallback_they_are_not_scaled(make):
    body, slopes = _problem()
    params, network = _with_head(body)
    gradients = {"body": slopes, "other": {"scale": jnp.array([3.0, 0.5])}}
    after, _ = _steps(make(0.01, network), params, gradients)
    expected = _separately(
        {"body": _plain(make), "other": INNER[make](0.01)}, params, gradients
    )
    chex.assert_trees_all_close(after, expected, rtol=1e-4)


MASKS = {
    "tree": {
        "Dense_0": {"bias": True, "kernel": True},
        "Dense_1": {"bias": False, "kernel": True},
    },
    "prefix": {"Dense_0": True, "Dense_1": False},
    "function": lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@each_kind
def test_what_the_mask_leaves_out_goes_to_the_fallback(make, mask):
    params, gradients = _problem()
    optimizer = make(0.01, mask=mask, fallback=optax.sgd(0.5))
    after, _ = _steps(optimizer, params, gradients, count=1)
    scaled, _ = _steps(_plain(make), params, gradients, count=1)
    plain, _ = _steps(optax.sgd(0.5), params, gradients, count=1)
    kept = mask(params) if callable(mask) else mask
    broadcast = jax.tree.map(
        lambda keep, part: jax.tree.map(lambda _: keep, part), kept, params
    )
    expected = jax.tree.map(
        lambda keep, one, other: one if keep else other, broadcast, scaled, plain
    )
    assert len(set(jax.tree.leaves(broadcast))) == 2
    chex.assert_trees_all_close(after, expected, rtol=1e-5)


def test_labels_partition_parameters_among_optimizers():
    body, slopes = _problem()
    params, network = _with_head(body)
    gradients = {"body": slopes, "other": {"scale": jnp.array([3.0, 0.5])}}
    parts = {"path": pathsgd.path_adam(0.01, network), "no path": optax.sgd(0.1)}
    after, _ = _steps(optax.partition(parts, network.labels), params, gradients)
    fallback = pathsgd.path_adam(0.01, network, fallback=optax.sgd(0.1))
    expected, _ = _steps(fallback, params, gradients)
    chex.assert_trees_all_close(after, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "mask",
    [
        {"body": True, "other": False},
        lambda params: (
            jax.tree.map(lambda leaf: leaf.ndim > 0, params)
            | {"other": {"scale": False}}
        ),
    ],
    ids=["prefix", "function"],
)
def test_masked_hides_parameters_on_no_path(mask):
    body, slopes = _problem()
    params, network = _with_head(body)
    gradients = {"body": slopes, "other": {"scale": jnp.array([3.0, 0.5])}}
    after, _ = _steps(
        optax.masked(pathsgd.path_adam(0.01, network), mask), params, gradients
    )
    expected, _ = _steps(_plain(pathsgd.path_adam), body, slopes)
    chex.assert_trees_all_close(after["body"], expected, rtol=1e-5)
    head = jax.tree.map(lambda w, g: w + 4 * g, params["other"], gradients["other"])
    chex.assert_trees_all_close(after["other"], head, rtol=1e-6)


@each_kind
def test_parameters_and_gradients_may_be_none(make):
    params = networks.dense_tree((3, 4, 2), bias=False, seed=6)
    gradients = networks.random_like(params, seed=7)
    expected, _ = _steps(_plain(make), params, gradients)
    params, gradients, expected = (
        {name: module | {"bias": None} for name, module in tree.items()}
        for tree in (params, gradients, expected)
    )
    after, _ = _steps(make(0.01), params, gradients)
    chex.assert_trees_all_close(after, expected, rtol=1e-6)


def test_a_gradient_that_is_none_is_left_alone():
    params, gradients = _problem()
    expected, _ = pathsgd.scale_by_path_norm().update(
        gradients, pathsgd.scale_by_path_norm().init(params), params
    )
    transformation = pathsgd.scale_by_path_norm(monitor=True)
    gradients["Dense_0"]["bias"] = expected["Dense_0"]["bias"] = None
    state = transformation.init(params)
    updates, state = transformation.update(gradients, state, params)
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)
    assert np.isfinite(state.path_metric)
