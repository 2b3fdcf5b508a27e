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
# # Quickstart: four optimizers, two versions of one network
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
# **What you will see:** SGD, Adam, Path-SGD and Path-Adam learn handwritten digits,
# each from two versions of the same network, with the step size that suits it.
# Path-SGD and Path-Adam follow one and the same curve from both; SGD and Adam follow
# two. From the version that is scaled well, SGD and Adam get further, though. It takes
# about half a minute on two cores; the same code runs on a GPU or a TPU. (In Colab,
# *File > Open notebook > GitHub* takes the address of this repository.)

# %%
import importlib.util
import sys
from pathlib import Path


# The package is that of the clone around this notebook, or what is installed. In Colab
# it comes from where the notebook was opened, or from a wheel that you upload.
clones = [x for x in Path.cwd().parents if (x / "pathsgd_optax/__init__.py").exists()]
sys.path[:0] = map(str, clones)
if importlib.util.find_spec("pathsgd_optax") is None:
    if "google.colab" not in sys.modules:
        raise ImportError("Open this notebook from a clone, or install pathsgd_optax.")
    import re
    from socket import gethostbyname, gethostname
    from urllib.parse import unquote
    from urllib.request import urlopen

    from google.colab import files

    sessions = f"http://{gethostbyname(gethostname())}:9000/api/sessions"
    try:
        opened = unquote(urlopen(sessions).read().decode())
    except OSError:  # Colab doesn't say.
        opened = ""
    if found := re.search(r"github\.com/[\w.-]+/[\w.-]+(?=/blob/)", opened):
        source = f"git+https://{found[0]}"
    else:
        print("Upload the wheel, pathsgd_optax-*.whl:")
        (source,) = files.upload()
    print(f"The package is taken from {source}.")
    # Where JAX has a plug-in for a GPU or a TPU, both need the same version.
    plugins = {"jax_cuda12_plugin": "cuda12", "libtpu": "tpu"}
    extras = ",".join(plugins[x] for x in plugins if importlib.util.find_spec(x))
    # %pip install --quiet "jax[{extras}]" "{source}"

# %%
import functools
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from IPython.display import ProgressBar
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import pathsgd_optax as pathsgd


SMOKE = os.environ.get("PATHSGD_PRESET") == "smoke"  # short, for the tests
EPOCHS = 2 if SMOKE else 20
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
# 64 times out of 256 units, the share that the paper uses.
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

# %% [markdown]
# The function is the same, up to rounding. So is the *path norm*, the length of the
# vector that has one entry for each path from an input to an output, the product of the
# weights along it. The weights are not.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
outputs = [logits(params, images).ravel() for params in starts.values()]
left.plot(*outputs, ".", color="0.4", markersize=3)
left.axline((0, 0), slope=1, color="0.7", linewidth=0.8, zorder=0)
left.set(xlabel="scores, balanced network", ylabel="scores, unbalanced network")
for (name, params), shade in zip(starts.items(), ("0.6", "0.1"), strict=True):
    weights = jnp.abs(params["layers_2"]["kernel"]).ravel()
    phi = pathsgd.path_norm(network, params)
    label = f"{name}, path norm {phi:.3f}"
    bins = np.geomspace(1e-6, 1e3, 60)
    right.hist(weights, bins, histtype="step", color=shade, linewidth=1.5, label=label)
right.set(xscale="log", xlabel="size of a weight, second layer", ylabel="weights")
right.set_ylim(top=1.5 * right.get_ylim()[1])
right.legend(frameon=False)
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# ## Training
#
# `path_sgd` and `path_adam` are Optax optimizers like any other, but `update` has to be
# given the parameters. Without a network they take them for a plain stack of `Dense`
# layers with ReLU, as here; for all others, trace the network. All epochs are a single
# compiled `lax.scan` over shuffled batches.
#
# Their state also keeps the logarithm of the path norm, $\log \phi$, and with
# `monitor=True` the *path metric* $(\sum_e g_e^2 / \gamma_e)^{1/2}$, the length of the
# gradient $g$ as Path-SGD measures it. `optax.tree.get` finds them wherever they are in
# the state, and returns None for an optimizer that doesn't have them.

