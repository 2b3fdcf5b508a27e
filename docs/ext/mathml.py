"""Formulas as MathML, made when the site is built: no scripts, no fonts to fetch."""

import html
import re
from collections.abc import Mapping
from typing import Any

from latex2mathml.converter import convert


FORMULA = re.compile(
    r'class="arithmatex">(?P<open>\\[(\[])(?P<latex>.*?)\\[)\]]</', re.DOTALL
)

WRITTEN_OTHERWISE = {
    r"\Big(": r"\left(",
    r"\Big)": r"\right)",
    r"\big(": r"\left(",
    r"\big)": r"\right)",
    r"\operatorname*{arg\,min}": r"\mathrm{arg}\,\min",
    r"\sim": "\u223c",
}
"""What `latex2mathml` doesn't know or show well, as it does."""

SPACED_OTHERWISE = {
    "<mi>\u223c</mi>": "<mo>\u223c</mo>",
    '<mo stretchy="false">&#x0007C;</mo>': (
        '<mo stretchy="false" lspace="0" rspace="0">&#x0007C;</mo>'
    ),
    "<mo>&#x02016;</mo>": '<mo stretchy="false" lspace="0" rspace="0">&#x02016;</mo>',
}
"""Relations with spaces, and bars without."""


def mathml(latex: str, display: str) -> str:
    """The formula in MathML; ``display`` is block or inline."""
    latex = _replaced(latex, WRITTEN_OTHERWISE)
    return _replaced(convert(latex, display=display), SPACED_OTHERWISE)


def _replaced(text: str, replacements: Mapping[str, str]) -> str:
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text


def _rendered(match: re.Match[str]) -> str:
    display = "block" if match["open"] == r"\[" else "inline"
    return f'class="arithmatex">{mathml(html.unescape(match["latex"]), display)}</'


def on_page_content(content: str, **kwargs: Any) -> str:
    """Renders the formulas that `pymdownx.arithmatex` has marked."""
    return FORMULA.sub(_rendered, content)
