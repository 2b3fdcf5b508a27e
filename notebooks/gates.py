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
# # Gates and normalisation
#
# BatchNorm, LayerNorm, attention, GELU: most networks have some of them, and none of
# them passes on a positive factor as ReLU does. `gates=True` traces them all the same,
# as they *train*: a normalisation ends the paths that enter it and starts new ones, and
# a factor that is bounded, or depends on the data, is a gate that multiplies a path by
# one.
#
# **What you will see:** a residual network with BatchNorm in training mode and a small
# language model, each from a balanced start and from an unbalanced one that computes
# the same function, with step sizes from one search. Path-SGD and Path-Adam take the
# same steps from both starts, down to the last bit; SGD and Adam don't. From the
# balanced start Adam is ahead on the residual network, and Path-Adam on the language
# model. It takes about a minute on two cores.

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
import inspect
import os
import textwrap

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from IPython.display import ProgressBar
from sklearn.datasets import load_digits

import pathsgd_optax as pathsgd


SMOKE = os.environ.get("PATHSGD_PRESET") == "smoke"  # short, for the tests
BLOCKS = 1 if SMOKE else 2  # of either network

# %% [markdown]
# ## A residual network, as it trains
#
# Two blocks on handwritten digits of 8 by 8 pixels. `train=True` has BatchNorm use the
# statistics of the batch.


# %%
def conv(width, size=3, stride=1):
    return nn.Conv(width, (size, size), (stride, stride), use_bias=False)


class ResidualBlock(nn.Module):
    """Two convolutions with BatchNorm, added to what they read."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x, train):
        y = conv(self.width, stride=self.stride)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=not train)(y))
        y = nn.BatchNorm(use_running_average=not train)(conv(self.width)(y))
        if x.shape != y.shape:
            x = conv(self.width, size=1, stride=self.stride)(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A convolution, residual blocks, the average over the image, the scores."""

    @nn.compact
    def __call__(self, x, train):
        x = conv(8, stride=2)(x)
        for number in range(BLOCKS):
            x = ResidualBlock(8 * 2**number, stride=1 + number)(x, train)
        return nn.Dense(10)(x.mean((1, 2)))


images, labels = load_digits(return_X_y=True)
images = jnp.asarray(images.reshape(-1, 8, 8, 1) / 16, jnp.float32)
labels = jnp.asarray(labels, jnp.int32)

resnet = ResNet()
variables = resnet.init(jax.random.key(0), images[:2], train=True)
resnet_params = variables["params"]
resnet_paths = pathsgd.trace_linen(
    resnet, variables, images[:2], train=True, gates=True
)
print(resnet_paths.summary(resnet_params))

# %% [markdown]
# The column `end` says where the paths through a parameter end: at the `output`, at a
# normalisation (`norm`), or at both, as a shortcut leads around. What leaves a
# BatchNorm is a new input; what enters it is an output, in units of what it is divided
# by. So an update needs no running averages: `update(grads, state, params)` is all.
#
# ## A decoder
#
# Causal attention and ReLU units behind RMSNorm, on the source code of a module of
# Python's, a character at a time.


# %%
class DecoderBlock(nn.Module):
    """Attention and ReLU units, each added to what it reads, normalised."""

    heads: int

    @nn.compact
    def __call__(self, x):
        y = nn.RMSNorm()(x)
        attention = nn.MultiHeadDotProductAttention(
            self.heads, use_bias=False, name="attention"
        )
        x = x + attention(y, mask=nn.make_causal_mask(y[..., 0]))
        y = nn.Dense(4 * x.shape[-1], name="inner")(nn.RMSNorm()(x))
        return x + nn.Dense(x.shape[-1], name="outer")(nn.relu(y))


class Decoder(nn.Module):
    """Characters and their places, blocks, the scores of the next character."""

    characters: int

    @nn.compact
    def __call__(self, tokens):
        start = nn.initializers.normal(0.5)
        places = self.param("places", start, (CONTEXT, WIDTH))
        embed = nn.Embed(self.characters, WIDTH, embedding_init=start)
        x = embed(tokens) + places[None, : tokens.shape[1]]
        for _ in range(BLOCKS):
            x = DecoderBlock(heads=2)(x)
        return nn.Dense(self.characters, use_bias=False)(nn.RMSNorm()(x))


CONTEXT, WIDTH = 32, 32
text = inspect.getsource(textwrap) + inspect.getsource(inspect)
characters = sorted(set(text))
codes = jnp.array([characters.index(character) for character in text])

