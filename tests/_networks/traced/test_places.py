"""The places that messages name: the function, the modules, the user's own line."""

import importlib.util
import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import pathsgd_optax as pathsgd
from tests import networks


def refusal(function):
    """What is said of a function of hidden units."""
    with pytest.raises(ValueError, match="has no path semantics") as error:
        pathsgd.trace_network(
            lambda w, x: function(x @ w), networks.spec(2, 3), networks.spec(1, 2)
        )
    return str(error.value)


@pytest.mark.parametrize(
    "function, name",
    [
        (jax.nn.gelu, "integer_pow of jax.nn.gelu"),
        (jax.nn.silu, "logistic of jax.nn.silu"),
        (jax.nn.softmax, "exp of jax.nn.softmax"),
        (lambda x: jax.jit(jax.nn.softplus)(x), r"\w+ of jax.nn.softplus"),
        (lambda x: x / jnp.linalg.norm(x), "mul of jnp.linalg.norm"),
        (lambda x: jnp.fft.fft(x).real, "convert_element_type of jnp.fft.fft"),
        (jnp.tanh, "tanh"),
        (lambda x: x * x, "mul"),
    ],
)
def test_the_function_is_named_as_users_write_it(function, name):
    assert re.match(rf"{name} at test_places.py:\d+ has", refusal(function))


SOURCE = "import jax.numpy as jnp\n\ndef activation(x):\n    return jnp.tanh(x)\n"


def module(path):
    """The module of a file with `SOURCE`."""
    path.mkdir(parents=True)
    (path / "layers.py").write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("layers", path / "layers.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize(
    "folder, line",
    [
        ("src/mine", "layers.py:4"),
        ("env/site-packages/theirs", r"test_places.py:\d+"),
        ("usr/lib/dist-packages/theirs", r"test_places.py:\d+"),
    ],
)
def test_the_line_is_the_users_own(tmp_path, folder, line):
    activation = module(tmp_path / folder).activation
    assert re.match(f"tanh at {line} has", refusal(activation))


def test_a_librarys_layer_is_named_where_no_line_is_the_users():
    rnn = nnx.RNN(nnx.GRUCell(2, 3, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"^logistic in GRUCell\.__call__ has no path"):
        pathsgd.trace_nnx(rnn, networks.spec(1, 2, 2))
