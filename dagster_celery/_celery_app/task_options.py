"""Options of a task or a call: those that are kept, and those that change nothing here."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

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
        "acks_on_failure_or_timeout",
        "add_to_parent",
        "compression",
        "connection",
        "default_retry_delay",
        "exchange",
        "headers",
        "ignore_result",
        "max_retries",
        "producer",
        "publisher",
        "rate_limit",
        "reject_on_worker_lost",
        "reply_to",
        "retry",
        "retry_policy",
        "send_events",
        "serializer",
        "shadow",
        "store_errors_even_if_ignored",
        "throws",
        "track_started",
        "trail",
        "typing",
    }
)


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of some options that are kept.

    Args:
        options: by Celery's names; ``None`` counts as not given.

    Raises:
        ConfigError: one of them would change what happens, and cannot be kept; or Celery has no
            such option.
    """
    unknown = [
        name
        for name, value in options.items()
        if name not in OPTIONS and name not in WITHOUT_EFFECT and value is not None
    ]
    if unknown:
        close = get_close_matches(unknown[0], OPTIONS | WITHOUT_EFFECT, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ConfigError(
            f"The task option {unknown[0]!r} is not served here.{hint} Served are: "
            f"{', '.join(sorted(OPTIONS))}."
        )
    return {name: value for name, value in options.items() if name in OPTIONS}
