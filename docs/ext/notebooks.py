"""The notebooks as pages, with the outputs that they are stored with."""

import base64
import math
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


BADGE = re.compile(r"\[!\[[^\]]*\]\(https?:[^)]*\)\]\([^)]*\)")

PAGE = re.compile(r"\((?P<stem>\w+)\.ipynb(?P<anchor>#[\w-]+)?\)")

INSTALLS = "%pip install"
"""In a cell that readers of the site have no use for, and which they may open."""

PROGRESS = re.compile(r"\[=* *\] \d+/\d+")
"""IPython's progress bar, which is for those who wait."""

NARROW = 540
"""The most pixels of a picture that a phone shows whole."""

IMAGES = {"image/png": "png", "image/svg+xml": "svg"}


class Page:
    """A notebook in Markdown, and the pictures beside it."""

    def __init__(self, path: Path) -> None:
        self.stem = path.stem
        self.pictures: dict[str, bytes] = {}
        self._section = ""
        cells = nbformat.read(path, as_version=4).cells
        self.markdown = "\n\n".join(part for c in cells for part in self._cell(c))

    def _cell(self, cell: Any) -> Iterator[str]:
        if cell.cell_type == "markdown":
            yield self._prose(cell.source)
        elif INSTALLS in cell.source:
            code = textwrap.indent(_fenced("python", cell.source), "    ")
            yield f'??? note "Where the package comes from, in Colab"\n\n{code}'
        elif cell.source:
            yield _fenced("python", cell.source)
            for output in cell.outputs:
                yield from self._output(output)

    def _prose(self, text: str) -> str:
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        self._section = headings[-1] if headings else self._section
        return PAGE.sub(r"(\g<stem>.md\g<anchor>)", BADGE.sub("", text))

    def _output(self, output: Any) -> Iterator[str]:
        if output.output_type == "stream" and output.name == "stdout":
            yield _fenced("text", _printed(output.text))
        for kind, ending in IMAGES.items():
            if kind in output.get("data", {}):
                yield self._picture(output.data[kind], ending)
                return
        text = output.get("data", {}).get("text/plain", "")
        if text and not PROGRESS.fullmatch(text):
            yield _fenced("text", text)

    def _picture(self, data: str, ending: str) -> str:
        name = f"{self.stem}_{len(self.pictures) + 1}.{ending}"
        content = base64.b64decode(data) if ending == "png" else data.encode()
        self.pictures[name] = content
        shown = f"![What the code above draws, in “{self._section}”]({name})"
        return shown + ("{ .narrow }" if _width(content) <= NARROW else "")


def _width(picture: bytes) -> float:
    """How many pixels wide a PNG is; inf of other formats."""
    png = picture.startswith(b"\x89PNG")
    return int.from_bytes(picture[16:20], "big") if png else math.inf


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def _printed(text: str) -> str:
    """What a terminal shows in the end: a carriage return starts the line anew."""
    return "\n".join(line.rsplit("\r", 1)[-1] for line in text.split("\n"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each of the notebooks."""
    root = Path(config.config_file_path).parent
    for path in sorted(root.glob("notebooks/*.ipynb")):
        page = Page(path)
        contents: dict[str, str | bytes] = {
            f"{page.stem}.md": page.markdown,
            **page.pictures,
        }
        for name, content in contents.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files
