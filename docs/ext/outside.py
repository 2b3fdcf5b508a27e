"""What pages show of the repository outside their folder, on the site as on GitHub."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


LINK = re.compile(
    r"\]\((?P<up>(?:\.\./)*)\.\./(?P<path>(?:benchmarks/results|notebooks)/[^)\s]+)\)"
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds ``benchmarks/results/*/*.png``, as if they were beside the pages."""
    root = Path(config.config_file_path).parent
    for path in sorted(root.glob("benchmarks/results/*/*.png")):
        uri = path.relative_to(root).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Links to them, and to the pages that `notebooks` makes of notebooks."""
    return LINK.sub(_inside, markdown)


def _inside(match: re.Match[str]) -> str:
    return f"]({match['up']}{match['path'].replace('.ipynb', '.md')})"