decoder = Decoder(len(characters))
decoder_params = decoder.init(jax.random.key(0), codes[None, :CONTEXT])["params"]
decoder_paths = pathsgd.trace_linen(
    decoder, {"params": decoder_params}, codes[None, :CONTEXT], gates=True
)
print(decoder_paths.summary(decoder_params))

# %% [markdown]
# Queries and keys only steer: they decide what attention averages, and their paths end
# there, at a `gate`. What they steer, values and output, lies on the paths to the next
# normalisation.
#
# ## Unbalanced starts
#
# What can be rescaled, and leaves the function? Within a residual block, a channel of
# BatchNorm's: its scale and shift times $c$, the next kernel divided by $c$. In the
# decoder, ReLU units, the coordinates of the values, and those of the queries, whose
# keys are divided. Here a quarter of them are multiplied by powers of two, of about 10.


# %%
def powers(key, *shape):
    """Powers of two for about a quarter of the entries, and one for the others."""
    pick, draw = jax.random.split(key)
    exponents = jnp.round(jnp.log2(10) + 1.5 * jax.random.normal(draw, shape))
    picked = jax.random.uniform(pick, shape) < 0.25
    return jnp.ldexp(1.0, jnp.where(picked, exponents, 0).astype(jnp.int32))


def unbalance_resnet(params):
    params = {**params}
    for number in range(BLOCKS):
        block = {**params[f"ResidualBlock_{number}"]}
        norm, kernel = block["BatchNorm_0"], block["Conv_1"]["kernel"]
        c = powers(jax.random.key(number), len(norm["scale"]))
        block["BatchNorm_0"] = {name: leaf * c for name, leaf in norm.items()}
        block["Conv_1"] = {"kernel": kernel / c[:, None]}
        params[f"ResidualBlock_{number}"] = block
    return params


def unbalance_decoder(params):
    params = {**params}
    for number in range(BLOCKS):
        block = {**params[f"DecoderBlock_{number}"]}
        keys = jax.random.split(jax.random.key(number), 3)
        kernels = {name: x["kernel"] for name, x in block["attention"].items()}
        c = powers(keys[0], 4 * WIDTH)
        block["inner"] = {name: leaf * c for name, leaf in block["inner"].items()}
        outer = block["outer"]
        block["outer"] = outer | {"kernel": outer["kernel"] / c[:, None]}
        q, v = (powers(key, *kernels["query"].shape[1:]) for key in keys[1:])
        scaled = {
            "query": kernels["query"] * q,
            "key": kernels["key"] / q,
            "value": kernels["value"] * v,
            "out": kernels["out"] / v[..., None],
        }
        block["attention"] = {name: {"kernel": x} for name, x in scaled.items()}
        params[f"DecoderBlock_{number}"] = block
    return params


pathsgd.plot_paths(
    decoder_paths,
    decoder_params,
    unbalance_decoder(decoder_params),
    labels=("balanced", "unbalanced"),
)
plt.show()

# %% [markdown]
# The share of the paths is the same: no rescaling changes it. What gradients are
# divided by, $\gamma$, is for some of the weights thousands of times smaller or larger,
# and makes up for the rescaling.
#
# ## Training
#
# Every optimizer trains from both starts with each of five step sizes, and the one with
# the smallest objective in the end is taken: the same search for all. The step sizes
# are a factor of three apart on the residual network, and of two on the decoder.


# %%
def train(step, params, rate, make, batches):
    """The objective of each step, and the parameters in the end."""
    state, losses = make(rate).init(params), []
    for batch in batches:
        params, state, loss = step(params, state, rate, batch)
        losses.append(loss)
    return np.array(losses), params


def stepper(make, objective):
    @jax.jit
    def step(params, state, rate, batch):
        loss, grads = jax.value_and_grad(objective)(params, batch)
        updates, state = make(rate).update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    return step


def train_all(optimizers, rates, starts, objective, batches):
    """What `train` returns for each optimizer and start, and then each step size."""
    runs, bar = {}, iter(ProgressBar(len(optimizers) * len(starts)))
    for name, make in optimizers.items():
        step = stepper(make, objective)
        for start, params in starts.items():
            next(bar)
            runs[name, start] = {
                rate: train(step, params, rate, make, batches) for rate in rates[name]
            }
    next(bar, None)
    return runs


