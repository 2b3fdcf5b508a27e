"""The public names: listed, documented, with doctests, on public JAX only."""

import doctest
import importlib.metadata
import inspect
import pathlib

import jax
import pytest

import pathsgd_optax as pathsgd


SOURCES = sorted(pathlib.Path(pathsgd.__file__).parent.rglob("*.py"))


def test_all_is_sorted_and_without_duplicates():
    assert pathsgd.__all__ == sorted(set(pathsgd.__all__))


def test_all_lists_every_public_name():
    public = {
        name
        for name, value in vars(pathsgd).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(pathsgd.__all__)


@pytest.mark.parametrize("name", pathsgd.__all__)
def test_each_name_is_importable_and_documented(name):
    value = getattr(pathsgd, name)
    assert value.__name__ == name
    summary = inspect.getdoc(value).splitlines()[0]
    assert summary.endswith(".")
    assert not summary.startswith(f"{name}(")


@pytest.mark.parametrize("name", pathsgd.__all__)
def test_each_name_has_a_doctest(name):
    value = getattr(pathsgd, name)
    found = doctest.DocTestFinder(recurse=False).find(value, name)
    assert any(test.examples for test in found)


@pytest.mark.parametrize("name", pathsgd.__all__)
def test_each_argument_is_documented(name):
    value = getattr(pathsgd, name)
    if not inspect.isfunction(value):
        pytest.skip("not a function")
    _, _, arguments = inspect.getdoc(value).partition("Args:")
    assert all(f"{name}: " in arguments for name in inspect.signature(value).parameters)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_no_module_reaches_into_private_jax(source):
    text = source.read_text()
    assert "jax._src" not in text
    assert "optax._src" not in text


def test_the_version_is_that_of_the_distribution():
    assert pathsgd.__version__ == importlib.metadata.version("pathsgd-optax")


def test_the_suite_runs_on_eight_devices():
    assert jax.device_count() == 8
