"""Formulas as the site shows them."""

import inspect
import re

import pytest

import pathsgd_optax as pathsgd
from docs.ext.docstrings import markdown
from docs.ext.mathml import mathml, on_page_content


def test_inline_and_block_formulas_are_rendered():
    page = (
        r'<span class="arithmatex">\(a &lt; b\)</span>'
        r'<div class="arithmatex">\[c\]</div><p>\(d\)</p>'
    )
    rendered = on_page_content(page)
    assert rendered.count("<math") == 2
    assert "<mo>&#x0003C;</mo>" in rendered
    assert r"<p>\(d\)</p>" in rendered


@pytest.mark.parametrize("name", pathsgd.__all__)
def test_no_command_of_a_docstring_is_unknown(name):
    text = markdown(inspect.getdoc(getattr(pathsgd, name)))
    for formula in re.findall(r"\$\$(.*?)\$\$", text, re.DOTALL):
        assert "\\" not in mathml(formula, "block")
