"""Functions of the inputs alone: input units, integers and masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

import pathsgd_optax as pathsgd
from tests import networks


W = np.float32([[1, -2], [3, 4], [-5, 6]])
MASK = np.float32([[1, 0, 1]])


def traced(apply_fn, params):
    x = networks.spec(1, 3)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        network = pathsgd.trace_network(apply_fn, params, x)
    return network, params


def phi(apply_fn, params, p=1):
    return float(pathsgd.path_norm(*traced(apply_fn, params), p))


def masses(functions):
    """The mass of each entry of what functions make of an input of three entries."""
    params = dict.fromkeys(functions, jnp.ones((3, 1)))

    def apply_fn(params, x):
        return {name: f(x) @ params[name] for name, f in functions.items()}

    scaling = pathsgd.path_scaling(*traced(apply_fn, params), p=2)
    return {name: np.ravel(gamma).tolist() for name, gamma in scaling.items()}


def normalized(x):
    return (x - np.float32([[0.5, 0.4, 0.3]])) / np.float32([[0.2, 0.3, 0.4]])


UNITS = {
    "sine": lambda x: jnp.sin(4 * x),
    "normalised": normalized,
    "bytes": lambda x: jnp.round(255 * x).astype(jnp.uint8).astype(jnp.float32) / 255,
    "log1p": lambda x: jnp.log1p(jnp.abs(x)),
    "polynomial": lambda x: 3 * x**2 - x + 1,
    "product": lambda x: x * x[:, ::-1],
    "quotient": lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True),
    "softmax": jax.nn.softmax,
    "gelu": jax.nn.gelu,
    "clipped": lambda x: jnp.clip(x, -1, 1),
    "sorted": lambda x: jnp.sort(x),
    "ranks": lambda x: jnp.argsort(jnp.argsort(x)).astype(jnp.float32),
    "compared": lambda x: (x > 0.5).astype(jnp.float32),
    "chosen": lambda x: jnp.where(x > 0.5, x, 2.0),
    "chosen constants": lambda x: jnp.where(x > 0.5, 1e9, 0.0),
    "mean added": lambda x: x + x.mean(1, keepdims=True),
    "fixed matrix": lambda x: x @ (7 * np.ones((3, 3), np.float32)),
    "running sum": lambda x: jnp.cumsum(x, 1),
    "digitized": lambda x: jnp.digitize(x, np.float32([0, 1])).astype(jnp.float32),
    "LayerNorm": lambda x: nn.LayerNorm(use_bias=False, use_scale=False).apply({}, x),
    "looked up": lambda x: jnp.arange(5.0)[x.astype(int)],
    "branches": lambda x: lax.cond(x[0, 0] > 0, lambda x: x, lambda x: 2 * x, x),
    "while": lambda x: lax.while_loop(lambda x: x.sum() < 1, lambda x: 2 * x + 1, x),
    "scan": lambda x: lax.scan(lambda c, r: (c * r[:, None] + 1, c), x, x.T)[1][-1],
    "bias trick": lambda x: jnp.concatenate([x[:, :2], jnp.ones((1, 1))], 1),
}


@pytest.fixture(scope="module")
def units():
    """The masses of `UNITS`."""
    return masses(UNITS)


@pytest.mark.parametrize("name", UNITS)
def test_a_function_of_the_inputs_is_an_array_of_input_units(name, units):
    assert units[name] == [1, 1, 1]


def padded(x):
    return jnp.pad(x[:, :2], ((0, 0), (0, 1)))


ZEROS = {
    "sine": lambda x: jnp.sin(padded(x)),
    "multiplied": lambda x: x @ np.diag(np.float32([-2, 3, 0])),
    "summed": lambda x: (padded(x)[:, :, None] * np.ones((1, 1, 2))).sum(2),
    "summed after": lambda x: jnp.flip(jnp.cumsum(jnp.flip(padded(x), 1), 1), 1),
    "pooled": lambda x: nn.avg_pool(
        jnp.pad(x, ((0, 0), (0, 3)))[..., None], (2,), (2,)
    )[..., 0],
    "patches": lambda x: lax.conv_general_dilated_patches(
        x[:, None], (2,), (1,), [(0, 1)]
    )[:, 1],
    "received": lambda x: jnp.zeros_like(x).at[:, np.array([0, 0, 1])].add(x),
    "padded": lambda x: jnp.pad(x[:, :2], ((0, 0), (0, 1))),
    "concatenated": lambda x: jnp.concatenate([x[:, :2], jnp.zeros((1, 1))], 1),
    "written": lambda x: jnp.zeros_like(x).at[:, :2].set(jnp.sin(x[:, :2])),
    "masked": lambda x: x * np.float32([[1, 1, 0]]),
    "rescaled after": lambda x: jnp.pad(x[:, :2], ((0, 0), (0, 1))) * 4.0,
    "selected": lambda x: jnp.where(np.arange(3)[None] < 2, x, 0.0),
    "both masks": lambda x: ((x > 0) & (np.arange(3)[None] < 2)).astype(x.dtype),
    "moved": lambda x: jnp.pad(x[:, :2], ((0, 0), (1, 0)))[:, np.array([1, 2, 0])],
}


@pytest.fixture(scope="module")
def zeros():
    """The masses of `ZEROS`."""
    return masses(ZEROS)


@pytest.mark.parametrize("name", ZEROS)
def test_entries_that_are_known_to_be_zero_are_no_inputs(name, zeros):
    assert zeros[name] == [1, 1, 0]


def test_sines_of_inputs_have_mass_one():
    params = jnp.ones((3, 2))
    found = phi(lambda w, x: jnp.sin(4 * x) @ w, params, p=2)
    np.testing.assert_allclose(found, np.sqrt(6), rtol=1e-6)


MASKS = {
    "compared": lambda x: (x > 0.5).astype(jnp.float32),
    "not padding": lambda x: (x.astype(int) != 0).astype(jnp.float32),
    "inverse": lambda x: 1 - (x > 0.5).astype(jnp.float32),
    "both": lambda x: (x > 0.5).astype(jnp.float32) * (x < 1).astype(jnp.float32),
    "selected": lambda x: jnp.where(x > 0.5, 1.0, 0.0),
    "until": lambda x: jnp.cumprod((x > 0.5).astype(jnp.float32), 1),
    "one hot": lambda x: jax.nn.one_hot(x[:, 0].astype(int), 3),
    "a row of a constant": lambda x: jnp.eye(3)[x[:, 0].astype(int)],
}


GATED = {
    "product": lambda h, mask: h * mask,
    "product with data on the right": lambda h, mask: mask * h,
    "choice": lambda h, mask: jnp.where(mask > 0, h, 0),
    "choice the other way": lambda h, mask: jnp.where(mask == 0, 0, h),
    "minus 10000": lambda h, mask: jnp.where(mask == 0, -1e4, h),
    "minus 10000 that is added": lambda h, mask: h + (1 - mask) * -1e4,
    "minus infinity": lambda h, mask: jnp.where(mask == 0, -jnp.inf, h),
    "a mask that is added": lambda h, mask: jax.nn.relu(
        h + jnp.where(mask > 0, 0, -1e9)
    ),
    "minus infinity that is added": lambda h, mask: jax.nn.relu(
        h + jnp.where(mask > 0, 0, -jnp.inf)
    ),
    "what is left that is added": lambda h, mask: jax.nn.relu(h + (1 - mask) * -1e9),
    "contraction": lambda h, mask: jnp.einsum("bi,bi->bi", h, mask),
    "of a multiple": lambda h, mask: jnp.maximum(h * mask, 0.1 * h),
}


def gated(apply, mask, params, x):
    return apply(x @ params["v"], mask(x)) @ params["w"]


@pytest.mark.parametrize("name", GATED)
def test_masks_made_of_inputs_let_all_paths_through(name):
    params = {"v": jnp.float32(np.arange(9.0).reshape(3, 3) - 4), "w": W}

    def apply_fn(params, x):
        return [gated(GATED[name], mask, params, x) for mask in MASKS.values()]

    wanted = phi(lambda params, x: x @ params["v"] @ params["w"], params)
    np.testing.assert_allclose(phi(apply_fn, params), len(MASKS) * wanted)


def test_a_choice_by_inputs_has_the_paths_of_both():
    params = {"v": W, "w": 2 * W}

    def chosen(params, x):
        return jnp.where(x[:, :1] > 0, x @ params["v"], x @ params["w"])

    assert phi(chosen, params) == 21 + 42


MEAN, DEVIATION = np.float32([[0.5, -0.4, 0.3]]), np.float32([[0.2, 3, 0.4]])
SHIFTED = {
    "together": lambda s, b, x: x * (s / DEVIATION) + (b - MEAN * (s / DEVIATION)),
    "linen": lambda s, b, x: (x - MEAN) * (s / DEVIATION) + b,
    "equinox": lambda s, b, x: (x - MEAN) / DEVIATION * s + b,
    "negative": lambda s, b, x: (MEAN - x) / -DEVIATION * s + b,
    "broadcast": lambda s, b, x: (
        jnp.broadcast_to(((x - MEAN) / DEVIATION)[:, None], (1, 1, 3))[:, 0] * s + b
    ),
}


def affine(shifted):
    """The path norm of a scale and a bias, which constants come before."""
    params = {"s": W[:, :1].T, "b": W[:, 1:].T, "w": W}
    return phi(lambda p, x: shifted(p["s"], p["b"], x) @ p["w"], params)


@pytest.mark.parametrize("name", SHIFTED)
def test_a_scale_and_a_bias_make_one_affine_unit_with_constants_before(name):
    slopes = np.abs(W[:, 0] / DEVIATION[0])
    shifts = np.abs(W[:, 1] - MEAN[0] * W[:, 0] / DEVIATION[0])
    wanted = (slopes + shifts) @ np.abs(W).sum(1)
    np.testing.assert_allclose(affine(SHIFTED[name]), wanted, rtol=1e-6)


def test_scaled_inputs_that_a_scan_reads_are_input_units():
    def apply_fn(w, x):
        def step(h, row):
            return jax.nn.relu(h + row[None] * w), row / 2

        h, rows = jax.lax.scan(step, jnp.zeros((1, 1)), (x[0] - 0.5) / 0.25)
        return h, rows[None] * w

    assert phi(apply_fn, jnp.float32([[3.0]])) == 3 * 3 + 3 * 3


def test_a_choice_between_a_mask_and_itself_is_a_mask():
    def apply_fn(w, x):
        mask = jnp.pad(x[:, :2] > 0, ((0, 0), (0, 1)))
        either = jnp.where(mask, mask, x < 1)
        return x @ w * either

    assert phi(apply_fn, jnp.float32(np.eye(3))) == 3


def test_masks_of_which_something_is_known_choose_so_in_a_scan():
    def apply_fn(w, x):
        mask = jnp.pad(x > 0, ((0, 0), (0, 1)))[0]
        rows = jax.lax.map(lambda m: jnp.where(m, w, 0) + jnp.where(m, 0, 2 * w), mask)
        return rows[None]

    assert phi(apply_fn, jnp.float32([3.0])) == 3 * (3 + 6) + 6


EDGES = np.array([[0, 0, 1, 2], [1, 2, 2, 0]])


def test_edges_of_a_graph_that_are_closed_over_are_known():
    adjacent = np.zeros((3, 3), np.float32)
    adjacent[EDGES[1], EDGES[0]] = 1

    def by_edges(w, x):
        return (
            jax.vmap(lambda h: jax.ops.segment_sum(h[EDGES[0]], EDGES[1], 3))(
                x[..., None] * w
            )
            @ w.T
        )

    def by_matrix(w, x):
        return jnp.einsum("ij,bjk->bik", adjacent, x[..., None] * w) @ w.T

    w = jnp.float32([[1, -2]])
    assert phi(by_edges, w) == phi(by_matrix, w) == 4 * 5


REFUSED = {
    "mul at test_inputs.py:.* multiplies a value on paths by .* the inputs": (
        lambda h, x: h * x
    ),
    "dot_general .* multiplies a value on paths by": (
        lambda h, x: (x[:, :, None] * jnp.ones((1, 3, 3)) @ h.T)[..., 0]
    ),
    "div .*division by a constant": lambda h, x: (
        h / (x > 0).astype(x.dtype).sum(1)[:, None]
    ),
    "random_bits .*draw outside": lambda h, x: (
        h
        + jax.vmap(lambda key: jax.random.uniform(key, (3,)))(
            jax.random.split(jax.random.key(0), 4)[x[:, 0].astype(int)]
        )
    ),
    "gt .*comparison": lambda h, x: jnp.where(h > x, h, 0),
    "scatter-add .*edges of a graph.*Close over": lambda h, x: h.at[
        :, x.astype(int)[0]
    ].add(h),
    "dynamic_update_slice .*say where it writes": lambda h, x: lax.dynamic_update_slice(
        h, h[:, :1], (0, x[0, 0].astype(int))
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_inputs_must_not_do_is_refused(message):
    function = REFUSED[message]
    with pytest.raises(ValueError, match=message):
        phi(lambda w, x: function(x @ w, x), jnp.ones((3, 3)))
