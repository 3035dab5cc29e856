"""Describes the ``dagster_celery`` it finds, which may be the original or ours, as JSON.

Runs in a process of its own. It reads from its standard input, as JSON, which names each module is
asked for, and which expressions; it writes what each of them is. A name or an expression that
fails is described by its error.
"""

import enum
import importlib
import inspect
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click
from dagster import ExecutorDefinition, Field
from dagster._config import ConfigType, UserConfigSchema
from dagster._config.field import resolve_to_config_type
from dagster._serdes import ConfigurableClass

#: How a default that is not there is written, of a parameter or a field.
ABSENT = "<absent>"

#: What Dagster projects use of Celery's app object.
OFFERED = (
    *("task", "send_task", "AsyncResult", "tasks", "conf", "main"),
    *("control.inspect", "control.broadcast", "control.revoke", "control.ping"),
)

#: The modules that expressions may name.
MODULES = ("cli", "config", "executor", "launcher", "make_app", "tasks")


def plain(value: object) -> Any:
    """Return a value as JSON has it; objects that are a bag of attributes become what they hold."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if type(value).__module__.startswith("dagster_celery"):
        return plain(vars(value))
    return f"<{type(value).__name__}>"


def parameters(function: Callable[..., object]) -> list[dict[str, Any]]:
    return [
        {
            "name": each.name,
            "kind": each.kind.name,
            "default": ABSENT if each.default is each.empty else plain(each.default),
        }
        for each in inspect.signature(function).parameters.values()
    ]


def members(cls: type) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what a class offers, its own and inherited; methods with their signatures."""
    for name in ("__init__", *(each for each in dir(cls) if not each.startswith("_"))):
        found = inspect.getattr_static(cls, name)
        if isinstance(found, property):
            yield name, {"is": "property"}
        elif callable(getattr(cls, name)):
            # Bound if it can be called on the class, so that static and class methods are the same.
            yield name, {"is": "method", "parameters": parameters(getattr(cls, name))}
        else:
            yield name, {"is": "value"}


def field(found: Field) -> dict[str, Any]:
    default = plain(found.default_value) if found.default_provided else ABSENT
    return {
        "required": found.is_required,
        "default": default,
        "type": config_type(found.config_type),
    }


def config_type(found: ConfigType) -> Any:
    """Return a type of Dagster's configuration, down to its scalars."""
    fields = getattr(found, "fields", None)
    if fields is not None:
        return {
            "kind": found.kind.name,
            "fields": {name: field(each) for name, each in fields.items()},
        }
    inner = getattr(found, "inner_type", None)
    if inner is not None:
        return {"kind": found.kind.name, "of": config_type(inner)}
    return {"kind": found.kind.name, "name": found.key}


def schema(found: UserConfigSchema) -> Any:
    resolved = resolve_to_config_type(found)
    assert isinstance(resolved, ConfigType)
    return config_type(resolved)


def command(found: click.Command) -> dict[str, Any]:
    described: dict[str, Any] = {"is": "command", "parameters": {}, "commands": {}}
    for each in found.params:
        described["parameters"][each.name] = {
            "option": isinstance(each, click.Option),
            "flags": sorted([*each.opts, *each.secondary_opts]),
            "flag": getattr(each, "is_flag", False),
            "multiple": getattr(each, "multiple", False),
            "required": each.required,
            "values": each.nargs,
            "type": each.type.name,
            "default": plain(each.get_default(click.Context(found))),
        }
    if isinstance(found, click.Group):
        described["commands"] = {name: command(each) for name, each in found.commands.items()}
    return described


def describe(value: object) -> dict[str, Any]:
    if isinstance(value, click.Command):
        return command(value)
    if isinstance(value, ExecutorDefinition):
        return {
            "is": "executor",
            "name": value.name,
            "requirements": [each.name for each in value.get_requirements({})],
            "schema": config_type(value.config_schema.config_type),
        }
    if inspect.isclass(value):
        described = {"is": "class", "members": dict(members(value))}
        described["bases"] = [
            each.__qualname__ for each in value.__mro__ if each.__module__.startswith("dagster._")
        ]
        if issubclass(value, ConfigurableClass):
            described["schema"] = schema(value.config_type())
        return described
    if inspect.isfunction(value):
        return {"is": "function", "parameters": parameters(value)}
    if isinstance(value, dict) and any(isinstance(each, Field) for each in value.values()):
        return {"is": "schema", "schema": schema(value)}
    if hasattr(value, "apply_async"):
        return {"is": "task", "name": value.name}
    if hasattr(value, "send_task"):
        return {"is": "app", "offers": [each for each in OFFERED if there_is(value, each)]}
    return {"is": "value", "value": plain(value)}


def there_is(value: object, path: str) -> bool:
    for name in path.split("."):
        value = getattr(value, name, None)
    return value is not None


def attempt(find: Callable[[], object]) -> dict[str, Any]:
    try:
        return describe(find())
    except Exception as error:
        return {"is": "error", "error": f"{type(error).__name__}: {error}"}


def described(asked: dict[str, Any]) -> dict[str, Any]:
    names: dict[str, dict[str, Any]] = {}
    for module, wanted in asked["names"].items():
        for name in wanted:
            there = names.setdefault(module, {})
            there[name] = attempt(lambda m=module, n=name: getattr(importlib.import_module(m), n))
    expressions = {each: attempt(lambda e=each: evaluate(e)) for each in asked["expressions"]}
    return {
        "file": importlib.import_module("dagster_celery").__file__,
        "names": names,
        "expressions": expressions,
    }


def evaluate(expression: str) -> object:
    """Return the value of an expression in which modules of ``dagster_celery`` are known."""
    names = {each for each in re.findall(r"\w+", expression) if each in MODULES}
    return eval(
        expression, {each: importlib.import_module(f"dagster_celery.{each}") for each in names}
    )


if __name__ == "__main__":
    # Old names warn, and that is tested elsewhere.
    warnings.simplefilter("ignore", DeprecationWarning)
    json.dump(described(json.load(sys.stdin)), sys.stdout)
