"""Short training of a small language model, and the optimizers that are compared."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from numpy.typing import NDArray
from optax import contrib

import pathsgd_optax as pathsgd
from benchmarks.architectures import Variables
from benchmarks.decoder import CONTEXT, Decoder, unbalance
from benchmarks.optimizers import Optimizer
from benchmarks.text import Text
from benchmarks.train import MakeOptimizer, Params, State, start


LAST_STEPS = 50
"""The steps whose mean objective is what training ends with."""

WINDOW = 10
"""The steps whose mean objective is a point of a learning curve."""

WARM_UP = 10
"""The step size rises from 0 in one of so many steps, and falls as a cosine then."""

UNSEEN = 256
"""Pieces of the text for validation, which are the same for all runs."""

GRID = tuple(0.01 * 2.0**k for k in range(-2, 3))
"""The step sizes to start with: steps of two."""


class Task(NamedTuple):
    """What is learned, by what network, from what minibatches, in how many steps."""

    text: Text
    heads: int
    blocks: int
    batch_size: int
    steps: int
    context: int = CONTEXT


class Outcome(NamedTuple):
    """Objectives: mean of the last steps, on unseen text, means of each `WINDOW`.

    The first run of a program also compiles it.
    """

    train_loss: float
    validation_loss: float
    losses: list[float]
    seconds: float


COLUMNS = contrib.MuonDimensionNumbers(0, 1)
INTO_HEADS = contrib.MuonDimensionNumbers(0, (1, 2))
OUT_OF_HEADS = contrib.MuonDimensionNumbers((0, 1), 2)

MATRICES = {
    "query": INTO_HEADS,
    "key": INTO_HEADS,
    "value": INTO_HEADS,
    "out": OUT_OF_HEADS,
    "inner": COLUMNS,
    "outer": COLUMNS,
}
"""The layers whose kernels Muon takes: as published, neither embeddings nor head."""


def _matrices(params: Params) -> Params:
    """The axes of what Muon takes; None for what it leaves to Adam."""

    def axes(path: tuple[Any, ...], _: jax.Array) -> Any:
        layer, name = ("", *(entry.key for entry in path))[-2:]
        return MATRICES.get(layer) if name == "kernel" else None

    return jax.tree_util.tree_map_with_path(axes, params)


_muon = functools.partial(
    contrib.muon, adam_b2=0.98, muon_weight_dimension_numbers=_matrices
)


def _path_muon(
    learning_rate: optax.ScalarOrSchedule, network: pathsgd.PathNetwork
) -> optax.GradientTransformation:
    return pathsgd.precondition_by_path_norm(_muon(learning_rate), network)


OPTIMIZERS = {
    "adam": Optimizer("Adam", functools.partial(optax.adam, b2=0.98), GRID),
    "lamb": Optimizer("LAMB", functools.partial(optax.lamb, b2=0.98), GRID),
    "muon": Optimizer("Muon", _muon, GRID),
    "path_adam": Optimizer(
        "Path-Adam",
        functools.partial(pathsgd.path_adam, b2=0.98),
        GRID,
        needs_paths=True,
    ),
    "path_muon": Optimizer("Path-Muon", _path_muon, GRID, needs_paths=True),
    "sgd_momentum": Optimizer(
        "SGD, momentum", functools.partial(optax.sgd, momentum=0.9), GRID
    ),
    "path_sgd_momentum": Optimizer(
        "Path-SGD, momentum",
        functools.partial(pathsgd.path_sgd, momentum=0.9),
        GRID,
        needs_paths=True,
    ),
}


def maker(task: Task, name: str) -> MakeOptimizer:
    """How to make an optimizer from its largest step size, which may be traced."""
    optimizer = OPTIMIZERS[name]
    make = optimizer.on(paths_of(task) if optimizer.needs_paths else None)
    return functools.partial(_scheduled, make, task.steps)


def _scheduled(
    make: Callable[..., optax.GradientTransformation], steps: int, learning_rate: Any
) -> optax.GradientTransformation:
    shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, steps // WARM_UP, steps)
    return make(lambda count: learning_rate * shape(count))


def model_of(task: Task) -> Decoder:
    """The network that is trained."""
    return Decoder(task.heads, task.blocks, task.text.vocabulary, task.context)


def paths_of(task: Task) -> pathsgd.PathNetwork:
    """The network's paths: normalisation ends them, and gates are one."""
    variables = initialize(task, "balanced", seed=0)
    return pathsgd.trace_linen(model_of(task), variables, _tokens(task), gates=True)


