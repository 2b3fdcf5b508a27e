"""Rescalings that no network with normalisation and gates feels change no training.

Each symmetry multiplies some parameters by powers of two, and others by their inverses.
They must change no bit of the losses and of the path norm, and of the weights and the
momentum none but these. The controls must fail that.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pathsgd_optax as pathsgd
from tests import gated
from tests.gated import HIDDEN, SQUEEZED, WIDTH, D, E, H
from tests.programs import as_users_do


pytestmark = pytest.mark.optax

STEPS = 50


IDLE = {"stem_bias", "attention.bias_k"}
"""Biases that nothing depends on: a norm or a softmax takes them out."""


def _name(path):
    return jax.tree_util.keystr(path, simple=True, separator=".")


class Symmetry(NamedTuple):
    """What a parameter, by its name, is multiplied by, given numbers of this shape."""

    problem: str
    shape: tuple[int, ...]
    factors: Mapping[str, Callable]

    def apply(self, c, params):
        """The parameters, rescaled."""

        def rescaled(path, leaf):
            name = _name(path)
            factor = self.factors[name](c) if name in self.factors else 1
            return leaf * jnp.broadcast_to(jnp.asarray(factor), leaf.shape)

        return jax.tree_util.tree_map_with_path(rescaled, params)


def same(c):
    """As it is."""
    return c


def rows(c):
    """The inverse, for rows of the next kernel."""
    return 1 / c[..., None]


def rows_of_heads(c):
    """The inverse, for rows of the next kernel, all of whose heads have them."""
    return 1 / c[:, None, None]


def pairs(c):
    """For both entries of a pair that is rotated."""
    return jnp.concatenate([c, c], -1)


def every(*names):
    """All of these by the numbers."""
    return dict.fromkeys(names, same)


def steering(name, of=same):
    """Queries by the numbers, keys by their inverses."""
    queries = dict.fromkeys([f"{name}.q", f"{name}.bias_q"], of)
    return queries | dict.fromkeys([f"{name}.k", f"{name}.bias_k"], lambda c: 1 / of(c))


def carrying(name):
    """Values by the numbers, outputs by their inverses."""
    return every(f"{name}.v", f"{name}.bias_v") | {f"{name}.o": rows}


def attending(name, *before):
    """What is before queries, keys and values by the numbers."""
    kernels = [f"{name}.{kind}" for kind in "qkv"]
    return every(*before) | dict.fromkeys(kernels, rows_of_heads)


SYMMETRIES = {
    "hidden units of a ReLU MLP": Symmetry(
        "decoder", (HIDDEN,), every("in", "bias") | {"out": rows}
    ),
    "up and down of SwiGLU": Symmetry(
        "decoder", (HIDDEN,), every("up") | {"down": rows}
    ),
    "values and output": Symmetry("decoder", (H, E), carrying("attention")),
    "values and output, RoPE": Symmetry("decoder", (H, E), carrying("rope")),
    "queries and keys": Symmetry("decoder", (H, E), steering("attention")),
    "queries and keys, RoPE": Symmetry("decoder", (H, E // 2), steering("rope", pairs)),
    "LayerNorm's scale and shift": Symmetry(
        "decoder", (D,), attending("attention", "scale", "shift")
    ),
    "RMSNorm's scale": Symmetry("decoder", (D,), attending("rope", "rope_scale")),
    "RMSNorm's scale, SwiGLU": Symmetry(
        "decoder", (D,), every("glu_scale") | {"gate": rows, "up": rows}
    ),
    "RMSNorm's scale, logits": Symmetry(
        "decoder", (D,), every("last_scale") | {"logits": rows}
    ),
    "all that the stream is the sum of": Symmetry(
        "decoder",
        (),
        every("table", "place", "attention.o", "out", "rope.o", "down"),
    ),
    "the kernel before BatchNorm, per channel": Symmetry(
        "resnet", (WIDTH,), every("stem", "stem_bias")
    ),
    "the kernel before BatchNorm, of a block": Symmetry(
        "resnet", (WIDTH,), every("first")
    ),
    "the kernel before BatchNorm, as a whole": Symmetry("resnet", (), every("second")),
    "BatchNorm's scale and shift": Symmetry(
        "resnet", (WIDTH,), every("scale", "shift") | {"second": rows}
    ),
    "the kernel before LayerNorm, as a whole": Symmetry(
        "resnet", (), every("head", "head_bias")
    ),
    "LayerNorm's scale": Symmetry(
        "resnet", (2 * WIDTH,), every("head_scale") | {"logits": rows}
    ),
    "squeeze-and-excite": Symmetry(
        "resnet", (SQUEEZED,), every("se.squeeze", "se.bias") | {"se.excite": rows}
    ),
}

OPTIMIZERS = {
    "path_sgd": functools.partial(pathsgd.path_sgd, 0.1),
    "momentum": functools.partial(pathsgd.path_sgd, 0.02, momentum=0.9),
    "damping": functools.partial(pathsgd.path_sgd, 0.1, damping=0.1),
    "path_adam": functools.partial(pathsgd.path_adam, 0.01),
    "path_lars": functools.partial(pathsgd.path_lars, 0.03),
}

AS_USERS_DO = {"path_sgd", "path_adam"}
"""How these are compiled: one of either kind. The others are compiled quickly."""

CONTROLS = {
    "sgd": lambda network: optax.sgd(0.1),
    "adam": lambda network: optax.adam(0.01),
}


@functools.cache
def problem(name):
    made = gated.PROBLEMS[name]()
    return made, made.network()


@functools.cache
def trainer(name, optimizer):
    """A jitted function from first weights to last weights, state and the losses."""
    made, network = problem(name)
    made_by = (OPTIMIZERS | CONTROLS)[optimizer](network)

    def step(carry, _):
        params, state = carry
        value, gradients = jax.value_and_grad(made.loss)(params)
        updates, state = made_by.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), value

    @(as_users_do if optimizer in AS_USERS_DO else jax.jit)
    def train(params):
        carry = params, made_by.init(params)
        (params, state), losses = jax.lax.scan(step, carry, None, STEPS)
        return params, state, losses

    return train


@functools.cache
def trained(name, optimizer):
    """What training makes of the start itself."""
    return trainer(name, optimizer)(problem(name)[0].params)


def _still(name, params):
    """The parameters that training hasn't moved."""
    start = problem(SYMMETRIES[name].problem)[0].params
    moved = jax.tree.map(lambda x, y: bool((x != y).any()), params, start)
    leaves = jax.tree_util.tree_leaves_with_path(moved)
    return {_name(path) for path, moves in leaves if not moves}


