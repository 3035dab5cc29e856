"""The options of ``celery worker``, as ``dagster-taskiq worker start`` has them.

They stand behind ``--`` in ``dagster-celery worker start ... -- --concurrency 4``.
"""

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from click.core import ParameterSource

from dagster_celery._translate.rows import Fate, Remark, Row, by_name, did_you_mean
from dagster_celery._translate.setting_rows import (
    IN_PROCESSES,
    NO_BEAT,
    NO_EVENTS,
    ONE_AT_A_TIME,
    POOLS,
    REVOKED,
)
from dagster_celery._translate.values import count, names, plain, seconds
from dagster_taskiq.errors import ConfigError

#: Given the value of an option, and those of all others by their names: what to write instead.
Turn = Callable[[Any, Mapping[str, Any]], Sequence[str]]

_PLACEHOLDER = re.compile(r"%(%|\w)")


@dataclass(frozen=True)
class WorkerOption(Row):
    """An option of ``celery worker``; its name is the one that click knows it by."""

    #: As they are typed.
    flags: tuple[str, ...] = ()
    #: It takes no value.
    is_flag: bool = False
    turn: Turn | None = None


def translate_arguments(arguments: Sequence[str]) -> tuple[list[str], tuple[Remark, ...]]:
    """Return arguments of ``dagster-taskiq worker start`` for those of ``celery worker``.

    Args:
        arguments: what stands behind ``--``.

    Returns:
        The arguments, and a remark on each option that was given.

    Raises:
        ConfigError: an option is unknown, refused or has a wrong value.
    """
    values, typed = _parsed(arguments)
    turned: list[str] = []
    remarks = []
    for name, value in values.items():
        row = WORKER_OPTIONS[name]
        subject = typed[name]
        if row.fate is Fate.REFUSED:
            raise ConfigError(f"{subject} of celery worker cannot be used here: {row.says}")
        if row.turn is None:
            says = f"{subject} has no effect here: {row.says}"
        else:
            found = _turned(row.turn, subject, value, values)
            turned += found
            says = _said(subject, row, found)
        remarks.append(Remark(subject, says))
    return turned, tuple(remarks)


