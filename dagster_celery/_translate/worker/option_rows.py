"""The table of the options of ``celery worker``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagster_celery._translate.reasons import NO_EVENTS, ONE_AT_A_TIME, OWN_BEAT, REVOKED
from dagster_celery._translate.rows import Fate, Row, by_name
from dagster_celery._translate.values import count, names, plain, seconds
from dagster_celery._translate.worker.node_name import expand_node_name

#: Takes the value of an option, all of them if it is given several times, and the values of the
#: other options by their names. Returns arguments of ``dagster-taskiq worker start``. Raises
#: ``ValueError`` with the rest of a sentence if the value cannot be used.
Translate = Callable[[Any, Mapping[str, Any]], Sequence[str]]


@dataclass(frozen=True)
class WorkerOption(Row):
    """An option of ``celery worker``; its name is that of its parameter in click."""

    #: The ways to write it.
    flags: tuple[str, ...] = ()
    #: Whether it takes no value.
    is_flag: bool = False
    #: ``None`` for an option that has no effect or is refused.
    translate: Translate | None = None


def _last(option: str, read: Callable[[str], Any]) -> Translate:
    """Return what translates an option with one value; of several, Celery takes the last."""

    def translate(value: Sequence[str], _: Mapping[str, Any]) -> list[str]:
        found = read(value[-1])
        return [] if found is None else [option, str(found)]

    return translate


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


def _translated(
    explanation: str, translate: Translate, *flags: str, is_flag: bool = False
) -> WorkerOption:
    return WorkerOption(_name(flags), Fate.TRANSLATED, explanation, flags, is_flag, translate)


def _no_effect(because: str, *flags: str, is_flag: bool = False) -> WorkerOption:
    return WorkerOption(_name(flags), Fate.NO_EFFECT, because, flags, is_flag)


def _lost(because: str, *flags: str, is_flag: bool = False) -> WorkerOption:
    return WorkerOption(_name(flags), Fate.LOST, because, flags, is_flag)


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
        _lost(NO_EVENTS, "-E", "--task-events", "--events", is_flag=True),
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
        _lost(
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
            "a lost worker is noticed by its heartbeat, so it is always sent.",
            "--without-heartbeat",
            is_flag=True,
        ),
        _no_effect(
            'how often a worker beats is "heartbeat_interval" of taskiq_executor.',
            "--heartbeat-interval",
        ),
        _translated("`--concurrency`, with the upper bound.", _autoscale, "--autoscale"),
        _refused(OWN_BEAT, "-B", "--beat", is_flag=True),
        _no_effect(OWN_BEAT, "-s", "--schedule-filename", "--schedule"),
        _no_effect(OWN_BEAT, "--scheduler"),
        _lost(
            "a worker logs to its standard error. Write `2>> FILE` behind the command.",
            "--logfile",
            "-f",
        ),
        _lost(
            "there is no file with the process id. `dagster-taskiq worker list` shows it, and "
            "`dagster-taskiq worker terminate NAME` ends a worker.",
            "--pidfile",
        ),
        _refused(_AS_THAT_USER, "--uid"),
        _refused(_AS_THAT_USER, "--gid"),
        _lost(
            "a worker has the umask of the shell that starts it: write `umask 077` before the "
            "command.",
            "--umask",
        ),
        _lost(
            "a worker runs on the interpreter that `dagster-celery` is installed in.",
            "--executable",
        ),
    )
)
