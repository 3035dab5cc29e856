"""Notifications, and the channels they are posted to."""

from dataclasses import dataclass
from typing import Any

#: About how many mails a channel keeps. Mail is a hint; what it hints at is recorded elsewhere.
CHANNEL_LENGTH = 1000


@dataclass(frozen=True)
class Notification:
    """A message in a channel; reading on from ``cursor`` gives what came after it."""

    cursor: str
    body: dict[str, Any]


#: The cursor before the first mail of a channel.
FROM_START = ""


def run_channel(run_id: str) -> str:
    """Return the name of the channel in which a run's loop is woken."""
    return f"run:{run_id}"


def worker_channel(worker_id: str) -> str:
    """Return the name of the channel in which a worker is told what to do."""
    return f"worker:{worker_id}"
