"""Fails the build where a public symbol has no page, or more than one."""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files

import pathsgd_optax


SYMBOL = re.compile(r"^::: pathsgd_optax\.(\w+)", re.MULTILINE)


def check(pages: Iterable[str], names: Collection[str]) -> None:
    """Raises a `PluginError` unless each of the names is on exactly one page."""
    found = Counter(name for page in pages for name in SYMBOL.findall(page))
    faults = [f"{name} is on {found[name]} pages" for name in names if found[name] != 1]
    faults += [f"{name} is not public" for name in found if name not in names]
    if faults:
        raise PluginError("docs/api: " + "; ".join(faults))


def on_env(env: Any, config: MkDocsConfig, files: Files) -> None:
    """Checks the pages of the reference once all are read."""
    pages = (file.content_string for file in files.documentation_pages())
    check(pages, pathsgd_optax.__all__)
