"""The truncated loss against footnote 2, at its joints and at the ends of its range."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

import pathsgd_optax as pathsgd
from tests import oracles


MARGINS = [-30, -13.5, -13, -12.9, -12, -11.1, -11, -10.9, -5, 0, 3, 40]


_jitted = jax.jit(pathsgd.truncated_softmax_cross_entropy)


def _loss(logits, labels=0, dtype=np.float32):
    if not isinstance(logits, jax.Array):
        logits = jnp.asarray(np.asarray(logits, dtype))
    labels = jnp.asarray(labels, jnp.int32)
    return _jitted(logits, jnp.broadcast_to(labels, logits.shape[:-1]))


@pytest.mark.x64
@pytest.mark.parametrize("margin", MARGINS)
def test_loss_is_that_of_footnote_2_in_float64(margin):
    scores = np.array([2.0, 2.0 + margin, -3.0, 2.0 + margin])
    expected = oracles.truncated_cross_entropy(scores, 0)
    assert _loss(scores, dtype=np.float64) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("margin", MARGINS)
def test_loss_keeps_its_relative_accuracy_in_float32(margin):
    scores = np.array([0.0, margin], np.float32)
    expected = oracles.truncated_cross_entropy(scores, 0)
    assert _loss(scores) == pytest.approx(expected, rel=1e-5, abs=0)


@pytest.mark.x64
@given(
    st.lists(st.floats(-50, 50, width=32), min_size=4, max_size=4),
    st.integers(0, 3),
)
@settings(max_examples=100)
def test_loss_is_within_3e_6_k_of_the_cross_entropy(scores, label):
    scores = np.array(scores)
    truncated = oracles.truncated_cross_entropy(scores, label)
    margins = scores - scores[label]
    entropy = margins.max() + np.log(np.exp(margins - margins.max()).sum())
    computed = float(_loss(scores, label, np.float64))
    assert computed == pytest.approx(truncated, rel=1e-12, abs=1e-15)
    assert abs(computed - entropy) <= 3e-6 * len(scores)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("margin", [13, 14, 100, 1e4])
def test_loss_and_slope_are_exactly_zero_at_a_margin_of_13(margin, dtype):
    logits = jnp.array([margin, 0, 0], dtype)
    loss, slope = jax.value_and_grad(_loss)(logits)
    assert loss == 0
    assert np.all(slope == 0)


def test_loss_is_positive_below_a_margin_of_13():
    assert _loss([12.99, 0.0]) > 0


@pytest.mark.x64
@pytest.mark.parametrize("joint", [-11.0, -13.0])
def test_loss_and_gradient_are_continuous_at_the_joints(joint):
    def loss(x):
        scores = jnp.stack([jnp.float64(0), x])
        return pathsgd.truncated_softmax_cross_entropy(scores, jnp.int32(0))

    below, above = (joint - 1e-9, joint + 1e-9)
    for f in (loss, jax.grad(loss)):
        assert abs(f(above) - f(below)) < 1e-12
        assert abs(f(joint) - f(below)) < 1e-12
    assert jax.grad(loss)(joint + 0.5) > 1e-8


@pytest.mark.x64
@pytest.mark.parametrize("margin", [-14.0, -12.0, -11.0, -10.0, 0.0, 20.0])
def test_gradient_is_analytic(margin):
    scores = np.array([0.5, 0.5 + margin, -1.0])
    margins = scores - scores[0]
    parabola = np.exp(-11) * np.maximum(margins + 13, 0)
    slopes = np.where(margins >= -11, np.exp(margins), parabola / 2)
    slopes = slopes / np.exp(oracles.truncated_cross_entropy(scores, 0))
    slopes[0] = -slopes[1:].sum()
    slope = jax.grad(_loss)(jnp.asarray(scores))
    np.testing.assert_allclose(slope, slopes, rtol=1e-10)


@pytest.mark.parametrize("size", [100.0, 1e4, 1e30])
def test_huge_logits_have_a_finite_loss_and_gradient(size):
    logits = jnp.array([[size, -size, 0], [-size, size, 0], [size, size, size]])
    loss, slope = jax.value_and_grad(lambda x: _loss(x).sum())(logits)
    np.testing.assert_allclose(loss, 2 * size + np.log(3), rtol=1e-6)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope[1], [-1, 1, 0])


def test_wrong_predictions_have_the_cross_entropy_itself():
    logits = np.random.default_rng(0).normal(0, 3, (16, 10)).astype(np.float32)
    labels = np.arange(16) % 10
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_allclose(_loss(logits, labels), entropy, atol=3e-5)


def test_shifted_logits_have_the_same_loss():
    logits = np.array([1.0, 3.0, -12.0], np.float32)
    np.testing.assert_array_equal(_loss(logits), _loss(logits + 64))


def test_a_masked_class_adds_nothing():
    logits = jnp.array([1.0, 2.0, -jnp.inf])
    loss, slope = jax.value_and_grad(_loss)(logits)
    assert loss == _loss(logits[:2])
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("dtype, rtol", [(jnp.bfloat16, 2e-2), (jnp.float16, 3e-3)])
def test_narrow_logits_give_a_narrow_loss_near_the_wide_one(dtype, rtol):
    logits = np.random.default_rng(1).normal(0, 3, (32, 10))
    narrow = jnp.asarray(logits, dtype)
    labels = np.arange(32) % 10
    loss, wide = _loss(narrow, labels), _loss(narrow.astype(jnp.float32), labels)
    assert loss.dtype == dtype
    np.testing.assert_allclose(loss.astype(jnp.float32), wide, rtol=rtol, atol=1e-3)


def test_any_number_of_leading_axes_and_vmap():
    logits = np.random.default_rng(2).normal(size=(2, 3, 4)).astype(np.float32)
    labels = np.array([[0, 1, 2], [3, 2, 1]])
    losses = _loss(logits, labels)
    assert losses.shape == (2, 3)
    mapped = jax.jit(jax.vmap(jax.vmap(pathsgd.truncated_softmax_cross_entropy)))
    np.testing.assert_allclose(mapped(logits, labels), losses, rtol=1e-6)
    expected = oracles.truncated_cross_entropy(logits[1, 0], 3)
    assert losses[1, 0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "logits, labels, message",
    [
        (jnp.ones((2, 3)), jnp.ones(2), r"labels .*integer.*float32.*argmax"),
        (jnp.ones((2, 3)), jnp.ones((2, 3)), r"labels .*integer.*float32.*argmax"),
        (jnp.ones((2, 3), int), jnp.ones(2, int), r"logits .*floating.*int32"),
        (jnp.ones((2, 3)), jnp.ones(3, int), r"shape \(2, 3\) and labels \(3,\)"),
        (
            jnp.ones((2, 3)),
            jnp.ones((2, 1), int),
            r"shape \(2, 3\) and labels \(2, 1\)",
        ),
        (jnp.ones(()), jnp.ones((), int), r"shape \(\) and labels \(\)"),
    ],
)
def test_wrong_dtypes_and_shapes_are_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        pathsgd.truncated_softmax_cross_entropy(logits, labels)
