"""The model zoo: parameter trees of fully connected networks, in every spelling."""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn, nnx


class MLP(nn.Module):
    """A linen network of Dense layers with ReLU between them."""

    widths: tuple[int, ...]
    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        """Applies the layers."""
        for width in self.widths[:-1]:
            x = nn.relu(nn.Dense(width, use_bias=self.use_bias)(x))
        return nn.Dense(self.widths[-1], use_bias=self.use_bias)(x)


class Block(nn.Module):
    """The body of a scan: Dense layers that return to the width they begin at."""

    widths: tuple[int, ...]
    use_bias: bool = True

    @nn.compact
    def __call__(self, x, _):
        """Applies the layers, in the form of a scan's body."""
        for width in self.widths:
            x = nn.relu(nn.Dense(width, use_bias=self.use_bias)(x))
        return x, None


class ScanMLP(nn.Module):
    """Dense, ``length`` blocks with a leading axis in the tree, Dense."""

    length: int
    body: tuple[int, ...]
    outputs: int = 2
    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        """Applies the layers."""
        x = nn.relu(nn.Dense(self.body[-1], use_bias=self.use_bias)(x))
        blocks = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.length,
        )
        x, _ = blocks(self.body, self.use_bias)(x, None)
        return nn.Dense(self.outputs, use_bias=self.use_bias)(x)


class NnxMLP(nnx.Module):
    """An nnx network whose layers lie in a list."""

    def __init__(self, widths, rngs):
        self.layers = nnx.List(
            [nnx.Linear(*ends, rngs=rngs) for ends in itertools.pairwise(widths)]
        )

    def __call__(self, x):
        """Applies the layers."""
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


class NnxTwoLayers(nnx.Module):
    """An nnx network whose layers are attributes."""

    def __init__(self, widths, rngs):
        inputs, hidden, outputs = widths
        self.fc1 = nnx.Linear(inputs, hidden, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, outputs, rngs=rngs)

    def __call__(self, x):
        """Applies the layers."""
        return self.fc2(self.dropout(nnx.relu(self.fc1(x))))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class OutIn:
    """A layer with the names and the orientation of equinox and torch."""

    weight: jax.Array
    bias: jax.Array


def random_like(tree, seed=0, dtype=np.float32):
    """Gaussian kernels of deviation ``1/sqrt(fan_in)``, and Gaussian biases."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        spread = leaf.shape[-2] ** -0.5 if len(leaf.shape) > 1 else 1.0
        return jnp.asarray(rng.normal(0, spread, leaf.shape).astype(dtype))

    return jax.tree.map(draw, tree)


def dense_tree(widths, bias=True, seed=0, dtype=np.float32):
    """``{"Dense_0": {"kernel": ..., "bias": ...}, ...}`` of these widths."""
    tree = {}
    for k, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        tree[f"Dense_{k}"] = {"kernel": spec(fan_in, fan_out)}
        if bias:
            tree[f"Dense_{k}"]["bias"] = spec(fan_out)
    return random_like(tree, seed, dtype)


def kernels(**shapes):
    """A tree of modules with kernels of these shapes, without biases."""
    return {name: {"kernel": spec(*shape)} for name, shape in shapes.items()}


def reads_backwards(widths):
    """Whether layers of these widths chain in the reverse order, too."""
    return len(widths) > 2 and list(widths[:-2]) == list(widths[2:])


def spec(*shape, dtype=jnp.float32):
    """The shape and dtype of a leaf."""
    return jax.ShapeDtypeStruct(shape, dtype)


def linen_tree(model, inputs, seed=0, dtype=np.float32):
    """A linen model's parameters, without compiling its initialisers."""
    variables = jax.eval_shape(model.init, jax.random.key(0), spec(1, inputs))
    return random_like(variables["params"], seed, dtype)


def in_order(params):
    """The modules of a flat tree, in the order of the numbers in their names."""
    return [params[name] for name in sorted(params, key=_number)]


def layers(params):
    """Kernel and bias (or None) of each layer of a flat tree, as float64 arrays."""
    return [
        tuple(
            np.asarray(module[kind]).astype(np.float64) if kind in module else None
            for kind in ("kernel", "bias")
        )
        for module in in_order(params)
    ]


def tree_like(params, weights):
    """A tree like the flat ``params`` from a kernel and a bias of each layer."""
    modules = sorted(params, key=_number)
    return {
        name: {kind: pair[kind == "bias"] for kind in params[name]}
        for name, pair in zip(modules, weights, strict=True)
    }


def unrolled(params):
    """A flat tree of the layers of `ScanMLP`, one a repeat."""
    (scanned,) = [name for name in params if name.startswith("Scan")]
    body = in_order(params[scanned])
    length = body[0]["kernel"].shape[0]
    repeats = [
        jax.tree.map(lambda leaf, k=k: np.asarray(leaf)[k], module)
        for k in range(length)
        for module in body
    ]
    modules = [params["Dense_0"], *repeats, params["Dense_1"]]
    return {f"Dense_{k}": module for k, module in enumerate(modules)}


def apply(params, x):
    """The outputs of the ReLU network with this flat tree."""
    *hidden, last = in_order(params)
    for module in hidden:
        x = jax.nn.relu(_dense(module, x))
    return _dense(last, x)


def _dense(module, x):
    y = x @ module["kernel"]
    return y + module["bias"][None] if "bias" in module else y


def _number(name):
    return int(re.search(r"\d+", name).group())
