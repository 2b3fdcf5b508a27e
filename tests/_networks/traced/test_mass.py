"""Path masses: exact in powers of two, right at any magnitude, and linear."""

import operator

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from pathsgd_optax._networks.traced import mass as _mass
from pathsgd_optax._numerics import scaled as _scaled
from tests import programs


def value(x):
    """The number itself, in double precision."""
    return np.ldexp(np.float64(x.mantissa), np.asarray(x.exponent))


def add(x, y):
    return _mass.sum_by(operator.add, x, y)


def multiply(x, y):
    return _mass.of_product(x.mantissa * y.mantissa, x, y)


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


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 3.5])
@pytest.mark.parametrize("shift", [-20, -1, 7])
def test_a_norm_has_the_same_bits_in_any_unit(p, shift):
    mantissas = jnp.float32(1.7) * 2.0 ** jnp.float32([0, shift])
    norms = [
        _mass.root(_mass.of_exponent(mantissa, exponent), p)
        for mantissa, exponent in zip(mantissas, [5, 5 - shift], strict=True)
    ]
    assert norms[0] == norms[1]


@pytest.mark.parametrize("number", [0.0, 1e-7, 1e7])
def test_powers_of_constants_are_those_of_numbers_unknown_to_the_compiler(number):
    x = jnp.full(3, number)
    known = programs.as_users_do(lambda: _mass.mass_of_constant(x, 8.0))()
    np.testing.assert_array_equal(known.mantissa, _mass.mass(x, 8.0).mantissa)


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
    np.testing.assert_allclose(value(add(x, y)), value(x) + value(y), rtol=1e-6)
    np.testing.assert_allclose(value(multiply(x, y)), value(x) * value(y), rtol=1e-6)


@pytest.mark.parametrize("first", [-500, 0, 500])
def test_zeros_have_no_say_in_the_exponent_of_a_sum(first):
    zeros = _mass.ordered(_mass.of_exponent(jnp.zeros(3), first))
    x = _mass.of_exponent(jnp.float32([1.0, 0.0, 0.5]), 20)
    for total in (add(zeros, x), add(x, zeros)):
        assert total.exponent == 20
        np.testing.assert_array_equal(total.mantissa, x.mantissa)


@given(exponent=st.integers(-120, 120))
def test_the_unit_is_the_magnitude(exponent):
    x = _mass.of_exponent(jnp.ldexp(jnp.abs(numbers()), exponent), 3)
    y = _mass.normalized(x)
    assert 1 <= jnp.max(y.mantissa) < 2
    np.testing.assert_array_equal(value(x), value(y))


@pytest.mark.x64
def test_double_precision_has_its_own_bits():
    x = _mass.of_exponent(jnp.float64([3e-300, 1e-301]), 0)
    y = _mass.normalized(x)
    assert y.mantissa.dtype == jnp.float64
    assert 1 <= jnp.max(y.mantissa) < 2
    np.testing.assert_array_equal(value(x), value(y))


def test_powers_of_two_saturate():
    exponents = jnp.int32([-(2**24), -126, 0, 60, 2**24])
    powers = _mass.power_of_two(exponents, jnp.float32, least=-128)
    np.testing.assert_array_equal(powers, [0, 2.0**-126, 1, 2.0**60, 2.0**126])
    powers = _mass.power_of_two(exponents, jnp.float32)
    np.testing.assert_array_equal(powers, [2.0**-126, 2.0**-126, 1, 2.0**60, 2.0**126])


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 3.5, 4.0])
@given(exponent=st.integers(-800, 800))
def test_roots_are_factors_with_finite_inverses(p, exponent):
    x = np.float32([0.0, 1e-30, 1.0])
    slope = _mass.of_exponent(jnp.asarray(x), exponent)
    factors = _mass.factors_of_root(slope, p, jnp.int32(0))
    assert all(jnp.all(jnp.isfinite(1 / factor)) for factor in factors)
    assert factors[0][0] == jnp.inf
    logs = sum(np.log2(np.float64(factor)) for factor in factors)[1:]
    wanted = (np.log2(np.float64(x[1:])) + exponent) / p
    if np.all(np.abs(wanted) < 120):
        np.testing.assert_allclose(logs, wanted, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.5, 4.0])
@pytest.mark.parametrize("bits", [-110, -60, 0, 80])
def test_roots_of_any_entry_have_the_range_of_two_factors(p, bits):
    for exponent in (-250, -120, -60, 60, 120, 160):
        slope = _mass.Mass(jnp.float32([2.0**bits]), jnp.int32(exponent * p))
        factors = _mass.factors_of_root(slope, p, jnp.int32(0))
        found = sum(np.log2(np.float64(np.ravel(factor)[0])) for factor in factors)
        wanted = (bits + int(exponent * p)) / p
        if abs(wanted) < 250:
            np.testing.assert_allclose(found, wanted, atol=1e-4)
