"""The picture of a network shows its numbers, and can be read."""

import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

import pathsgd_optax as pathsgd
from pathsgd_optax._plots.drawing import draw
from pathsgd_optax._plots.quantities import Layer, Measured
from tests import networks, oracles


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def _shares(axes, state=0):
    return axes.containers[state].datavalues


def _spreads(axes, state=0):
    """gamma: least, lower quartile, median, upper quartile and largest, of each row."""
    ranges, boxes = axes.collections[2 * state : 2 * state + 2]
    ends = [np.array(x.get_segments())[:, :, 0].T for x in (ranges, boxes)]
    (least, largest), (lower, upper) = ends
    medians = axes.lines[state].get_xdata()
    return 10 ** np.array([least, lower, medians, upper, largest]).T


def _quantiles(gamma):
    logs = np.log10(gamma[np.nonzero(gamma)])
    return 10 ** np.quantile(logs, [0, 0.25, 0.5, 0.75, 1])


def _names(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def _headings(axes):
    return [text.get_text() for text in axes.texts]


def _prelu(params, x):
    x = x @ params["zeroth"]
    x = jnp.where(x > 0, x, params["slope"] * x)
    return x @ params["first"]


PRELU = {
    "first": jnp.float32([[5, 0, 2], [0, 0, 7]]),
    "slope": jnp.float32(0.25),
    "zeroth": jnp.float32([[1, 2], [3, 4]]),
}


def _normalised(params, x):
    x = x @ params["inner"]["kernel"]
    x = x * jax.lax.rsqrt(jnp.mean(x**2, 1, keepdims=True))
    x = x * params["inner"]["scale"][None]
    return x @ params["outer"]["kernel"]


NORMALISED = {
    "inner": {"kernel": jnp.float32([[1, 2]]), "scale": jnp.float32([3, 4])},
    "outer": {"kernel": jnp.float32([[5, 6, 7], [8, 9, 1]])},
}


@pytest.mark.parametrize("p", [1, 2])
def test_it_draws_the_shares_and_the_quartiles_of_gamma(p):
    params = networks.dense_tree((3, 4, 3, 2), seed=1)
    shares, gammas = pathsgd.plot_paths(pathsgd.layered_network(params), params, p=p)
    pairs = networks.layers(params)
    phi = oracles.path_norm(pairs, p)
    row = 0
    for k, scaling in enumerate(oracles.path_scaling(pairs, p)):
        for kind, gamma in enumerate(scaling):
            rest = [list(pair) for pair in pairs]
            rest[k][kind] = np.zeros_like(rest[k][kind])
            share = 1 - (oracles.path_norm(rest, p) / phi) ** p
            np.testing.assert_allclose(_shares(shares)[row], share, 1e-4, 1e-6)
            np.testing.assert_allclose(_spreads(gammas)[row], _quantiles(gamma), 1e-4)
            row += 1
    assert _names(shares) == ["kernel", "bias"] * 3
    assert _headings(shares) == ["Dense_0", "Dense_1", "Dense_2"]
    assert gammas.get_title() == ("$\\gamma$" if p == 2 else "$\\gamma$, p = 1")


def test_parameters_stand_as_paths_meet_them_and_those_on_no_path_say_so():
    network = pathsgd.trace_network(_prelu, PRELU, networks.spec(1, 2))
    shares, gammas = pathsgd.plot_paths(network, PRELU)
    assert _names(shares) == ["zeroth", "slope", "first"]
    assert _headings(shares) == []
    np.testing.assert_allclose(_shares(shares), [1, 0, 1])
    # Of zeroth: the squares of the rows of first. Of first: those of its columns.
    expected = [_quantiles(np.repeat(x, 6)) for x in ([29, 49], [10, 20])]
    np.testing.assert_allclose(_spreads(gammas), expected, 1e-5)
    (absent,) = gammas.texts
    assert (absent.get_text(), absent.xy[1]) == ("no path", shares.get_yticks()[1])


def test_weights_behind_zeros_are_left_out():
    params = networks.dense_tree((3, 4, 2), bias=False, seed=2)
    alive = params["Dense_1"]["kernel"].at[1:].set(0)
    params = params | {"Dense_1": {"kernel": alive}}
    _, gammas = pathsgd.plot_paths(pathsgd.layered_network(params), params)
    expected = oracles.path_scaling(networks.layers(params), 2)
    for spread, (gamma, _) in zip(_spreads(gammas), expected, strict=True):
        np.testing.assert_allclose(spread, _quantiles(gamma), 1e-5)
    params = jax.tree.map(jnp.zeros_like, params)
    shares, gammas = pathsgd.plot_paths(pathsgd.layered_network(params), params)
    assert not np.any(_shares(shares))
    assert not gammas.lines


def test_where_paths_end_within_the_shares_are_those_of_the_summary():
    network = pathsgd.trace_network(
        _normalised, NORMALISED, networks.spec(1, 1), gates=True
    )
    shares, gammas = pathsgd.plot_paths(network, NORMALISED)
    assert _headings(shares) == ["inner", "outer"]
    assert _names(shares) == ["kernel", "scale", "kernel"]
    rows = network.summary(NORMALISED).splitlines()[1:]
    percents = [f"{share:.1%}" for share in _shares(shares)]
    assert percents == [row.split()[-1] for row in rows]
    for spread, gamma in zip(
        _spreads(gammas),
        jax.tree.leaves(pathsgd.path_scaling(network, NORMALISED)),
        strict=True,
    ):
        np.testing.assert_allclose(spread, _quantiles(np.float64(gamma)), 1e-5)


def test_before_and_after_are_drawn_side_by_side_each_with_its_constants():
    params = {"w": jnp.float32([[1, 2]]), "v": jnp.float32([[3], [4]])}
    after = {"w": jnp.float32([[2, 2]]), "v": jnp.float32([[3], [0]])}
    network = pathsgd.trace_network(
        lambda params, x, c: x @ params["w"] * c[None] @ params["v"],
        params,
        networks.spec(1, 1),
        constants=jnp.ones(2),
    )
    shares, gammas = pathsgd.plot_paths(
        network,
        params,
        after,
        constants=jnp.float32([1, 10]),
        constants_after=jnp.float32([5, 1]),
        labels=("old", "new"),
    )
    for state, (w, v) in enumerate([([9, 1600], [1, 400]), ([225], [100, 4])]):
        expected = [_quantiles(np.array(x)) for x in (w, v)]
        np.testing.assert_allclose(_spreads(gammas, state), expected, 1e-5)
        np.testing.assert_allclose(_shares(shares, state), [1, 1])
    (legend,) = shares.get_figure().legends
    assert [text.get_text() for text in legend.get_texts()] == ["old", "new"]
    bars = [container.patches[0] for container in shares.containers]
    assert [bar.get_facecolor() for bar in bars] == [
        handle.get_facecolor() for handle in legend.get_patches()
    ]
    assert bars[0].get_y() > bars[1].get_y() + bars[1].get_height()


def test_no_depth_is_too_much():
    params = {f"Dense_{k}": {"kernel": 1e30 * jnp.eye(2)} for k in range(20)}
    shares, gammas = pathsgd.plot_paths(pathsgd.layered_network(params), params)
    np.testing.assert_allclose(_shares(shares), np.ones(20))
    np.testing.assert_allclose(gammas.lines[0].get_xdata(), 60 * 19 * np.ones(20), 1e-5)


def _written(axes):
    """The boxes of the names, from the top one."""
    figure = axes.get_figure()
    figure.draw_without_rendering()
    texts = [*axes.texts, *axes.get_yticklabels()]
    boxes = [text.get_window_extent() for text in texts]
    return figure.bbox, sorted(boxes, key=lambda box: -box.y1)


@pytest.mark.parametrize(
    "modules",
    [
        {"": ["first", "slope", "second"], "inner": ["kernel", "bias"]},
        {f"Block_{k}/Dense_0": ["kernel", "bias"] for k in range(80)},
    ],
    ids=["5", "160"],
)
def test_names_lie_apart_within_a_figure_that_a_phone_shows_large(modules):
    shares = _drawn(modules)
    _check_names(shares, modules)
    assert shares.get_figure().get_figwidth() < 5


@pytest.mark.parametrize(
    "modules",
    [
        {"": ["kernel_of_the_first_of_several_dense_layers"], "b": ["0", "1"]},
        {"encoder/layers/11/MultiHeadDotProductAttention_0/out_projection": ["w"]},
    ],
    ids=["parameter", "module"],
)
def test_names_of_any_length_are_shown_whole(modules):
    _check_names(_drawn(modules), modules)


def _drawn(modules):
    """The axes of the shares in a picture of these modules' parameters."""
    places = itertools.count()
    layers = [
        Layer(module, tuple(zip(places, names, strict=False)))
        for module, names in modules.items()
    ]
    measured = [Measured(0.5, (-1.0, 0.0, 0.0, 1.0, 2.0))] * next(places)
    return draw({"before": measured, "after": measured}, layers, (), "")[0]


def _check_names(axes, modules):
    whole, boxes = _written(axes)
    assert len(boxes) == len(list(filter(None, modules))) + sum(
        map(len, modules.values())
    )
    assert all(box.x0 >= whole.x0 and box.y0 >= whole.y0 for box in boxes)
    assert all(box.x1 <= whole.x1 and box.y1 <= whole.y1 for box in boxes)
    assert all(a.y0 > b.y1 for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize(
    "keywords, message",
    [
        ({"labels": "ab"}, "labels must be two different names, but got 'ab'"),
        ({"labels": ("a", "a")}, "labels must be two different names"),
        ({"p": 0.5}, "p must be at least 1"),
        ({"constants_after": jnp.ones(2)}, "constants_after are to after what"),
        ({"after": PRELU, "constants": jnp.ones(2)}, "constants_after are to after"),
        ({"after": {"first": jnp.ones(2)}}, "params are not those of the network"),
        ({"after": PRELU | {"zeroth": jnp.nan * jnp.eye(2)}}, "hold inf or nan"),
        ({"after": PRELU | {"first": jnp.inf * jnp.ones((2, 3))}}, "hold inf or nan"),
    ],
)
def test_what_cannot_be_drawn_is_refused(keywords, message):
    network = pathsgd.trace_network(_prelu, PRELU, networks.spec(1, 2))
    with pytest.raises(ValueError, match=message):
        pathsgd.plot_paths(network, PRELU, **keywords)
    assert not plt.get_fignums()


def test_without_matplotlib_an_error_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "pathsgd_optax._plots.drawing", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        pathsgd.plot_paths(None, None)


def test_matplotlib_is_imported_by_a_picture_only():
    code = "import sys, pathsgd_optax; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
