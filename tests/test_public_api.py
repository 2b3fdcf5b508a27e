"""The public names: listed, documented, with doctests, on public JAX only."""

import dataclasses
import doctest
import inspect
import pathlib
import re

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


FUNCTIONS = [name for name in pathsgd.__all__ if name.islower()]

CLASSES = [name for name in pathsgd.__all__ if not name.islower()]

METHODS = {
    "check": pathsgd.PathNetwork.check,
    "path_norm": pathsgd.PathNetwork.path_norm,
    "scaling": pathsgd.PathNetwork.scaling,
    "labels": pathsgd.PathNetwork.labels,
    "summary": pathsgd.TracedNetwork.summary,
    "labels of all": pathsgd.TracedNetwork.labels,
}


def described(value, section):
    """The descriptions in a section of the docstring, by what they are of."""
    _, found, rest = inspect.getdoc(value).partition(f"{section}:\n")
    entries, _, _ = rest.partition("\n\n")
    parts = (
        re.split(r"^  (\*{0,2}\w+): ", entries, flags=re.MULTILINE)[1:] if found else []
    )
    names, texts = parts[::2], parts[1::2]
    return {
        name.lstrip("*"): " ".join(text.split())
        for name, text in zip(names, texts, strict=True)
    }


@pytest.mark.parametrize(
    "function",
    [*(getattr(pathsgd, name) for name in FUNCTIONS), *METHODS.values()],
    ids=[*FUNCTIONS, *METHODS],
)
def test_each_argument_is_documented_in_its_place(function):
    arguments = [x for x in inspect.signature(function).parameters if x != "self"]
    assert [*described(function, "Args")] == arguments


@pytest.mark.parametrize("name", CLASSES)
def test_each_field_is_documented_in_its_place(name):
    value = getattr(pathsgd, name)
    if value is pathsgd.PathNetwork:
        fields = ["treedef", "parameters", "constants"]
    elif dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
    else:
        fields = [*value._fields]
    assert [*described(value, "Attributes")] == fields


def test_the_optimizers_share_the_words_for_what_they_share():
    aliases = (pathsgd.path_adagrad, pathsgd.path_adam, pathsgd.path_rmsprop)
    first, *others = (described(alias, "Args") for alias in aliases)
    optional = inspect.signature(pathsgd.path_adagrad).parameters.values()
    keywords = [x.name for x in optional if x.kind is x.KEYWORD_ONLY]
    assert len(keywords) == 7
    for name in ("learning_rate", "network", "p", *keywords):
        assert all(other[name] == first[name] for other in others)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_no_module_reaches_into_private_jax(source):
    text = source.read_text()
    assert "jax._src" not in text
    assert "optax._src" not in text


def test_the_suite_runs_on_eight_devices():
    assert jax.device_count() == 8
