"""Every public name of dagster-celery is here, and can do all that the original's can.

The original is read from its source distribution. Which names it has is read from its source; what
they are, both it and ours say of themselves, each in a process of its own
(compat_tests/facade/describing.py). Ours may have more, never less.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compat_tests.checkout import ROOT
from compat_tests.facade.describing import ABSENT
from legacy_tests.sdists import NEWEST, OLDEST, unpack

SCRIPT = Path(__file__).with_name("describing.py")
RELEASES = {each.version: each for each in (OLDEST, NEWEST)}
#: Every push asks the newest one.
VERSIONS = (
    pytest.param(OLDEST.version, marks=pytest.mark.test_all("the same for the newest release")),
    NEWEST.version,
)
MODULES = (
    *("", ".app", ".cli", ".config", ".core_execution_loop", ".defaults", ".executor"),
    *(".launcher", ".make_app", ".tags", ".tasks", ".version"),
)

#: Names whose values are other ones on purpose; they are of the same type.
OTHER_VALUES = ("dagster_celery.__version__", "dagster_celery.version.__version__")

#: What functions and objects give, and must give here.
EXPRESSIONS = (
    "config.dict_wrapper({'a': 1, 'b': {'c': 2}})",
    "cli.get_config_value_from_yaml(None)",
    "cli.get_validated_config()",
    "cli.get_worker_name('gpu')",
    "cli.create_worker_cli_group()",
    "executor.CeleryExecutor.for_cli().app_args()",
    "executor.CeleryExecutor.for_cli(broker='redis://r', config_source={'x': 1}).app_args()",
    "executor.CeleryExecutor.for_cli(include=['a.b']).include",
    "executor.CeleryExecutor.for_cli().broker",
    "launcher.CeleryRunLauncher('q', broker='redis://r', backend='redis://b').app_args()",
    "launcher.CeleryRunLauncher('q', broker='redis://r').default_queue",
    "launcher.CeleryRunLauncher('q', broker='redis://r').supports_resume_run",
    "launcher.CeleryRunLauncher('q', broker='redis://r').supports_check_run_worker_health",
    "make_app.make_app()",
    "make_app.make_app().main",
    "make_app.make_app().conf.broker_url",
    "make_app.make_app().conf.result_backend",
    "make_app.make_app().conf.task_routes",
    "make_app.make_app().conf.task_default_queue",
    "make_app.make_app().conf.task_default_priority",
    "make_app.make_app().conf.task_queue_max_priority",
    "make_app.make_app().conf.worker_prefetch_multiplier",
    "make_app.make_app().conf.broker_transport_options",
    "make_app.make_app({'broker': 'redis://r', 'backend': 'redis://b'}).conf.broker_url",
    "make_app.make_app(executor.CeleryExecutor.for_cli().app_args()).conf.broker_url",
    "make_app.make_app_with_task_routes(task_routes={'t': {'queue': 'q'}}).conf.task_routes",
    "tasks.create_task(make_app.make_app())",
    "tasks.create_execute_job_task(make_app.make_app(), max_retries=1)",
    "tasks.create_resume_job_task(make_app.make_app())",
)


def public_names(package: Path) -> dict[str, list[str]]:
    """Return the names that each module of a package defines, or exports, for others."""
    return {
        ".".join(("dagster_celery", path.stem)).removesuffix(".__init__"): sorted(defined(path))
        for path in sorted(package.glob("*.py"))
    }


def defined(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [each.id for each in node.targets if isinstance(each, ast.Name)]
        elif isinstance(node, ast.ImportFrom) and exported(node, path):
            names = [alias.asname or alias.name for alias in node.names]
        else:
            names = []
        for name in names:
            if name == "__version__" or not name.startswith("_"):
                yield name


def exported(node: ast.ImportFrom, path: Path) -> bool:
    """Whether an import is there for others: that of the package, from its own modules."""
    return path.stem == "__init__" and (node.module or "").startswith("dagster_celery.")


Describe = Callable[..., Any]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("originals")
    return {
        version: unpack(sdist, "dagster_celery", directory / version)
        for version, sdist in RELEASES.items()
    }


@pytest.fixture(scope="module")
def describe(originals: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Describe:
    """Return a function which has one of them, or ours, describe itself once."""
    home = tmp_path_factory.mktemp("home")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    known: dict[tuple[str, ...], Any] = {}

    def described(version: str, whose: str, host: str = "") -> Any:
        package = originals[version] if whose == "theirs" else ROOT / "dagster_celery"
        key = (version, whose, host)
        if key not in known:
            known[key] = run(package, public_names(originals[version]), home, host)
        return known[key]

    return described


def run(package: Path, names: dict[str, list[str]], home: Path, host: str) -> Any:
    """Have a process that imports this package, and no other, describe these names of it."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("CELERY_", "DAGSTER_", "PYTHON"))
    }
    environment = {**kept, "PYTHONPATH": str(package.parent), "DAGSTER_HOME": str(home)}
    if host:
        environment["DAGSTER_CELERY_BROKER_HOST"] = host
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        input=json.dumps({"names": names, "expressions": EXPRESSIONS}),
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert Path(answer["file"]).parent == package, answer["file"]
    return answer