# %%
OPTIMIZERS = {
    "sgd": optax.sgd,
    "path_sgd": functools.partial(pathsgd.path_sgd, monitor=True),
    "adam": optax.adam,
    "path_adam": functools.partial(pathsgd.path_adam, monitor=True),
}


@functools.partial(jax.jit, static_argnames=("make", "epochs"))
def train(params, rate, *, make, epochs):
    """The parameters after training, and a log of each step, a row an epoch."""
    optimizer = make(rate)

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

    def epoch(carry, key):
        order = jax.random.permutation(key, len(images))
        return jax.lax.scan(step, carry, order.reshape(-1, BATCH_SIZE))

    keys = jax.random.split(jax.random.key(2), epochs)
    (params, _), log = jax.lax.scan(epoch, (params, optimizer.init(params)), keys)
    return params, log


# %% [markdown]
# ## The step size
#
# A comparison is fair if each optimizer has the step size that suits it, from each
# start. All get the same search: eleven step sizes from 10 to 0.0001, five epochs each,
# all at once by `jax.vmap`; the one with the smallest objective in the fifth epoch is
# taken.

# %%
RATES = jnp.logspace(1, -4, 3 if SMOKE else 11)
SEARCH_EPOCHS = 1 if SMOKE else 5


def search(params, make):
    """The objective after a few epochs, for each step size."""
    of_rate = functools.partial(train, params, make=make, epochs=SEARCH_EPOCHS)
    _, log = jax.vmap(of_rate)(RATES)
    return np.nan_to_num(log["objective"][:, -1].mean(axis=1), nan=np.inf)


runs = [(name, start) for name in OPTIMIZERS for start in starts]
found = {
    (name, start): search(starts[start], OPTIMIZERS[name])
    for (name, start), _ in zip(runs, ProgressBar(len(runs)), strict=True)
}
rates = {run: RATES[objectives.argmin()] for run, objectives in found.items()}

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
PAIRS = [("sgd", "path_sgd"), ("adam", "path_adam")]


def draw(axes, names, x, curves, xlabel, ylabel):
    """A line for each optimizer and start; the dashed one is the unbalanced start."""
    for name in names:
        for start, style in STYLES.items():
            y, label = curves[name, start], f"{LABELS[name]}, {start}"
            axes.plot(x, y, color=COLOURS[name], label=label, **style)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92")


figure, panels = plt.subplots(
    1, 2, figsize=(9.5, 3.8), sharey=True, layout="constrained"
)
for axes, names in zip(panels, PAIRS, strict=True):
    draw(axes, names, RATES, found, "step size", "objective after 5 epochs")
    for run in runs:
        if run[0] in names:
            axes.plot(rates[run], found[run].min(), "*", color=COLOURS[run[0]], ms=11)
    axes.set(xscale="log", yscale="log", ylim=(0.03, 100))
    axes.label_outer()
    axes.legend(frameon=False, handlelength=4, loc="upper left")
plt.show()

# %% [markdown]
# Path-SGD's two curves are one: it sees no difference between the starts, and so the
# same step size is best for both. (The stars are the best ones.) SGD wants one that is
# a hundred times smaller from the unbalanced start: some of its gradients are more than
# ten times larger, and with a larger step size they throw the weights so far away that
# all ReLU units of a layer die. What remains is a guess among ten digits, at
# $\ln 10 = 2.3$.
#
# ## The curves

# %%
logs, results = {}, {}
for (name, start), _ in zip(runs, ProgressBar(len(runs)), strict=True):
    rate, make = rates[name, start], OPTIMIZERS[name]
    params, logs[name, start] = train(starts[start], rate, make=make, epochs=EPOCHS)
    wrong = (logits(params, test_images).argmax(-1) != test_labels).mean()
    results[name, start] = logs[name, start]["objective"][-1].mean(), wrong


