"""What the modules import: only what stands below them, and nothing in a circle."""

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import dagster_celery
import dagster_taskiq

#: What stands in ``dagster_taskiq``, from the top down. Modules on one line do not import each
#: other, except within a folder.
LAYERS = (
    ("__init__", "__main__"),
    ("cli",),
    ("demo",),
    ("monitor",),
    ("executor", "launcher", "app", "testing"),
    ("runs",),
    ("worker",),
    ("execution",),
    ("schedules",),
    ("client",),
    ("sent_tasks",),
    ("dagster_internals",),
    ("transport",),
    ("tracing",),
    ("settings",),
    ("wire",),
    ("deprecations",),
    ("tags",),
    ("distribution",),
    ("bulk_imports", "errors", "version"),
)
#: What the engine must not know.
FOREIGN = ("dagster_celery", "celery", "kombu")

#: The client libraries of servers, and the folders of the engine that import them: those of the
#: servers, and ``dagster_internals`` for Dagster's own SQLite files.
CLIENT_LIBRARIES = {
    "redis": ("transport.redis",),
    "aiormq": ("transport.rabbitmq",),
    "aio_pika": ("transport.rabbitmq",),
    "pamqp": ("transport.rabbitmq",),
    "sqlalchemy": (
        *("transport.sql", "transport.sql.sqlite", "transport.sql.postgresql"),
        "dagster_internals",
    ),
    "psycopg2": ("transport.sql.postgresql",),
    "boto3": ("transport.sqs",),
    "botocore": ("transport.sqs",),
    "sqlite3": ("transport.sql.sqlite", "dagster_internals"),
}

ENGINE = Path(dagster_taskiq.__file__).parent
FACADE = Path(dagster_celery.__file__).parent

Imports = dict[str, set[str]]


def module_name(file: Path, package: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Yield what is imported anywhere in a module: in functions and for type checking too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not read here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def read_imports(package: Path) -> Imports:
    """Return the modules of a package with the modules and packages that each of them imports."""
    trees = {
        module_name(file, package): ast.parse(file.read_text()) for file in package.rglob("*.py")
    }
    imports: Imports = {}
    for module, tree in trees.items():
        names = set(imported_names(tree))
        imports[module] = {
            name if name in trees else name.rpartition(".")[0] or name for name in names
        }
    return imports


def find_circle(imports: Imports) -> list[str]:
    """Return modules of which each imports the next, and the last the first; empty if none do."""
    finished: set[str] = set()

    def follow(path: list[str]) -> list[str]:
        for other in sorted(imports.get(path[-1], ())):
            if other in path:
                return [*path[path.index(other) :], other]
            if other in imports and other not in finished:
                circle = follow([*path, other])
                if circle:
                    return circle
        finished.add(path[-1])
        return []

    for module in sorted(imports):
        if module not in finished and (circle := follow([module])):
            return circle
    return []


def layer_of(module: str) -> tuple[int, str]:
    """Return the number of a module's layer, 0 at the top, and its room in that layer."""
    room = module.removeprefix("dagster_taskiq").strip(".").partition(".")[0] or "__init__"
    for number, rooms in enumerate(LAYERS):
        if room in rooms:
            return number, room
    raise AssertionError(f"{module} is in no layer: give its room a place in LAYERS")


@pytest.fixture(scope="module")
def engine() -> Imports:
    return read_imports(ENGINE)


@pytest.mark.parametrize("package", [ENGINE, FACADE], ids=lambda path: str(path.name))
def test_no_module_imports_itself_by_way_of_others(package: Path) -> None:
    assert find_circle(read_imports(package)) == []


def test_each_module_imports_only_what_stands_below_it(engine: Imports) -> None:
    wrong = []
    for module, others in engine.items():
        number, room = layer_of(module)
        for other in others & engine.keys() - {"dagster_taskiq"}:
            other_number, other_room = layer_of(other)
            if other_number < number or (other_number == number and other_room != room):
                wrong.append(f"{module} imports {other}")
    assert sorted(wrong) == []


def test_the_engine_knows_neither_celery_nor_the_facade(engine: Imports) -> None:
    for module, others in engine.items():
        assert not {other.partition(".")[0] for other in others} & set(FOREIGN), module


@pytest.mark.parametrize("library", CLIENT_LIBRARIES)
def test_only_the_folder_of_a_server_imports_its_client_library(
    library: str, engine: Imports
) -> None:
    folders = {f"dagster_taskiq.{folder}" for folder in CLIENT_LIBRARIES[library]}
    imports = engine | read_imports(FACADE)
    users = {
        module
        for module, others in imports.items()
        if library in {other.partition(".")[0] for other in others}
    }
    assert library == "aio_pika" or users, "nothing imports it: is it still used?"
    assert {module for module in users if module.rpartition(".")[0] not in folders} == set()


def test_a_circle_is_found() -> None:
    chain = ["a", "b", "c", "a"]
    imports: Imports = {module: {other} for module, other in pairwise(chain)}
    assert find_circle(imports | {"d": {"a"}}) == chain
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
