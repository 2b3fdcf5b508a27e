"""Formulas as MathML, made when the site is built: no scripts, no fonts to fetch."""

import html
import re
from typing import Any

from latex2mathml.converter import convert


FORMULA = re.compile(
    r'class="arithmatex">(?P<open>\\[(\[])(?P<latex>.*?)\\[)\]]</', re.DOTALL
)

WRITTEN_OTHERWISE = {
    r"\sim": "\u223c",
    r"\operatorname*{arg\,min}": r"\mathrm{arg}\,\min",
}
"""What `latex2mathml` doesn't know, as it does."""


def mathml(latex: str, display: str) -> str:
    """The formula in MathML; ``display`` is block or inline."""
    for unknown, known in WRITTEN_OTHERWISE.items():
        latex = latex.replace(unknown, known)
    return convert(latex, display=display)


def _rendered(match: re.Match[str]) -> str:
    block = match["open"] == r"\["
    formula = mathml(html.unescape(match["latex"]), "block" if block else "inline")
    # On a phone a wide formula scrolls, which keys must reach, too.
    focus = ' tabindex="0"' if block else ""
    return f'class="arithmatex"{focus}>{formula}</'


def on_page_content(content: str, **kwargs: Any) -> str:
    """Renders the formulas that `pymdownx.arithmatex` has marked."""
    return FORMULA.sub(_rendered, content)