def last(losses):
    """The mean objective of the last steps; inf if training diverged."""
    return np.nan_to_num(losses[-15:].mean(), nan=np.inf)


def best_rate(results):
    return min(results, key=lambda rate: last(results[rate][0]))


# %%
LABELS = {
    "sgd": "SGD",
    "adam": "Adam",
    "path_sgd": "Path-SGD",
    "path_adam": "Path-Adam",
}
COLOURS = {
    "sgd": "#0072B2",
    "adam": "#009E73",
    "path_sgd": "#D55E00",
    "path_adam": "#000000",
}
STYLES = {
    "balanced": {"linestyle": "-", "linewidth": 4.5, "alpha": 0.4},
    "unbalanced": {"linestyle": (0, (3.5, 1.5)), "linewidth": 1.8},
}


def draw(runs, scale):
    """Objectives against the step size, and against the step for the best of them."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
    for (name, start), results in runs.items():
        style = {"color": COLOURS[name], **STYLES[start]}
        rate = best_rate(results)
        ends = [last(losses) for losses, _ in results.values()]
        left.plot(results.keys(), ends, label=f"{LABELS[name]}, {start}", **style)
        left.plot(rate, min(ends), "*", color=COLOURS[name], markersize=11)
        losses, _ = results[rate]
        right.plot(np.convolve(losses, np.ones(5) / 5, "valid"), **style)
    rates = sorted({rate for results in runs.values() for rate in results})
    left.set(xlabel="step size", ylabel="objective, last 15 steps", xscale="log")
    left.set_xticks(rates, [f"{rate:g}" for rate in rates])
    left.minorticks_off()
    right.set(xlabel="step", ylabel="objective, mean of 5 steps")
    for axes in (left, right):
        axes.set(yscale=scale)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, handlelength=3)
    plt.show()


# %% [markdown]
# ### The residual network
#
# The running averages are for evaluation. Training doesn't look at them, and leaves the
# new ones aside here.

# %%
STEPS = 5 if SMOKE else 85


def resnet_objective(params, batch):
    x, y = batch
    state = {"params": params, "batch_stats": variables["batch_stats"]}
    logits, _ = resnet.apply(state, x, train=True, mutable="batch_stats")
    return pathsgd.truncated_softmax_cross_entropy(logits, y).mean()


keys = jax.random.split(jax.random.key(1), 5)
order = jnp.concatenate([jax.random.permutation(key, 1700) for key in keys])
batches = [(images[x], labels[x]) for x in order.reshape(-1, 100)[:STEPS]]

large, small = [10, 3, 1, 0.3, 0.1], [0.1, 0.03, 0.01, 0.003, 0.001]
if SMOKE:
    large, small = large[1:3], small[1:3]
resnet_runs = train_all(
    {
        "sgd": optax.sgd,
        "adam": optax.adam,
        "path_sgd": lambda rate: pathsgd.path_sgd(rate, resnet_paths),
        "path_adam": lambda rate: pathsgd.path_adam(rate, resnet_paths),
    },
    {"sgd": large, "adam": small, "path_sgd": large, "path_adam": small},
    {"balanced": resnet_params, "unbalanced": unbalance_resnet(resnet_params)},
    resnet_objective,
    batches,
)
draw(resnet_runs, "log")

# %% [markdown]
# ### The decoder

# %%
STEPS = 5 if SMOKE else 150


def decoder_objective(params, tokens):
    logits = decoder.apply({"params": params}, tokens[:, :-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    return losses.mean()


starts = jax.random.randint(jax.random.key(2), (STEPS, 16, 1), 0, len(codes) - CONTEXT)
batches = list(codes[starts + jnp.arange(CONTEXT + 1)])

small = [0.01, 0.005] if SMOKE else [0.04, 0.02, 0.01, 0.005, 0.0025]
decoder_runs = train_all(
    {
        "adam": optax.adam,
        "path_adam": lambda rate: pathsgd.path_adam(rate, decoder_paths),
    },
    {"adam": small, "path_adam": small},
    {"balanced": decoder_params, "unbalanced": unbalance_decoder(decoder_params)},
    decoder_objective,
    batches,
)
draw(decoder_runs, "linear")

# %% [markdown]
# The curves of Path-SGD and Path-Adam from both starts are one, at every step size. In
# these few steps Adam from the balanced start ends a little lower than Path-Adam on the
# residual network, and a little higher on the decoder. From the unbalanced starts Adam
# and SGD fall behind, whatever their step size.
#
# A first guess at Path-Adam's step size is $0.3 / \text{width}$: 0.009 for the residual
# stream of the decoder, 32 wide, and 0.02 to 0.04 for the 8 to 16 channels of the
# residual network. Path-SGD's is 1 to 3 on such networks with BatchNorm. Then try a
# third of that, and three times as much.
#
# ## Bit for bit
#
# Powers of two change no bit of a mantissa. So take what an optimizer has made of the
# balanced start, and rescale it as the unbalanced start was: is that, in every bit,
# what the optimizer has made of the unbalanced start, with the same step size?

# %%
for task, runs, unbalance in (
    ("residual network", resnet_runs, unbalance_resnet),
    ("decoder", decoder_runs, unbalance_decoder),
):
    for name in dict.fromkeys(name for name, _ in runs):
        rate = best_rate(runs[name, "balanced"])
        _, balanced = runs[name, "balanced"][rate]
        _, unbalanced = runs[name, "unbalanced"][rate]
        same = jax.tree.map(jnp.array_equal, unbalance(balanced), unbalanced)
        print(f"{task:16}  {LABELS[name]:9}  the same bits: {jax.tree.all(same)}")

# %% [markdown]
# ## What is a heuristic, and what is refused
#
# GELU and SiLU are gates that see the size of their input: $\mathrm{gelu}(c z)$ isn't
# $c \, \mathrm{gelu}(z)$. Such a unit can't be rescaled, so there is nothing to be
# invariant to. It has the paths that a ReLU has, and $\gamma$ is a heuristic there: a
# sensible size of steps without a theorem. Below each unit is multiplied by four before
# it, and divided by four behind it. The path norm stays the same, and so do the outputs
# with ReLU. With GELU they don't.

# %%
key_in, key_out, key_x = jax.random.split(jax.random.key(3), 3)
units = {
    "in": jax.random.normal(key_in, (8, 64)) / 3,
    "out": jax.random.normal(key_out, (64, 1)) / 8,
}
rescaled = {"in": 4 * units["in"], "out": units["out"] / 4}
x = jax.random.normal(key_x, (200, 8))
figure, panels = plt.subplots(1, 2, figsize=(7.5, 3.6), layout="constrained")
for axes, unit in zip(panels, (nn.relu, nn.gelu), strict=True):

    def apply_fn(params, x, unit=unit):
        return unit(x @ params["in"]) @ params["out"]

    paths = pathsgd.trace_network(apply_fn, units, x, gates=True)
    before, after = (pathsgd.path_norm(paths, params) for params in (units, rescaled))
    axes.plot(apply_fn(units, x), apply_fn(rescaled, x), ".", color="0.3")
    axes.axline((0, 0), slope=1, color="0.7", linewidth=0.8, zorder=0)
    axes.set_title(f"{unit.__name__}: path norms {before:.4f} and {after:.4f}", size=10)
    axes.set(xlabel="output", ylabel="output, rescaled")
    axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# Without `gates=True` a normalisation is refused. With it, some things still are: a
# softmax at the end (leave it to the loss), examples that are mixed other than to
# normalise them, and dropout that is drawn anew in each step. The error names the
# operation and its place, and says what to do.


# %%
def try_to_trace(*layers, gates=True):
    module, x = nn.Sequential(layers), jnp.ones((2, 8))
    params = module.init(jax.random.key(0), x)
    try:
        pathsgd.trace_linen(module, params, x, gates=gates)
    except ValueError as error:
        print(textwrap.fill(str(error), 88), end="\n\n")


try_to_trace(nn.Dense(8), nn.LayerNorm(), nn.relu, nn.Dense(2), gates=False)
try_to_trace(nn.Dense(8), nn.gelu, nn.Dense(2), nn.softmax)
try_to_trace(nn.Dense(8), nn.relu, lambda h: h - h.mean(0), nn.Dense(2))

# %% [markdown]
# ## Try
#
# - GELU in the place of ReLU in the decoder, and no factors for its units: attention is
#   still rescaled. Which bits stay the same?
# - Momentum: `pathsgd.path_sgd(rate, resnet_paths, momentum=0.9)`.
# - Your own network, with `gates=True`: what does its `summary` say ends where, and
#   does `plot_paths` show a layer whose $\gamma$ stands apart?
# - `trace_linen(resnet, variables, images[:2], train=False)`, on the running averages,
#   measures what the trained network is, but trains it worse.
