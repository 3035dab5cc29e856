"""The arguments of a worker, for those of ``celery worker``."""

from collections.abc import Collection, Mapping, Sequence
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


#: Pools of Celery's whose tasks are in processes, as here.
_ALIKE = ("prefork", "processes", "solo")

#: ``celery worker`` reads each option from a variable as well, whose name begins with this.
ENVIRONMENT_PREFIX = "CELERY_WORKER"


def translate_arguments(
    arguments: Sequence[str], not_from_environment: Collection[str] | None = None
) -> tuple[list[str], tuple[Remark, ...]]:
    """Return arguments of ``dagster-taskiq worker start`` for those of ``celery worker``.

    Args:
        arguments: those after ``--``.
        not_from_environment: the options, by the names of their rows, that are given in another
            way; all others are read from the environment (``CELERY_WORKER_CONCURRENCY``) if they
            are not among ``arguments``. ``None`` to read none there.

    Returns:
        The arguments, and a remark on each option that was given.

    Raises:
        ConfigError: an option is unknown, refused or has a wrong value.
    """
    values, typed = _parsed(arguments, not_from_environment)
    translated: list[str] = []
    remarks = []
    for name, value in values.items():
        row = WORKER_OPTIONS[name]
        subject = typed[name]
        if row.fate is Fate.REFUSED:
            raise ConfigError(f"{subject} of celery worker cannot be used here: {row.explanation}")
        is_loss = row.fate is Fate.LOST
        if row.translate is None:
            sentence = f"{subject} has no effect here: {row.explanation}"
        else:
            found = _translated(row.translate, subject, value, values)
            translated += found
            sentence = _sentence(subject, row, found)
            is_loss = name == "pool" and value[-1] not in _ALIKE
        remarks.append(Remark(subject, sentence, is_loss))
    return translated, tuple(remarks)


def _parsed(
    arguments: Sequence[str], not_from_environment: Collection[str] | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of the options that were given, and the flag or variable of each.

    Raises:
        ConfigError: an option is unknown, or lacks its value.
    """
    command = click.Command(
        "celery worker",
        params=[
            _parameter(row, row.name not in (not_from_environment or ()))
            for row in WORKER_OPTIONS.values()
        ],
        add_help_option=False,
    )
    prefix = None if not_from_environment is None else ENVIRONMENT_PREFIX
    try:
        context = command.make_context("celery worker", list(arguments), auto_envvar_prefix=prefix)
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
        if context.get_parameter_source(name)
        in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    }
    flags = [argument.partition("=")[0] for argument in arguments]
    typed = {
        name: next((flag for flag in WORKER_OPTIONS[name].flags if flag in flags), _longest(name))
        for name in given
    }
    typed.update(
        (name, f"{ENVIRONMENT_PREFIX}_{name.upper()}")
        for name in given
        if context.get_parameter_source(name) is ParameterSource.ENVIRONMENT
    )
    return given, typed


def _parameter(row: WorkerOption, may_be_variable: bool) -> click.Option:
    names = [*row.flags, row.name]
    if row.is_flag:
        return click.Option(names, is_flag=True, allow_from_autoenv=may_be_variable)
    is_multiple = row.translate is not None
    return click.Option(names, multiple=is_multiple, allow_from_autoenv=may_be_variable)


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
