"""What the theme leaves out and screen readers need."""

import re
from typing import Any


SECTION = re.compile(
    r'aria-labelledby="__nav_\d+_label"'
    r'(?P<rest>[^>]*>\s*<label class="md-nav__title"[^>]*>'
    r'\s*<span class="md-nav__icon md-icon"></span>\s*(?P<title>[^<]*?)\s*</label>)'
)


def on_post_page(output: str, **kwargs: Any) -> str:
    """Names the dialog that searches, and the sections of the navigation."""
    output = output.replace('role="dialog">', 'role="dialog" aria-label="Search">')
    return SECTION.sub(r'aria-label="\g<title>"\g<rest>', output)
