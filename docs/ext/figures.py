"""Figures of the benchmarks, which pages show from where the records lie."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds ``benchmarks/results/*/*.png`` beside the pages."""
    root = Path(config.config_file_path).parent
    for path in sorted(root.glob("benchmarks/results/*/*.png")):
        uri = path.relative_to(root).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files
