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
# # Tracing your own network
#
# To divide a gradient by $\gamma$, Path-SGD has to know which weights lie on which
# paths. For a plain stack of `Dense` layers with ReLU it reads that off the parameters.
# For anything else you *trace* the network once: its function is looked at, operation
# by operation, without being run. The result is an immutable object that every
# optimizer and measure of this package takes.
#
# **What you will see:** a convolutional network with BatchNorm, where its paths run,
# before and after training, in a table and in a picture; an nnx model, and a part of
# one; parameters on no path; what is refused, and why; and how to teach the package an
# operation that it doesn't know. It takes about half a minute. Networks that normalise
# and attend as they train are in [gates](gates.ipynb).

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
import os
import textwrap

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import linen as nn, nnx
from IPython.display import ProgressBar
from jax.extend.core import primitives
from sklearn.datasets import load_digits

import pathsgd_optax as pathsgd


SMOKE = os.environ.get("PATHSGD_PRESET") == "smoke"  # short, for the tests
EPOCHS = 1 if SMOKE else 5

# %% [markdown]
# ## A convolutional network with BatchNorm
#
# Eight by eight pixels, two convolutions of which the second is skipped by a shortcut,
# and a linear layer.


# %%
class ConvNet(nn.Module):
    """A small residual network for images of digits."""

    @nn.compact
    def __call__(self, x, train):
        def norm(x):
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

        x = nn.relu(norm(nn.Conv(16, (3, 3), use_bias=False)(x)))
        x = x + nn.relu(norm(nn.Conv(16, (3, 3), use_bias=False)(x)))
        x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(10)(x.mean((1, 2)))


images, labels = load_digits(return_X_y=True)
images = jnp.asarray(images.reshape(-1, 8, 8, 1) / 16, jnp.float32)
labels = jnp.asarray(labels, jnp.int32)

model = ConvNet()
variables = model.init(jax.random.key(0), images[:1], train=False)
network = pathsgd.trace_linen(model, variables, images[:1], train=False)
print(network.summary())

# %% [markdown]
# Trace a network **as it is evaluated**: without dropout, and with BatchNorm on its
# running averages, where it's a linear function. The *role* says what a parameter is
# to the paths. A weight is multiplied by what flows through; a bias starts a new path,
# from an extra input that is always 1.
#
# ## Constants
#
# The running averages are no parameters, but $\gamma$ depends on them. They are this
# network's *constants*, and whatever looks at its paths has to be given their present
# values:

# %%
params, constants = variables["params"], {"batch_stats": variables["batch_stats"]}
print(network.summary(params, constants=constants))

# %% [markdown]
# The last column tells which parameters matter. The *share* of a parameter is the part
# of $\phi^2$ that runs through it, and would be gone if it were 0. A shortcut leads
# around the second convolution, and so its share is smaller than that of the first.
# Biases are 0 when they are made, and have no share yet.
#
# The same as a picture, with the parameters in the order in which paths meet them. On
# the right is what gradients will be divided by, $\gamma$: from the least to the
# largest of each parameter, broad between the quartiles, with a point at the median.

# %%
pathsgd.plot_paths(network, params, constants=constants)
plt.show()

# %% [markdown]
# For the weights of a kernel, this is what $\gamma$ adds up to:
#
# $$\text{share} = \frac{1}{\phi^2} \sum_e \gamma(w, e) \, w_e^2.$$

# %%
phi = pathsgd.path_norm(network, params, constants=constants)
gammas = pathsgd.path_scaling(network, params, constants=constants)
for name in ("Conv_0", "Conv_1", "Dense_0"):
    kernel, gamma = params[name]["kernel"], gammas[name]["kernel"]
    print(f"{name} {(gamma * kernel**2).sum() / phi**2:.1%}")

# %% [markdown]
# ## Training it
#
# A training step works with batch statistics, and returns new running averages. Give
# the present ones to `update`, as `constants=`; everything else is as usual. If you
# forget them, an error says so.
#
# A kernel of a convolution is used at every pixel, and $\gamma$ sums over all of these
# uses. So $\gamma$ and $\phi$ grow with the size of the image, and the step size that
# is best with it.
#
# (Traced as it trains, with `train=True, gates=True`, the network needs no constants,
# and Path-SGD trains it better: see [gates](gates.ipynb). What is traced here is the
# network that will be used in the end.)

