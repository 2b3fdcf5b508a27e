"""Which parameters can be scaled against one another, and leave the function."""

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from pathsgd_optax._numerics.precision import widened
from pathsgd_optax._vocabulary import Params, Scalar, check_apply, is_floating


Numbers: TypeAlias = NDArray[np.float64]
Outputs: TypeAlias = Callable[[list[jax.Array]], jax.Array]

FURTHER = 8
"""Random weights beyond one for each parameter, for how clear the answer is."""

SPREAD = 0.5
"""How far weights are moved at random, in units of their root mean square."""

NUDGE = 1.01
"""How much further they are moved again, to tell effects from rounding."""

AT_LEAST = 0.2
"""The root mean square that is assumed of parameters of less, for large ones less."""

INVISIBLE = 1e-2
"""The share of what a random direction would do that rounding and epsilons may do."""

LARGEST_DENOMINATOR = 4
"""Of an exponent: one of 1/2 where a parameter occurs twice."""

OCTAVES = 2
"""The powers of two by which a scaling is tried."""


def scale_symmetries(
    apply_fn: Callable[..., Any], params: Params, *inputs: Any
) -> tuple[Params, ...]:
    r"""The scalings of whole parameters that leave the network's function.

    .. math::
      f(c^{a_1} w_1, \dots, c^{a_n} w_n) = f(w_1, \dots, w_n) \quad \forall c > 0

    The exponents a are found by what the function does: its derivatives by the scale of
    each parameter, at as many random weights as there are parameters and a few more,
    are orthogonal to them. Each is then tried on random weights. A hidden ReLU layer
    has one, a kernel before a normalisation (but for its epsilon), queries and keys,
    and a residual stream in front of normalisations, with all that is added to it.
    Units of GELU have none.

    Args:
      apply_fn: the network's function, of ``params`` and the inputs, as it is trained:
        with BatchNorm on the statistics of the batch, and in float32, since what
        bfloat16 rounds hides symmetries.
      params: the parameters, floating arrays in any tree.
      *inputs: an example of each further argument of ``apply_fn``, a small batch.

    Returns:
      A basis of all such scalings: trees like ``params``, of the exponents, each a
      multiple of 1/4 at most or of 1/3. Empty if there are none.

    Raises:
      ValueError: if ``apply_fn`` is no function, a parameter is not floating, or what
        the function returns is not finite, or has no floating array.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 1)), "b": jnp.ones(1)}
      >>> def apply_fn(params, x):
      ...     return (jax.nn.relu(x @ params["in"]) @ params["out"])[:, 0] + params["b"]
      >>> x = jnp.array([[1.0, -2.0, 3.0], [0.5, 1.0, -1.0]])
      >>> pathsgd.scale_symmetries(apply_fn, params, x)
      ({'b': 0.0, 'in': 1.0, 'out': -1.0},)

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, equation (1), of which these
      are the rescalings of whole layers.
    """
    check_apply(apply_fn)
    leaves, structure = jax.tree.flatten(widened(params))
    if not leaves or not all(is_floating(leaf) for leaf in leaves):
        raise ValueError("params must be floating arrays: leave out all others.")
    leaves = [jnp.asarray(leaf) for leaf in leaves]

    @jax.jit
    def outputs(leaves: list[jax.Array]) -> jax.Array:
        tree = apply_fn(jax.tree.unflatten(structure, leaves), *inputs)
        arrays = [jnp.ravel(y) for y in jax.tree.leaves(tree) if is_floating(y)]
        if not arrays:
            raise ValueError(
                "apply_fn must return a floating array, or a tree of some."
            )
        return jnp.concatenate([y.astype(jnp.float32) for y in arrays])

    found = [
        next(filter(functools.partial(_leaves_function, outputs, leaves), ways), None)
        for ways in map(_rational, *_null_space(*_effects(outputs, leaves)))
    ]
    return tuple(jax.tree.unflatten(structure, x) for x in found if x is not None)


