"""Path masses: exact in powers of two, right at any magnitude, and linear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from pathsgd_optax import _mass, _scaled


def value(x):
    """The number itself, in double precision."""
    return np.ldexp(np.float64(x.mantissa), np.asarray(x.exponent))


def numbers(seed=0, shape=(5,), spread=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) * 2.0 ** rng.integers(-spread, spread + 1, shape)
    return jnp.float32(x)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, 3.5, 4.0])
def test_a_mass_is_a_power(p):
    x = numbers(spread=5)
    np.testing.assert_allclose(
        value(_mass.mass(x, p)), np.abs(np.float64(x)) ** p, rtol=1e-5
    )


@pytest.mark.parametrize("p", [3.5, 4.0, 16.0])
def test_high_powers_do_not_leave_the_range(p):
    mass = _mass.mass(jnp.float32([1e-30, 2e-30]), p)
    norms = _mass.root(mass, p)
    np.testing.assert_allclose(_scaled.unscaled(norms), [1e-30, 2e-30], rtol=1e-5)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 3.5, 4.0, 6.0])
@given(exponent=st.integers(-3000, 3000))
def test_the_root_of_a_mass_is_a_norm(p, exponent):
    x = _mass.of_exponent(jnp.float32([0.0, 0.7, 1.9]), exponent)
    norm = _mass.root(x, p)
    logs = np.log2(np.float64(norm.mantissa[1:])) + np.asarray(norm.exponent)
    wanted = (np.log2([0.7, 1.9]) + exponent) / p
    np.testing.assert_allclose(logs, wanted, rtol=1e-6, atol=1e-5)
    assert norm.mantissa[0] == 0


@pytest.mark.parametrize("p", [1.0, 2.0, 4.0])
def test_powers_of_two_change_no_other_bit(p):
    x = numbers(spread=9)
    for factor in (2.0**-20, 2.0**11):
        norms = [_mass.root(_mass.mass(y, p), p) for y in (x, x * factor)]
        one, other = (np.ldexp(np.float64(n.mantissa), n.exponent) for n in norms)
        np.testing.assert_array_equal(one * factor, other)


@given(seed=st.integers(0, 99), exponents=st.tuples(*[st.integers(-40, 40)] * 2))
def test_sums_and_products_are_those_of_the_numbers(seed, exponents):
    x, y = (
        _mass.of_exponent(jnp.abs(numbers(seed + k)), exponent)
        for k, exponent in enumerate(exponents)
    )
    np.testing.assert_allclose(value(_mass.add(x, y)), value(x) + value(y), rtol=1e-6)
    np.testing.assert_allclose(
        value(_mass.multiply(x, y)), value(x) * value(y), rtol=1e-6
    )


@pytest.mark.parametrize("first", [-500, 0, 500])
def test_zeros_have_no_say_in_the_exponent_of_a_sum(first):
    zeros = _mass.ordered(_mass.of_exponent(jnp.zeros(3), first))
    x = _mass.of_exponent(jnp.float32([1.0, 0.0, 0.5]), 20)
    for total in (_mass.add(zeros, x), _mass.add(x, zeros)):
        assert total.exponent == 20
        np.testing.assert_array_equal(total.mantissa, x.mantissa)


def normalized(x):
    inverse, exponent, order = _mass.unit(x)
    return _mass.Mass(x.mantissa * inverse, exponent, order)


def test_sums_of_zeros_keep_exponents_for_their_slopes():
    def total(mantissa):
        x = normalized(_mass.of_exponent(mantissa, 7))
        y = _mass.add(x, _mass.ordered(_mass.of_exponent(jnp.zeros(3), 3)))
        return jnp.sum(y.mantissa), y.exponent

    slope, exponent = jax.grad(total, has_aux=True)(jnp.zeros(3))
    np.testing.assert_array_equal(np.ldexp(slope, exponent), np.full(3, 2.0**7))


@given(exponent=st.integers(-120, 120))
def test_the_unit_is_the_magnitude(exponent):
    x = _mass.of_exponent(jnp.ldexp(jnp.abs(numbers()), exponent), 3)
    y = normalized(x)
    assert 1 <= jnp.max(y.mantissa) < 2
    np.testing.assert_array_equal(value(x), value(y))


@pytest.mark.x64
def test_double_precision_has_its_own_bits():
    x = _mass.of_exponent(jnp.float64([3e-300, 1e-301]), 0)
    y = normalized(x)
    assert y.mantissa.dtype == jnp.float64
    assert 1 <= jnp.max(y.mantissa) < 2
    np.testing.assert_array_equal(value(x), value(y))


def test_powers_of_two_saturate():
    exponents = jnp.int32([-(2**24), -126, 0, 60, 2**24])
    powers = _mass.power_of_two(exponents, jnp.float32, -128, 60)
    np.testing.assert_array_equal(powers, [0, 2.0**-126, 1, 2.0**60, 2.0**60])
    powers = _mass.power_of_two(exponents, jnp.float32)
    np.testing.assert_array_equal(powers, [2.0**-126, 2.0**-126, 1, 2.0**60, 2.0**126])


def test_with_slope_of_has_the_value_of_one_and_the_slope_of_the_other():
    def function(x):
        return _mass.with_slope_of(5 * x, x**2)

    assert function(3.0) == 15
    assert jax.grad(function)(3.0) == 6


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 3.5, 4.0])
@given(exponent=st.integers(-300, 300), unit=st.integers(-126, 126))
def test_roots_are_factors_with_finite_inverses(p, exponent, unit):
    slopes, unit = np.float32([0.0, 1e-30, 1.0]), 2.0**unit
    power = _mass.Power(None, None, jnp.float32(1 / unit))
    arguments = [jnp.asarray(slopes)], [power], jnp.int32(exponent)
    [(factor, other)] = _mass.roots(*arguments, p)
    assert jnp.all(jnp.isfinite(1 / factor)) and jnp.isfinite(1 / other)
    assert factor[0] == jnp.inf
    roots = np.float64(slopes[1:]) ** (1 / p)
    if abs(exponent / p) < 125 and np.all(roots / unit > 2.0**-126):
        product = np.float64(factor[1:]) * np.float64(other)
        wanted = roots / unit * 2.0 ** (exponent / p)
        # An exponent over a fraction is rounded.
        rtol = 1e-6 if p.is_integer() else 1e-5
        np.testing.assert_allclose(product, wanted, rtol=rtol)


def test_the_total_of_zeros_keeps_their_exponent():
    total = _mass.total(_mass.of_exponent(jnp.zeros(3), -700))
    assert (total.mantissa, total.exponent) == (0, -700)
    total = _mass.total(_mass.of_exponent(jnp.float32([0, 2, 3]), 5))
    assert (total.mantissa, total.exponent) == (5, 5)
