"""The page on reliability names tests that are there, and leaves none of this directory out."""

import ast
import re
from pathlib import Path

import pytest

from compat_tests.checkout import ROOT

PAGE = ROOT / "docs" / "explanation" / "reliability.md"
#: A test as the page names it: its file below ``compat_tests/``, and its function.
NAMED = re.findall(r"`(\w+(?:/\w+)*\.py)::(\w+)`", PAGE.read_text())
HERE = Path(__file__).parent


def functions_of(path: Path) -> set[str]:
    """Return the names of a file's tests."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    body = ast.parse(path.read_text()).body
    return {
        each.name for each in body if isinstance(each, functions) and each.name.startswith("test_")
    }


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_a_test_that_the_page_names_is_there(file: str, test: str) -> None:
    assert test in functions_of(ROOT / "compat_tests" / file)


@pytest.mark.parametrize(
    "path", sorted(set(HERE.glob("test_*.py")) - {Path(__file__)}), ids=lambda path: path.stem
)
def test_the_page_names_every_test_of_a_fault(path: Path) -> None:
    named = {test for file, test in NAMED if file == f"faults/{path.name}"}
    assert named == functions_of(path)
