"""The migration guide: what it names is there, and its tables are those of the code."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from dagster import Shape
from dagster._config import process_config

from compat_tests.checkout import ROOT
from dagster_celery.cli import main as celery_cli
from dagster_celery.executor import CELERY_CONFIG
from dagster_celery.launcher import CeleryRunLauncher
from dagster_taskiq.cli.commands import cli as taskiq_cli
from dagster_taskiq.launcher import TaskiqRunLauncher
from dagster_taskiq.settings.env import BACKEND_ENV, BROKER_ENV
from dagster_taskiq.settings.schema import EXECUTOR_FIELDS

GUIDE = ROOT / "docs" / "how-to" / "migration.md"
TEXT = GUIDE.read_text()
#: What people read and write; the tables in between are the code's, and tested with it.
PROSE = re.sub(r"<!-- table: .*?<!-- end -->", "", TEXT, flags=re.DOTALL)
SCRIPT = "scripts/update_docs.py"
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

PROGRAMS: dict[str, click.Command] = {"dagster-celery": celery_cli, "dagster-taskiq": taskiq_cli}
#: Files that commands of the guide name, from the examples.
FILES = ("celery_project/celery.yaml", "renamed_project/taskiq.yaml")


def commands() -> list[str]:
    """Every command line of this project that the guide has, in blocks and in sentences."""
    spans = re.findall(r"`([^`\n]+)`", PROSE)
    lines = [line for block in blocks() for line in block.splitlines()]
    # What a diff takes away or adds is a line of its own; what a pipe leads to is another's.
    found = [re.split(r" \| | +#", text.lstrip("+- "))[0] for text in (*spans, *lines)]
    return [text for text in dict.fromkeys(found) if " " in text and text.split()[0] in PROGRAMS]


def blocks(language: str = r"\w+") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PROSE, re.DOTALL)


def sides(block: str) -> tuple[str, str]:
    """Return what a diff changes, and what it makes of it."""
    lines = block.splitlines()
    before = [line[1:] for line in lines if line[:1] in ("-", " ")]
    after = [line[1:] for line in lines if line[:1] in ("+", " ")]
    return "\n".join(before), "\n".join(after)


@pytest.mark.parametrize("page", TABLES)
def test_its_tables_are_those_of_the_code(page: str, tmp_path: Path) -> None:
    text = (ROOT / "docs" / page).read_text()
    copy = tmp_path / Path(page).name
    copy.write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / SCRIPT), str(copy)]
    subprocess.run(command, check=True, env=environment)
    places = re.findall(r"<!-- table: ([\w-]+) -->\n\|", copy.read_text())
    assert places == TABLES[page]
    assert copy.read_text() == text, f"Run: python {SCRIPT}"


def test_there_are_commands_to_check() -> None:
    programs = {command.partition(" ")[0] for command in commands()}
    assert programs == set(PROGRAMS)


@pytest.mark.parametrize("line", commands())
def test_a_command_is_there_with_all_its_options(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in FILES:
        shutil.copy(ROOT / "examples" / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    program, *words = shlex.split(line)
    command = PROGRAMS[program]
    context = click.Context(command, info_name=program, **command.context_settings)
    while isinstance(command, click.Group) and words:
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"{line}: there is no {name}"
        command = found
        if isinstance(command, click.Group):
            context = click.Context(command, context, name)
    if not isinstance(command, click.Group):
        # A UsageError if it has no such option. The command has its own settings for -h.
        command.make_context(line, words, context)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make (\w+)`", PROSE))))
def test_a_target_of_make_is_there(target: str) -> None:
    assert f"\n{target}:" in (ROOT / "Makefile").read_text()


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