# %%
def draw_epochs(axes, names, quantity, label):
    means = {run: logs[run][quantity].mean(axis=1) for run in runs if run[0] in names}
    draw(axes, names, range(1, EPOCHS + 1), means, "epoch", label)
    axes.xaxis.get_major_locator().set_params(integer=True)


figure, panels = plt.subplots(
    1, 2, figsize=(9.5, 3.8), sharey=True, layout="constrained"
)
for axes, names in zip(panels, PAIRS, strict=True):
    draw_epochs(axes, names, "objective", "objective (cross-entropy)")
    axes.set_yscale("log")
    axes.label_outer()
    axes.legend(frameon=False, handlelength=4)
plt.show()

print("optimizer  start       step size  objective  test error")
for (name, start), (loss, wrong) in results.items():
    print(f"{LABELS[name]:10} {start:11} {rates[name, start]:9.2g}", end="")
    print(f"  {loss:9.2g} {wrong:11.1%}")

# %% [markdown]
# From either version of the network, Path-SGD and Path-Adam run through the same
# functions. SGD and Adam don't, though the step size was searched for each of their
# starts. Which is better? From the balanced start SGD reaches a lower objective than
# Path-SGD, and Adam than Path-Adam: a start that is drawn well needs no help. From the
# unbalanced one SGD is behind. What Path-SGD offers is that nobody has to know which of
# the two it is. (One image is 0.34% of the test set, so the test errors say little.)
#
# `path_adam` is Adam inside the geometry of the paths: the gradients are divided by
# $\gamma^{1/2}$ on the way in, and the updates on the way out. Dividing by $\gamma$
# before Adam wouldn't do. Adam would divide it out again.
#
# ## What the state knows
#
# The path norm grows while the network learns, and the path metric falls in the end, as
# the gradient does. Neither can tell the two starts apart.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
figure.get_layout_engine().set(wspace=0.05)
names = ["path_sgd", "path_adam"]
draw_epochs(left, names, "log_path_norm", r"log path norm, $\log\,\phi$")
draw_epochs(right, names, "path_metric", r"path metric, $\sqrt{\sum g^2 / \gamma}$")
right.set_yscale("log")
left.legend(frameon=False, handlelength=4)
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
rate = rates["path_sgd", "balanced"]
figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
for damping, style in {0.0: ":", 0.1: "-"}.items():
    make = functools.partial(pathsgd.path_sgd, damping=damping)
    _, log = train(balanced | {"layers_4": zeros}, rate, make=make, epochs=EPOCHS)
    steps, label = log["objective"].ravel(), f"damping {damping}"
    axes.plot(steps, style, color=COLOURS["path_sgd"], linewidth=1.8, label=label)
axes.set(xlabel="step", ylabel="objective (cross-entropy)", yscale="log")
axes.spines[["top", "right"]].set_visible(False)
axes.grid(color="0.92")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Try
#
# - another start: `unbalance(..., count=10)` or 1000, or rescale one unit by 1000 with
#   `rescale`. Which curves move?
# - `optax.chain(pathsgd.scale_by_path_norm(), optax.adam(rate))`, the naive way. Its
#   curves part.
# - `damping=0.3`, or a first layer of zeros in the place of the last.
#
# Where to go from here:
#
# - [geometry](geometry.ipynb): what $\gamma$ is, why the two curves coincide, and
#   exactly so.
# - [tracing](tracing.ipynb): convolutions, BatchNorm, skip connections, operations of
#   your own, and pictures of all that.
# - [gates](gates.ipynb): networks that normalise and attend, as they train.
# - [figure 3](figure_3.ipynb): the experiment of the paper, with step sizes chosen as
#   it does.
