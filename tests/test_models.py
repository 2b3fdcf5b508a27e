"""Models that people train are traced as they are, and train out of the box."""

import jax
import jax.numpy as jnp
import optax
import pytest

import pathsgd_optax as pathsgd
from tests.models import MODELS


pytestmark = pytest.mark.optax

STEPS = 6


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_traced_and_trains(name):
    module, inputs = MODELS[name]
    inputs = inputs(jax.random.key(1))
    with jax.numpy_rank_promotion("allow"):
        variables = jax.jit(module.init)(jax.random.key(0), *inputs)
        network = pathsgd.trace_linen(module, variables, *inputs, gates=True)
        gradient = jax.jit(jax.value_and_grad(_loss(module, variables, inputs)))
        for optimizer in (
            pathsgd.path_sgd(0.1, network, damping=0.1),
            pathsgd.path_adam(0.01, network, damping=0.1),
        ):
            losses = _train(gradient, optimizer, variables["params"])
            assert losses[-1] < losses[0]


def _loss(module, variables, inputs):
    """Of labels that go round."""
    rest = {name: tree for name, tree in variables.items() if name != "params"}

    def loss(params):
        variables = {"params": params, **rest}
        logits, _ = module.apply(variables, *inputs, mutable=list(rest))
        labels = jnp.arange(logits[..., 0].size) % logits.shape[-1]
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, labels.reshape(logits.shape[:-1])
        ).mean()

    return loss


def _train(gradient, optimizer, params):
    """The losses of some steps."""
    state, losses = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for _ in range(STEPS):
        loss, grads = gradient(params)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(loss)
    return losses
