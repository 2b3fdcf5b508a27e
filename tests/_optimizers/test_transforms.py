"""Scaling by the path norm: the formula, its options, its place in a chain."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, strategies as st

import pathsgd_optax as pathsgd
from tests import networks, oracles


WIDTHS = (3, 4, 2)


def _update(transformation, gradients, params):
    return _updates([transformation], gradients, params)[0]


def _updates(transformations, gradients, params):
    return _compiled(transformations)(gradients, params)


def _compiled(transformations):
    """The updates of several transformations, in one program."""

    @jax.jit
    def update(gradients, params):
        return [
            transformation.update(gradients, transformation.init(params), params)[0]
            for transformation in transformations
        ]

    return update


def _problem(dtype=np.float32, widths=WIDTHS):
    params = networks.dense_tree(widths, seed=1, dtype=dtype)
    return params, networks.random_like(params, seed=2, dtype=dtype)


def _gamma(params, p=2, damping=0.0):
    gamma = oracles.path_scaling(networks.layers(params), p, damping)
    return networks.tree_like(params, gamma)


# The formula and its options.


@pytest.mark.x64
@pytest.mark.parametrize("p", [1, 2, 3.5, jnp.inf])
def test_updates_are_gradients_over_gamma(p):
    params, gradients = _problem(np.float64)
    updates = _update(pathsgd.scale_by_path_norm(p=p), gradients, params)
    expected = jax.tree.map(jnp.divide, gradients, _gamma(params, p))
    chex.assert_trees_all_close(updates, expected, rtol=1e-12, atol=0)


@pytest.mark.x64
def test_exponent_is_the_power_of_gamma():
    params, gradients = _problem(np.float64)
    gamma = _gamma(params)
    exponents = [0.0, 0.3, 0.5, 1.0, 1.7, 2.0]
    several = [pathsgd.scale_by_path_norm(exponent=a) for a in exponents]
    for a, updates in zip(exponents, _updates(several, gradients, params), strict=True):
        expected = jax.tree.map(lambda g, c, a=a: g / c**a, gradients, gamma)
        chex.assert_trees_all_close(updates, expected, rtol=1e-12, atol=0)


def test_two_square_roots_make_one_division():
    params, gradients = _problem()
    half = pathsgd.scale_by_path_norm(exponent=0.5)
    both = [optax.chain(half, half), pathsgd.scale_by_path_norm()]
    twice, once = _updates(both, gradients, params)
    chex.assert_trees_all_close(twice, once, rtol=1e-6, atol=0)


@pytest.mark.x64
@pytest.mark.parametrize("p", [1, 2, 4, jnp.inf])
@pytest.mark.parametrize("damping", [1.0, 5.0])
def test_damping_counts_each_hidden_unit_as_an_output(p, damping):
    params, gradients = _problem(np.float64, (3, 4, 2, 3))
    both = [pathsgd.scale_by_path_norm(p=p, damping=tau) for tau in (0.0, damping)]
    undamped, updates = _updates(both, gradients, params)
    expected = jax.tree.map(jnp.divide, gradients, _gamma(params, p, damping))
    chex.assert_trees_all_close(updates, expected, rtol=1e-12, atol=0)
    chex.assert_trees_all_equal(updates["Dense_2"], undamped["Dense_2"])
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(updates["Dense_0"], undamped["Dense_0"], rtol=1e-3)


# Invariance.


def _factors(widths, seed):
    """What a random rescaling multiplies each leaf by, as a flat tree's weights."""
    rng = np.random.default_rng(seed)
    c = [np.ones(widths[0])]
    c += [np.exp(rng.normal(0, 2, width)) for width in widths[1:-1]]
    c += [np.ones(widths[-1])]
    return [(c[k + 1] / c[k][:, None], c[k + 1]) for k in range(len(widths) - 1)]