# %%
optimizer = pathsgd.path_sgd(0.03, network, momentum=0.9)


def objective(params, batch_stats, batch):
    logits, changed = model.apply(
        {"params": params, "batch_stats": batch_stats},
        images[batch],
        train=True,
        mutable=["batch_stats"],
    )
    losses = pathsgd.truncated_softmax_cross_entropy(logits, labels[batch])
    return losses.mean(), changed["batch_stats"]


@jax.jit
def train_epoch(carry, key):
    def step(carry, batch):
        params, batch_stats, state = carry
        (loss, new_stats), grads = jax.value_and_grad(objective, has_aux=True)(
            params, batch_stats, batch
        )
        updates, state = optimizer.update(
            grads, state, params, constants={"batch_stats": batch_stats}
        )
        params = optax.apply_updates(params, updates)
        return (params, new_stats, state), loss

    order = jax.random.permutation(key, len(images))
    return jax.lax.scan(step, carry, order[:1750].reshape(-1, 50))


carry, losses = (params, variables["batch_stats"], optimizer.init(params)), []
keys = jax.random.split(jax.random.key(1), EPOCHS)
for key, _ in zip(keys, ProgressBar(EPOCHS), strict=True):
    carry, epoch_losses = train_epoch(carry, key)
    losses.extend(epoch_losses.tolist())
trained, batch_stats, _ = carry
trained_constants = {"batch_stats": batch_stats}

# %%
axes = plt.figure(figsize=(6, 3.2), layout="constrained").subplots()
axes.plot(losses, color="#D55E00", linewidth=1.2)
axes.set(xlabel="step", ylabel="objective (cross-entropy)")
axes.spines[["top", "right"]].set_visible(False)
axes.grid(color="0.92")
plt.show()

# %% [markdown]
# And what has become of the paths? Each state of the network is drawn with its own
# running averages. Around the second convolution there is a shortcut, and before
# training half of the paths take it; after training, most run through the convolution.

# %%
pathsgd.plot_paths(
    network,
    params,
    trained,
    constants=constants,
    constants_after=trained_constants,
    labels=("before training", "after training"),
)
plt.show()

# %% [markdown]
# Some callers give `update` no more than gradients, state and parameters: Flax's
# `TrainState.apply_gradients`, `optax.lookahead`, `optax.contrib.sam`. Put the
# constants into the state before, and the update is the same.

# %%
gradients = jax.tree.map(jnp.ones_like, trained)
state = optimizer.init(trained)
given, _ = optimizer.update(gradients, state, trained, constants=trained_constants)
state = pathsgd.set_constants(state, trained_constants)
held, _ = optimizer.update(gradients, state, trained)
same = jax.tree.all(jax.tree.map(jnp.array_equal, given, held))
print(f"the updates are the same: {same}")

# %% [markdown]
# ## An nnx model
#
# `trace_nnx` takes the model itself, and looks at it in evaluation mode; the model
# stays as it is. Its parameters are `nnx.state(model, nnx.Param)`, and its constants
# `nnx.state(model, nnx.BatchStat)`. `nnx.Optimizer` hands extra arguments on to
# `update`.


