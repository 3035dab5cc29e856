"""The arguments of a worker, for those of ``celery worker``."""

from collections.abc import Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource

from dagster_celery._translate.reasons import IN_PROCESSES, ONE_TASK
from dagster_celery._translate.rows import Fate, Remark, did_you_mean
from dagster_celery._translate.worker.option_rows import WORKER_OPTIONS, Translate, WorkerOption
from dagster_taskiq.errors import ConfigError

#: Options of ``celery`` itself, and what to write instead.
_OF_CELERY_ITSELF = {
    "-A": "-A",
    "--app": "--app",
    "-b": "`broker` into the file of -y",
    "--broker": "`broker` into the file of -y",
    "--result-backend": "`backend` into the file of -y",
}


def translate_arguments(arguments: Sequence[str]) -> tuple[list[str], tuple[Remark, ...]]:
    """Return arguments of ``dagster-taskiq worker start`` for those of ``celery worker``.

    Args:
        arguments: those after ``--``.

    Returns:
        The arguments, and a remark on each option that was given.

    Raises:
        ConfigError: an option is unknown, refused or has a wrong value.
    """
    values, typed = _parsed(arguments)
    translated: list[str] = []
    remarks = []
    for name, value in values.items():
        row = WORKER_OPTIONS[name]
        subject = typed[name]
        if row.fate is Fate.REFUSED:
            raise ConfigError(f"{subject} of celery worker cannot be used here: {row.explanation}")
        if row.translate is None:
            sentence = f"{subject} has no effect here: {row.explanation}"
        else:
            found = _translated(row.translate, subject, value, values)
            translated += found
            sentence = _sentence(subject, row, found)
        remarks.append(Remark(subject, sentence))
    return translated, tuple(remarks)


def _parsed(arguments: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of the options that were given, and the flag that each was typed as.

    Raises:
        ConfigError: an option is unknown, or lacks its value.
    """
    command = click.Command(
        "celery worker",
        params=[_parameter(row) for row in WORKER_OPTIONS.values()],
        add_help_option=False,
    )
    try:
        context = command.make_context("celery worker", list(arguments))
    except click.NoSuchOption as error:
        flags = [flag for row in WORKER_OPTIONS.values() for flag in row.flags]
        raise ConfigError(
            f"{error.option_name} is no option of celery worker."
            f"{did_you_mean(error.option_name, flags)}{_elsewhere(error.option_name)}"
        ) from None
    except click.UsageError as error:
        raise ConfigError(
            f"The options behind -- cannot be used: {error.format_message().rstrip('.')}. A "
            "setting, such as worker.pool=solo, belongs into `config_source` in the file of -y."
        ) from None
    given = {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    flags = [argument.partition("=")[0] for argument in arguments]
    typed = {
        name: next((flag for flag in WORKER_OPTIONS[name].flags if flag in flags), _longest(name))
        for name in given
    }
    return given, typed


def _parameter(row: WorkerOption) -> click.Option:
    if row.is_flag:
        return click.Option([*row.flags, row.name], is_flag=True)
    return click.Option([*row.flags, row.name], multiple=row.translate is not None)


def _longest(name: str) -> str:
    return max(WORKER_OPTIONS[name].flags, key=len)


def _elsewhere(option: str) -> str:
    """Return a sentence on an option of ``celery`` itself, which is written before ``worker``."""
    if option not in _OF_CELERY_ITSELF:
        return ""
    return f" Write {_OF_CELERY_ITSELF[option]} of dagster-celery worker start, before the --."


def _translated(
    translate: Translate, subject: str, value: Any, values: Mapping[str, Any]
) -> list[str]:
    try:
        return list(translate(value, values))
    except ValueError as error:
        shown = value[-1] if isinstance(value, tuple) else value
        raise ConfigError(f"{subject} of celery worker {error}, but it is {shown!r}.") from None


def _sentence(subject: str, row: WorkerOption, found: Sequence[str]) -> str:
    """Return the sentence on an option that is translated."""
    if row.name == "pool":
        return f"{subject} {ONE_TASK if found else IN_PROCESSES}"
    if not found:
        return f"{subject} has no effect here: it is the default, or another option overrides it."
    return f'{subject} is "{" ".join(found)}" of dagster-taskiq worker start.'
