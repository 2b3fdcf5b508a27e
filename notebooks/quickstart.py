# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: -jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/pathsgd_optax/blob/main/notebooks/quickstart.ipynb)
#
# # Quickstart: from `pip install` to a plot
#
# A ReLU network can be written down in many ways. Multiply the weights that come into
# a hidden unit by 10 and divide those that go out of it by 10: every output stays the
# same, because $\max(0, 10 z) = 10 \max(0, z)$. SGD and Adam train the two versions
# differently all the same. **Path-SGD** doesn't: it divides the gradient of each weight
# by a number $\gamma$ that says how strongly the rest of the network amplifies that
# weight,
#
# $$w_e \leftarrow w_e - \frac{\eta}{\gamma(w, e)} \frac{\partial L}{\partial w_e}.$$
#
# This notebook trains a small Flax network on handwritten digits with SGD and Path-SGD,
# each from two versions of the same network. It takes a few seconds on a laptop, and
# the same code runs on a GPU or a TPU.

# %%
import importlib.util


if importlib.util.find_spec("pathsgd_optax") is None:
    # Where JAX has a plug-in for a GPU or a TPU, both need the same version.
    plugins = {"jax_cuda12_plugin": "cuda12", "libtpu": "tpu"}
    extras = ",".join(plugins[x] for x in plugins if importlib.util.find_spec(x))
    source = "git+https://github.com/OWNER/pathsgd_optax"
    # %pip install --quiet "jax[{extras}]" "pathsgd-optax[benchmarks] @ {source}"

# %%
import functools
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import pathsgd_optax as pathsgd


SMOKE = os.environ.get("PATHSGD_PRESET") == "smoke"  # short, for the tests
EPOCHS = 3 if SMOKE else 20
BATCH_SIZE = 100

print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}")

# %% [markdown]
# ## Data and a network
#
# 1797 images of 8 by 8 pixels, and two hidden layers of 128 ReLU units.

# %%
pixels, digits = load_digits(return_X_y=True)
images, test_images, labels, test_labels = map(
    jnp.asarray,
    train_test_split(
        pixels.astype(np.float32) / 16,
        digits.astype(np.int32),
        test_size=297,
        random_state=0,
    ),
)

model = nn.Sequential([nn.Dense(128), nn.relu, nn.Dense(128), nn.relu, nn.Dense(10)])
balanced = model.init(jax.random.key(0), images[:1])["params"]

# %% [markdown]
# ## Two starts, one function
#
# `unbalance` picks hidden units at random and rescales each by about 10. Here it picks
# 64 times out of 256 units, the share that the paper uses. The function stays the same,
# up to rounding; so does the *path norm*, the length of the vector that has one entry
# for each path from an input to an output, the product of the weights along it.
#
# `layered_network` reads off the parameters which weights follow each other. They don't
# show what is between the layers; given the function and an example, it checks that
# this is ReLU, and nothing else.


# %%
def logits(params, images):
    return model.apply({"params": params}, images)


network = pathsgd.layered_network(balanced, apply_fn=logits, x=images[:1])
unbalanced = pathsgd.unbalance(network, balanced, jax.random.key(1), count=64)
starts = {"balanced": balanced, "unbalanced": unbalanced}

for name, params in starts.items():
    largest = max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(params))
    print(
        f"{name:10}  first logit {logits(params, images)[0, 0]:.5f}"
        f"  path norm {pathsgd.path_norm(network, params):.3f}"
        f"  largest weight {largest:.3g}"
    )

# %% [markdown]
# ## Training
#
# `path_sgd` is an Optax optimizer like any other, but its `update` has to be given the
# parameters. Without a network it takes them for a plain stack of `Dense` layers with
# ReLU, as here; for all others, trace the network. One epoch is a single compiled
# `lax.scan` over shuffled batches.
#
# Its state also keeps the logarithm of the path norm, $\log \phi$, and with
# `monitor=True` the *path metric* $\sqrt{\sum_e g_e^2 / \gamma_e}$, the length of the
# gradient $g$ as Path-SGD measures it. `optax.tree.get` finds them wherever they are in
# the state, and returns None for an optimizer that doesn't have them.


# %%
@functools.partial(jax.jit, static_argnames="optimizer")
def train_epoch(params, state, key, *, optimizer):
    def objective(params, batch):
        scores = logits(params, images[batch])
        return pathsgd.truncated_softmax_cross_entropy(scores, labels[batch]).mean()

    def step(carry, batch):
        params, state = carry
        loss, grads = jax.value_and_grad(objective)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        log = {
            "objective": loss,
            "log_path_norm": optax.tree.get(state, "log_path_norm"),
            "path_metric": optax.tree.get(state, "path_metric"),
        }
        return (optax.apply_updates(params, updates), state), log

    order = jax.random.permutation(key, len(images))
    batches = order.reshape(-1, BATCH_SIZE)
    (params, state), log = jax.lax.scan(step, (params, state), batches)
    return params, state, log


