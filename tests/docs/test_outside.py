"""Links that leave the folder of the pages."""

import pytest

from docs.ext.outside import on_page_markdown


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("![a](../benchmarks/results/b/c.png)", "![a](benchmarks/results/b/c.png)"),
        ("[a](../notebooks/b.ipynb#c)", "[a](notebooks/b.md#c)"),
        ("[a](../../notebooks/b.ipynb)", "[a](../notebooks/b.md)"),
        ("[a](../faq.md)", "[a](../faq.md)"),
    ],
)
def test_links_lead_to_where_the_site_has_them(written, shown):
    assert on_page_markdown(written) == shown
