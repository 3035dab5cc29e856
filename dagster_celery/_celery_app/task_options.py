"""Options of a task or a call: those that are kept, and those that change nothing here."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from dagster_celery._warnings import warn_of_loss
from dagster_taskiq.errors import ConfigError

#: Options that are kept.
OPTIONS = frozenset(
    {
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

#: Options that are accepted and change nothing here: how a message is written, and what is done
#: while a broker cannot be reached.
WITHOUT_EFFECT = frozenset(
    {
        "acks_late",
        "add_to_parent",
        "compression",
        "default_retry_delay",
        "ignore_result",
        "max_retries",
        "retry",
        "retry_policy",
        "send_events",
        "serializer",
        "store_errors_even_if_ignored",
        "throws",
        "track_started",
        "trail",
        "typing",
    }
)


#: Options that are accepted, and ask for something that is not done here; and what to do instead.
LOST: Mapping[str, str] = {
    "acks_on_failure_or_timeout": "a task that has started is never delivered again",
    "connection": "it goes to the broker of its app",
    "exchange": "it goes straight to its queue: name that with `queue`",
    "headers": "pass what they hold as arguments",
    "producer": "it goes to the broker of its app",
    "publisher": "it goes to the broker of its app",
    "rate_limit": "give such tasks a queue of their own, and that a worker with few slots",
    "reject_on_worker_lost": "a task whose worker is lost fails, and is not delivered again",
    "reply_to": "its result is in the backend",
    "shadow": "logs have its own name",
}

_KNOWN = frozenset({*OPTIONS, *WITHOUT_EFFECT, *LOST})


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of some options that are kept.

    Args:
        options: by Celery's names; ``None`` counts as not given.

    Raises:
        ConfigError: one of them would change what happens, and cannot be kept; or Celery has no
            such option.
    """
    unknown = [name for name, value in options.items() if value is not None and name not in _KNOWN]
    if unknown:
        close = get_close_matches(unknown[0], _KNOWN, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ConfigError(
            f"The task option {unknown[0]!r} is not served here.{hint} Served are: "
            f"{', '.join(sorted(OPTIONS))}."
        )
    for name in LOST.keys() & options.keys():
        if options[name]:
            warn_of_loss(f"the task option {name} has no effect here: {LOST[name]}.")
    if options.get("serializer") not in (None, "json"):
        warn_of_loss("the task option serializer has no effect here: arguments are JSON.")
    return {name: value for name, value in options.items() if name in OPTIONS}
