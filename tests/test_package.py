"""What is built from the tree, and the wheel where there is nothing of the tree."""

import email
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import pathsgd_optax as pathsgd


ROOT = Path(__file__).parents[1]

TOP_LEVEL = {
    ".ci",
    ".github",
    ".gitignore",
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "PKG-INFO",
    "README.md",
    "benchmarks",
    "docs",
    "mkdocs.yml",
    "notebooks",
    "pathsgd_optax",
    "pyproject.toml",
    "tests",
}

USER_PROGRAM = """\
import pathsgd_optax as pathsgd
network = pathsgd.layered_network({"kernel": [[1.0]]})
optimizer = pathsgd.path_sgd(0.1, network, momentum=0.9)
"""

MISTAKES = {
    'pathsgd.path_sgd(0.1, nesterov="yes")': 'Argument "nesterov" to "path_sgd"',
    "network.sumary()": '"LayeredNetwork" has no attribute "sumary"',
}

MYPY = """\
[mypy]
strict = True
[mypy-jax.*,flax.*]
follow_imports = skip
"""


def run(*command, cwd, check=True):
    """What the command prints, without the tree on its path."""
    environment = {**os.environ, "COLUMNS": "200"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        pytest.fail(done.stdout + done.stderr)
    return done.stdout


def build(tree, folder):
    run(sys.executable, "-m", "hatchling", "build", "--directory", folder, cwd=tree)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def python(built, tmp_path_factory):
    """An interpreter that has the wheel and the tests' libraries, but not the tree."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=os.name != "nt")
    scripts = "Scripts" if os.name == "nt" else "bin"
    python = folder / scripts / Path(sys.executable).name
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site_packages = Path(run(python, "-c", ask, cwd=folder).strip())
    # In what a .pth file adds, no other is read: nothing is there that is editable.
    libraries = sysconfig.get_path("purelib")
    (site_packages / "libraries.pth").write_text(libraries)
    pip = (sys.executable, "-m", "pip", "--python", python, "install")
    run(*pip, "--no-deps", "--no-index", built[0], cwd=folder)
    return python


def files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def members(sdist):
    """The files of an sdist, without the folder that they are in."""
    with tarfile.open(sdist) as archive:
        paths = [PurePosixPath(x.name) for x in archive.getmembers() if x.isfile()]
    return {path.relative_to(path.parts[0]) for path in paths}


def metadata(wheel):
    (name,) = (name for name in files(wheel) if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_has_the_package_and_nothing_else(built):
    sources = (ROOT / "pathsgd_optax").rglob("*.py")
    package = {path.relative_to(ROOT).as_posix() for path in sources}
    about = f"pathsgd_optax-{pathsgd.__version__}.dist-info/"
    assert files(built[0]) == package | {
        "pathsgd_optax/py.typed",
        about + "METADATA",
        about + "RECORD",
        about + "WHEEL",
        about + "licenses/LICENSE",
    }


def test_the_sdist_has_sources_tests_and_docs_but_no_results(built):
    paths = members(built[1])
    assert {path.parts[0] for path in paths} <= TOP_LEVEL
    assert {Path("LICENSE"), Path("pathsgd_optax/py.typed")} <= set(map(Path, paths))
    assert Path(__file__).relative_to(ROOT) in set(map(Path, paths))
    kinds = {path.suffix for path in paths if len(path.parts) > 1}
    assert kinds.isdisjoint({".ipynb", ".json", ".jsonl", ".png"})
    assert built[1].stat().st_size < 1_000_000


def test_the_sdist_builds_the_same_wheel(built, tmp_path):
    with tarfile.open(built[1]) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    wheel, _ = build(tree, tmp_path / "dist")
    assert wheel.read_bytes() == built[0].read_bytes()


def test_the_licence_is_apache(built):
    fields = metadata(built[0])
    assert fields["License-Expression"] == "Apache-2.0"
    assert fields.get_all("License-File") == ["LICENSE"]
    assert fields["Author"] == "The pathsgd_optax authors"


def test_what_needs_a_clone_is_no_extra(built):
    extras = metadata(built[0]).get_all("Provides-Extra", [])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(extras).isdisjoint(project["dependency-groups"])


def test_the_wheel_is_imported_from_where_it_is_installed(python):
    ask = "import pathsgd_optax as x; print(x.__file__, x.__version__)"
    file, version = run(python, "-c", ask, cwd=python.parent).split()
    assert Path(file).is_relative_to(python.parents[1])
    assert version == pathsgd.__version__


def test_a_program_is_checked_against_the_types(python, tmp_path):
    (tmp_path / "mypy.ini").write_text(MYPY)
    (tmp_path / "program.py").write_text(USER_PROGRAM + "\n".join(MISTAKES))
    mypy = (python, "-m", "mypy", "--cache-dir", tmp_path / "cache", "program.py")
    *errors, summary = run(*mypy, cwd=tmp_path, check=False).splitlines()
    expected = enumerate(MISTAKES.values(), 1 + USER_PROGRAM.count("\n"))
    for error, (line, message) in zip(errors, expected, strict=True):
        assert error.startswith(f"program.py:{line}: error: {message}")
    assert summary.startswith("Found 2 errors in 1 file")


def test_examples_run_from_where_it_is_installed(python, tmp_path):
    options = (
        "--doctest-modules",
        "-n0",
        "-pno:cacheprovider",
        f"--rootdir={tmp_path}",
    )
    chosen = ("-k", "max_norm or path_scaling or trace_network")
    numbers = ("-o", "doctest_optionflags=NORMALIZE_WHITESPACE NUMBER")
    pytest_ = (python, "-m", "pytest", "--pyargs", "pathsgd_optax")
    output = run(*pytest_, *options, *chosen, *numbers, cwd=tmp_path)
    assert re.search(r"^\W*3 passed", output, re.MULTILINE)
