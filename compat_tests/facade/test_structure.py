"""The modules that users import only import; what they stand for is in modules of our own."""

import ast
from pathlib import Path

import pytest

import dagster_celery
from compat_tests.test_layers import imported_names

PACKAGE = Path(dagster_celery.__file__).parent
#: The modules of dagster-celery that users import. ``app`` is not among them: importing it makes
#: an app.
DOORS = (
    *("cli", "config", "core_execution_loop", "defaults", "executor", "launcher", "make_app"),
    *("schedules", "tags", "tasks", "version"),
)
#: Modules of this project's own, with what Celery's users import from ``celery`` itself.
OWN = ("canvas", "exceptions", "result")


def defined(file: Path) -> list[str]:
    """Return what a module defines by statements of its own."""
    return [
        getattr(node, "name", ast.unparse(node))
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]


@pytest.mark.parametrize("name", [*DOORS, "app"])
def test_a_module_that_users_import_defines_nothing(name: str) -> None:
    file = PACKAGE / f"{name}.py"

    assert defined(file) == []
    assert ast.unparse(ast.parse(file.read_text()).body[-1]) == "door(__name__)"


@pytest.mark.parametrize("name", OWN)
def test_a_module_of_celerys_names_defines_nothing(name: str) -> None:
    assert defined(PACKAGE / f"{name}.py") == []


def test_every_public_module_is_one_of_them() -> None:
    public = {each.stem for each in PACKAGE.glob("*.py") if not each.stem.startswith("_")}
    assert public == {*DOORS, *OWN, "app"}


def test_no_module_of_our_own_imports_one_of_them() -> None:
    doors = {f"dagster_celery.{each}" for each in (*DOORS, "app")}
    private = [
        file
        for file in PACKAGE.rglob("*.py")
        if file.parent != PACKAGE or (file.stem.startswith("_") and file.stem != "__init__")
    ]
    assert private
    for file in private:
        names = set(imported_names(ast.parse(file.read_text())))
        modules = names | {name.rpartition(".")[0] for name in names}
        assert not modules & doors, file