@pytest.mark.x64
@pytest.mark.parametrize(
    "invariant, p, options",
    [
        (True, 2, {}),
        (True, 1.5, {}),
        (True, jnp.inf, {}),
        (True, 2, {"damping": 0.1}),
        (True, 3.5, {"damping": 1.0}),
        (True, jnp.inf, {"damping": 0.3}),
        (False, 2, {"exponent": 0.5}),
    ],
    ids=str,
)
def test_updates_are_rescaled_as_the_weights_are(p, invariant, options):
    params, gradients = _problem(np.float64, (3, 4, 4, 2))
    transformation = pathsgd.scale_by_path_norm(p=p, **options)
    step = jax.jit(lambda g, w: transformation.update(g, transformation.init(w), w)[0])
    updates = step(gradients, params)

    @given(st.integers(0, 2**31))
    def check(seed):
        factors = networks.tree_like(params, _factors((3, 4, 4, 2), seed))
        rescaled = step(
            jax.tree.map(jnp.divide, gradients, factors),
            jax.tree.map(jnp.multiply, params, factors),
        )
        expected = jax.tree.map(jnp.multiply, updates, factors)
        if invariant:
            chex.assert_trees_all_close(rescaled, expected, rtol=1e-11, atol=0)
        else:
            with pytest.raises(AssertionError):
                chex.assert_trees_all_close(rescaled, expected, rtol=1e-3)

    check()


NETWORKS = st.fixed_dictionaries(
    {
        "widths": st.lists(st.integers(1, 5), min_size=2, max_size=5).filter(
            lambda widths: not networks.reads_backwards(widths)
        ),
        "bias": st.booleans(),
        "seed": st.integers(0, 2**31),
    }
)
ORDERS = st.sampled_from([1, 1.5, 2, 3.5, 4, jnp.inf])
DTYPES = st.sampled_from([jnp.float16, jnp.bfloat16, jnp.float32])


@given(
    NETWORKS,
    ORDERS,
    DTYPES,
    st.sampled_from([0.0, 0.3, 0.5, 1.0, 1.7]),
    st.sampled_from([0.0, 0.3]),
)
def test_powers_of_two_change_no_bit_of_any_update(
    network, p, dtype, exponent, damping
):
    """But for the power itself, to which gradient and scaling contribute."""
    params = networks.dense_tree(network["widths"], network["bias"], network["seed"])
    gradients = networks.random_like(params, seed=network["seed"] + 1)
    factors = _powers_of_two(network["widths"], network["bias"], network["seed"] + 2)
    params, gradients, factors = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype), (params, gradients, factors)
    )
    transformation = pathsgd.scale_by_path_norm(p=p, exponent=exponent, damping=damping)
    update = _compiled([transformation])
    [updates] = update(gradients, params)
    [rescaled] = update(
        jax.tree.map(jnp.divide, gradients, factors),
        jax.tree.map(jnp.multiply, params, factors),
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    expected = jax.tree.map(
        lambda u, c: (
            u.astype(jnp.float32) * c.astype(jnp.float32) ** (2 * exponent - 1)
        ),
        updates,
        factors,
    )
    rescaled = jax.tree.map(lambda u: u.astype(jnp.float32), rescaled)
    # Below the smallest normal number a dtype loses bits.
    lost = 64 * float(jnp.finfo(dtype).smallest_subnormal)
    eps = 0 if (2 * exponent).is_integer() else 8 * float(jnp.finfo(dtype).eps)
    chex.assert_trees_all_close(rescaled, expected, rtol=eps, atol=lost)


def _powers_of_two(widths, bias, seed):
    """What a rescaling by powers of two multiplies each leaf by."""
    rng = np.random.default_rng(seed)
    c = [2.0 ** rng.integers(-2, 3, width) for width in widths]
    c[0], c[-1] = np.ones(widths[0]), np.ones(widths[-1])
    factors = [(c[k + 1] / c[k][:, None], c[k + 1]) for k in range(len(c) - 1)]
    tree = networks.dense_tree(widths, bias)
    return networks.tree_like(
        tree, factors if bias else [(w, None) for w, _ in factors]
    )


@pytest.mark.optax
@given(NETWORKS, ORDERS, st.sampled_from([0.0, 0.3]))
def test_two_square_roots_around_a_transformation_make_the_sandwich(
    network, p, damping
):
    params = networks.dense_tree(network["widths"], network["bias"], network["seed"])
    gradients = networks.random_like(params, seed=network["seed"] + 1)
    half = pathsgd.scale_by_path_norm(p=p, exponent=0.5, damping=damping)
    adam = optax.scale_by_adam()
    chained = optax.chain(half, adam, half)
    sandwich = pathsgd.precondition_by_path_norm(adam, p=p, damping=damping)
    updates, expected = _updates([sandwich, chained], gradients, params)
    chex.assert_trees_all_close(updates, expected, rtol=1e-5)


# Dtypes.


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_updates_are_those_of_float32_rounded(dtype):
    params, gradients = _problem()
    narrow = jax.tree.map(lambda leaf: leaf.astype(dtype), (gradients, params))
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow)
    transformation = pathsgd.scale_by_path_norm()
    updates = _update(transformation, *narrow)
    chex.assert_trees_all_equal_dtypes(updates, narrow[0])
    expected = _update(transformation, *wide)
    updates = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), updates)
    chex.assert_trees_all_close(updates, expected, rtol=float(jnp.finfo(dtype).eps))


