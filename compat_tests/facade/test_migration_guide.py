"""The migration guide: what it names is there, and its tables are those of the code."""

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import pytest
import yaml
from dagster import Shape
from dagster._config import process_config

from compat_tests.checkout import ROOT
from dagster_celery.executor import CELERY_CONFIG
from dagster_celery.launcher import CeleryRunLauncher
from dagster_taskiq.launcher import TaskiqRunLauncher
from dagster_taskiq.settings.env import BACKEND_ENV, BROKER_ENV
from dagster_taskiq.settings.schema import EXECUTOR_FIELDS

GUIDE = ROOT / "docs" / "how-to" / "migration.md"
TEXT = GUIDE.read_text()
#: What people read and write; the tables in between are the code's, and tested with it.
PROSE = re.sub(r"<!-- table: .*?<!-- end -->", "", TEXT, flags=re.DOTALL)
#: The tables of the guide and of its reference, in their order.
TABLES = {
    "how-to/migration.md": ["names"],
    "reference/celery-settings.md": [
        "broker-schemes",
        "backend-schemes",
        "settings",
        "transport-options",
        "tls-options",
        "worker-options",
    ],
}


def blocks(language: str = r"\w+") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PROSE, re.DOTALL)


def sides(block: str) -> tuple[str, str]:
    """Return what a diff changes, and what it makes of it."""
    lines = block.splitlines()
    before = [line[1:] for line in lines if line[:1] in ("-", " ")]
    after = [line[1:] for line in lines if line[:1] in ("+", " ")]
    return "\n".join(before), "\n".join(after)


@pytest.mark.parametrize("page", TABLES)
def test_it_has_the_tables_of_the_code(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    assert re.findall(r"<!-- table: ([\w-]+) -->\n\|", text) == TABLES[page]


def imports() -> Iterator[tuple[str, str]]:
    for module, names in re.findall(r"\bfrom (dagster_\w+[\w.]*) import (\w+)", PROSE):
        yield module, names
    for path in re.findall(r"\b(dagster_(?:celery|taskiq)[\w.]*\.\w+)", PROSE):
        module, _, name = path.rpartition(".")
        yield module, name


@pytest.mark.parametrize(("module", "name"), sorted(set(imports())))
@pytest.mark.usefixtures("dagster_home")
def test_a_name_is_there(module: str, name: str) -> None:
    held = import_module(module)
    assert hasattr(held, name) or import_module(f"{module}.{name}")


def configurations() -> list[tuple[str, Any, Mapping[str, Any]]]:
    """Each configuration that the guide renames: what it is, its YAML, and its schema."""
    schemas: dict[str, tuple[Any, Any]] = {
        "execution": (CELERY_CONFIG, EXECUTOR_FIELDS),
        "run_launcher": (CeleryRunLauncher.config_type(), TaskiqRunLauncher.config_type()),
    }
    found = []
    for block in blocks("diff"):
        key = block.strip().partition(":")[0]
        for side, schema in zip(sides(block), schemas.get(key, ()), strict=False):
            found.append((key, yaml.safe_load(side)[key], schema))
    return found


def test_the_configurations_of_the_guide_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_URL", "amqp://rabbitmq")
    checked = configurations()
    assert [name for name, _, _ in checked] == ["execution"] * 2 + ["run_launcher"] * 2
    for _, document, schema in checked:
        outcome = process_config(Shape(dict(schema)), document["config"])
        assert outcome.success, outcome.errors
        if "class" in document:
            assert hasattr(import_module(document["module"]), document["class"])


def test_the_variables_of_the_guide_are_read() -> None:
    assert {BROKER_ENV, BACKEND_ENV} <= set(re.findall(r"`\$?(DAGSTER_TASKIQ_\w+)`", PROSE))