def _trained_both_ways(name, optimizer):
    """What training makes of a start, and of the rescaled start; and the rescaling."""
    symmetry = SYMMETRIES[name]
    rng = np.random.default_rng(1)
    powers = rng.integers(1, 27, symmetry.shape) * rng.choice([-1, 1], symmetry.shape)
    rescaled = functools.partial(symmetry.apply, jnp.float32(2.0**powers))
    made, _ = problem(symmetry.problem)
    other = trainer(symmetry.problem, optimizer)(rescaled(made.params))
    return trained(symmetry.problem, optimizer), other, rescaled


def _momentum(state):
    """What is kept in the coordinates of the weights."""

    def is_trace(part):
        return isinstance(part, optax.TraceState)

    return [x.trace for x in jax.tree.leaves(state, is_leaf=is_trace) if is_trace(x)]


@pytest.mark.parametrize("name", SYMMETRIES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_powers_of_two_change_no_other_bit(name, optimizer):
    one, other, rescaled = _trained_both_ways(name, optimizer)
    params, state, losses = one
    other_params, other_state, other_losses = other
    assert _still(name, params) <= IDLE
    assert losses[-1] < 0.8 * losses[0]
    np.testing.assert_array_equal(other_losses, losses)
    norms = (optax.tree.get(x, "log_path_norm") for x in (other_state, state))
    np.testing.assert_array_equal(*norms)
    chex.assert_trees_all_equal(other_params, rescaled(params))
    momentum = [*map(rescaled, _momentum(state))]
    chex.assert_trees_all_equal(_momentum(other_state), momentum)


@pytest.mark.parametrize("name", SYMMETRIES)
@pytest.mark.parametrize("optimizer", CONTROLS)
def test_the_controls_are_changed(name, optimizer):
    one, other, rescaled = _trained_both_ways(name, optimizer)
    (params, _, losses), (other_params, _, other_losses) = one, other
    assert losses[-1] < 0.8 * losses[0]
    assert losses[0] == other_losses[0]
    assert not np.allclose(other_losses[-20:], losses[-20:], rtol=0.01)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(
            other_params, rescaled(params), rtol=1e-2, atol=1e-3
        )
