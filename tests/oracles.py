"""The paper's definitions the slow way, in float64 numpy.

A network is a list of a kernel ``(fan_in, fan_out)`` and a bias, or None, per layer.
A bias is an edge from a constant unit, which is unit ``fan_in`` of the layer below.
"""

import itertools
import math

import jax
import numpy as np


def edges(layers):
    """The weight of each edge, by its layer, source and target."""
    weights = {}
    for k, (kernel, bias) in enumerate(layers):
        rows = kernel if bias is None else np.vstack([kernel, bias])
        weights |= {(k, u, v): rows[u, v] for u, v in np.ndindex(rows.shape)}
    return weights


def paths(layers):
    """Every path from an input, or a constant unit, to an output, as its edges."""
    starts = [(0, unit) for unit in range(len(layers[0][0]))]
    starts += [(k, len(w)) for k, (w, bias) in enumerate(layers) if bias is not None]
    return [path for start in starts for path in _paths_from(*start, layers)]


def _paths_from(k, unit, layers):
    if k == len(layers):
        return [()]
    return [
        ((k, unit, target), *rest)
        for target in range(layers[k][0].shape[1])
        for rest in _paths_from(k + 1, target, layers)
    ]


def path_vector(layers, chosen=None):
    """pi(w), or of some paths."""
    weights = edges(layers)
    chosen = paths(layers) if chosen is None else chosen
    return np.array([math.prod(weights[e] for e in path) for path in chosen])


def path_norm(layers, p):
    """phi_p(w), equation (5)."""
    return _norm(path_vector(layers), p)


def path_scaling(layers, p, damping=0.0):
    """gamma_p(w, e) of each edge, equation (9), laid out like ``layers``.

    With damping, hidden units are outputs, too: the paths that end in one have this
    norm together, if there are any but those of weight 0.
    """
    ends = truncations(layers, p, damping) if damping else []
    return _per_edge(layers, lambda others: _norm(others, p) ** 2, ends)


def truncations(layers, p, damping):
    """The paths that end in hidden units, and the number that each is to count."""
    return [
        (path, damping / norm)
        for k in range(1, len(layers))
        for unit in range(layers[k][0].shape[0])
        for ending in [[x for x in paths(layers[:k]) if x[-1][2] == unit]]
        for norm in [_norm(path_vector(layers[:k], ending), p)]
        for path in ending
        if norm > 0
    ]


def path_norm_gradient(layers, p):
    """The gradient of log phi_p, where one path alone is the largest if p is inf."""
    phi = path_norm(layers, p)
    others = _per_edge(layers, lambda others: _norm(others, p) / phi)
    return [
        tuple(
            None if w is None else _slope(w, other, p)
            for w, other in zip(*pair, strict=True)
        )
        for pair in zip(layers, others, strict=True)
    ]


def _slope(w, others, p):
    if math.isinf(p):
        on_best = np.isclose(np.abs(w) * others, 1, rtol=1e-12)
        return np.divide(1, w, where=on_best, out=np.zeros_like(w))
    return np.sign(w) * np.abs(w) ** (p - 1) * others**p


def _per_edge(layers, reduce, further=()):
    weights = edges(layers)
    others = {edge: [] for edge in weights}
    for path, factor in [*((path, 1.0) for path in paths(layers)), *further]:
        for k, edge in enumerate(path):
            rest = path[:k] + path[k + 1 :]
            others[edge].append(factor * math.prod(weights[e] for e in rest))
    values = {edge: reduce(products) for edge, products in others.items()}
    result = []
    for k, (kernel, bias) in enumerate(layers):
        rows, columns = kernel.shape
        table = np.array(
            [
                [values[k, u, v] for v in range(columns)]
                for u in range(rows + (bias is not None))
            ]
        )
        result.append((table[:rows], None if bias is None else table[rows]))
    return result


def _norm(x, p):
    magnitudes = [abs(entry) for entry in x]
    if math.isinf(p):
        return max(magnitudes)
    return math.fsum(entry**p for entry in magnitudes) ** (1 / p)


def path_metric(gradients, gamma):
    """The root of the sum of squared gradients over gamma, of two like trees."""
    squares = jax.tree.map(lambda g, c: np.sum(g**2 / c), gradients, gamma)
    return np.sqrt(sum(jax.tree.leaves(squares)))


def algorithm_1(layers, gradients, eta, p):
    """One step of Algorithm 1, biases as paths from a constant unit."""
    masses = [[abs(w) ** p if w is not None else None for w in pair] for pair in layers]
    gamma_in, gamma_out = (
        [np.ones(len(layers[0][0]))],
        [np.ones(layers[-1][0].shape[1])],
    )
    for kernel, bias in masses:
        gamma_in.append(gamma_in[-1] @ kernel + (0 if bias is None else bias))
    for kernel, _ in reversed(masses):
        gamma_out.insert(0, kernel @ gamma_out[0])
    stepped = []
    for k, ((kernel, bias), (dkernel, dbias)) in enumerate(
        zip(layers, gradients, strict=True)
    ):
        gamma = np.outer(gamma_in[k] ** (2 / p), gamma_out[k + 1] ** (2 / p))
        kernel = kernel - eta / gamma * dkernel
        if bias is not None:
            bias = bias - eta / gamma_out[k + 1] ** (2 / p) * dbias
        stepped.append((kernel, bias))
    return stepped