def train(optimizer, params):
    """The parameters after training, and the log of every step."""
    state, logs = optimizer.init(params), []
    for key in jax.random.split(jax.random.key(2), EPOCHS):
        params, state, log = train_epoch(params, state, key, optimizer=optimizer)
        logs.append(log)
    return params, jax.tree.map(lambda *parts: np.concatenate(parts), *logs)


def compare(optimizers):
    """Trains from both starts, and prints the last objective and the test error."""
    logs = {}
    for name, optimizer in optimizers.items():
        for start, params in starts.items():
            params, logs[name, start] = train(optimizer, params)
            loss = logs[name, start]["objective"][-10:].mean()
            wrong = (logits(params, test_images).argmax(-1) != test_labels).mean()
            print(f"{name:10} {start:10}  objective {loss:.2g}  test error {wrong:.1%}")
    return logs


logs = compare(
    {
        "sgd": optax.sgd(0.1),
        "path_sgd": pathsgd.path_sgd(0.05, monitor=True),
    }
)

# %% [markdown]
# ## The plot
#
# A broad pale line is the balanced start, a dashed one the unbalanced start.

# %%
LABELS = {
    "sgd": "SGD",
    "path_sgd": "Path-SGD",
    "adam": "Adam",
    "path_adam": "Path-Adam",
}
COLOURS = {
    "sgd": "#0072B2",
    "path_sgd": "#D55E00",
    "adam": "#009E73",
    "path_adam": "#000000",
}
STYLES = {
    "balanced": {"linestyle": "-", "linewidth": 4.5, "alpha": 0.4},
    "unbalanced": {"linestyle": (0, (3.5, 1.5)), "linewidth": 1.8},
}


def draw(axes, logs, quantity, label):
    steps_per_epoch = len(images) // BATCH_SIZE
    for (name, start), log in logs.items():
        # The mean of each epoch's steps.
        means = log[quantity].reshape(-1, steps_per_epoch).mean(axis=1)
        axes.plot(
            range(1, EPOCHS + 1),
            means,
            color=COLOURS[name],
            label=f"{LABELS[name]}, {start} start",
            **STYLES[start],
        )
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92")


figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
draw(axes, logs, "objective", "objective (cross-entropy)")
axes.set_yscale("log")
axes.set_ylim(top=10)
axes.legend(frameon=False, handlelength=4)
plt.show()

# %% [markdown]
# The two curves of Path-SGD lie on top of each other: from either version of the
# network it runs through the same functions. SGD doesn't. A step size of 0.1 suits the
# balanced network, but in the unbalanced one some gradients are more than ten times
# larger. The first steps throw the weights so far away (the objective leaves the plot)
# that all ReLU units of a layer are dead, and what remains is a guess among ten digits,
# $\ln 10 = 2.3$. Try 0.03: SGD then learns from both starts, along two other curves.
#
# ## What the state knows
#
# The path norm grows while the network learns, and the path metric falls in the end, as
# the gradient does. Neither can tell the two starts apart.

# %%
monitored = {key: log for key, log in logs.items() if key[0] == "path_sgd"}
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
draw(left, monitored, "log_path_norm", r"log path norm, $\log\,\phi$")
draw(right, monitored, "path_metric", r"path metric, $\sqrt{\sum g^2 / \gamma}$")
left.legend(frameon=False, handlelength=4)
plt.show()

# %% [markdown]
# ## Adam, too
#
# `path_adam` takes the place of `optax.adam`. It is Adam inside the geometry of the
# paths: the gradients are divided by $\sqrt\gamma$ on the way in, and the updates on
# the way out. (Dividing by $\gamma$ before Adam wouldn't do. Adam would divide it out
# again.) Adam's two curves differ, whichever is better; those of Path-Adam don't.

# %%
adam_logs = compare(
    {
        "adam": optax.adam(0.001),
        "path_adam": pathsgd.path_adam(0.001),
    }
)
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
draw(axes, adam_logs, "objective", "objective (cross-entropy)")
axes.set_yscale("log")
axes.legend(frameon=False, handlelength=4)
plt.show()

# %% [markdown]
# ## A last layer of zeros
#
# Many networks start with one. But then no path runs from a hidden unit to an output,
# and after the first step hardly any, so that $\gamma$ is tiny, and updates are huge.
# With `damping` every hidden unit is an output, too, in units of its own, which no
# rescaling changes.

# %%
zeros = jax.tree.map(jnp.zeros_like, balanced["layers_4"])
for damping in (0.0, 0.1):
    optimizer = pathsgd.path_sgd(0.05, damping=damping)
    _, log = train(optimizer, balanced | {"layers_4": zeros})
    objective = log["objective"]
    print(
        f"damping {damping}: objective {objective[0]:.2f} at first, "
        f"{objective.max():.2f} at most, {objective[-10:].mean():.2g} in the end"
    )

# %% [markdown]
# ## Where to go from here
#
# - `geometry`: what $\gamma$ is, why the two curves coincide, and exactly so.
# - `tracing`: networks with convolutions, BatchNorm, skip connections and your own
#   operations.
# - `figure_3`: the experiment of the paper, with step sizes chosen as it does.