def _effects(outputs: Outputs, leaves: list[jax.Array]) -> tuple[Numbers, Numbers]:
    """What the scale of each parameter does to random sums of outputs, a row a draw.

    And what a random direction of the same length usually does.
    """

    def effect(key: jax.Array, spread: jax.Array) -> jax.Array:
        weights = _draw(key, leaves, spread)
        values, pullback = jax.vjp(outputs, weights)
        sums = jax.random.normal(jax.random.fold_in(key, 1), values.shape, values.dtype)
        (slopes,) = pullback(sums)
        pairs = list(zip(slopes, weights, strict=True))
        along = jnp.stack([jnp.sum(g * w) for g, w in pairs])
        along += 0 * jnp.sum(values)  # nan where they are not finite
        lengths = [_length(g) * _length(w) / w.size**0.5 for g, w in pairs]
        return jnp.stack([along, jnp.stack(lengths)])

    keys = jax.random.split(jax.random.key(0), len(leaves) + FURTHER)
    cases = jnp.tile(keys, 2), SPREAD * jnp.repeat(jnp.array([1, NUDGE]), len(keys))
    drawn = jax.jit(lambda cases: jax.lax.map(lambda case: effect(*case), cases))(cases)
    along, lengths = np.moveaxis(np.asarray(drawn, np.float64), 1, 0)
    if not np.all(np.isfinite(along)):
        raise ValueError(
            "apply_fn must return finite numbers, with finite derivatives, at random "
            "weights near params: check the inputs."
        )
    usual = np.sqrt(np.mean(lengths**2, 0))
    return _reproducible(*np.split(along, 2)), np.where(usual > 0, usual, 1)


def _reproducible(effects: Numbers, nudged: Numbers) -> Numbers:
    """The effects, but 0 where they are of rounding, as of biases of attention keys."""
    changes = np.mean((effects - nudged) ** 2, 0)
    return np.where(changes < np.mean(effects**2, 0) / 2, effects, 0)


def _draw(
    key: jax.Array, leaves: list[jax.Array], spread: Scalar = SPREAD
) -> list[jax.Array]:
    """Random weights near the parameters, whose zeros may hide what they do."""
    keys = jax.random.split(key, len(leaves))
    return [_moved(k, leaf, spread) for k, leaf in zip(keys, leaves, strict=True)]


def _moved(key: jax.Array, leaf: jax.Array, spread: Scalar) -> jax.Array:
    least = min(AT_LEAST, max(leaf.size, 1) ** -0.25)
    step = spread * jnp.maximum(jnp.sqrt(jnp.mean(jnp.square(leaf))), least)
    return leaf + step.astype(leaf.dtype) * jax.random.normal(
        key, leaf.shape, leaf.dtype
    )


def _length(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(x)))


def _null_space(effects: Numbers, usual: Numbers) -> tuple[Numbers, Numbers]:
    """A basis of the exponents that have no effect, each with a pivot of its own.

    And what each of its exponents does, in units of what that of the pivot does.
    """
    _, sizes, directions = np.linalg.svd(effects / usual)
    null = directions[np.count_nonzero(sizes > INVISIBLE * len(effects) ** 0.5) :]
    pivots: list[int] = []
    for column in range(null.shape[1]):
        below = np.abs(null[len(pivots) :, column])
        if len(below) and below.max() > INVISIBLE:
            _eliminate(null, len(pivots), len(pivots) + int(below.argmax()), column)
            pivots.append(column)
    shares = null[: len(pivots)]
    return shares * usual[pivots][:, None] / usual, shares


def _eliminate(rows: Numbers, row: int, pivot: int, column: int) -> None:
    """Makes the pivot 1, of that row, and the others' entries in its column 0."""
    rows[[row, pivot]] = rows[[pivot, row]]
    rows[row] /= rows[row, column]
    others = np.arange(len(rows)) != row
    rows[others] -= np.outer(rows[others, column], rows[row])


def _rational(exponents: Numbers, shares: Numbers) -> list[list[float]]:
    """The exponents, and those that do much: others may be of rounding and epsilons."""
    every = [
        float(Fraction(x).limit_denominator(LARGEST_DENOMINATOR))
        for x in exponents.tolist()
    ]
    much = np.abs(shares) > INVISIBLE * np.max(np.abs(shares))
    return [every, np.where(much, every, 0).tolist()]


def _leaves_function(
    outputs: Outputs, leaves: list[jax.Array], exponents: list[float]
) -> bool:
    """Whether the outputs stay at random weights that are scaled up, and down."""
    weights = _draw(jax.random.key(1), leaves)

    def scaled(octaves: float) -> jax.Array:
        return outputs(
            [w * 2.0 ** (octaves * a) for w, a in zip(weights, exponents, strict=True)]
        )

    before = outputs(weights)
    size = jnp.max(jnp.abs(before))
    changes = [jnp.max(jnp.abs(scaled(x) - before)) for x in (OCTAVES, -OCTAVES)]
    return all(float(change) <= INVISIBLE * float(size) for change in changes)
