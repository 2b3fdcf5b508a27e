"""Random numbers: what is drawn once is a constant, and noise is refused."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx
from jax import lax

import pathsgd_optax as pathsgd
from tests import networks, paths


KEY = jax.random.key(0)


def draw(shape, key=KEY):
    return jax.random.normal(key, shape)


FEATURES = {
    "projected": lambda x, draw: x @ draw((4, 3)),
    "convolved": lambda x, draw: lax.conv(x[:, None], draw((3, 1, 2)), (1,), "SAME"),
    "scaled and projected": lambda x, draw: x @ (2 * jnp.abs(draw((4, 3)) - 1)),
    "drawn in a scan": lambda x, draw: lax.scan(
        lambda x, _: (x @ draw((4, 4)), None), x, None, 2
    )[0],
    "permuted": lambda x, draw: x[:, jax.random.permutation(KEY, 4)] @ draw((4, 3)),
    "cropped": lambda x, draw: (
        lax.dynamic_slice(x, (0, jax.random.randint(KEY, (), 0, 2)), (len(x), 3))
        @ draw((3, 2))
    ),
}


@pytest.mark.parametrize("name", FEATURES)
def test_features_that_are_drawn_are_constants(name):
    def outside(shape):
        with jax.ensure_compile_time_eval():
            return draw(shape)

    functions = draw, outside, lambda shape: draw(shape, jax.random.key(0))
    drawn, *others = (
        paths.of_units(lambda x, f=f: FEATURES[name](x, f)) for f in functions
    )
    for other in others:
        chex.assert_trees_all_close(drawn, other, rtol=1e-5)


EMBEDDINGS = {
    "Fourier": lambda x, w, shift: jnp.sin(x[:, :1] * w[None] + shift[None]),
    "cosines": lambda x, w, shift: jnp.cos(2 * x[:, 1:] @ w[None] + shift[None]),
    "positions": lambda x, w, shift: jnp.concatenate([x + w[:2][None], x - 1], 1),
}


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_inputs_may_be_embedded_at_random(name):
    def phi(*keys):
        def apply_fn(params, x):
            w, shift = (draw((4,), key) for key in keys) if keys else constants
            return EMBEDDINGS[name](x, w, shift) @ params

        params = jnp.float32([[1, 2], [3, 4], [5, 6], [7, 8]])
        network = pathsgd.trace_network(apply_fn, params, networks.spec(3, 2))
        return pathsgd.path_norm(network, params, 1)

    keys = jax.random.split(KEY)
    constants = [draw((4,), key) for key in keys]
    assert phi(*keys) == phi() == 36


def bernoulli(shape):
    return jax.random.bernoulli(KEY, 0.5, shape)


def noise_of_a_scan():
    return lax.scan(lambda c, key: (c, draw((), key)), 0, jax.random.split(KEY, 4))[1]


NOISE_OF_INPUTS = {
    "noise": lambda x: x + draw(x.shape),
    "dropout": lambda x: jnp.where(bernoulli(x.shape), x, 0),
    "dropout alike for all": lambda x: x * bernoulli((1, 2)).astype(x.dtype),
}


@pytest.mark.parametrize("name", NOISE_OF_INPUTS)
def test_noise_of_inputs_is_refused(name):
    with pytest.raises(ValueError, match=r"test_randomness.*dropout is active"):
        pathsgd.trace_network(
            lambda w, x: NOISE_OF_INPUTS[name](x) @ w,
            jnp.ones((2, 1)),
            networks.spec(3, 2),
        )


NOISE = {
    "dropout": lambda x: jnp.where(bernoulli(x.shape), x / 0.5, 0),
    "a mask of dropout": lambda x: x * bernoulli(x.shape).astype(x.dtype),
    "dropout alike for all": lambda x: jnp.where(bernoulli((1, 4)), x / 0.5, 0),
    "dropped examples": lambda x: (
        x * jnp.floor(0.8 + jax.random.uniform(KEY, (len(x), 1)))
    ),
    "dropped units": lambda x: x * jnp.sign(draw((4,)))[None],
    "Gaussian dropout": lambda x: x * (1 + draw(x.shape)),
    "noise": lambda x: x + draw(x.shape),
    "noise alike for all": lambda x: x + draw((1, 4)),
    "noise of a scan": lambda x: x + noise_of_a_scan()[None],
    "projections for each": lambda x: jnp.einsum("ni,nij->nj", x, draw((*x.shape, 3))),
    "a key for each": lambda x: jax.vmap(lambda x, key: x @ draw((4, 3), key))(
        x, jax.random.split(KEY, len(x))
    ),
    "noise of the key of the data": lambda x: (
        x @ draw((4, 3), jax.random.fold_in(KEY, x[0, 0].astype(int)))
    ),
}


@pytest.mark.parametrize("name", NOISE)
def test_noise_is_refused(name):
    with pytest.raises(ValueError, match=r"test_randomness.*(is active|integers)"):
        paths.of_units(NOISE[name])


@pytest.mark.parametrize(
    "function",
    [
        lambda w: w + draw(w.shape),
        lambda w: w * draw(w.shape),
        lambda w: jnp.where(bernoulli(w.shape), w / 0.5, 0),
        lambda w: jnp.concatenate([w[:, :2], draw((1, 2))], 1),
    ],
)
def test_noise_of_parameters_is_refused(function):
    with pytest.raises(ValueError, match=r"dropout is active.*draw outside"):
        paths.of_weight(function)


def test_parameters_may_be_projected_at_random():
    """As where a few parameters are trained in random directions."""
    directions = np.float32(draw((4, 6)))
    found = paths.of_weight(lambda w: w @ draw((4, 6)))
    wanted = paths.of_weight(lambda w: w @ directions)
    chex.assert_trees_all_close(found, wanted, rtol=1e-5)


def test_what_is_drawn_outside_is_a_constant():
    mask, shift = bernoulli((1, 4)).astype(jnp.float32), draw((1, 4))
    assert jnp.isfinite(paths.of_units(lambda x: x * mask + shift)).all()


class Block(nn.Module):
    """Dropout of one kind, between two layers."""

    axes: tuple[int, ...]

    @nn.compact
    def __call__(self, x, train):
        """On (batch, 4)."""
        h = nn.Dropout(0.5, self.axes, deterministic=not train)(nn.Dense(4)(x))
        return nn.Dense(2)(h)


@pytest.mark.parametrize("axes", [(), (0,), (1,)])
def test_active_dropout_is_refused_in_linen(axes):
    x = networks.spec(3, 4)
    variables = Block(axes).init(KEY, jnp.ones((3, 4)), train=False)
    options = {"rngs": {"dropout": KEY}}
    pathsgd.trace_linen(Block(axes), variables, x, train=False, **options)
    with pytest.raises(ValueError, match=r"in Block/Dropout_0 .*dropout is active"):
        pathsgd.trace_linen(Block(axes), variables, x, train=True, **options)


def test_active_dropout_is_refused_in_nnx():
    model = nnx.Sequential(
        nnx.Linear(4, 4, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1))
    )
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def apply_fn(params, x):
        return nnx.merge(graph, params, jax.tree.map(lambda leaf: leaf, rest))(x)

    with pytest.raises(ValueError, match="dropout is active"):
        pathsgd.trace_network(apply_fn, params, networks.spec(3, 4))
