"""Docstrings in Optax's style, reST within Google's sections, as Markdown."""

import re
from typing import Any

import griffe

import pathsgd_optax


NAMES = frozenset(pathsgd_optax.__all__)

DIRECTIVE = re.compile(
    r"^(?P<indent> *)\.\. (?P<name>math|warning)::\n"
    r"(?P<body>(?:(?P=indent) +.*\n|\n)+)",
    re.MULTILINE,
)

LINK = re.compile(r"`(?P<text>[^`<]+?)\s*<(?P<url>https?://[^>]+)>`_")

ROLE = re.compile(r":(?:func|class):`(?P<name>\w+)`")

FORMULA = re.compile(r":math:`(?P<latex>[^`]+)`")

NAME = re.compile(r"(?<![`\[\w])`(?P<name>\w+)`(?![`\]])")


def markdown(text: str) -> str:
    """The docstring, with reST's directives, roles and links in Markdown."""
    text = DIRECTIVE.sub(_directive, f"{text}\n")
    text = LINK.sub(lambda m: f"[{' '.join(m['text'].split())}]({m['url']})", text)
    text = FORMULA.sub(lambda m: f"${' '.join(m['latex'].split())}$", text)
    text = ROLE.sub(lambda m: _reference(m["name"]), text)
    text = NAME.sub(lambda m: _reference(m["name"]), text)
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    return _sources(text)


def _directive(match: re.Match[str]) -> str:
    indent, body = match["indent"], match["body"]
    if match["name"] == "math":
        lines = [f"{indent}{line.strip()}" for line in body.strip().splitlines()]
        return "\n".join(["", f"{indent}$$", *lines, f"{indent}$$", "", ""])
    lines = [f"{indent}    {line.strip()}".rstrip() for line in body.splitlines()]
    return "\n".join([f"{indent}!!! {match['name']}", "", *lines, ""])


def _reference(name: str) -> str:
    return f"[`{name}`][pathsgd_optax.{name}]" if name in NAMES else f"`{name}`"


def _sources(text: str) -> str:
    before, heading, after = text.partition("\nReferences:\n")
    return f"{before}\n**Source:** {' '.join(after.split())}\n" if heading else text


class Markdown(griffe.Extension):
    """Turns each docstring into Markdown as it is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrites the docstring of a function, class or attribute."""
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
