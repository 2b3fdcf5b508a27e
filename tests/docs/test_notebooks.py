"""The notebooks as pages of the site."""

import base64
import io

import matplotlib.pyplot as plt
import nbformat.v4 as v4
import numpy as np
import pytest

from docs.ext.notebooks import Page


@pytest.fixture
def page(tmp_path):
    def make(*cells):
        path = tmp_path / "some.ipynb"
        path.write_text(v4.writes(v4.new_notebook(cells=[*cells])))
        return Page(path)

    return make


def test_a_badge_goes_and_a_link_to_a_notebook_is_one_to_its_page(page):
    badge = "[![Open](https://a.org/b.svg)](https://c.org/d)"
    text = f"# Title\n\n{badge}\n\nSee [other](other.ipynb#part)."
    shown = page(v4.new_markdown_cell(text)).markdown
    assert "a.org" not in shown
    assert "[other](other.md#part)" in shown


def test_code_comes_with_what_it_prints(page):
    output = v4.new_output("stream", name="stdout", text="1%\r2%\r100%\ndone\n")
    noise = v4.new_output("stream", name="stderr", text="a warning")
    shown = page(v4.new_code_cell("run()", outputs=[output, noise])).markdown
    assert shown == "```python\nrun()\n```\n\n```text\n100%\ndone\n```"


def test_a_cell_that_installs_is_folded(page):
    shown = page(v4.new_code_cell("if colab:\n    %pip install x")).markdown
    fold, code = shown.split("\n\n")
    assert fold.startswith("??? note")
    assert code == "    ```python\n    if colab:\n        %pip install x\n    ```"


def test_a_picture_is_a_file_that_says_what_it_is(page):
    data = {"image/png": base64.b64encode(b"png").decode(), "text/plain": "<Figure>"}
    output = v4.new_output("display_data", data=data)
    made = page(
        v4.new_markdown_cell("## Curves"), v4.new_code_cell("plot()", outputs=[output])
    )
    assert made.pictures == {"some_1.png": b"png"}
    assert made.markdown.endswith("in “Curves”](some_1.png)")


@pytest.mark.parametrize("text, shown", [("[===== ] 8/9", False), ("[1/2]", True)])
def test_a_value_is_shown_and_a_progress_bar_is_not(text, shown, page):
    data = {"text/plain": text, "text/html": "<b>"}
    output = v4.new_output("display_data", data=data)
    made = page(v4.new_code_cell("run()", outputs=[output]))
    assert (text in made.markdown) == shown


@pytest.mark.parametrize("width, ending", [(440, "{ .narrow }"), (960, "")])
def test_a_picture_that_a_phone_shows_whole_says_so(width, ending, page):
    file = io.BytesIO()
    plt.imsave(file, np.zeros((2, width)), format="png")
    data = {"image/png": base64.b64encode(file.getvalue()).decode()}
    output = v4.new_output("display_data", data=data)
    shown = page(v4.new_code_cell("plot()", outputs=[output])).markdown
    assert shown.endswith(f"(some_1.png){ending}")
