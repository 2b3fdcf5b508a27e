"""The check that the site has all public symbols."""

from pathlib import Path

import pytest
from mkdocs.exceptions import PluginError

import pathsgd_optax as pathsgd
from docs.ext.symbols import check


API = Path(__file__).parents[2] / "docs" / "api"


def test_each_public_symbol_is_on_one_page():
    check([page.read_text() for page in API.glob("*.md")], pathsgd.__all__)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("::: pathsgd_optax.one\n", "two is on 0 pages"),
        ("::: pathsgd_optax.one\n::: pathsgd_optax.two\n" * 2, "one is on 2 pages"),
        ("::: pathsgd_optax.one\n::: pathsgd_optax.three\n", "three is not public"),
    ],
)
def test_others_fail_the_build(page, message):
    with pytest.raises(PluginError, match=message):
        check([page], ["one", "two"])