def initialize(task: Task, init: str, seed: int) -> Variables:
    """What training starts at; the function is that of the seed alone."""
    key, unbalancing = jax.random.split(jax.random.key(seed))
    variables = _balanced(key, _tokens(task), model_of(task))
    return variables if init == "balanced" else unbalance(variables, unbalancing)


@functools.partial(jax.jit, static_argnames="model")
def _balanced(key: jax.Array, tokens: jax.Array, model: Decoder) -> Variables:
    return model.init(key, tokens)


def _tokens(task: Task) -> jax.Array:
    return jnp.zeros((1, task.context), jnp.int32)


def run(
    task: Task,
    make_optimizer: MakeOptimizer,
    learning_rate: float,
    init: str,
    seed: int,
) -> Outcome:
    """Trains from a balanced or an unbalanced start.

    The seed fixes the function that training starts at and the minibatches, whatever
    the optimizer and the initialisation.

    Args:
      task: what to learn.
      make_optimizer: makes the optimizer from a traced step size.
      learning_rate: the step size.
      init: one of `train.INITS`.
      seed: the seed of all that is random.

    Returns:
      What was seen on the way and at the end.
    """
    began = time.perf_counter()
    model, variables = model_of(task), initialize(task, init, seed)
    pieces = functools.partial(windows, task.context)
    batches = pieces(task.text.train, seed, task.steps, task.batch_size)
    params, steps = _train(
        variables, learning_rate, batches, model=model, make_optimizer=make_optimizer
    )
    validation = _validation(params, pieces(task.text.validation, 0, UNSEEN), model)
    losses = np.asarray(steps, float)
    whole = losses[: len(losses) // WINDOW * WINDOW].reshape(-1, WINDOW)
    return Outcome(
        float(losses[-LAST_STEPS:].mean()),
        float(validation),
        whole.mean(1).tolist(),
        time.perf_counter() - began,
    )


def windows(
    context: int, tokens: NDArray[np.int32], seed: int, *shape: int
) -> NDArray[np.int32]:
    """Random pieces of a text, and for each token the next one.

    Returns:
      Tokens, shape ``(*shape, context + 1)``.
    """
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, len(tokens) - context, shape)
    return tokens[starts[..., None] + np.arange(context + 1)]


@functools.partial(jax.jit, static_argnames=("model", "make_optimizer"))
def _train(
    variables: Variables,
    learning_rate: jax.Array,
    batches: jax.Array,
    *,
    model: Decoder,
    make_optimizer: MakeOptimizer,
) -> tuple[Params, jax.Array]:
    """The parameters after all steps, and the objective before each."""
    optimizer = make_optimizer(learning_rate)

    def step(state: State, batch: jax.Array) -> tuple[State, jax.Array]:
        loss, grads = jax.value_and_grad(objective)(state.params, batch, model)
        updates, memory = optimizer.update(grads, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), memory), loss

    state, losses = lax.scan(step, start(variables, optimizer), batches)
    return state.params, losses


def objective(params: Params, batch: jax.Array, model: Decoder) -> jax.Array:
    """The mean cross-entropy of the next tokens."""
    scores = cast(jax.Array, model.apply({"params": params}, batch[:, :-1]))
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, batch[:, 1:])
    return jnp.mean(losses)


_validation = jax.jit(objective, static_argnames="model")
