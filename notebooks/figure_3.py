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
# [![Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/pathsgd_optax/blob/main/notebooks/figure_3.ipynb)
#
# # Reproducing figure 3
#
# The main experiment of [Neyshabur et al., 2017](https://arxiv.org/abs/1705.03071)
# trains a network with two hidden layers of ReLU units by SGD, AdaGrad and Path-SGD,
# from a *balanced* start and from an *unbalanced* one, which computes the same
# function. This notebook does it with the benchmarks of the repository, step by step:
# the starts, the choice of step sizes, the training, the figure.

# %%
import importlib.util
import sys


if importlib.util.find_spec("benchmarks") is None:
    # Where JAX has a plug-in for a GPU or a TPU, both need the same version.
    plugins = {"jax_cuda12_plugin": "cuda12", "libtpu": "tpu"}
    extras = ",".join(plugins[x] for x in plugins if importlib.util.find_spec(x))
    # !git clone --quiet --depth 1 https://github.com/OWNER/pathsgd_optax
    # %pip install --quiet "jax[{extras}]" "./pathsgd_optax[hub]"
    sys.path.append("pathsgd_optax")

# %%
import os

import jax
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

from benchmarks import datasets, figures, results, step_sizes, train
from benchmarks.optimizers import OPTIMIZERS


print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}")

# %% [markdown]
# ## Choose the setting here
#
# `"laptop"` takes less than a minute on two CPU cores. `"paper"` is the size of the
# paper, 4000 units in each hidden layer and all eleven step sizes, on MNIST, and wants
# a GPU or a TPU. MNIST is read from its four published files in the folder `DATA_DIR`,
# or downloaded through Hugging Face's `datasets` where that's None.

# %%
PRESET = os.environ.get("PATHSGD_PRESET", "laptop")  # <<< "laptop", "paper" or "smoke"

DATA_DIR = None  # <<< Path("where/the/files/are"), for "paper"

SETTINGS = {
    "smoke": {
        "dataset": "digits",
        "width": 16,
        "epochs": 2,
        "search_epochs": 1,
        "seeds": 1,
        "rates": {"sgd": 1, "adagrad": 1, "path_sgd": 1},
    },
    "laptop": {
        "dataset": "digits",
        "width": 128,
        "epochs": 20,
        "search_epochs": 5,
        "seeds": 2,
        "rates": {"sgd": 5, "adagrad": 4, "path_sgd": 4},
    },
    "paper": {
        "dataset": "mnist",
        "width": 4000,
        "epochs": 100,
        "search_epochs": 20,
        "seeds": 3,
        "rates": {"sgd": 11, "adagrad": 11, "path_sgd": 11},
    },
}
setting = SETTINGS[PRESET]
for name, value in setting.items():
    print(f"{name:14} {value}")

# %% [markdown]
# ## Data and the network
#
# In the laptop setting the data are scikit-learn's handwritten digits, 1500 to train on
# and 297 to test on.

# %%
dataset = datasets.load(setting["dataset"], DATA_DIR)
task = train.Task(dataset, setting["width"], dropout=0.0, batch_size=100)

figure = plt.figure(figsize=(8, 1.3), layout="constrained")
side = int(dataset.train_images.shape[1] ** 0.5)
for k, axes in enumerate(figure.subplots(1, 8)):
    axes.imshow(dataset.train_images[k].reshape(side, side), cmap="Greys")
    axes.set_title(f"{dataset.train_labels[k]}", fontsize=10)
    axes.set_axis_off()
plt.show()
print(f"{len(dataset.train_labels)} to train on, {len(dataset.test_labels)} to test on")

# %% [markdown]
# The balanced start draws the weights into each unit from a Gaussian of standard
# deviation $1/\sqrt{\text{fan-in}}$. For the unbalanced start units are then picked at
# random, with replacement, a quarter as many as there are, and each is rescaled by
# $10 c$, with a log-normal $c$. (Of 8000 hidden units, the paper picks 2000.)
#
# ## The step size
#
# Each optimizer gets the step size $10^{-\alpha}$ that suits it, from each start. As in
# the paper, a sixth of the training points is kept out, and we take the step size that
# reaches the smallest error on these points first. The laptop setting tries the largest
# few of the eleven step sizes only.


# %%
def search(name, init):
    """The validation error after each epoch, for each step size."""
    held_out = task._replace(dataset=datasets.hold_out(dataset))
    optimizer = OPTIMIZERS[name]
    return {
        rate: [
            epoch.test_error
            for epoch in train.train(
                held_out, optimizer.make, rate, init, 0, setting["search_epochs"]
            )
        ]
        for rate in optimizer.learning_rates[: setting["rates"][name]]
    }


chosen = {}
for name in setting["rates"]:
    for init in train.INITS:
        errors = search(name, init)
        rate = step_sizes.fastest(errors)
        chosen[name, init] = rate
        tried = "  ".join(f"{rate:g}: {min(e):.1%}" for rate, e in errors.items())
        print(f"{OPTIMIZERS[name].label:9} {init:11} takes {rate:<8g} of  {tried}")

# %% [markdown]
# Path-SGD takes the same step size from both starts, and sees the same errors. It
# cannot tell them apart.
#
# ## Training
#
# On all training points now. One epoch is one compiled call. Each epoch makes a record:
# the objective, the error on the training points and that on the test points.

# %%
records = [
    results.Record(dataset.name, name, init, task.dropout, seed, rate, *measurement)
    for (name, init), rate in chosen.items()
    for seed in range(setting["seeds"])
    for measurement in train.train(
        task, OPTIMIZERS[name].make, rate, init, seed, setting["epochs"]
    )
]

# %% [markdown]
# ## The figure
#
# The function that draws it is that of the repository's own figures. Broad pale lines
# are balanced starts, dashed ones unbalanced starts; a line is the median of the seeds,
# the band around it goes from the least to the greatest. A loss that diverged isn't
# drawn.

# %%
display(figures.learning_curves(records))

# %%
curves = results.curves(records)
print("after the last epoch      objective  training error  test error")
for series, curve in curves.items():
    loss, *errors = (curve.median(x)[-1] for x in figures.QUANTITIES)
    label = f"{OPTIMIZERS[series.optimizer].label}, {series.init}"
    print(f"{label:25} {loss:9.2g}  {errors[0]:14.1%}  {errors[1]:10.1%}")

by_start = {s.init: c for s, c in curves.items() if s.optimizer == "path_sgd"}
losses = [by_start[init].runs["train_loss"] for init in train.INITS]
apart = np.max(np.abs(losses[0] - losses[1]) / losses[0])
print(
    f"\nPath-SGD's objectives from both starts differ by up to {apart:.1e}, relatively"
)

# %% [markdown]
# ## What to see
#
# - Path-SGD's two curves coincide, but for rounding. Those of SGD and of AdaGrad don't,
#   though each start got a step size of its own.
# - Path-SGD isn't the fastest everywhere. On the digits, AdaGrad reaches a lower
#   objective from the balanced start; what it lacks is the guarantee that the start
#   doesn't matter.
# - The paper's claim that Path-SGD also generalises better is about larger networks and
#   data. One image is 0.34% of these test points, and so small differences say nothing.
#
# The same as a command, which also records what it did and goes on where it was
# interrupted: `python -m benchmarks.learning_curves --help`.
