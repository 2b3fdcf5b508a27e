"""What the repository says of itself, where the code can tell whether it is true."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import pathsgd_optax as pathsgd


ROOT = Path(__file__).parents[1]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

RULES = ROOT / "pathsgd_optax/_networks/traced/rules/primitives.py"


def test_the_changelog_begins_with_this_version():
    first = re.search(
        r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert first[1] == pathsgd.__version__


def test_who_cites_it_names_its_authors_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["authors"] == PROJECT["authors"]
    assert citation["license"] == PROJECT["license"]


def test_the_workflow_tests_all_that_the_package_allows():
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    matrix = workflow["jobs"]["versions"]["strategy"]["matrix"]
    python = "Programming Language :: Python :: "
    listed = [name.removeprefix(python) for name in PROJECT["classifiers"]]
    assert matrix["python"] == [name for name in listed if re.match(r"3\.\d", name)]
    assert f">={matrix['python'][0]}" == PROJECT["requires-python"]
    (oldest,) = matrix["include"]
    assert oldest["pins"].split() == [
        requirement.replace(">=", "==") for requirement in PROJECT["dependencies"]
    ]


@pytest.mark.parametrize("name", ["refused", "wrong"])
def test_issues_ask_for_the_summary_and_versions(name):
    form = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{name}.yml").read_text())
    fields = {field["id"]: field["attributes"] for field in form["body"]}
    assert "network.summary(params)" in fields["summary"]["label"]
    assert "jax.print_environment_info()" in fields["versions"]["description"]


def test_contributors_are_shown_the_rules_as_they_are():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (function,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    lines = re.findall(r"`(\(_.*?\))`", text)
    assert len(lines) == 2
    assert all(quoted in RULES.read_text() for quoted in (function, *lines))


def test_no_address_is_made_up():
    """The repository has none yet: the package is found from where it is opened."""
    folders = ("benchmarks", "docs", "notebooks", "pathsgd_optax", ".github")
    kinds = (".cff", ".ipynb", ".md", ".py", ".toml", ".yml")
    paths = [
        *ROOT.iterdir(),
        *(x for folder in folders for x in (ROOT / folder).rglob("*")),
    ]
    texts = [path.read_text() for path in paths if path.suffix in kinds]
    assert len(texts) > 100
    assert not any(
        re.search(r"\bOWNER\b|github\.com/\S+/pathsgd", text) for text in texts
    )
