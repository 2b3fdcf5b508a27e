"""Docstrings as the site shows them."""

import inspect
import re

import pytest

import pathsgd_optax as pathsgd
from docs.ext.docstrings import markdown


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (":func:`path_sgd`", "[`path_sgd`][pathsgd_optax.path_sgd]"),
        ("see `path_norm`.", "see [`path_norm`][pathsgd_optax.path_norm]."),
        ("`optax.adamw`", "`optax.adamw`"),
        ("``path_sgd(0.1)``", "``path_sgd(0.1)``"),
        (":math:`\\sqrt\n  \\gamma`", "$\\sqrt \\gamma$"),
        ("`the\n  paper <https://a.org/b>`_,", "[the paper](https://a.org/b),"),
    ],
)
def test_roles_and_links(rest, expected):
    assert markdown(rest).strip() == expected


def test_a_formula_is_a_block_of_its_own():
    text = markdown("Is:\n\n.. math::\n  a\n    = b\n\nAnd more.")
    assert text == "Is:\n\n\n$$\na\n= b\n$$\n\nAnd more.\n"


def test_a_warning_keeps_its_paragraphs_inside():
    text = markdown("A.\n\n.. warning::\n  No.\n\n  Never.\n\nArgs:\n  x: y.")
    assert "!!! warning\n\n    No.\n\n    Never.\n" in text
    assert "\nArgs:\n  x: y.\n" in text


def test_the_source_follows_the_example():
    text = markdown("A.\n\nExample:\n  >>> 1\n  1\n\nReferences:\n  B,\n  C.\n")
    assert "Examples:\n  >>> 1" in text
    assert text.endswith("**Source:** B, C.\n")


@pytest.mark.parametrize("name", pathsgd.__all__)
def test_nothing_of_rest_is_left(name):
    text = markdown(inspect.getdoc(getattr(pathsgd, name)))
    assert ":`" not in text
    assert not re.search(r"^ *\.\. ", text, re.MULTILINE)
    assert "`_" not in text