# What is less in ours, in a line for each. Each of these compares two descriptions.


def less(theirs: Any, ours: Any) -> Iterator[str]:
    if ours["is"] != theirs["is"]:
        yield f"is {ours.get('error', ours['is'])}, and not {theirs['is']}"
    else:
        yield from LESS[theirs["is"]](theirs, ours)


def fewer_parameters(theirs: Any, ours: Any) -> Iterator[str]:
    """Yield what a call that the original takes might not do here."""
    mine = {each["name"]: (place, each) for place, each in enumerate(ours["parameters"])}
    for place, each in enumerate(theirs["parameters"]):
        if each["name"] not in mine:
            yield f"takes no {each['name']}"
        elif mine[each["name"]] != (place, each):
            yield f"takes {mine[each['name']]}, and not {(place, each)}"
    known = {each["name"] for each in theirs["parameters"]}
    for name, (_, each) in mine.items():
        optional = each["default"] != ABSENT or each["kind"].startswith("VAR_")
        if name not in known and not optional:
            yield f"wants {name}"


def other_value(theirs: Any, ours: Any) -> Iterator[str]:
    if ours != theirs:
        yield f"is {ours}, and not {theirs}"


def less_of_a_class(theirs: Any, ours: Any) -> Iterator[str]:
    for base in set(theirs["bases"]) - set(ours["bases"]):
        yield f"is no {base}"
    for name, member in theirs["members"].items():
        mine = ours["members"].get(name, {"is": "missing"})
        for each in less(member, mine):
            yield f"{name} {each}"
    if "schema" in theirs:
        yield from less_of_a_schema(theirs, ours)


def less_of_a_schema(theirs: Any, ours: Any) -> Iterator[str]:
    mine = ours["schema"]["fields"]
    for name, field in theirs["schema"]["fields"].items():
        if mine.get(name) != field:
            yield f"has for the field {name}: {mine.get(name)}, and not {field}"
    for name in set(mine) - set(theirs["schema"]["fields"]):
        if mine[name]["required"]:
            yield f"wants the field {name}"


def less_of_an_executor(theirs: Any, ours: Any) -> Iterator[str]:
    for attribute in ("name", "requirements"):
        if ours[attribute] != theirs[attribute]:
            yield f"has the {attribute} {ours[attribute]}, and not {theirs[attribute]}"
    yield from less_of_a_schema(theirs, ours)


