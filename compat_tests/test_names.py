"""The names of tests: sentences that fit on a line of a report."""

import ast

from compat_tests.checkout import ROOT

#: The most characters of a name, ``test_`` not counted.
LENGTH = 70


def test_the_name_of_a_test_is_a_short_sentence() -> None:
    paths = [
        path
        for each in ("compat_tests", "legacy_tests")
        for path in (ROOT / each).rglob("test_*.py")
    ]
    functions = [
        each
        for path in paths
        for each in ast.walk(ast.parse(path.read_text()))
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    names = [each.name.removeprefix("test_") for each in functions if each.name.startswith("test_")]
    assert len(names) > 500
    assert [each for each in names if len(each) > LENGTH] == []
