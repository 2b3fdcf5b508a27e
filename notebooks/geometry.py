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
# # The geometry of rescaling
#
# Why should one divide a gradient by anything? This notebook works it out on networks
# that are small enough to do by hand: what SGD gets wrong, what $\gamma$ is, which norm
# it belongs to, and in what sense Path-SGD can't see how the weights are scaled. The
# numbers of equations, figures and theorems are those of
# [Neyshabur et al., 2017](https://arxiv.org/abs/1705.03071).
#
# **What you will see:** single steps of SGD and Path-SGD drawn on networks of two and
# four units; $\gamma$ added up path by path; that the path norm is the best that
# rescaling can do; and two networks that stay rescalings of one another through
# hundreds of steps, bit for bit. It takes some ten seconds.

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
import itertools
import math
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import pathsgd_optax as pathsgd


SMOKE = os.environ.get("PATHSGD_PRESET") == "smoke"  # short, for the tests
SAMPLES = 100 if SMOKE else 2000
STEPS = 20 if SMOKE else 200

COLOURS = {
    "sgd": "#0072B2",
    "path_sgd": "#D55E00",
    "adam": "#009E73",
    "path_adam": "#000000",
}

# %% [markdown]
# ## One unit, two descriptions
#
# The rescaling $\rho_{c,v}$ multiplies the weights that come into a hidden unit $v$ by
# $c > 0$, and divides those that go out of it by $c$ (equation 1). As
# $\max(0, c z) = c \max(0, z)$, the network computes the same function.
#
# Take the smallest network there is: one input, one hidden unit, one output, the
# function $w_2 \max(0, w_1 x)$. With $w = (1, 1)$ or with $w = (100, 0.01)$ it's the
# identity on positive numbers.


# %%
def dense(*kernels):
    """The parameter tree of a Flax network of Dense layers without biases."""
    kernels = map(jnp.array, kernels)
    return {f"Dense_{k}": {"kernel": kernel} for k, kernel in enumerate(kernels)}


def apply(params, x):
    *hidden, last = (layer["kernel"] for layer in params.values())
    for kernel in hidden:
        x = jax.nn.relu(x @ kernel)
    return x @ last


def draw_network(axes, params, colour):
    """Inputs of 1 on the left, outputs on the right, weights on the edges."""
    kernels = [layer["kernel"] for layer in params.values()]
    outputs = apply(params, jnp.ones(len(kernels[0])))
    sizes = [len(kernels[0]), *(kernel.shape[1] for kernel in kernels)]
    at = [
        [(2.2 * layer, (size - 1) / 2 - unit) for unit in range(size)]
        for layer, size in enumerate(sizes)
    ]
    for layer, kernel in enumerate(kernels):
        for (i, j), weight in np.ndenumerate(kernel):
            tail, head = np.array(at[layer][i]), np.array(at[layer + 1][j])
            axes.plot(*zip(tail, head, strict=True), color=colour, zorder=1)
            axes.text(
                *(tail + 0.34 * (head - tail)),
                f"{weight:.6g}",
                ha="center",
                va="center",
                fontsize=10,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
            )
    texts = [["1"] * sizes[0], *([" "] * n for n in sizes[1:-1])]
    texts.append([f"{output:.6g}" for output in outputs])
    for units, labels in zip(at, texts, strict=True):
        for (x, y), text in zip(units, labels, strict=True):
            box = {"boxstyle": "round,pad=0.35", "facecolor": "0.95"}
            axes.text(x, y, text, ha="center", va="center", fontsize=11, bbox=box)
    axes.set(xlim=(-0.3, 4.9), ylim=(-0.7, 0.7))
    axes.set_axis_off()


chain = dense([[1.0]], [[1.0]])
network = pathsgd.layered_network(chain)
rescaled = pathsgd.rescale(network, chain, layer=0, unit=0, c=100.0)
figure = plt.figure(figsize=(8, 1.3), layout="constrained")
for axes, params in zip(figure.subplots(1, 2), (chain, rescaled), strict=True):
    draw_network(axes, params, "0.4")
plt.show()

