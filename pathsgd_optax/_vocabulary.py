"""The vocabulary of the package: types, argument checks and messages."""

import functools
import inspect
import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax


Params: TypeAlias = Any
"""A pytree of weights, as Flax and Optax hold them."""

KeyPath: TypeAlias = tuple[Any, ...]
"""The keys that lead to a leaf, as `jax.tree_util` names them."""

Scalar: TypeAlias = float | jax.Array

NO_PARAMS = (
    "path-normalised transformations need the current parameters: call "
    "`tx.update(updates, state, params)` with `params`, not without."
)


STATIC = (
    "a Python number, fixed before jit (with optax.inject_hyperparams, "
    'name it among the static_args: static_args=("{}", ...))'
)


def check_norm_order(p: float, name: str = "p") -> float:
    """Returns ``p`` as a float, or raises where no l_p norm has that order."""
    value = _static(p, name)
    if math.isnan(value) or value < 1:
        raise ValueError(f"{name} must be at least 1 (or jnp.inf), but got {p!r}.")
    return value


def check_non_negative(value: float, name: str) -> float:
    """Returns ``value`` as a float, or raises where it is negative or not finite."""
    number = _static(value, name)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} must be finite and at least 0, but got {value!r}.")
    return number


def check_count(value: int | None, name: str) -> None:
    """Raises a ValueError where ``value`` is neither None nor a positive int."""
    if value is None:
        return
    _static(value, name)
    if not isinstance(value, Integral):
        raise ValueError(f"{name} must be an int (or None), but got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1 (or None), but got {value!r}.")


def check_flags(**values: Any) -> None:
    """Raises a ValueError where one of them is neither True nor False, by its name."""
    for name, value in values.items():
        if not isinstance(value, bool | np.bool_):
            raise ValueError(
                f"{name} must be True or False, fixed before jit, but got "
                f"{described(value)}."
            )


def check_scalar(value: Any, name: str) -> None:
    """Raises a ValueError where ``value`` is no number, as an array or without."""
    known = _is_number if isinstance(value, Real) else _is_scalar
    if not known(value):
        raise ValueError(
            f"{name} must be a number or a scalar array, but got {described(value)}."
        )


def check_damping(value: Any) -> None:
    """Raises a ValueError where ``value`` is no number, or known to be negative."""
    check_scalar(value, "damping")
    if isinstance(value, Real):
        check_non_negative(float(value), "damping")


def is_integer(value: Any) -> bool:
    """Whether ``value`` is an int, of Python or NumPy, and no flag."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_zero(value: Scalar) -> bool:
    """Whether ``value`` is known to be zero when a program is made."""
    return isinstance(value, Real) and value == 0


def check_decays(**values: Any) -> None:
    """Raises a ValueError where one of them is known to be no decay of a mean."""
    for name, value in values.items():
        check_scalar(value, name)
        if isinstance(value, Real) and not 0 <= float(value) < 1:
            raise ValueError(f"{name} must be in [0, 1), but got {value!r}.")


def check_sizes(**values: Any) -> None:
    """Raises a ValueError where one of them is known to be negative, by its name."""
    for name, value in values.items():
        check_bound(value, name)


def check_bound(value: Any, name: str) -> None:
    """Raises a ValueError where ``value`` is no number, or known to be no bound."""
    check_scalar(value, name)
    if isinstance(value, Real) and not float(value) >= 0:
        raise ValueError(f"{name} must be at least 0 (or jnp.inf), but got {value!r}.")


def scheduled(value: Any, name: str) -> optax.ScalarOrSchedule:
    """The number, or the schedule, each number of which will be checked."""
    if not callable(value):
        check_scalar(value, name)
        return value
    check_function(value, name, "the number of updates")

    @functools.wraps(value)
    def checked(count: jax.Array) -> jax.Array:
        number = value(count)
        check_scalar(number, f"{name.partition(',')[0]}(count)")
        return number

    return checked


def check_function(value: Callable[..., Any], name: str, argument: str) -> None:
    """Raises a ValueError where ``value`` can't be called with one argument."""
    if isinstance(value, type):
        given = described(value)
    elif not _takes_one(value):
        given = f"one of ({', '.join(inspect.signature(value).parameters)})"
    else:
        return
    raise ValueError(f"{name} must be a function of {argument}, but got {given}.")


def check_apply(apply_fn: Any) -> None:
    """Raises a ValueError unless it is a function, not a module of linen or haiku."""
    applied = hasattr(apply_fn, "apply")
    if not callable(apply_fn) or (applied and hasattr(apply_fn, "bind")):
        advice = ", such as one that calls its apply" if applied else ""
        raise ValueError(
            "apply_fn must be a function of params and inputs, but got "
            f"{described(apply_fn)}. Pass a function{advice}."
        )


def check_transformation(value: Any, name: str) -> None:
    """Raises a ValueError where ``value`` has not the two functions of Optax's."""
    functions = (getattr(value, "init", None), getattr(value, "update", None))
    if not all(map(callable, functions)):
        raise ValueError(
            f"{name} must be a gradient transformation, such as optax.adam(1e-3), but "
            f"got {described(value)}."
        )


def as_array(value: Any, name: str) -> jax.Array:
    """``value`` as an array of numbers, or keys; raises where it can be none."""
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be a number or an array, but got {described(value)}."
        ) from error


def _static(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(
            f"{name} must be {STATIC.format(name)}, but got {described(value)}."
        )
    return float(value)


def _is_number(value: Real) -> bool:
    return not (isinstance(value, bool) or math.isnan(value))


def _is_scalar(value: Any) -> bool:
    return getattr(value, "shape", None) == () and is_real(value)


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(function)
    except ValueError:  # It is written in C.
        return True
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True


def described(value: Any) -> str:
    """What a message says an argument is: numbers as they are, others by their type."""
    if isinstance(value, bool | Real | str | None):
        return repr(value)
    if isinstance(value, jax.Array | np.ndarray):
        return f"an array {value.dtype}{list(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a {type(value).__name__}"


def path_dtype(*leaves: jax.Array) -> jnp.dtype:
    """The dtype in which the leaves' path values are computed: float32 or wider."""
    dtypes = [jnp.dtype(jnp.float32), *(canonical(leaf.dtype) for leaf in leaves)]
    return max(dtypes, key=lambda dtype: dtype.itemsize)


def is_floating(value: Any) -> bool:
    """Whether ``value`` is an array, of JAX or NumPy, of a floating dtype."""
    return _is_of(value, jnp.floating)


def is_real(value: Any) -> bool:
    """Whether ``value`` is an array of integers or of a floating dtype."""
    return _is_of(value, jnp.integer) or _is_of(value, jnp.floating)


def _is_of(value: Any, kind: type[Any]) -> bool:
    dtype = getattr(value, "dtype", None)
    return isinstance(dtype, np.dtype) and bool(jnp.issubdtype(dtype, kind))


def canonical(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype that JAX gives a NumPy array: float32 for float64, without x64."""
    return jnp.dtype(jax.dtypes.canonicalize_dtype(dtype))
