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
# # Reproducing figure 3
#
# The main experiment of [Neyshabur et al., 2017](https://arxiv.org/abs/1705.03071)
# trains a network with two hidden layers of ReLU units by SGD, AdaGrad and Path-SGD,
# from a *balanced* start and from an *unbalanced* one, which computes the same
# function. This notebook does it with the benchmarks of the repository, step by step:
# the starts, the choice of step sizes, the training, the figure.
#
# **What you will see:** the objective, the training error and the test error of all
# three, from both starts. Path-SGD's curves coincide, those of SGD and AdaGrad don't.
# It takes about a minute on two cores.

# %%
import importlib.util
import sys
from pathlib import Path


# Benchmarks are not in the wheel. They are those of the clone around this notebook; in
# Colab, of where the notebook was opened, or of a source distribution that you upload.
clones = [x for x in Path.cwd().parents if (x / "pathsgd_optax/__init__.py").exists()]
sys.path[:0] = map(str, clones)
if importlib.util.find_spec("benchmarks") is None:
    if "google.colab" not in sys.modules:
        raise ImportError("Open this notebook from a clone of the repository.")
    import re
    import shutil
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
        source = Path(found[0]).name
        # !git clone --quiet --depth 1 https://{found[0]}
    else:
        print("Upload the source distribution, pathsgd_optax-*.tar.gz:")
        (archive,) = files.upload()
        shutil.unpack_archive(archive)
        source = archive.removesuffix(".tar.gz")
    sys.path.append(source)
    print(f"The package and its benchmarks are taken from {source}.")
    # Where JAX has a plug-in for a GPU or a TPU, both need the same version.
    plugins = {"jax_cuda12_plugin": "cuda12", "libtpu": "tpu"}
    extras = ",".join(plugins[x] for x in plugins if importlib.util.find_spec(x))
    # %pip install --quiet "jax[{extras}]" "./{source}"

# %%
import os

import jax
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import ProgressBar, display
from matplotlib.ticker import PercentFormatter

from benchmarks import datasets, figures, results, step_sizes, train
from benchmarks.optimizers import OPTIMIZERS


print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}")

# %% [markdown]
# ## Choose the setting here
#
# `"laptop"` takes about a minute on two CPU cores. `"paper"` is the size of the paper,
# 4000 units in each hidden layer, on MNIST, and wants a GPU or a TPU. MNIST is read
# from its four published files in the folder `DATA_DIR`, or downloaded through Hugging
# Face's `datasets` where that's None.

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
        "rates": 1,
    },
    "laptop": {
        "dataset": "digits",
        "width": 128,
        "epochs": 20,
        "search_epochs": 5,
        "seeds": 2,
        "rates": 9,
    },
    "paper": {
        "dataset": "mnist",
        "width": 4000,
        "epochs": 100,
        "search_epochs": 20,
        "seeds": 3,
        "rates": 9,
    },
}
setting = SETTINGS[PRESET]
NAMES = ("sgd", "adagrad", "path_sgd")

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
# Each optimizer gets the step size that suits it, from each start, of the same nine: 1,
# 0.3, 0.1 and so on. As in the paper, a sixth of the training points is kept out, and
# the step size that reaches the smallest error on these points first is taken.


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
        for rate in optimizer.learning_rates[: setting["rates"]]
    }


runs = [(name, init) for name in NAMES for init in train.INITS]
errors = {
    run: search(*run) for run, _ in zip(runs, ProgressBar(len(runs)), strict=True)
}
chosen = {run: step_sizes.fastest(found) for run, found in errors.items()}

# %%
figure = plt.figure(figsize=(6.5, 3.8), layout="constrained")
axes = figure.subplots()
for (name, init), found in errors.items():
    style = figures.STYLES[init]._asdict()
    least = [min(epochs) for epochs in found.values()]
    colour, label = figures.LOOKS[name].colour, f"{OPTIMIZERS[name].label}, {init}"
    axes.plot(found.keys(), least, color=colour, label=label, **style)
    axes.plot(chosen[name, init], min(found[chosen[name, init]]), "*", color=colour)
axes.set(xlabel="step size", ylabel="least validation error", xscale="log")
axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
axes.spines[["top", "right"]].set_visible(False)
axes.grid(color="0.92")
figure.legend(loc="outside upper center", ncols=3, frameon=False, handlelength=3)
plt.show()

# %% [markdown]
# Path-SGD takes the same step size from both starts (the stars), and sees the same
# errors. It cannot tell them apart.
#
# ## Training
#
# On all training points now. One epoch is one compiled call. Each epoch makes a record:
# the objective, the error on the training points and that on the test points.

# %%
records = [
    results.Record(
        dataset.name,
        name,
        init,
        task.dropout,
        seed,
        chosen[name, init],
        *measurement,
    )
    for (name, init), _ in zip(runs, ProgressBar(len(runs)), strict=True)
    for seed in range(setting["seeds"])
    for measurement in train.train(
        task,
        OPTIMIZERS[name].make,
        chosen[name, init],
        init,
        seed,
        setting["epochs"],
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
#
# ## Try
#
# - `PRESET = "paper"`, on a GPU.
# - Other optimizers: add `"adam"` and `"path_adam"` to `NAMES`, with nine step sizes.
# - `dropout=0.5` in the task.
