"""Options of a task or a call: those that are kept, and those that change nothing here."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from dagster_celery._celery_app.carried import CARRIED
from dagster_celery._warnings import warn_of_loss
from dagster_taskiq.errors import ConfigError

#: Options of a call that are kept.
OPTIONS = frozenset(
    {
        *CARRIED,
        "attempt",  # which attempt of the task a message is for; ours
        "countdown",
        "eta",
        "expires",
        "priority",
        "queue",
        "routing_key",
        "soft_time_limit",
        "task_id",
        "time_limit",
    }
)

#: Options of a call that a task has as attributes, for calls that have none.
OF_A_CALL = (
    "expires",
    "ignore_result",
    "priority",
    "queue",
    "routing_key",
    "soft_time_limit",
    "time_limit",
)

#: Options of a task that are kept, and are no options of a call.
OF_A_TASK = frozenset(
    {
        "autoretry_for",
        "base",
        "bind",
        "default_retry_delay",
        "dont_autoretry_for",
        "max_retries",
        "name",
        "retry_backoff",
        "retry_backoff_max",
        "retry_jitter",
        "retry_kwargs",
        "typing",
    }
)

#: Options that are accepted and change nothing here: how a message is written, and what is done
#: while a broker cannot be reached. The state of every task is kept, and its error.
WITHOUT_EFFECT = frozenset(
    {
        "abstract",
        "add_to_parent",
        "argsrepr",
        "chord_size",
        "compression",
        "delivery_mode",
        "immediate",
        "kwargsrepr",
        "lazy",
        "mandatory",
        "resultrepr_maxsize",
        "retry",
        "retry_policy",
        "send_events",
        "serializer",
        "shared",
        "store_eager_result",
        "store_errors_even_if_ignored",
        "throws",
        "track_started",
        "trail",
    }
)

_STARTED_ONCE = (
    "a task that has started is never delivered again, and fails if its worker is lost. Look at "
    "its result, and send it again"
)
_ITS_QUEUE = "it goes straight to its queue: name that with `queue`"
_ITS_BROKER = "it goes to the broker of its app"

#: Options that are accepted, and ask for something that is not done here; and what to do instead.
LOST: Mapping[str, str] = {
    "acks_late": f"{_STARTED_ONCE}; Reject(requeue=True) puts it back",
    "acks_on_failure": _STARTED_ONCE,
    "acks_on_failure_or_timeout": _STARTED_ONCE,
    "acks_on_timeout": _STARTED_ONCE,
    "connection": _ITS_BROKER,
    "exchange": _ITS_QUEUE,
    "exchange_type": _ITS_QUEUE,
    "producer": _ITS_BROKER,
    "publisher": _ITS_BROKER,
    "rate_limit": "give such tasks a queue of their own, and that a worker with few slots",
    "reject_on_worker_lost": _STARTED_ONCE,
    "reply_to": "its result is in the backend",
    "retry_on_worker_lost": _STARTED_ONCE,
    "shadow": "logs have its own name",
}

#: Options that would change what a task does, and cannot be kept; and what to do instead.
REFUSED: Mapping[str, str] = {
    "pydantic": "make the model from the arguments in the task",
    "pydantic_context": "make the model from the arguments in the task",
    "pydantic_dump_kwargs": "make the model from the arguments in the task",
    "pydantic_strict": "make the model from the arguments in the task",
    "Request": "use the methods on_failure and on_retry of a base class",
    "Strategy": "use a base class of your own, `class MyTask(app.Task)`",
}

_OF_CALLS = frozenset({*OPTIONS, *WITHOUT_EFFECT, *LOST})
_KNOWN = frozenset({*_OF_CALLS, *OF_A_TASK, *REFUSED})


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the options of a call that are kept.

    Args:
        options: by Celery's names; ``None`` counts as not given.

    Raises:
        ConfigError: one of them would change what happens, and cannot be kept; or Celery has no
            such option.
    """
    unknown = [
        name for name, value in options.items() if value is not None and name not in _OF_CALLS
    ]
    # Options of the task count for it, not for a call: Celery's senders pass some of them on.
    unknown = [name for name in unknown if name not in OF_A_TASK]
    if unknown:
        raise ConfigError(
            f"The task option {unknown[0]!r} is not served here.{_hint(unknown[0], 0.6)} Served "
            f"are: {', '.join(sorted(OPTIONS))}."
        )
    warn_of_lost(options)
    return {name: value for name, value in options.items() if name in OPTIONS}


def check_attributes(options: Mapping[str, Any]) -> None:
    """Check the options with which a task is defined; one that Celery does not have is its own.

    Raises:
        ConfigError: one of them would change what the task does, and cannot be kept; or it is
            nearly the name of one of Celery's.
    """
    for name, value in options.items():
        if value and name in REFUSED:
            raise ConfigError(f"The task option {name!r} is not served here: {REFUSED[name]}.")
        hint = "" if name in _KNOWN else _hint(name, 0.85)
        if hint:
            raise ConfigError(f"There is no task option {name!r}.{hint}")


def warn_of_lost(options: Mapping[str, Any], defaults: object = None) -> None:
    """Warn of options that ask for something that is not done here.

    Args:
        options: by Celery's names.
        defaults: has the values, as attributes, that ask for nothing.
    """
    for name in sorted(LOST.keys() & options.keys()):
        if options[name] and options[name] is not getattr(defaults, name, None):
            warn_of_loss(f"the task option {name} has no effect here: {LOST[name]}.")
    if options.get("serializer") not in (None, "json"):
        warn_of_loss("the task option serializer has no effect here: arguments are JSON.")


def _hint(name: str, cutoff: float) -> str:
    close = get_close_matches(name, _KNOWN, 1, cutoff)
    return f" Did you mean {close[0]}?" if close else ""