# %% [markdown]
# ## Figure 2 (b): the small weight blows up
#
# Suppose that the input is 1, that the gradient of the loss with respect to the output
# is $-1$ (it should grow), and that the step size is 1. By the chain rule
#
# $$\frac{\partial L}{\partial w_1} = -w_2, \qquad
#   \frac{\partial L}{\partial w_2} = -w_1,$$
#
# so that **the smaller a weight, the larger its gradient**. That is the wrong way
# round. Path-SGD divides by $\gamma$, which for a chain of two weights is just the
# square of the other weight: $\gamma(w_1) = w_2^2$ and $\gamma(w_2) = w_1^2$. We leave
# the arithmetic to the optimizers, and draw the networks.


# %%
def one_step(optimizer, params):
    inputs = jnp.ones(len(params["Dense_0"]["kernel"]))
    grads = jax.grad(lambda params: -apply(params, inputs).sum())(params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    return optax.apply_updates(params, updates)


def draw_figure_2(starts):
    units = max(len(params["Dense_0"]["kernel"]) for params in starts.values())
    size = 11, (0.6 + 0.8 * units) * len(starts)
    figure = plt.figure(figsize=size, layout="constrained")
    rows = figure.subplots(len(starts), 3)
    for axes, (name, params) in zip(rows, starts.items(), strict=True):
        steps = {"sgd": optax.sgd(1.0), "path_sgd": pathsgd.path_sgd(1.0)}
        draw_network(axes[0], params, "0.4")
        for panel, (key, optimizer) in zip(axes[1:], steps.items(), strict=True):
            draw_network(panel, one_step(optimizer, params), COLOURS[key])
        axes[0].set_title(f"{name} start", loc="left", fontweight="bold")
        axes[1].set_title("after a step of SGD", color=COLOURS["sgd"])
        axes[2].set_title("after a step of Path-SGD", color=COLOURS["path_sgd"])
    plt.show()


draw_figure_2({"balanced": chain, "unbalanced": rescaled})

# %% [markdown]
# From $(1, 1)$ both take the same step, to $(2, 2)$: the function $4x$. From
# $(100, 0.01)$, the same function, SGD hardly touches the large weight and makes the
# small one ten thousand times larger. Path-SGD doubles both, and so stays a rescaling
# of what it did before.
#
# ## Figure 2 (c): two functions from one
#
# One could hope to repair this by shrinking the weights after each step. That won't do.
# With two inputs of 1, two hidden units and two outputs, only the first unit is
# rescaled by 100 here, and SGD then changes its part of the function and hardly the
# other's.

# %%
square = dense(np.ones((2, 2)), np.ones((2, 2)))
network = pathsgd.layered_network(square)
draw_figure_2(
    {
        "balanced": square,
        "unbalanced": pathsgd.rescale(network, square, layer=0, unit=0, c=100.0),
    }
)

# %% [markdown]
# After a step of Path-SGD both networks compute the same function, and one is still the
# other with its first unit rescaled by 100. After a step of SGD the first computes 36,
# the second 40028.
#
# ## What $\gamma$ is, path by path
#
# A path runs from an input to an output, and its value is the product of the weights
# along it. Rescaling a unit doesn't change it: every path through the unit enters by
# one weight and leaves by one. The vector of all path values, $\pi(w)$, is therefore a
# description of the network that no rescaling touches, and its norm is the *path norm*
# (equation 5, for $p = 2$)
#
# $$\phi(w) = \|\pi(w)\|_2
#     = \sqrt{\sum_{\text{paths}} \prod_{e \in \text{path}} w_e^2}.$$
#
# How much does $\pi$ move if one weight $w_e$ moves by $\Delta$? The entry of each path
# through $e$ moves by $\Delta$ times the product of its other weights, so that
# $\|\Delta \pi\|^2 = \gamma(w, e) \, \Delta^2$ with (equation 9)
#
# $$\gamma(w, e) = \sum_{\text{paths through } e} \; \prod_{e' \ne e} w_{e'}^2.$$
#
# That's all there is to it: **Path-SGD is gradient descent, a weight at a time, where
# distance is measured between path vectors instead of weight vectors.** Here is a
# network with few enough paths to list them.

# %%
WIDTHS = (3, 3, 2, 2)
keys = jax.random.split(jax.random.key(0), len(WIDTHS) - 1)
tiny = dense(*map(jax.random.normal, keys, itertools.pairwise(WIDTHS)))
network = pathsgd.layered_network(tiny)
kernels = [np.asarray(layer["kernel"], np.float64) for layer in tiny.values()]

phi_squared = 0.0
gammas = [np.zeros_like(kernel) for kernel in kernels]
for path in itertools.product(*map(range, WIDTHS)):
    edges = list(itertools.pairwise(path))
    weights = [kernel[edge] for kernel, edge in zip(kernels, edges, strict=True)]
    phi_squared += math.prod(weights) ** 2
    for k, edge in enumerate(edges):
        gammas[k][edge] += math.prod(weights[:k] + weights[k + 1 :]) ** 2

found = jax.tree.leaves(pathsgd.path_scaling(network, tiny))
for scaling, gamma in zip(found, gammas, strict=True):
    np.testing.assert_allclose(scaling, gamma, rtol=1e-5)
np.testing.assert_allclose(pathsgd.path_norm(network, tiny) ** 2, phi_squared, 1e-5)


def draw_agreement(label, values):
    axes = plt.figure(figsize=(4.2, 3.6), layout="constrained").subplots()
    for k, (gamma, value) in enumerate(zip(gammas, values, strict=True)):
        axes.loglog(gamma.ravel(), value.ravel(), "os^"[k], label=f"layer {k + 1}")
    axes.axline((1, 1), (10, 10), color="0.7", linewidth=0.8, zorder=0)
    axes.set(xlabel=r"$\gamma$, path by path", ylabel=label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    plt.show()


draw_agreement(r"$\gamma$, by path_scaling", found)

# %% [markdown]
# The picture shows one weight $e$ and the paths through it; $\gamma(w, e)$ adds up
# their squared products, with $e$ itself left out. On the right is $\gamma$ of every
# weight of the network. In a layered network it is a product of two numbers, one for
# the unit where the weight begins and one for the unit where it ends.


# %%
def draw_paths(axes, edge):
    layer, start, end = edge
    for k, (m, n) in enumerate(itertools.pairwise(WIDTHS)):
        for i, j in itertools.product(range(m), range(n)):
            before = k < layer - 1 or (k == layer - 1 and j == start)
            after = k > layer + 1 or (k == layer + 1 and i == end)
            chosen = (k, i, j) == edge
            colour = COLOURS["path_sgd"] if before or after or chosen else "0.85"
            heights = (m - 1) / 2 - i, (n - 1) / 2 - j
            width = 4 if chosen else 1.5
            axes.plot((k, k + 1), heights, color=colour, linewidth=width, zorder=1)
            if chosen:
                axes.annotate(
                    "$e$", (k + 0.5, np.mean(heights) + 0.08), fontsize=15, ha="center"
                )
    for k, size in enumerate(WIDTHS):
        y = (size - 1) / 2 - np.arange(size)
        axes.scatter([k] * size, y, s=260, color="white", edgecolor="0.3", zorder=2)
    axes.text(0, 1.45, "inputs", ha="center")
    axes.text(len(WIDTHS) - 1, 1.45, "outputs", ha="center")
    axes.set(xlim=(-0.4, len(WIDTHS) - 0.6), ylim=(-1.4, 1.8))
    axes.set_axis_off()


figure = plt.figure(figsize=(10.5, 3.4), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=(1, 1.3))
draw_paths(left.subplots(), (1, 1, 0))
panels = right.subplots(1, len(gammas), width_ratios=[g.shape[1] for g in gammas])
largest = max(gamma.max() for gamma in gammas)
for k, (axes, gamma) in enumerate(zip(panels, gammas, strict=True)):
    axes.imshow(gamma, cmap="Oranges", vmin=0, vmax=1.5 * largest)
    for (i, j), value in np.ndenumerate(gamma):
        axes.text(j, i, f"{value:.2g}", ha="center", va="center")
    axes.set_title(rf"$\gamma$, layer {k + 1}")
    axes.set(xlabel="to unit", ylabel="from unit" if k == 0 else "")
    axes.set(xticks=range(gamma.shape[1]), yticks=range(gamma.shape[0]))
    axes.set_ylim(max(WIDTHS) - 0.5, -0.5)
    axes.spines[:].set_visible(False)
plt.show()

# %% [markdown]
# The number of paths grows exponentially with the depth, so that nobody lists them. But
# $\phi^2$ is what the network computes from inputs of 1 if each weight is replaced by
# its square, $q_e = w_e^2$, and each ReLU left out, and
# $\gamma(w, e) = \partial \phi^2 / \partial q_e$: one forward and one backward pass.

# %%
squares = jax.tree.map(jnp.square, tiny)
by_gradient = jax.grad(lambda q: apply(q, jnp.ones(WIDTHS[0])).sum())(squares)
for gamma, derivative in zip(gammas, jax.tree.leaves(by_gradient), strict=True):
    np.testing.assert_allclose(derivative, gamma, rtol=1e-5)
draw_agreement(r"$\partial \phi^2 / \partial q$", jax.tree.leaves(by_gradient))

# %% [markdown]
# ## Lemma 4.1: the best of all rescalings
#
# *Max-norm regularisation* keeps the weights that come into each unit small. It looks
# at the largest norm of a unit (equation 4, $p = 2$)
#
# $$\mu(w) = \max_v \sqrt{\sum_{u \to v} w_{u \to v}^2},$$
#
# which does depend on the scaling. What is the smallest value that it has among all
# rescalings $\tilde w \sim w$ of a network? For a network of depth $d$ with one output
# and no biases, it's the path norm:
#
# $$\min_{\tilde w \sim w} \mu(\tilde w)^d = \phi(w).$$
#
# `balance` finds the minimum. Random rescalings stay above it.

# %%
WIDTHS = (4, 6, 5, 1)
depth = len(WIDTHS) - 1
keys = jax.random.split(jax.random.key(1), depth)
start = dense(*map(jax.random.normal, keys, itertools.pairwise(WIDTHS)))
network = pathsgd.layered_network(start)


@jax.jit
@jax.vmap
def random_rescaling(key):
    params = start
    for layer, width in enumerate(WIDTHS[1:-1]):
        log_c = 0.5 * jax.random.normal(jax.random.fold_in(key, layer), (width,))
        params = pathsgd.rescale(
            network, params, layer, jnp.arange(width), jnp.exp(log_c)
        )
    return pathsgd.max_norm(network, params) ** depth, pathsgd.path_norm(
        network, params
    )


max_norms, path_norms = random_rescaling(jax.random.split(jax.random.key(2), SAMPLES))
phi = pathsgd.path_norm(network, start)
minimum = pathsgd.max_norm(network, pathsgd.balance(network, start)) ** depth
initial = pathsgd.max_norm(network, start) ** depth
np.testing.assert_allclose(path_norms, phi, 1e-5)  # of all rescalings

# %%
figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
edges = np.geomspace(0.8 * phi, 1.1 * max_norms.max(), 60)
axes.hist(max_norms, edges, color="0.6", label="random rescalings of it")
label = f"the network as initialised, {initial:.2f}"
axes.axvline(initial, color="black", linestyle="--", label=label)
label = f"balanced, {minimum:.4f} (path norm {phi:.4f})"
axes.axvline(minimum, color=COLOURS["path_sgd"], linewidth=3, label=label)
axes.set_xscale("log")
axes.set(xlabel=r"max-norm to the power of the depth, $\mu(\tilde w)^d$")
axes.set(ylabel="number of rescalings")
axes.set_ylim(top=1.4 * axes.get_ylim()[1])
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Theorem 5.1, bit for bit
#
# *Path-SGD is rescaling invariant.* Rescale the weights that come into a unit by $c$:
# their gradients are divided by $c$, their $\gamma$ by $c^2$, and so their updates
# $g / \gamma$ are multiplied by $c$, as the weights themselves. Train two networks that
# are rescalings of each other, and they will remain so, by the same factors, forever.
#
# In floating point, a factor of 100 costs a rounding error here and there. A power of
# two costs nothing, as it only changes exponents. So the theorem can be tested without
# any tolerance: train from $w$ and from $\rho(w)$, where $\rho$ rescales every hidden
# unit by a random power of two between $2^{-8}$ and $2^8$, and ask whether $\rho$ of
# the first result has the same bits as the second.

# %%
WIDTHS = (8, 16, 16, 4)
keys = jax.random.split(jax.random.key(3), len(WIDTHS) - 1)
start = dense(*map(jax.nn.initializers.he_normal(), keys, itertools.pairwise(WIDTHS)))
network = pathsgd.layered_network(start)
inputs = jax.random.normal(jax.random.key(4), (STEPS, 32, WIDTHS[0]))
targets = jnp.sin(inputs[..., : WIDTHS[-1]])


def rescale(params, base):
    """Rescales every hidden unit by a random power of the base."""
    for layer, width in enumerate(WIDTHS[1:-1]):
        key = jax.random.key(layer)
        powers = jax.random.randint(key, (width,), -8, 9).astype(float)
        units = jnp.arange(width)
        params = pathsgd.rescale(network, params, layer, units, base**powers)
    return params


@functools.partial(jax.jit, static_argnames="optimizer")
def train(optimizer, params):
    """The parameters after each step."""

    def step(carry, batch):
        params, state = carry
        x, y = batch
        grads = jax.grad(lambda w: jnp.mean((apply(w, x) - y) ** 2))(params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    carry = params, optimizer.init(params)
    return jax.lax.scan(step, carry, (inputs, targets))[1]


OPTIMIZERS = {
    "sgd": ("SGD", optax.sgd(0.01)),
    "adam": ("Adam", optax.adam(0.001)),
    "path_sgd": ("Path-SGD", pathsgd.path_sgd(0.01)),
    "path_adam": ("Path-Adam", pathsgd.path_adam(0.001)),
}

for label, optimizer in OPTIMIZERS.values():
    first, second = train(optimizer, start), train(optimizer, rescale(start, 2.0))
    last, other = (jax.tree.map(lambda steps: steps[-1], w) for w in (first, second))
    same = jax.tree.map(np.array_equal, rescale(last, 2.0), other)
    print(f"{label:9} the same bits after {STEPS} steps: {jax.tree.all(same)}")

# %% [markdown]
# Adam ends at other weights, and SGD diverges from the rescaled start.
#
# And how far apart are the two functions in between? Here the factors are powers of
# 1.2, from $1.2^{-8}$, about a quarter, to $1.2^8$, about 4, which round differently in
# the two networks. (With powers of two the distance is 0, which a logarithmic axis
# can't show, and with much larger factors SGD diverges.)


# %%
def distances(optimizer, base):
    """The largest difference between the two functions' outputs after each step."""
    x = inputs[0]
    outputs = jax.vmap(lambda params: apply(params, x))
    first = outputs(train(optimizer, start))
    second = outputs(train(optimizer, rescale(start, base)))
    return np.abs(first - second).max(axis=(1, 2))


figure, axes = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
for key, (label, optimizer) in OPTIMIZERS.items():
    apart = distances(optimizer, 1.2)
    axes.plot(range(1, STEPS + 1), apart, color=COLOURS[key], linewidth=2, label=label)
axes.set_yscale("log")
axes.set(xlabel="step", ylabel="largest difference of outputs")
axes.spines[["top", "right"]].set_visible(False)
axes.grid(color="0.92")
axes.legend(loc="center right", frameon=False)
plt.show()

# %% [markdown]
# Path-SGD and Path-Adam stay together up to the precision of float32; SGD and Adam
# learn different functions from the first step on.
#
# ## Try
#
# - In the last part, give only one unit a factor, of 100 say: how far do SGD's
#   functions come apart?
# - `pathsgd.path_sgd(0.01, p=1)`: another $\gamma$, the same bits.
# - `optax.chain(pathsgd.scale_by_path_norm(), optax.adam(0.001))` among the optimizers.
#   Why are its bits not the same?
# - A network of one input, one output and two hidden units whose path norm you work out
#   by hand.