def expand_node_name(name: str) -> str:
    """Return a worker's name with Celery's abbreviations expanded.

    ``%h`` is the host, ``%n`` its first part, ``%d`` the rest, and ``%i`` and ``%I`` what they are
    in a worker's own process. A name without ``@`` is a host, as Celery takes it.

    Raises:
        ConfigError: an abbreviation that Celery does not know either.
    """
    own_host = socket.gethostname()
    node, at, host = name.partition("@") if "@" in name else ("", "@", name)
    first, _, domain = own_host.partition(".")
    known = {"h": own_host, "n": first, "d": domain, "i": "0", "I": "", "%": "%"}

    def expanded(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise ConfigError(
                f'The worker\'s name "{name}" has {match[0]} in it, of which nothing is known. '
                "Use %h (host), %n (its first part) or %d (its domain), and %% for the sign."
            )
        return known[match[1]]

    return _PLACEHOLDER.sub(expanded, f"{node or 'celery'}{at}{host or own_host}")


def _parsed(arguments: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values that were given by option, and the word each was typed as."""
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
    words = [argument.partition("=")[0] for argument in arguments]
    typed = {
        name: next((flag for flag in WORKER_OPTIONS[name].flags if flag in words), _longest(name))
        for name in given
    }
    return given, typed


def _parameter(row: WorkerOption) -> click.Option:
    if row.is_flag:
        return click.Option([*row.flags, row.name], is_flag=True)
    return click.Option([*row.flags, row.name], multiple=row.turn is not None)


def _longest(name: str) -> str:
    return max(WORKER_OPTIONS[name].flags, key=len)


def _elsewhere(option: str) -> str:
    """Say where an option of ``celery`` itself, which stood before ``worker``, is now."""
    if option not in _OF_CELERY_ITSELF:
        return ""
    return f" Write {_OF_CELERY_ITSELF[option]} of dagster-celery worker start, before the --."


_OF_CELERY_ITSELF = {
    "-A": "-A",
    "--app": "--app",
    "-b": "`broker` into the file of -y",
    "--broker": "`broker` into the file of -y",
    "--result-backend": "`backend` into the file of -y",
}


def _turned(turn: Turn, subject: str, value: Any, values: Mapping[str, Any]) -> list[str]:
    try:
        # Of an option that is given twice, Celery takes the last; names add up.
        return list(turn(value, values))
    except ValueError as error:
        shown = value[-1] if isinstance(value, tuple) else value
        raise ConfigError(f"{subject} of celery worker {error}, but it is {shown!r}.") from None


def _said(subject: str, row: WorkerOption, found: Sequence[str]) -> str:
    if row.name == "pool":
        return f"{subject} {POOLS['solo'] if found else IN_PROCESSES}"
    if not found:
        return f"{subject} adds nothing to what holds here without it, or to the others."
    return f'{subject} is "{" ".join(found)}" of dagster-taskiq worker start.'


# -- what becomes of single options ------------------------------------------------------------


def _last(option: str, read: Callable[[str], Any]) -> Turn:
    def turn(value: Sequence[str], _: Mapping[str, Any]) -> list[str]:
        found = read(value[-1])
        return [] if found is None else [option, str(found)]

    return turn


def _seconds(value: str) -> str | None:
    found = seconds(value)
    return None if found is None else plain(found)


def _level(value: str) -> str:
    level = value.lower()
    if level not in ("debug", "info", "warning", "error", "critical", "fatal"):
        raise ValueError("must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL, FATAL")
    return "critical" if level == "fatal" else level


def _concurrency(value: Sequence[str], others: Mapping[str, Any]) -> list[str]:
    if "autoscale" in others or _is_solo(others):
        return []
    found = None if value[-1] == "auto" else count(value[-1])
    return [] if found is None else ["--concurrency", str(found)]


def _autoscale(value: Sequence[str], others: Mapping[str, Any]) -> list[str]:
    bounds = value[-1].split(",")
    try:
        most = max(int(each) for each in bounds) if len(bounds) <= 2 else 0
    except ValueError:
        most = 0
    if most < 1:
        raise ValueError("must be MAX,MIN, two whole numbers")
    return [] if _is_solo(others) else ["--concurrency", str(most)]


def _is_solo(values: Mapping[str, Any]) -> bool:
    return bool(values.get("pool")) and values["pool"][-1] == "solo"


_POOLS = ("prefork", "processes", "solo", "threads", "eventlet", "gevent", "custom")


def _pool(value: Sequence[str], others: Mapping[str, Any]) -> list[str]:
    if value[-1] not in _POOLS:
        raise ValueError(f"must be one of {', '.join(_POOLS)}")
    return ["--concurrency", "1"] if _is_solo(others) or value[-1] == "solo" else []


def _queues(value: Sequence[str], others: Mapping[str, Any]) -> list[str]:
    excluded = names(",".join(others.get("exclude_queues", ())))
    kept = [each for each in names(",".join(value)) if each not in excluded]
    if not kept:
        raise ValueError("must leave a queue to serve")
    return ["--queue", ",".join(kept)]


def _exclude(_: Sequence[str], others: Mapping[str, Any]) -> list[str]:
    if "queues" not in others:
        raise ValueError(
            "needs -Q with the queues that it takes some out of, or leave it out and name the "
            "queues to serve with -q"
        )
    return []


def _modules(value: Sequence[str], _: Mapping[str, Any]) -> list[str]:
    found = names(",".join(value))
    return ["--include", ",".join(found)] if found else []


def _background(_: bool, __: Mapping[str, Any]) -> list[str]:
    return ["--background"]


# -- the table ---------------------------------------------------------------------------------


def _translated(says: str, turn: Turn, *flags: str, is_flag: bool = False) -> WorkerOption:
    return WorkerOption(_name(flags), Fate.TRANSLATED, says, flags, is_flag, turn)


def _no_effect(because: str, *flags: str, is_flag: bool = False) -> WorkerOption:
    return WorkerOption(_name(flags), Fate.NO_EFFECT, because, flags, is_flag)


def _refused(instead: str, *flags: str, is_flag: bool = False) -> WorkerOption:
    return WorkerOption(_name(flags), Fate.REFUSED, instead, flags, is_flag)


def _name(flags: Sequence[str]) -> str:
    """Return the name that click gives a parameter: the first long flag, with underscores."""
    first = next(flag for flag in flags if flag.startswith("--"))
    return first.removeprefix("--").replace("-", "_")


_NO_GOSSIP = "workers do not talk to each other."
_AS_THAT_USER = (
    "start the worker as that user (su, `User=` of systemd, the container's user). To go on "
    "without would run it with more rights than it is to have."
)

#: Every option of ``celery worker``.
WORKER_OPTIONS: Mapping[str, WorkerOption] = by_name(
    (
        _translated(
            "`--name`; `%h`, `%n` and `%d` are expanded.",
            _last("--name", expand_node_name),
            "-n",
            "--hostname",
        ),
        _translated("`--background`.", _background, "-D", "--detach", is_flag=True),
        _no_effect(REVOKED, "-S", "--statedb"),
        _translated("`--loglevel`.", _last("--loglevel", _level), "-l", "--loglevel"),
        _no_effect(ONE_AT_A_TIME, "-O", "--optimization"),
        _no_effect(ONE_AT_A_TIME, "--prefetch-multiplier"),
        _no_effect(ONE_AT_A_TIME, "--disable-prefetch", is_flag=True),
        _translated("`--concurrency`.", _concurrency, "-c", "--concurrency"),
        _translated(
            "`--concurrency 1` for `solo`. With any other pool, tasks run in child processes.",
            _pool,
            "-P",
            "--pool",
        ),
        _no_effect(NO_EVENTS, "-E", "--task-events", "--events", is_flag=True),
        _translated("`--time-limit`.", _last("--time-limit", _seconds), "--time-limit"),
        _translated(
            "`--soft-time-limit`.", _last("--soft-time-limit", _seconds), "--soft-time-limit"
        ),
        _translated(
            "`--max-tasks-per-child`.",
            _last("--max-tasks-per-child", count),
            "--max-tasks-per-child",
        ),
        _no_effect(
            "child processes are started from a warm fork server.",
            "--pool-start-method",
        ),
        _translated(
            "`--max-memory-per-child`, in KiB.",
            _last("--max-memory-per-child", count),
            "--max-memory-per-child",
        ),
        _no_effect(
            "nothing is purged. What waits for a run that has ended is dropped when a worker takes "
            "it.",
            "--purge",
            "--discard",
            is_flag=True,
        ),
        _translated("`--queue`.", _queues, "--queues", "-Q"),
        _translated(
            "`--queue`, with the queues of `-Q` that are left.", _exclude, "--exclude-queues", "-X"
        ),
        _translated("`--include`.", _modules, "--include", "-I"),
        _no_effect(_NO_GOSSIP, "--without-gossip", is_flag=True),
        _no_effect(_NO_GOSSIP, "--without-mingle", is_flag=True),
        _no_effect(
            "it is by its heartbeat that a lost worker is noticed.",
            "--without-heartbeat",
            is_flag=True,
        ),
        _no_effect(
            'how often a worker beats is "heartbeat_interval" of taskiq_executor.',
            "--heartbeat-interval",
        ),
        _translated("`--concurrency`, with the upper bound.", _autoscale, "--autoscale"),
        _refused(NO_BEAT, "-B", "--beat", is_flag=True),
        _no_effect(NO_BEAT, "-s", "--schedule-filename", "--schedule"),
        _no_effect(NO_BEAT, "--scheduler"),
        _no_effect(
            "a worker logs to its standard error. Write `2>> FILE` behind the command.",
            "--logfile",
            "-f",
        ),
        _no_effect(
            "there is no file with the process id. `dagster-taskiq worker list` shows it, and "
            "`dagster-taskiq worker terminate NAME` ends a worker.",
            "--pidfile",
        ),
        _refused(_AS_THAT_USER, "--uid"),
        _refused(_AS_THAT_USER, "--gid"),
        _no_effect(
            "a worker has the umask of the shell that starts it: write `umask 077` before the "
            "command.",
            "--umask",
        ),
        _no_effect(
            "a worker runs on the interpreter that `dagster-celery` is installed in.",
            "--executable",
        ),
    )
)