def log_path_scaling(layers, p):
    """log gamma_p of each edge and log phi_p, at any depth."""
    with np.errstate(divide="ignore"):
        logs = [
            (np.log(abs(w)), None if b is None else np.log(abs(b))) for w, b in layers
        ]
    entering, leaving = [np.zeros(len(logs[0][0]))], [np.zeros(logs[-1][0].shape[1])]
    for kernel, bias in logs:
        rows = entering[-1][:, None] + kernel
        rows = rows if bias is None else np.vstack([rows, bias])
        entering.append(_log_norm(rows, p, axis=0))
    for kernel, _ in reversed(logs):
        leaving.insert(0, _log_norm(kernel + leaving[0], p, axis=1))
    gamma = [
        (
            2 * (entering[k][:, None] + leaving[k + 1]),
            None if bias is None else 2 * leaving[k + 1],
        )
        for k, (_, bias) in enumerate(logs)
    ]
    return gamma, _log_norm(entering[-1], p, axis=0)


def _log_norm(x, p, axis):
    peak = np.max(x, axis=axis, keepdims=True)
    if not math.isinf(p):
        shift = np.where(np.isfinite(peak), peak, 0)
        with np.errstate(divide="ignore"):
            total = np.sum(np.exp(p * (x - shift)), axis=axis, keepdims=True)
            peak = shift + np.log(total) / p
    return np.squeeze(peak, axis)


def truncated_cross_entropy(scores, label):
    """Footnote 2, of one example."""
    margins = np.asarray(scores, np.float64) - np.float64(scores[label])
    parabola = np.exp(-11) * np.maximum(margins + 13, 0) ** 2 / 4
    others = np.where(margins >= -11, np.exp(margins), parabola)
    return np.log1p(math.fsum(np.delete(others, label)))


class Graph:
    """A network as single edges, whose paths are enumerated one by one.

    A node is a number. An edge has a weight and the key of a parameter's entry, or
    None; two edges may have the same key. Nodes are laid out in arrays of objects.
    """

    def __init__(self):
        self.count = 0
        self.edges = []

    def nodes(self, *shape):
        """New nodes, as an array."""
        first = self.count
        self.count = first + math.prod(shape)
        return np.arange(first, self.count).reshape(shape)

    def connect(self, source, target, weight=1.0, key=None):
        """Adds an edge."""
        self.edges.append((int(source), int(target), float(weight), key))

    def dense(self, name, kernel, bias, sources):
        """A matrix product along the last axis."""
        targets = self.nodes(*sources.shape[:-1], kernel.shape[1])
        for place in np.ndindex(sources.shape[:-1]):
            for u, v in np.ndindex(kernel.shape):
                edge = (sources[(*place, u)], targets[(*place, v)])
                self.connect(*edge, kernel[u, v], (name, "kernel", u, v))
        return self.shift(name, bias, targets)

    def shift(self, name, bias, targets, weight=None):
        """Adds a bias, as edges from a unit of their own."""
        for place in () if bias is None else np.ndindex(targets.shape):
            edge = (bias if weight is None else weight)[place[-1]]
            self.connect(self.one, targets[place], edge, (name, "bias", place[-1]))
        return targets

    def convolve(self, name, kernel, bias, sources):
        """A 1-d convolution of (length, features), padded to the same length."""
        size, _, features = kernel.shape
        targets = self.nodes(len(sources), features)
        for at, k in np.ndindex(len(sources), size):
            if 0 <= (source := at + k - (size - 1) // 2) < len(sources):
                for u, v in np.ndindex(kernel.shape[1:]):
                    edge = (sources[source, u], targets[at, v])
                    self.connect(*edge, kernel[k, u, v], (name, "kernel", k, u, v))
        return self.shift(name, bias, targets)

    def normalize(self, name, params, statistics, sources, epsilon=1e-5):
        """BatchNorm on its running averages."""
        mean, variance = (np.asarray(statistics[k]) for k in ("mean", "var"))
        slope = 1 / np.sqrt(variance + epsilon)
        scale = np.asarray(params.get("scale", np.ones_like(mean)))
        middle, targets = self.nodes(*sources.shape), self.nodes(*sources.shape)
        for place in np.ndindex(sources.shape):
            v = place[-1]
            key = (name, "scale", v) if "scale" in params else None
            self.connect(sources[place], middle[place], slope[v])
            self.connect(middle[place], targets[place], scale[v], key)
        shift = np.asarray(params.get("bias", 0)) - mean * slope * scale
        return self.shift(name, shift, targets)

    def gather(self, *groups):
        """The sum, or the maximum, of what lies at the same place in several arrays."""
        targets = self.nodes(*groups[0].shape)
        for place in np.ndindex(targets.shape):
            for group in groups:
                self.connect(group[place], targets[place])
        return targets

    def masses(self, sources, outputs, p):
        """Phi, and by their keys the sums of the products of the others."""
        starts = {int(node) for node in np.ravel(sources)} | {self.one}
        ends = {int(node) for node in np.ravel(outputs)}
        after = {}
        for edge in self.edges:
            after.setdefault(edge[0], []).append(edge)
        total, others = 0.0, {}
        for path in itertools.chain(*(_walks(s, ends, after) for s in starts)):
            weights = [abs(weight) ** p for _, _, weight, _ in path]
            total += math.prod(weights)
            for k, (*_, key) in enumerate(path):
                rest = math.prod(weights[:k] + weights[k + 1 :])
                others[key] = others.get(key, 0) + rest
        return total, others

    @property
    def one(self):
        """The unit that is always 1."""
        return -1


def _walks(node, ends, after):
    if node in ends:
        yield ()
    for edge in after.get(node, ()):
        for rest in _walks(edge[1], ends, after):
            yield (edge, *rest)
