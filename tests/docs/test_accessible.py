"""What is mended of the theme's pages."""

from docs.ext.accessible import on_post_page


def test_the_search_and_sections_have_names():
    page = (
        '<div class="md-search" role="dialog"></div>'
        '<nav class="md-nav" aria-labelledby="__nav_5_label" aria-expanded="false">\n'
        ' <label class="md-nav__title" for="__nav_5">\n'
        '  <span class="md-nav__icon md-icon"></span>\n  Your network\n </label>'
    )
    mended = on_post_page(page)
    assert 'role="dialog" aria-label="Search"' in mended
    assert 'aria-label="Your network" aria-expanded="false"' in mended
    assert "labelledby" not in mended
