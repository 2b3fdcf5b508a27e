"""What the theme leaves out and screen readers need."""

from typing import Any


def on_post_page(output: str, **kwargs: Any) -> str:
    """Names the dialog that searches."""
    return output.replace('role="dialog">', 'role="dialog" aria-label="Search">')