def test_each_update_keeps_the_dtype_of_its_gradient():
    params, gradients = _problem()
    params["Dense_0"] = jax.tree.map(
        lambda w: w.astype(jnp.bfloat16), params["Dense_0"]
    )
    gradients["Dense_1"] = jax.tree.map(
        lambda g: g.astype(jnp.float16), gradients["Dense_1"]
    )
    updates = _update(pathsgd.scale_by_path_norm(), gradients, params)
    chex.assert_trees_all_equal_dtypes(updates, gradients)


# JAX and Optax.


def test_the_state_is_a_pytree_of_arrays_that_never_changes_its_structure():
    params, gradients = _problem()
    transformation = pathsgd.scale_by_path_norm()
    state = transformation.init(params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    _, after = jax.jit(transformation.update)(gradients, state, params)
    chex.assert_trees_all_equal_structs(state, after)


def test_steps_do_not_recompile():
    params, gradients = _problem()
    transformation = pathsgd.path_sgd(0.01, momentum=0.9)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, state):
        updates, state = transformation.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    chex.clear_trace_counter()
    state = transformation.init(params)
    for _ in range(3):
        params, state = step(params, state)
    assert step._cache_size() == 1


def test_steps_run_in_a_scan_and_over_a_batch_of_learning_rates():
    params, gradients = _problem()
    network = pathsgd.layered_network(params)

    def train(rate):
        transformation = pathsgd.path_sgd(rate, network)

        def step(carry, _):
            params, state = carry
            updates, state = transformation.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        carry = params, transformation.init(params)
        return jax.lax.scan(step, carry, length=2)[0][0]

    rates = [0.01, 0.03]
    stacked = jax.jit(jax.vmap(train))(jnp.array(rates))
    for k, rate in enumerate(rates):
        expected = networks.layers(params)
        slopes = networks.layers(gradients)
        for _ in range(2):
            expected = oracles.algorithm_1(expected, slopes, rate, 2)
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, k=k: leaf[k], stacked),
            networks.tree_like(params, expected),
            rtol=1e-4,
            atol=1e-6,
        )


def test_extra_arguments_pass_through():
    params, gradients = _problem()
    chained = optax.chain(
        pathsgd.scale_by_path_norm(), optax.scale_by_backtracking_linesearch(5)
    )
    assert isinstance(chained, optax.GradientTransformationExtraArgs)
    transformation = pathsgd.scale_by_path_norm()
    assert isinstance(transformation, optax.GradientTransformationExtraArgs)
    state = transformation.init(params)
    update = jax.jit(transformation.update)
    updates, _ = update(gradients, state, params, value=1.0, other=None)
    plain, _ = update(gradients, state, params)
    chex.assert_trees_all_equal(updates, plain)