# %%
class Net(nnx.Module):
    """A convolution, BatchNorm, and a linear layer."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.linear = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.linear(x.mean((1, 2)))


net = Net(nnx.Rngs(0))
net_paths = pathsgd.trace_nnx(net, images[:1])
net_optimizer = nnx.Optimizer(net, pathsgd.path_adam(0.01, net_paths), wrt=nnx.Param)


@nnx.jit
def train_step(net, net_optimizer, x, y):
    averages = nnx.state(net, nnx.BatchStat)

    def objective(net):
        return pathsgd.truncated_softmax_cross_entropy(net(x), y).mean()

    loss, grads = nnx.value_and_grad(objective)(net)
    net_optimizer.update(net, grads, constants=averages)
    return loss


losses = [
    train_step(net, net_optimizer, images[:200], labels[:200]).item() for _ in range(20)
]
print(f"objective {losses[0]:.3f} to {losses[-1]:.3f}")
state, averages = nnx.state(net, nnx.Param), nnx.state(net, nnx.BatchStat)
print(net_paths.summary(state, constants=averages))

# %% [markdown]
# An optimizer of a part of the parameters, say of the last layer on a frozen body,
# takes the same network. The other parameters are fixed edges, of values that each
# update is given with the constants.

# %%
last_layer = nnx.All(nnx.Param, nnx.PathContains("linear"))
last_optimizer = nnx.Optimizer(net, pathsgd.path_sgd(0.1, net_paths), wrt=last_layer)


@nnx.jit
def train_last_layer(net, last_optimizer, x, y):
    def objective(net):
        return pathsgd.truncated_softmax_cross_entropy(net(x), y).mean()

    wrt = nnx.DiffState(0, last_layer)
    loss, grads = nnx.value_and_grad(objective, argnums=wrt)(net)
    last_optimizer.update(net, grads, constants=nnx.state(net))
    return loss


net.eval()
kernel = net.conv.kernel[...]
losses = [
    train_last_layer(net, last_optimizer, images[:200], labels[:200]) for _ in range(20)
]
print(f"objective {losses[0]:.3f} to {losses[-1]:.3f}")
print(f"the convolution is as it was: {jnp.array_equal(net.conv.kernel[...], kernel)}")

# %% [markdown]
# ## Any function
#
# Both are short for `trace_network(apply_fn, params, x)`, which takes any JAX function
# of a tree of parameters and a batch of inputs. Here is one with a parameter that no
# path runs through: the slope of a PReLU acts on negative inputs only, and a path runs
# through the positive side. It's listed with the role "no path".


# %%
def prelu_network(params, x):
    x = x @ params["first"]
    x = jnp.where(x > 0, x, params["slope"] * x)
    return x @ params["second"]


first, second = jax.random.split(jax.random.key(2))
prelu_params = {
    "first": jax.random.normal(first, (64, 32)) / 8,
    "slope": jnp.array(0.25),
    "second": jax.random.normal(second, (32, 10)) / 6,
}
prelu_paths = pathsgd.trace_network(prelu_network, prelu_params, jnp.ones((1, 64)))
print(prelu_paths.summary(prelu_params))

# %% [markdown]
# Path-SGD leaves such a parameter's gradient as it is. If it should have an optimizer
# of its own, name a `fallback`. The same can be done by hand with the network's
# `labels`.

# %%
with_fallback = pathsgd.path_sgd(0.1, prelu_paths, fallback=optax.adam(0.001))
by_hand = optax.partition(
    {"path": pathsgd.path_sgd(0.1, prelu_paths), "no path": optax.adam(0.001)},
    prelu_paths.labels,
)
print(prelu_paths.labels())

gradients = jax.tree.map(jnp.ones_like, prelu_params)
for optimizer in (with_fallback, by_hand):
    updates, _ = optimizer.update(gradients, optimizer.init(prelu_params), prelu_params)
    print(f"slope {updates['slope']:.4f}, a weight {updates['first'][0, 0]:.4f}")

# %% [markdown]
# ## When there are no paths
#
# Paths go through operations that a positive factor passes unchanged: if the inputs are
# doubled, so are the outputs. LayerNorm isn't like that, nor is a softmax, nor is
# BatchNorm while it trains, which besides makes what becomes of an image depend on the
# others. The error names the operation and its place, the module or the line, and says
# what to do.


# %%
def try_to_trace(module):
    x = jnp.ones((2, 8))
    try:
        pathsgd.trace_linen(module, module.init(jax.random.key(0), x), x)
    except ValueError as error:
        print(textwrap.fill(str(error), 88), end="\n\n")


try_to_trace(nn.Sequential([nn.Dense(8), nn.LayerNorm(), nn.relu, nn.Dense(2)]))
try_to_trace(nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(2), nn.softmax]))
try_to_trace(nn.Sequential([nn.Dense(8), lambda h: h - h.mean(0), nn.Dense(2)]))
try_to_trace(nn.Sequential([nn.Dense(8), nn.Dropout(0.5, deterministic=False)]))

# %% [markdown]
# Clipping isn't like that either: a bound doesn't move when units are rescaled. With
# `gates=True` a clipped value has the paths of its argument all the same. The price is
# the invariance, as a rescaled network computes another function.

# %%
clipped = nn.Sequential([nn.Dense(8), nn.relu6, nn.Dense(2)])
try_to_trace(clipped)
x = jnp.ones((2, 8))
clipped_variables = clipped.init(jax.random.key(0), x)
clipped_paths = pathsgd.trace_linen(clipped, clipped_variables, x, gates=True)
print(clipped_paths.summary())

# %% [markdown]
# ## Teaching it an operation
#
# Here units are transformed four by four by `jnp.fft.rfft`, and the next layer sees how
# much of each frequency there is. A positive factor passes that, so it has paths, but
# the package doesn't know Fourier transforms.


# %%
def spectral_network(params, x):
    x = x @ params["first"]
    spectra = jnp.abs(jnp.fft.rfft(x.reshape(len(x), -1, 4)))
    return spectra.reshape(len(x), -1) @ params["second"]


spectral_params = {
    "first": prelu_params["first"],
    "second": prelu_params["second"][:24],  # three frequencies of four units
}
try:
    pathsgd.trace_network(spectral_network, spectral_params, jnp.ones((1, 64)))
except ValueError as error:
    print(textwrap.fill(str(error), 88))

# %% [markdown]
# A path rule says what an operation does to the *mass* of the paths that lead to a
# value: the sum of $\prod |w_e|^p$. Each frequency is a sum of all units, with factors
# of modulus 1, so that it gets the mass of them all. Run the cell again with another
# rule, and the networks that are traced later have that one.


# %%
def fft_masses(mass, *, fft_lengths, **_):
    total = mass.sum(-1, keepdims=True)
    return jnp.broadcast_to(total, (*mass.shape[:-1], fft_lengths[-1] // 2 + 1))


pathsgd.register_path_rule(primitives.fft_p, fft_masses)

# %%
spectral_paths = pathsgd.trace_network(
    spectral_network, spectral_params, jnp.ones((1, 64))
)
print(spectral_paths.summary(spectral_params))

# %% [markdown]
# Is it right? If four units are rescaled as one, the function stays the same, and a
# step of Path-SGD should lead to the same function, too.

# %%
factors = 2.0 ** jnp.arange(-4, 4)  # one for every four units
twin_params = {
    "first": spectral_params["first"] * jnp.repeat(factors, 4),
    "second": spectral_params["second"] / jnp.repeat(factors, 3)[:, None],
}
x = images[:100].reshape(100, 64)


def step(optimizer, params):
    def objective(params):
        logits = spectral_network(params, x)
        return pathsgd.truncated_softmax_cross_entropy(logits, labels[:100]).mean()

    grads = jax.grad(objective)(params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    return spectral_network(optax.apply_updates(params, updates), x)


figure, panels = plt.subplots(1, 2, figsize=(7.5, 3.6), layout="constrained")
for axes, (name, optimizer) in zip(
    panels,
    {"Path-SGD": pathsgd.path_sgd(0.1, spectral_paths), "SGD": optax.sgd(0.1)}.items(),
    strict=True,
):
    outputs = [step(optimizer, params) for params in (spectral_params, twin_params)]
    axes.plot(outputs[0].ravel(), outputs[1].ravel(), ".", color="0.3", markersize=3)
    axes.axline((0, 0), slope=1, color="0.7", linewidth=0.8, zorder=0)
    axes.set_title(f"after a step of {name}", size=10)
    axes.set(xlabel="outputs", ylabel="outputs of the rescaled network")
    axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# It is: after a step of Path-SGD both networks compute the same, and after one of SGD
# they don't.
#
# ## Try
#
# - Your own network. What does `summary` say, and does `plot_paths` show a layer that
#   hardly any path runs through?
# - Another rule for `fft_p`, such as half of the total. Do the two networks still
#   compute the same?
# - A last layer of zeros, then `plot_paths`: which shares are left? That is what
#   `damping` is for.
