"""What pyproject.toml requires is what the code imports, and each requirement has a reason."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import tomli

from compat_tests.checkout import ROOT

OWN = ("dagster_taskiq", "dagster_celery")
PAGE = ROOT / "docs" / "reference" / "dependencies.md"
PROJECT = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]


def normalized(name: str) -> str:
    """Return a distribution's name as packaging compares names (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    """Return the distributions that requirements name, without versions and markers."""
    return {normalized(re.split(r"[^\w.-]", each, maxsplit=1)[0]) for each in requirements}


REQUIRED = names(PROJECT["dependencies"])
#: What is there if Dagster's storage is of this kind, and imported only then.
OF_THE_STORAGE = {"dagster-postgres"}
#: What dagster-celery-k8s and dagster-celery-docker bring, and is imported only for their tasks.
OF_THE_LIBRARIES = {"dagster-k8s", "docker", "kubernetes", "requests"}
#: What a project has for its tests, and is imported only by the plugin for them.
OF_TESTS = {"pytest"}
#: What the command `opentelemetry-instrument` brings, and is imported only if that was used.
OF_TRACES = {"opentelemetry-instrumentation"}
#: What is imported of a package in which several distributions have modules.
SHARED = {"opentelemetry": ["opentelemetry-api", "opentelemetry-instrumentation"]}
#: What only mypy imports.
OF_TYPES = {"mypy-boto3-sqs"}


def imports_of(path: Path) -> Iterator[str]:
    """Yield the top-level packages that a file imports, in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def imported() -> dict[str, set[str]]:
    """Return which files import each distribution that is neither ours nor Python's."""
    distributions = packages_distributions()
    found: dict[str, set[str]] = {}
    for package in OWN:
        for path in (ROOT / package).rglob("*.py"):
            for name in set(imports_of(path)) - sys.stdlib_module_names - set(OWN):
                # One that is not installed on this system, such as Linux's, goes by its own name.
                for each in SHARED.get(name) or distributions.get(name, [name]):
                    found.setdefault(normalized(each), set()).add(str(path.relative_to(ROOT)))
    return found


def test_every_dependency_is_imported() -> None:
    assert REQUIRED - set(imported()) == set()


def test_everything_that_is_imported_is_a_dependency() -> None:
    extras = PROJECT["optional-dependencies"]
    optional = names(extras["postgres"]) | names(extras["sqs"]) | names(extras["otel"]) | OF_TRACES
    known = REQUIRED | optional | OF_THE_STORAGE | OF_THE_LIBRARIES | OF_TESTS | OF_TYPES
    assert {name: files for name, files in imported().items() if name not in known} == {}


def section(title: str) -> str:
    return PAGE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_dependency_has_a_reason() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (\w.*) \|$", section("Packages"), re.MULTILINE)
    assert {name for name, _ in rows} == REQUIRED


def test_every_extra_is_listed_with_what_it_installs() -> None:
    rows = re.findall(r"^\| (`.*`) \| (.*) \| .* \|$", section("Extras"), re.MULTILINE)
    listed = {name: what for cell, what in rows for name in re.findall(r"`([\w-]+)`", cell)}
    extras = PROJECT["optional-dependencies"]
    assert set(listed) == set(extras)
    for name, what in listed.items():
        if name not in ("bench", "dev"):  # for work on this project: the Makefile installs them
            assert set(re.findall(r"`([\w-]+)`", what)) == names(extras[name])