def test_frozen_layers_are_masked_outside():
    params, gradients = _problem()
    transformation = optax.chain(
        pathsgd.scale_by_path_norm(),
        optax.masked(optax.set_to_zero(), {"Dense_0": True, "Dense_1": False}),
    )
    updates = _update(transformation, gradients, params)
    plain = _update(pathsgd.scale_by_path_norm(), gradients, params)
    assert not np.any(updates["Dense_0"]["kernel"])
    chex.assert_trees_all_close(updates["Dense_1"], plain["Dense_1"], rtol=1e-6)


# Bad input.


@pytest.mark.parametrize(
    "make", [pathsgd.scale_by_path_norm, lambda: pathsgd.path_sgd(0.1)]
)
def test_an_update_without_params_is_refused(make):
    params, gradients = _problem()
    transformation = make()
    with pytest.raises(
        ValueError, match=r"need the current param.*tx\.update.*`params`"
    ):
        transformation.update(gradients, transformation.init(params))


@pytest.mark.parametrize(
    "make",
    [pathsgd.scale_by_path_norm, lambda network: pathsgd.path_sgd(0.1, network)],
)
def test_a_network_made_for_other_params_is_refused_at_init(make):
    network = pathsgd.layered_network(networks.dense_tree((3, 5, 2)))
    message = (
        r"\['Dense_0'\]\['bias'\] .*\(4,\).*\(5,\)\. Make a network for these params"
    )
    with pytest.raises(ValueError, match=message):
        make(network).init(networks.dense_tree(WIDTHS))
    with pytest.raises(
        ValueError, match=r"missing \['Dense_0'\]\['bias'\] and 1 more.*Make a network"
    ):
        make(network).init(networks.dense_tree((3, 5, 2), bias=False))


def test_updates_of_another_structure_are_refused():
    params, gradients = _problem()
    transformation = pathsgd.scale_by_path_norm()
    state = transformation.init(params)
    del gradients["Dense_1"]["bias"]
    message = r"missing \['Dense_1'\]\['bias'\].*Pass the gradient with respect"
    with pytest.raises(ValueError, match=message):
        transformation.update(gradients, state, params)


def test_an_update_of_another_shape_is_refused():
    params, gradients = _problem()
    transformation = pathsgd.scale_by_path_norm()
    state = transformation.init(params)
    gradients["Dense_1"]["bias"] = jnp.ones(3)
    message = r"\['Dense_1'\]\['bias'\] has shape \(3,\).*\(2,\)\. Pass the gradient"
    with pytest.raises(ValueError, match=message):
        transformation.update(gradients, state, params)
    with pytest.raises(ValueError, match=message):
        jax.jit(transformation.update)(gradients, state, params)


def test_masked_params_are_refused():
    params, _ = _problem()
    mask = {name: name != "Dense_0" for name in params}
    masked = optax.masked(pathsgd.scale_by_path_norm(), mask)
    with pytest.raises(
        ValueError, match=r"params are masked.*Give all to this.*`mask=`"
    ):
        masked.init(params)


@pytest.mark.optax
@pytest.mark.parametrize("inner", [optax.identity(), optax.scale_by_adam()])
def test_gradients_that_are_not_finite_are_passed_on_and_only_those(inner):
    params, gradients = _problem()
    last = gradients["Dense_1"]["kernel"]
    gradients["Dense_1"]["kernel"] = last.at[0].set(jnp.array([jnp.inf, 3e38]))
    params["Dense_0"]["kernel"] = 1e-12 * params["Dense_0"]["kernel"]
    transformation = pathsgd.precondition_by_path_norm(inner)
    updates = _update(transformation, gradients, params)["Dense_1"]["kernel"]
    finite = np.isfinite(gradients["Dense_1"]["kernel"])
    np.testing.assert_array_equal(np.isfinite(updates), finite)