def less_of_a_command(theirs: Any, ours: Any) -> Iterator[str]:
    for name, parameter in theirs["parameters"].items():
        mine = ours["parameters"].get(name)
        # Ours may have more ways to write an option.
        if mine is None or {**mine, "flags": parameter["flags"]} != parameter:
            yield f"has for {name}: {mine}, and not {parameter}"
        elif not set(parameter["flags"]) <= set(mine["flags"]):
            yield f"does not take {name} by {parameter['flags']}, but by {mine['flags']}"
    for name in set(ours["parameters"]) - set(theirs["parameters"]):
        if ours["parameters"][name]["required"]:
            yield f"wants {name}"
    for name, command in theirs["commands"].items():
        for each in less(command, ours["commands"].get(name, {"is": "missing"})):
            yield f"{name} {each}"


def less_of_an_app(theirs: Any, ours: Any) -> Iterator[str]:
    for name in set(theirs["offers"]) - set(ours["offers"]):
        yield f"offers no {name}"


def nothing(theirs: Any, ours: Any) -> Iterator[str]:
    yield from ()


LESS = {
    "app": less_of_an_app,
    "class": less_of_a_class,
    "command": less_of_a_command,
    "executor": less_of_an_executor,
    "function": fewer_parameters,
    "method": fewer_parameters,
    "property": nothing,
    "schema": less_of_a_schema,
    "task": other_value,
    "value": other_value,
}


def all_less(theirs: Any, ours: Any, prefix: str = "") -> list[str]:
    return [
        f"{prefix}{name} {each}"
        for name, description in theirs.items()
        if f"{prefix}{name}" not in OTHER_VALUES
        for each in less(description, ours[name])
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_modules_are_all_looked_at(originals: dict[str, Path], version: str) -> None:
    assert set(public_names(originals[version])) == {f"dagster_celery{each}" for each in MODULES}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("module", [f"dagster_celery{each}" for each in MODULES])
def test_a_module_has_every_public_name_with_all_it_can_do(
    describe: Describe, version: str, module: str
) -> None:
    theirs, ours = (describe(version, whose)["names"][module] for whose in ("theirs", "ours"))
    assert [name for name, each in theirs.items() if each["is"] == "error"] == []
    problems = all_less(theirs, ours, f"{module}.")
    assert not problems, "\n".join(problems)


#: Prints which modules of the package can be read from it once it is imported, without warnings.
BOUND = """
import sys
import dagster_celery
early = "dagster" in sys.modules
names = [each for each in sys.argv[1:] if hasattr(dagster_celery, each)]
print(*names, early)
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_the_modules_that_come_with_the_package_can_be_read_from_it(
    originals: dict[str, Path], version: str
) -> None:
    names = [each.removeprefix(".") for each in MODULES if each]

    def bound(package: Path) -> list[str]:
        command = [sys.executable, "-W", "error:dagster-celery:DeprecationWarning", "-c", BOUND]
        environment = {**os.environ, "PYTHONPATH": str(package.parent)}
        done = subprocess.run(
            [*command, *names], env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout.split()

    *theirs, _ = bound(originals[version])
    *ours, early = bound(ROOT / "dagster_celery")
    assert theirs and ours == theirs
    # They are imported when they are asked for: a worker starts without waiting for Dagster.
    assert early == "False"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_gives_what_it_gave(
    describe: Describe, version: str, expression: str
) -> None:
    theirs, ours = (
        describe(version, whose)["expressions"][expression] for whose in ("theirs", "ours")
    )
    assert theirs["is"] != "error", theirs
    assert list(less(theirs, ours)) == []


def test_the_version_is_a_string(describe: Describe) -> None:
    name = describe(NEWEST.version, "ours")["names"]["dagster_celery.version"]["__version__"]
    assert isinstance(name["value"], str) and name["value"]


def test_the_host_of_the_broker_may_stand_in_the_environment(describe: Describe) -> None:
    theirs, ours = (
        describe(NEWEST.version, whose, "rabbit.internal") for whose in ("theirs", "ours")
    )
    module = "dagster_celery.defaults"
    assert "rabbit.internal" in theirs["names"][module]["broker_url"]["value"]
    assert all_less(theirs["names"][module], ours["names"][module]) == []
    assert all_less(theirs["expressions"], ours["expressions"]) == []
