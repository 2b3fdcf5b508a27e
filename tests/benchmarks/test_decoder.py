"""The small transformer, and its unbalanced start."""

import functools

import jax
import numpy as np
import pytest

from benchmarks.decoder import CONTEXT, HEAD_WIDTH, Decoder, unbalance


MODEL = Decoder(heads=2, blocks=2, vocabulary=7)

TOKENS = np.random.default_rng(0).integers(0, 7, (3, CONTEXT)).astype(np.int32)


@functools.cache
def start():
    variables = jax.jit(MODEL.init)(jax.random.key(0), TOKENS)
    # Biases of zero would hide whether they are rescaled.
    return jax.tree.map(
        lambda leaf: np.where(leaf == 0, np.float32(0.125), leaf), variables
    )


@functools.cache
def starts():
    return start(), unbalance(start(), jax.random.key(1))


scores = jax.jit(MODEL.apply)


def test_a_score_depends_on_earlier_tokens_only():
    changed = TOKENS.copy()
    changed[:, 20] = (changed[:, 20] + 1) % 7
    first, second = scores(start(), TOKENS), scores(start(), changed)
    np.testing.assert_array_equal(first[:, :20], second[:, :20])
    assert np.all(np.max(np.abs(first - second)[:, 20:], -1) > 0)


def test_the_start_has_scores_of_unit_size():
    out = scores(start(), TOKENS)
    assert out.shape == (3, CONTEXT, 7)
    assert 0.5 < np.std(out) < 2


def test_an_unbalanced_start_is_of_the_same_function_to_the_bit():
    first, second = (scores(variables, TOKENS) for variables in starts())
    np.testing.assert_array_equal(first, second)


def factors(block):
    """What units, values and queries are multiplied by, once from either side."""
    (before, after) = (variables["params"][block] for variables in starts())
    ratio = jax.tree.map(lambda x, y: np.asarray(y / x), before, after)
    heads = {name: layer["kernel"] for name, layer in ratio["attention"].items()}
    kernel = functools.partial(np.broadcast_to, shape=ratio["inner"]["kernel"].shape)
    np.testing.assert_array_equal(
        ratio["inner"]["kernel"], kernel(ratio["inner"]["bias"])
    )
    yield ratio["inner"]["bias"], 1 / ratio["outer"]["kernel"].T
    yield heads["value"][0], 1 / np.moveaxis(heads["out"], 2, 0)
    yield heads["query"][0], 1 / heads["key"]
    np.testing.assert_array_equal(ratio["outer"]["bias"], 1)
    for norm in ("attention_norm", "units_norm"):
        np.testing.assert_array_equal(ratio[norm]["scale"], 1)


@pytest.mark.parametrize("block", ["block_0", "block_1"])
def test_a_quarter_is_multiplied_by_powers_of_two_and_divided(block):
    for factor, inverse in factors(block):
        np.testing.assert_array_equal(inverse, np.broadcast_to(factor, inverse.shape))
        assert np.sum(factor != 1) <= factor.size // 4
        mantissas, exponents = np.frexp(factor[factor != 1])
        np.testing.assert_array_equal(mantissas, 0.5)
        assert 1 <= np.median(exponents - 1) <= 5


def test_blocks_are_unbalanced_differently():
    units = [next(factors(block))[0] for block in ("block_0", "block_1")]
    assert units[0].shape == (8 * HEAD_WIDTH,)
    assert np.sum(units[0] != 1) > 0.9 * units[0].size / 4
    assert np.any(units[0] != units[1])
